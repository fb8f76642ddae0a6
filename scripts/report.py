"""See `nrc.cli.report`."""

from nrc.cli.early import report

if __name__ == "__main__":
    report()
