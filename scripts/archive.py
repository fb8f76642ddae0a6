"""See `nrc.cli.archive`."""

from nrc.cli.early import archive

if __name__ == "__main__":
    archive()
