"""Two runs and one picture, in at most two minutes: a network collapses with weight decay, and without does not.

python scripts/demo.py

The runs are those that the reproduction makes of Swimmer with a linear feature layer and seed 0, in the same directories:
it does not make them again. The linear layer is the case of the NeurIPS 2024 theorem, so the collapse is plain.
"""

from pathlib import Path

from nrc.cli import config, console
from nrc.errors import UserError
from nrc.figures import Runs, draw
from nrc.training.pool import run_all
from nrc.training.stopping import Interrupted

EXPERIMENT, DATA, PROTOCOL = "prevalence_linear", "swimmer", "quick"


def main() -> None:
    """Train with and without weight decay, draw, and say what to look at."""
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    print(
        "Two networks learn an expert swimmer's actions from its states, one with weight decay and one without. "
        "Their last features are a linear layer."
    )
    members = config.sweep_members(EXPERIMENT, DATA, PROTOCOL, args.outputs, ["seed=0"])
    outcomes = run_all(members, device="cpu")
    if "interrupted" in outcomes.values():
        raise Interrupted("the same command continues")
    failed = [f"{place}: {how}" for place, how in outcomes.items() if how not in ("finished", "skipped")]
    if failed:
        raise UserError(failed[0])
    runs = Runs(args.outputs, PROTOCOL, datasets=[DATA])
    drawn = [path for path, _ in draw("prevalence", runs, args.outputs / "demo")]
    picture = next(path for path in drawn if path.name == f"{EXPERIMENT}.png")  # beside one of other features
    [main], [control] = (
        [r for r in found(EXPERIMENT, DATA) if r.seed == 0] for found in (runs.headline, runs.control)
    )
    print(
        f"\nThe picture is {picture} (its numbers: {picture.with_suffix('.csv').name}).\n"
        "Look at the upper panel. NRC1 is the part of the last features that lies outside the directions of the "
        f"{main.target_rank} targets.\n"
        f"- With weight decay (blue line) it falls from {main.first('nrc1'):.2g} to {main.last('nrc1'):.2g}.\n"
        f"- Without (grey line) it ends at {control.last('nrc1'):.2g}.\n"
        f"- {main.alive} of {main.target_rank} target directions are alive, and the R² on unseen states is "
        f"{main.last('r2', 'test'):.2f}.\n"
        "With ReLU features it depends on the data; docs/theory.md says why. All figures of both papers: make reproduce-figures"
    )


command = console.command(main)
