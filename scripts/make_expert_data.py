"""See `nrc.cli.experts`."""

from nrc.cli.early import run

if __name__ == "__main__":
    run("experts")
