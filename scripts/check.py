"""See `nrc.cli.check`."""

from nrc.cli.check import command

if __name__ == "__main__":
    command()
