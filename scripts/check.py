"""See `nrc.cli.check`."""

from nrc.cli.early import check

if __name__ == "__main__":
    check()
