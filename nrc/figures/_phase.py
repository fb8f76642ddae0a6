"""What the runs of a phase diagram say in words and numbers: where collapse begins, where directions die."""

import math
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np
import pandas as pd

from nrc.criteria import COLLAPSED, ENOUGH_BUDGET, FALL, SIGNAL, not_yet
from nrc.figures._curves import mean_over_seeds
from nrc.figures._style import number, pretty
from nrc.figures.prevalence import LAYERS, ends
from nrc.metrics import ALIVE
from nrc.runs.read import Run, collapsed, falling

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


def cut(group: list[Run]) -> list[Run]:
    """The runs of one weight decay, each up to the end of the shortest: seeds are compared at equal tau."""
    end = min(run.tau for run in group)
    return [
        run
        if run.tau <= end
        else replace(run, info=run.info | {"tau": end}, table=run.table[run.table["tau"] <= end])
        for run in group
    ]


def most_seeds(group: list[Run], metric: str, split: str = "train") -> pd.Series:
    """The mean over the seeds in which the metric is defined; NaN where that is less than half of them."""
    found = pd.concat([run.series(metric, split) for run in group], axis=1)
    return mean_over_seeds(group, metric, split).where(found.notna().mean(axis=1) >= 0.5)


def over_no_decay(groups: Groups, group: list[Run]) -> pd.Series:
    """Test MSE of a weight decay over that without any (which must be in `groups`) at the same tau.

    Between two measurements of the latter by powers; beyond its end its end.
    """
    these, zero = (mean_over_seeds(g, "mse", "test") for g in (group, groups[0.0]))
    these, zero = these[these.index > 0], zero[zero.index > 0]
    return these / np.exp(np.interp(np.log(these.index), np.log(zero.index), np.log(zero)))


def ripe(groups: Groups) -> Groups:
    """The weight decays that were run long enough to tell 'never' from 'not yet'."""
    return {v: group for v, group in groups.items() if not not_yet(min(run.budget for run in group))}


def alive(group: list[Run]) -> int:
    """Target directions that W still reads at the end, in the median seed."""
    return median_low(run.alive for run in group)


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
        f"all times and the end is drawn. Hatched, below a budget of {ENOUGH_BUDGET:g}: not yet; "
        "from there on what decays as exp(-lambda*tau) is gone, and what stays bright is not "
        "waiting for time unless it is named as still falling. A cell is the mean over the seeds that have a value, and "
        "vanished where most have none; directions are counted in the median seed"
    ]
    if any(0.0 in groups for groups in grids.values()):
        said.append("Last row: the test MSE over that of the runs without weight decay at the same tau")
    else:
        said.append(
            "There are no runs without weight decay to compare the test MSE with: the last row is empty"
        )
    for kind, groups in grids.items():
        words = [*_collapse(groups), *_deaths(groups), _errors(groups)]
        said.append(f"{LAYERS[kind][1][0].upper()}{LAYERS[kind][1][1:]}: " + "; ".join(words))
    said.append(
        f"Triangles: a target direction dies (its singular value of W falls below {ALIVE:g} of the largest, or the train R^2 "
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
    down = [v for v in whole if collapsed(grown[v], "nrc1")]
    words = []
    if down:
        words = [
            f"NRC1 below {COLLAPSED:g} and {FALL:g} times below its start with all {full} directions alive at lambda {_span(down)}"
        ]
    elif whole:
        best = min(whole, key=lambda v: ends(grown[v], "nrc1"))
        words = [
            f"NRC1 never below {COLLAPSED:g} and {FALL:g} times below its start with all {full} directions alive, least at lambda {best:g}: "
            f"{number(ends(grown[best], 'nrc1'))}, features centred first {number(ends(grown[best], 'nrc1_centred'))}"
        ]
    late = [v for v in whole if v not in down and falling(grown[v], "nrc1")]
    words += [f"still falling at lambda {_span(late)}"] if late else []
    budgets = {v: min(run.budget for run in group) for v, group in groups.items() if v > 0}
    early = [v for v, budget in budgets.items() if not_yet(budget)]
    return words + ([f"not yet at {_span(early)}"] if early else [])


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
    if 0.0 not in groups:
        return "no runs without weight decay to compare the test MSE with"
    grown = ripe(groups)
    ratio = {v: float(over_no_decay(groups, g).iloc[-1]) for v, g in groups.items() if v > 0}
    best = min(ratio, key=ratio.__getitem__)
    helps = [v for v in ratio if ratio[v] < 1]
    words = (
        f"test MSE at the end over that without weight decay at the same tau: {number(ratio[best])} at best "
        f"(lambda {best:g})"
    )
    down = [v for v in grown if v > 0 and collapsed(grown[v], "nrc1")]
    if down:
        words += f", {number(min(ratio[v] for v in down))} at best where NRC1 has collapsed"
    return words + (f", below 1 at {_span(helps)}" if helps else ", nowhere below 1")


def _span(values: list[float]) -> str:
    return f"{min(values):g} to {max(values):g}" if len(values) > 1 else f"{values[0]:g}"
