"""See `nrc.cli.train`."""

from nrc.cli.early import sweep

if __name__ == "__main__":
    sweep()
