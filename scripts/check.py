"""Compare the runs with the committed expectations and verdicts; exit status 1 when one does not hold.

python scripts/check.py --dataset all
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a source tree

import _cli
import _compose
from reproduce_figures import DATASETS, EXPERIMENTS, QUICK_ONLY, wanted

from nrc.check import PROTOCOL, check, read_expectations, table
from nrc.errors import UserError
from nrc.places import PROTOCOLS
from nrc.report.verdicts import verdict_changes


def main() -> None:
    parser = _cli.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default=PROTOCOL, choices=PROTOCOLS)
    parser.add_argument("--dataset", default="all", choices=("all", *DATASETS))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    if args.protocol != PROTOCOL:
        raise UserError(
            f"the committed expectations are of the {PROTOCOL} protocol, not of the {args.protocol} one; "
            f"make report PROTOCOL={args.protocol} judges its runs by the papers' claims"
        )
    experiments = [(name, data) for name, data in EXPERIMENTS + QUICK_ONLY if wanted(args.dataset, data)]
    planned = [
        member.directory
        for experiment, data in experiments
        for member in _compose.sweep_members(experiment, data, PROTOCOL, args.outputs)
    ]
    headline = _compose.headlines(experiments, PROTOCOL)
    expectations = [e for e in read_expectations() if wanted(args.dataset, e.data)]
    changes, compared = verdict_changes(
        args.outputs, PROTOCOL, headline, lambda data: wanted(args.dataset, data)
    )
    if not expectations and not compared:
        raise UserError(f"there are no expectations for {args.dataset}")
    verdicts = check(planned, headline, expectations)
    print(table(verdicts))
    failed = sum(not v.holds for v in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} expectations hold")
    for change in changes:
        print(f"CHANGED {change}")
    print(f"{compared - len(changes)} of {compared} verdicts are the committed ones")
    sys.exit(1 if failed or changes else 0)


if __name__ == "__main__":
    with _cli.one_line_errors():
        main()
