"""A sweep as `train.py -m` makes it, in the same run directories; on a GPU it trains as one program.

python scripts/sweep.py data=reacher optim.weight_decay=0,1e-5,1e-4,1e-3 seed=0,1,2 device=cuda
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a source tree

if __name__ == "__main__":  # before the imports that take seconds
    import _early  # noqa: F401

import _cli
import _compose

from nrc.errors import UserError
from nrc.training.pool import run_all
from nrc.training.stopping import Interrupted

ALONE = ("threads", "tensorboard", "debug")  # settings of a process, which a sweep decides itself


def main() -> None:
    arguments = sys.argv[1:]
    for argument in arguments:
        if argument.startswith("-") or argument.split("=")[0] in ALONE:
            raise UserError(f"{argument} is for train.py; give settings alone, e.g. data=reacher seed=0,1,2")
    device = next((a.split("=")[1] for a in reversed(arguments) if a.startswith("device=")), "auto")
    outcomes = run_all(_compose.members_of(arguments), device=device)
    count = Counter(outcomes.values())
    if count["interrupted"]:
        raise Interrupted(
            f"{count['interrupted']} of {len(outcomes)} runs are not done; the same command continues them"
        )
    failed = [f"{place}: {end}" for place, end in outcomes.items() if end not in ("finished", "skipped")]
    print(f"{count['finished']} runs finished, {count['skipped']} were there already, {len(failed)} failed")
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} runs did not finish: {'; '.join(failed[:5])}")


if __name__ == "__main__":
    with _cli.one_line_errors():
        main()
