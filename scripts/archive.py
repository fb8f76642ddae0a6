"""See `nrc.cli.archive`."""

from nrc.cli.early import run

if __name__ == "__main__":
    run("archive")
