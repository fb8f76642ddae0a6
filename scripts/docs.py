"""See `nrc.cli.docs`."""

from nrc.cli.early import docs

if __name__ == "__main__":
    docs()
