"""See `nrc.cli.report`."""

from nrc.cli.report import command

if __name__ == "__main__":
    command()
