"""Compare the runs with the committed expectations and verdicts; exit status 1 when one does not hold.

python scripts/check.py --dataset all
"""

import sys
from pathlib import Path

from nrc.check import PROTOCOL, check, read_expectations, table
from nrc.cli import config, console
from nrc.cli.reproduce import chosen, datasets
from nrc.errors import UserError
from nrc.places import PROTOCOLS
from nrc.report.verdicts import verdict_changes


def main() -> None:
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default=PROTOCOL, choices=PROTOCOLS)
    parser.add_argument("--dataset", default="all", choices=tuple(datasets()))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    if args.protocol != PROTOCOL:
        raise UserError(
            f"the committed expectations are of the {PROTOCOL} protocol, not of the {args.protocol} one; "
            f"make report PROTOCOL={args.protocol} judges its runs by the papers' claims"
        )
    planned = {
        member.directory: member.settings.role
        for experiment, data in chosen(args.dataset, PROTOCOL)
        for member in config.sweep_members(experiment, data, PROTOCOL, args.outputs)
    }
    covered = datasets()[args.dataset]
    expectations = [e for e in read_expectations() if e.data.partition("-")[0] in covered]
    changes, compared = verdict_changes(args.outputs, PROTOCOL, lambda data: data in covered)
    if not expectations and not compared:
        raise UserError(f"there are no expectations for {args.dataset}")
    verdicts = check(planned, expectations)
    print(table(verdicts))
    failed = sum(not v.holds for v in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} expectations hold")
    for change in changes:
        print(f"CHANGED {change}")
    print(f"{compared - len(changes)} of {compared} verdicts are the committed ones")
    sys.exit(1 if failed or changes else 0)


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
