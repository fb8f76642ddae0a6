"""Judge the claims on the runs at hand and write the report, outputs/report/index.html.

python scripts/report.py --protocol quick
python scripts/report.py --write-scorecard outputs_of_another_processor
python scripts/report.py --gallery                # small pictures and the table of docs/figures.md
python scripts/report.py --readme                 # the scorecard's lines in README.md
"""

from pathlib import Path

from nrc.cli import console
from nrc.places import PROTOCOLS
from nrc.report.gallery import write_gallery
from nrc.report.html import write_report
from nrc.report.readme import write_readme
from nrc.report.scorecard import COMMITTED, committed, scorecard, table, write_committed
from nrc.runs.read import Runs


def main() -> None:
    """Parse the options and write the report, or with --write-scorecard what is committed."""
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=PROTOCOLS)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: OUTPUTS/report)")
    parser.add_argument(
        "--write-scorecard", nargs="*", type=Path, metavar="OTHER_OUTPUTS",
        help="make today's verdicts the committed ones, and no report; further folders hold the same runs made on other "
        "kinds of processors (ATEN_CPU_CAPABILITY=default or avx2), and widen the tolerances",
    )  # fmt: skip
    parser.add_argument(
        "--gallery", action="store_true",
        help="make the small pictures and the table of docs/figures.md from the figures that are drawn, and no report",
    )  # fmt: skip
    parser.add_argument(
        "--readme", action="store_true", help="write the committed scorecard's ten lines into README.md, and no report",
    )  # fmt: skip
    args = parser.parse_args()
    if args.readme:
        print(write_readme())
        return
    console.existing_folder(args.outputs)
    if args.gallery:
        for path in write_gallery(args.outputs):
            print(path)
        return
    if args.write_scorecard is None:
        for path in write_report(args.outputs, args.protocol, folder=args.folder):
            print(path)
        return
    tables = []
    for outputs in (args.outputs, *args.write_scorecard):
        console.existing_folder(outputs)
        tables.append(table(scorecard(Runs(outputs, args.protocol)), args.protocol))
    new = committed(*tables)
    write_committed(new)
    print(f"{COMMITTED}: {len(new)} verdicts written")


command = console.command(main)
