"""See `nrc.cli.experts`."""

from nrc.cli.experts import command

if __name__ == "__main__":
    command()
