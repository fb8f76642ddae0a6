"""Judge the papers' claims on the runs at hand and write the report, outputs/report/index.html.

python scripts/report.py --protocol quick
"""

from pathlib import Path

from nrc.cli import console
from nrc.figures import Runs
from nrc.report.html import write_report
from nrc.report.scorecard import scorecard
from nrc.report.verdicts import VERDICTS, write_verdicts


def main() -> None:
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=("quick", "accelerated", "paper"))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: OUTPUTS/report)")
    parser.add_argument(
        "--write-verdicts",
        action="store_true",
        help="make today's verdicts the committed ones, and no report",
    )
    args = parser.parse_args()
    console.existing_folder(args.outputs)
    if args.write_verdicts:
        runs = Runs(args.outputs, args.protocol)
        print(f"{VERDICTS}: {write_verdicts(scorecard(runs))} verdicts written")
        return
    for path in write_report(args.outputs, args.protocol, folder=args.folder):
        print(path)


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
