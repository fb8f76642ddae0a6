"""Compare the runs with the committed expectations; exit status 1 when one does not hold.

python scripts/check.py --protocol quick --dataset all
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a source tree

import _cli
import _compose
from reproduce_figures import DATASETS, EXPERIMENTS, NEEDS_FILE, wanted

from nrc.check import check, table


def main() -> None:
    parser = _cli.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=("quick", "accelerated", "paper"))
    parser.add_argument("--dataset", default="all", choices=("all", *DATASETS))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    headline = _compose.headlines(EXPERIMENTS + NEEDS_FILE, args.protocol)
    verdicts = check(args.outputs, args.protocol, headline)
    verdicts = [v for v in verdicts if wanted(args.dataset, v.expectation.data)]
    print(table(verdicts))
    failed = sum(not v.holds for v in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} expectations hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    with _cli.one_line_errors():
        main()
