"""See `nrc.cli.demo`."""

from nrc.cli.early import demo

if __name__ == "__main__":
    demo()
