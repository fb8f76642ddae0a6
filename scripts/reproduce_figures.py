"""See `nrc.cli.reproduce`."""

from nrc.cli import early  # noqa: F401  isort: skip (first: a signal during the imports ends in one line)
from nrc.cli.reproduce import command

if __name__ == "__main__":
    command()
