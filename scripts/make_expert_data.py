"""See `nrc.cli.experts`."""

from nrc.cli.early import experts

if __name__ == "__main__":
    experts()
