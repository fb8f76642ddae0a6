"""The phase diagram of collapse: weight decay across, decay budget lambda*tau up. In no paper.

The dashed lines are the weight decays above which a target direction is dead in a deep linear network
(`nrc.theory.deep_linear` derives them), the triangles those at which it died in the runs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nrc.criteria import ENOUGH_BUDGET, FLOOR, not_yet
from nrc.figures import selection, style
from nrc.figures.curves import Drawing, mean_over_seeds
from nrc.figures.registry import figure
from nrc.runs.read import Run, Runs, lambda_groups

GRID = {"relu": "phase", "linear": "phase_linear"}
LOWEST, HIGHEST = 0.5, 200.0  # budgets drawn
OUTERMOST = 1.4  # ratio of the edges of a column at the rim
RANKS = [0.5, 1.5, 2.5, 3.5, 9.5, 29.5, 99.5, 1e4]
VANISHED, UNSEEN = "#f2b48a", "0.88"
DASHED: dict[str, Any] = {"color": "black", "lw": 1.0, "ls": (0, (4, 2))}
TRIANGLE: dict[str, Any] = {"marker": "v", "ms": 4, "color": "black", "mew": 0}
Groups = dict[float, list[Run]]  # weight decay -> runs, largest first
Grids = Mapping[str, Groups]  # feature layer -> its grid


@dataclass(frozen=True)
class Row:
    """One quantity: where it is found, its words, and its colours."""

    metric: str
    split: str
    label: str
    norm: Normalize
    ticks: dict[float, str]
    colours: str = "viridis"


ROWS = [
    Row("nrc1", "train", "NRC1", LogNorm(1e-12, 1), {10.0**k: style.power(k) for k in (-12, -8, -4)} | {1: "1"}),
    Row(
        "feature_rank", "train", "numerical rank\nof the features", BoundaryNorm(RANKS, 256),
        {1: "1", 2: "2", 3: "3", 6: "4+", 20: "10+", 64: "30+", 5000: "100+"},
    ),
    Row("r2", "test", "test R²", Normalize(0, 1), {}),
    Row(
        "mse", "test", "test MSE over that\nwithout decay, same τ", LogNorm(0.5, 2),
        {0.5: "½", 0.7: "0.7", 1: "1", 1.4: "1.4", 2: "2"}, "RdBu_r",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Border:
    """Where target direction number `rank` dies: estimated, and the weight decays between which it did."""

    rank: int
    estimate: float
    alive: float
    dead: float


@figure(
    "phase",
    reads=["phase", "phase_linear", "prevalence", "prevalence_linear"],
    caption="Over weight decay and decay budget lambda*tau; without weight decay (left) the budget is 0 and the end is "
    "drawn. A cell is the mean over the seeds that have a value; directions are counted in the median seed. Hatched: not "
    "yet; above it what stays bright is not waiting for time. Dashed: where a target direction dies in a linear network "
    "of as many layers, estimated from the covariances of the data alone; it knows nothing of activations and of "
    "penalised biases.",
)
def phase(runs: Runs) -> Iterator[Drawing]:
    """Where collapse begins and directions die, over weight decay and decay budget."""
    for data in {**runs.of(GRID["relu"]), **runs.of(GRID["linear"])}:
        grids = {kind: groups for kind in GRID if (groups := _grid(runs, kind, data))}
        if grids:
            yield _one(data, grids)


def _grid(runs: Runs, kind: str, data: str) -> Groups:
    """The grid's runs and those of the prevalence figures: of a weight decay that both have, the longer ones, then
    those of more seeds, each group cut to one length. {} without a grid."""
    grid = lambda_groups([run for run in runs.of(GRID[kind]).get(data, []) if run.weight_decay > 0])
    others = lambda_groups(runs.of(selection.LAYERS[kind][0]).get(data, [])) if grid else {}
    both = {v: [g[v] for g in (grid, others) if v in g] for v in sorted(grid | others, reverse=True)}
    return {
        v: max(map(_cut, found), key=lambda group: (group[0].tau, len(group))) for v, found in both.items()
    }


def _cut(group: list[Run]) -> list[Run]:
    """The runs of one weight decay, each up to the end of the shortest: seeds are compared at equal tau."""
    end = min(run.tau for run in group)
    return [
        run
        if run.tau <= end
        else replace(run, info=run.info | {"tau": end}, table=run.table[run.table["tau"] <= end])
        for run in group
    ]


def _one(data: str, grids: Grids) -> Drawing:
    title = f"Phase diagram of collapse, {style.pretty(data)}"
    layout: dict[str, Any] = {"sharex": True, "sharey": True}
    drawing = Drawing(f"phase_{data}", title, len(ROWS), len(grids), 6.8, "budget", **layout)
    drawing.runs = used = [run for groups in grids.values() for group in groups.values() for run in group]
    rows, nothing = _rows(used), _no_decay(grids)
    for column, (kind, groups) in zip(drawing.grid.T, grids.items(), strict=True):
        found = borders(groups)
        for border in found:
            sides = {"estimated": border.estimate, "last alive": border.alive, "first dead": border.dead}
            for words, value in sides.items():
                metric = f"direction {border.rank}, {words}"
                drawing.note([math.nan], [value], data=data, metric=metric, series=kind)
        for row, axes in zip(rows, column, strict=True):
            _cells(drawing, axes, row, data, kind, groups, nothing)
            _overlay(axes, found, nothing[1])
        column[0].set_title(selection.LAYERS[kind][1], pad=9)
        column[-1].set_xlabel("weight decay λ")
    _dress(drawing.grid[0, 0], used, nothing)
    for row, line in zip(rows, drawing.grid, strict=True):
        bar = drawing.figure.colorbar(
            ScalarMappable(row.norm, row.colours), ax=list(line), ticks=list(row.ticks), aspect=14, pad=0.01,
            label=row.label, extend="both" if row.metric == "mse" else "neither",
        )  # fmt: skip
        bar.ax.set_yticklabels(list(row.ticks.values()))
        bar.ax.minorticks_off()
        line[0].set_ylabel("budget λτ")
    drawing.legend(
        [
            style.key("direction dies: estimate, linear network", **DASHED),
            style.key("direction dies: measured", ls="", **TRIANGLE),
            Patch(facecolor="0.5", edgecolor="white", hatch="///", lw=0, label="not yet"),
            Patch(facecolor=VANISHED, label="features vanished"),
            Patch(facecolor=UNSEEN, label="not run so long"),
        ],
        3 if len(grids) > 1 else 1,
    )
    return drawing


def _rows(used: list[Run]) -> list[Row]:
    """The rows, with R^2 up to the best value there is."""
    best = max(run.series("r2", "test").max() for run in used)
    top = max(0.1, math.ceil(10 * best) / 10)
    ticks = {float(v): f"{v:.2g}" for v in np.linspace(0, top, 3)}
    return [replace(row, norm=Normalize(0, top), ticks=ticks) if row.metric == "r2" else row for row in ROWS]


def _edges(groups: Groups) -> dict[float, tuple[float, float]]:
    """Positive weight decay -> left and right edge of its column, halfway to its neighbours on a log axis."""
    values = np.array(sorted(v for v in groups if v > 0))
    inner = np.sqrt(values[1:] * values[:-1])
    left, right = [values[0] / OUTERMOST**0.5, *inner], [*inner, values[-1] * OUTERMOST**0.5]
    return {float(v): (float(a), float(b)) for v, a, b in zip(values, left, right, strict=True)}


def _no_decay(grids: Grids) -> tuple[float, float]:
    """Left and right edge of the column of lambda = 0."""
    first = min(edges[0] for groups in grids.values() for edges in _edges(groups).values())
    return first / 1.9, first / 1.15


def _cells(
    drawing: Drawing, axes: Axes, row: Row, data: str, kind: str, groups: Groups, nothing: tuple[float, float]
) -> None:
    """One column of cells per weight decay, one cell per measured moment."""
    if row.metric == "mse" and 0.0 not in groups:
        words = "no runs without\nweight decay"
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        return
    edges, colours = _edges(groups), matplotlib.colormaps[row.colours].with_extremes(bad=VANISHED)
    for value, group in groups.items():
        if row.metric == "mse":
            mean = _over_no_decay(groups, group)
        else:
            mean = _most_seeds(group, row.metric, row.split)
        if row.metric == "feature_rank":  # of features that vanished it is the rank of rounding
            mean = mean.where(_most_seeds(group, "nrc1").notna())
        mean = mean[mean.index > 0]
        if value > 0:
            sides, budget = edges[value], value * mean.index.to_numpy()
            heights = np.array([budget[0], *np.sqrt(budget[1:] * budget[:-1]), budget[-1]])
        else:  # its budget is 0 at all times: the end is drawn, at every height
            mean, sides, budget = mean.iloc[-1:], nothing, np.zeros(1)
            heights = np.array([LOWEST, HIGHEST])
        labels = {"data": data, "metric": row.metric, "series": kind, "weight_decay": value, "seed": "mean"}
        drawing.note(budget, mean, **labels)
        cells = np.ma.masked_invalid(np.maximum(mean.to_numpy(), FLOOR))[:, None]
        axes.pcolormesh(sides, heights, cells, cmap=colours, norm=row.norm, rasterized=True)


def _most_seeds(group: list[Run], metric: str, split: str = "train") -> pd.Series:
    """The mean over the seeds in which the metric is defined; NaN where that is less than half of them."""
    found = [run.series(metric, split) for run in group]
    return mean_over_seeds(found, metric).where(pd.concat(found, axis=1).notna().mean(axis=1) >= 0.5)


def _over_no_decay(groups: Groups, group: list[Run]) -> pd.Series:
    """Test MSE of a weight decay over that without any (which must be in `groups`) at the same tau.

    Between two measurements of the latter by powers; beyond its end its end.
    """
    these, zero = (mean_over_seeds([r.series("mse", "test") for r in g], "mse") for g in (group, groups[0.0]))
    these, zero = these[these.index > 0], zero[zero.index > 0]
    return these / np.exp(np.interp(np.log(these.index), np.log(zero.index), np.log(zero)))


def borders(groups: Groups) -> list[Border]:
    """One for each target direction, the one that dies last first; in the median seed of the runs long enough."""
    grown = {v: g for v, g in groups.items() if not not_yet(min(run.budget for run in g))}
    counts = {v: median_low(run.alive for run in group) for v, group in grown.items()}
    facts = [run.info["data"] for group in groups.values() for run in group]
    estimates: list[float] = next((f["vanishing"] for f in facts if "vanishing" in f), [])
    found = []
    for rank in range(1, max([len(estimates), *counts.values()]) + 1):
        last = max((v for v, count in counts.items() if count >= rank), default=math.nan)
        dead = min((v for v, count in counts.items() if count < rank and v > last), default=math.nan)
        found.append(Border(rank, estimates[rank - 1] if rank <= len(estimates) else math.nan, last, dead))
    return found


def _overlay(axes: Axes, found: list[Border], start: float) -> None:
    """What is not yet hatched, the estimated thresholds dashed, the measured ones as triangles."""
    axes.grid(False)
    axes.set_facecolor(UNSEEN)
    look: dict[str, Any] = {"facecolor": "none", "edgecolor": "white", "hatch": "///", "lw": 0, "alpha": 0.6}
    axes.fill_between([start, 1e9], LOWEST, ENOUGH_BUDGET, **look)
    axes.plot([start, 1e9], [ENOUGH_BUDGET, ENOUGH_BUDGET], color="white", lw=1.0)
    outline = [Stroke(linewidth=2.2, foreground="white"), Normal()]
    for border in found:
        if math.isfinite(border.estimate):
            axes.axvline(border.estimate, path_effects=outline, **DASHED)
        seen = math.sqrt(border.alive * border.dead)  # the middle; NaN where no run lost this direction
        if math.isfinite(seen):
            axes.plot(seen, 1.04, transform=axes.get_xaxis_transform(), clip_on=False, **TRIANGLE)


def _dress(axes: Axes, used: list[Run], nothing: tuple[float, float]) -> None:
    """The shared axes: a place for lambda = 0 at the left, decades elsewhere."""
    right = max(run.weight_decay for run in used) * OUTERMOST**0.5
    top = min(HIGHEST, max(run.budget for run in used))
    axes.set(xscale="log", yscale="log", xlim=(nothing[0], right), ylim=(LOWEST, top))
    decades = [10.0**k for k in range(-9, 3) if 2 * nothing[1] < 10.0**k <= right]
    axes.xaxis.set_major_locator(FixedLocator([math.sqrt(math.prod(nothing)), *decades]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: "0" if v < nothing[1] else style.power(round(math.log10(v))))
    )
    axes.yaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
