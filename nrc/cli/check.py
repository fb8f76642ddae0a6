"""Compare the scorecard of the runs with the committed one; exit status 1 when they differ.

python scripts/check.py --dataset all
python scripts/check.py --outputs archive        (the archived runs of data/archive)
"""

import sys
from pathlib import Path

from nrc.cli import console
from nrc.cli.reproduce import datasets
from nrc.errors import UserError
from nrc.places import PROTOCOLS
from nrc.report.scorecard import as_text, compare, read_committed, scorecard, table
from nrc.runs.archive import unpacked
from nrc.runs.read import Runs


def main() -> None:
    """Parse the options, compare, and end in status 1 where something differs."""
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=PROTOCOLS)
    parser.add_argument("--dataset", default="all", choices=tuple(datasets()))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs")
    args = parser.parse_args()
    if str(args.outputs) == "archive":
        args.outputs = unpacked(Path("outputs/archive"), args.protocol)
    known = read_committed()
    if args.protocol not in set(known.protocol):
        raise UserError(
            f"nothing of the {args.protocol} protocol is committed, only of {', '.join(sorted(set(known.protocol)))}; "
            f"make report PROTOCOL={args.protocol} judges its runs by the claims"
        )
    now = table(scorecard(Runs(args.outputs, args.protocol)), args.protocol)
    compared = compare(now, known, args.protocol, datasets()[args.dataset])
    if not len(compared):
        raise UserError(f"there are no committed verdicts for {args.dataset}")
    print(as_text(compared))
    failed = int((compared.problem != "").sum())
    print(f"{len(compared) - failed} of {len(compared)} verdicts are the committed ones")
    sys.exit(1 if failed else 0)


command = console.command(main)
