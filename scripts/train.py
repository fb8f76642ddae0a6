"""See `nrc.cli.train`."""

from nrc.cli.early import train

if __name__ == "__main__":
    train()
