"""See `nrc.cli.train`."""

from nrc.cli import early  # noqa: F401  isort: skip (first: a signal during the imports ends in one line)
from nrc.cli.train import command

if __name__ == "__main__":
    command()
