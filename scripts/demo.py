"""See `nrc.cli.demo`."""

from nrc.cli.early import run

if __name__ == "__main__":
    run("demo")
