"""See `nrc.cli.bench`."""

from nrc.cli.early import run

if __name__ == "__main__":
    run("bench")
