"""See `nrc.cli.reproduce`."""

from nrc.cli.early import reproduce

if __name__ == "__main__":
    reproduce()
