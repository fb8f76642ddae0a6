"""What the runs of a phase diagram say in words and numbers: where collapse begins, where directions die."""

import math
from dataclasses import dataclass

from nrc.figures._load import SIGNAL, Run
from nrc.figures._style import number, pretty
from nrc.figures.prevalence import LAYERS, ends

RIPE = 10.0  # below this decay budget nothing has had time to decay
COLLAPSED = 1e-3  # NRC1
Groups = dict[float, list[Run]]  # weight decay -> runs, largest first
Grids = dict[str, Groups]  # feature layer -> its grid


@dataclass(frozen=True)
class Border:
    """Where target direction number `rank` dies: estimated, and the weight decays between which it did."""

    rank: int
    estimate: float
    alive: float
    dead: float

    @property
    def seen(self) -> float:
        """The middle of the bracket; NaN where no run lost this direction."""
        return math.sqrt(self.alive * self.dead)


def ripe(groups: Groups) -> Groups:
    """The weight decays that were run long enough to tell 'never' from 'not yet'."""
    return {v: group for v, group in groups.items() if max(run.budget for run in group) >= RIPE}


def alive(group: list[Run]) -> int:
    """Target directions that W still reads at the end, in the seed that keeps most."""
    return max(run.alive for run in group)


def borders(groups: Groups) -> list[Border]:
    """One for each target direction, the one that dies last first."""
    counts = {v: alive(group) for v, group in ripe(groups).items()}
    facts = [run.info["data"] for group in groups.values() for run in group]
    estimates: list[float] = next((f["vanishing"] for f in facts if "vanishing" in f), [])
    found = []
    for rank in range(1, max([len(estimates), *counts.values()]) + 1):
        last = max((v for v, count in counts.items() if count >= rank), default=math.nan)
        dead = min((v for v, count in counts.items() if count < rank and v > last), default=math.nan)
        estimate = estimates[rank - 1] if rank <= len(estimates) else math.nan
        found.append(Border(rank, estimate, last, dead))
    return found


def caption(data: str, grids: Grids) -> str:
    """What the diagram of one data set shows, from its runs."""
    said = [
        f"{pretty(data)} over weight decay and decay budget lambda*tau; without weight decay (left) the budget is 0 at "
        "all times and the end is drawn. Hatched, below a budget of 10: not yet; from about 20 on what the loss does "
        "not hold is gone, and what stays bright there is not waiting for time"
    ]
    for kind, groups in grids.items():
        words = [*_collapse(groups), *_deaths(groups), _errors(groups)]
        said.append(f"{LAYERS[kind][1][0].upper()}{LAYERS[kind][1][1:]}: " + "; ".join(words))
    said.append(
        "Triangles: a target direction dies (its singular value of W falls below a tenth of the largest, or the train R^2 "
        f"below {SIGNAL:g}), measured between two neighbours of the grid. Dashed: the same estimated from the "
        "covariances Sxx, Sxy of the data for a linear network of as many layers L, none of these runs used: its "
        "layers share their singular values, so a map p u v' costs lambda L/2 p^(2/L); it is stationary where "
        "lambda = (1/n)(v'Sxy u - p v'Sxx v) p^(1-2/L), and the largest such lambda is drawn. It knows nothing of "
        "activations and of penalised biases"
    )
    return ". ".join(said) + "."


def _collapse(groups: Groups) -> list[str]:
    grown, full = {v: g for v, g in ripe(groups).items() if v > 0}, len(borders(groups))
    whole = [v for v, group in grown.items() if alive(group) == full]
    down = [v for v in whole if ends(grown[v], "nrc1") < COLLAPSED]
    words = []
    if down:
        words = [f"NRC1 below {COLLAPSED:g} with all {full} directions alive at lambda {_span(down)}"]
    elif whole:
        best = min(whole, key=lambda v: ends(grown[v], "nrc1"))
        words = [
            f"NRC1 never below {COLLAPSED:g} with all {full} directions alive, least at lambda {best:g}: "
            f"{number(ends(grown[best], 'nrc1'))}, features centred first {number(ends(grown[best], 'nrc1_centred'))}"
        ]
    late = [v for v in groups if v > 0 and v not in grown]
    return words + ([f"not yet at {_span(late)}"] if late else [])


def _deaths(groups: Groups) -> list[str]:
    words = []
    for border in reversed(borders(groups)):
        seen = (
            f"between {border.alive:g} and {border.dead:g}"
            if math.isfinite(border.seen)
            else "not in this grid"
        )
        words.append(f"direction {border.rank} dies {seen} (estimate {number(border.estimate)})")
    return words


def _errors(groups: Groups) -> str:
    least, grown = min(groups), ripe(groups)
    ratio = {v: ends(g, "mse", "test") / ends(groups[least], "mse", "test") for v, g in groups.items()}
    best = min(ratio, key=ratio.__getitem__)
    helps = [v for v in ratio if ratio[v] < 1]
    words = (
        f"test MSE at the end over that at lambda {least:g}: {number(ratio[best])} at best (lambda {best:g})"
    )
    collapsed = [v for v in grown if ends(grown[v], "nrc1") < COLLAPSED]
    if collapsed:
        words += f", {number(min(ratio[v] for v in collapsed))} at best where NRC1 is below {COLLAPSED:g}"
    return words + (f", below 1 at {_span(helps)}" if helps else ", nowhere below 1")


def _span(values: list[float]) -> str:
    return f"{min(values):g} to {max(values):g}" if len(values) > 1 else f"{values[0]:g}"
