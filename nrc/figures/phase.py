"""The phase diagram of collapse: weight decay across, decay budget lambda*tau up. In no paper.

The dashed lines are the weight decays above which a target direction is dead in a deep linear network
(`nrc.theory.deep_linear` derives them), the triangles those at which it died in the runs.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nrc.criteria import ENOUGH_BUDGET, FLOOR
from nrc.figures._curves import Sheet
from nrc.figures._phase import (
    Border,
    Grids,
    Groups,
    borders,
    caption,
    cut,
    most_seeds,
    over_no_decay,
)
from nrc.figures._style import Drawing, footer, legend_below, new_figure, panels_width, power, pretty
from nrc.figures.prevalence import LAYERS
from nrc.runs.read import Run, Runs, lambda_groups

GRID = {"relu": "phase", "linear": "phase_linear"}
LOWEST, HIGHEST = 0.5, 200.0  # budgets drawn
OUTERMOST = 1.4  # ratio of the edges of a column at the rim
RANKS = [0.5, 1.5, 2.5, 3.5, 9.5, 29.5, 99.5, 1e4]
VANISHED, UNSEEN = "#f2b48a", "0.88"


@dataclass(frozen=True)
class Row:
    """One quantity: where it is found, its words, and its colours."""

    metric: str
    split: str
    label: str
    colours: str
    norm: Normalize
    ticks: dict[float, str]


ROWS = [
    Row(
        "nrc1",
        "train",
        "NRC1",
        "viridis",
        LogNorm(1e-12, 1),
        {10.0**k: power(k) for k in (-12, -8, -4)} | {1: "1"},
    ),
    Row(
        "feature_rank",
        "train",
        "numerical rank\nof the features",
        "viridis",
        BoundaryNorm(RANKS, 256),
        dict(zip((1, 2, 3, 6, 20, 64, 5000), ("1", "2", "3", "4+", "10+", "30+", "100+"), strict=True)),
    ),
    Row("r2", "test", "test R²", "viridis", Normalize(0, 1), {}),
    Row(
        "mse",
        "test",
        "test MSE over that\nwithout decay, same τ",
        "RdBu_r",
        LogNorm(0.5, 2),
        {0.5: "½", 0.7: "0.7", 1: "1", 1.4: "1.4", 2: "2"},
    ),
]


def draw(runs: Runs) -> list[Drawing]:
    """`phase_<data>`: NRC1, rank, R^2 and test error by rows, feature layers by columns."""
    names = {**runs.of(GRID["relu"]), **runs.of(GRID["linear"])}
    found = {data: {k: g for k in GRID if (g := _grid(runs, k, data))} for data in names}
    return [_one(data, grids) for data, grids in found.items() if grids]


def _grid(runs: Runs, kind: str, data: str) -> Groups:
    """The grid's runs and those of the prevalence figures: of a weight decay that both have, the longer ones, then
    those of more seeds, each group cut to one length. {} without a grid."""
    grid = lambda_groups([run for run in runs.of(GRID[kind]).get(data, []) if run.weight_decay > 0])
    others = lambda_groups(runs.of(LAYERS[kind][0]).get(data, [])) if grid else {}
    both = {v: [g[v] for g in (grid, others) if v in g] for v in sorted(grid | others, reverse=True)}
    return {
        v: max(map(cut, found), key=lambda group: (group[0].tau, len(group))) for v, found in both.items()
    }


def _one(data: str, grids: Grids) -> Drawing:
    used = [run for groups in grids.values() for group in groups.values() for run in group]
    figure = new_figure(panels_width(len(grids)), 6.8)
    panels = figure.subplots(len(ROWS), len(grids), squeeze=False, sharex=True, sharey=True)
    sheet, rows, nothing = Sheet("budget"), _rows(used), _no_decay(grids)
    for column, (kind, groups) in zip(panels.T, grids.items(), strict=True):
        found = borders(groups)
        for border in found:
            sides = {"estimated": border.estimate, "last alive": border.alive, "first dead": border.dead}
            for words, value in sides.items():
                labels = {"metric": f"direction {border.rank}, {words}", "series": kind}
                sheet.note([math.nan], [value], data=data, **labels)
        for row, panel in zip(rows, column, strict=True):
            _cells(sheet, panel, row, data, kind, groups, nothing)
            _overlay(panel, found, nothing[1])
        column[0].set_title(LAYERS[kind][1], pad=9)
        column[-1].set_xlabel("weight decay λ")
    _dress(panels[0, 0], used, nothing)
    for row, line in zip(rows, panels, strict=True):
        colours = ScalarMappable(row.norm, row.colours)
        bar = figure.colorbar(
            colours, ax=list(line), ticks=list(row.ticks), aspect=14, pad=0.01, label=row.label,
            extend="both" if row.metric == "mse" else "neither",
        )  # fmt: skip
        bar.ax.set_yticklabels(list(row.ticks.values()))
        bar.ax.minorticks_off()
        line[0].set_ylabel("budget λτ")
    legend_below(figure, _key(), 3 if len(grids) > 1 else 1)
    footer(figure, used, features=False)
    title = f"Phase diagram of collapse, {pretty(data)}"
    return Drawing(f"phase_{data}", title, caption(data, grids), figure, sheet.table(), used)


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
    sheet: Sheet, panel: Axes, row: Row, data: str, kind: str, groups: Groups, nothing: tuple[float, float]
) -> None:
    """One column of cells per weight decay, one cell per measured moment."""
    edges = _edges(groups)
    if row.metric == "mse" and 0.0 not in groups:
        words = "no runs without\nweight decay"
        panel.text(0.5, 0.5, words, ha="center", va="center", transform=panel.transAxes)
        return
    colours = matplotlib.colormaps[row.colours].with_extremes(bad=VANISHED)
    for value, group in groups.items():
        mean = (
            over_no_decay(groups, group) if row.metric == "mse" else most_seeds(group, row.metric, row.split)
        )
        if row.metric == "feature_rank":  # of features that vanished it is the rank of rounding
            mean = mean.where(most_seeds(group, "nrc1").notna())
        mean = mean[mean.index > 0]
        if value > 0:
            sides, budget = edges[value], value * mean.index.to_numpy()
            heights = np.array([budget[0], *np.sqrt(budget[1:] * budget[:-1]), budget[-1]])
        else:  # its budget is 0 at all times: the end is drawn, at every height
            mean, sides, budget = mean.iloc[-1:], nothing, np.zeros(1)
            heights = np.array([LOWEST, HIGHEST])
        sheet.note(budget, mean, data=data, metric=row.metric, series=kind, weight_decay=value, seed="mean")
        cells = np.ma.masked_invalid(np.maximum(mean.to_numpy(), FLOOR))[:, None]
        panel.pcolormesh(sides, heights, cells, cmap=colours, norm=row.norm, rasterized=True)


def _overlay(panel: Axes, found: list[Border], start: float) -> None:
    """What is not ripe hatched, the estimated thresholds dashed, the measured ones as triangles."""
    panel.grid(False)
    panel.set_facecolor(UNSEEN)
    panel.fill_between(
        [start, 1e9],
        LOWEST,
        ENOUGH_BUDGET,
        facecolor="none",
        edgecolor="white",
        hatch="////",
        lw=0,
        alpha=0.6,
    )
    panel.plot([start, 1e9], [ENOUGH_BUDGET, ENOUGH_BUDGET], color="white", lw=1.0)
    outline = [Stroke(linewidth=2.2, foreground="white"), Normal()]
    for border in found:
        if math.isfinite(border.estimate):
            panel.axvline(border.estimate, color="black", lw=1.0, ls=(0, (4, 2)), path_effects=outline)
        if math.isfinite(border.seen):
            at = panel.get_xaxis_transform()
            panel.plot(border.seen, 1.04, marker="v", ms=4, color="black", transform=at, clip_on=False, mew=0)


def _dress(panel: Axes, used: list[Run], nothing: tuple[float, float]) -> None:
    """The shared axes: a place for lambda = 0 at the left, decades elsewhere."""
    high = max(run.weight_decay for run in used)
    top = min(HIGHEST, max(run.budget for run in used))
    right = high * OUTERMOST**0.5
    panel.set(xscale="log", yscale="log", xlim=(nothing[0], right), ylim=(LOWEST, top))
    decades = [10.0**k for k in range(-9, 3) if 2 * nothing[1] < 10.0**k <= right]
    panel.xaxis.set_major_locator(FixedLocator([math.sqrt(math.prod(nothing)), *decades]))
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: "0" if v < nothing[1] else power(round(math.log10(v))))
    )
    panel.yaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100]))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())


def _key() -> list[Any]:
    return [
        Line2D(
            [], [], color="black", lw=1.0, ls=(0, (4, 2)), label="direction dies: estimate, linear network"
        ),
        Line2D([], [], color="black", marker="v", ms=4, ls="", label="direction dies: measured"),
        Patch(
            facecolor="0.5",
            edgecolor="white",
            hatch="////",
            lw=0,
            label=f"budget below {ENOUGH_BUDGET:g}: not yet",
        ),
        Patch(facecolor=VANISHED, label="features vanished"),
        Patch(facecolor=UNSEEN, label="not run so long"),
    ]
