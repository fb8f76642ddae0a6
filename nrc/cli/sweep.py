"""A sweep as `train.py -m` makes it, in the same run directories; on a GPU it trains as one program.

python scripts/sweep.py data=reacher optim.weight_decay=0,1e-5,1e-4,1e-3 seed=0,1,2 device=cuda
"""

import sys
from collections import Counter

from nrc.cli import config, console
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
    outcomes = run_all(config.members_of(arguments), device=device)
    count = Counter(outcomes.values())
    if count["interrupted"]:
        raise Interrupted(
            f"{count['interrupted']} of {len(outcomes)} runs are not done; the same command continues them"
        )
    failed = [f"{place}: {end}" for place, end in outcomes.items() if end not in ("finished", "skipped")]
    print(f"{count['finished']} runs finished, {count['skipped']} were there already, {len(failed)} failed")
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} runs did not finish: {'; '.join(failed[:5])}")


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
