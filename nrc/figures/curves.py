"""A figure while it is drawn, and curves against tau: what is drawn is written down, so the csv is what is seen."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from nrc.criteria import FLOOR, geometric_mean
from nrc.figures import style
from nrc.runs.files import file_name
from nrc.runs.read import Run

LOG_MEAN = ("mse", "nrc", "noise", "linear_mse")  # quantities whose mean over seeds is geometric
WIDTHS, WIDE = {1: 3.4, 2: 5.5}, 7.0  # inches, by number of columns
LEGEND_ROW = 0.15  # inches of one row of the legend
Row = tuple[str, str, str]  # metric, split, label of the axis
Groups = Mapping[Any, Sequence[Run]]  # what a panel compares -> the seeds of it


class Drawing:
    """One figure: its panels, the numbers that are in them, and the runs that these come from.

    Args:
        name: of its files.
        title: one line for the list of figures.
        rows: of panels, in `grid`.
        columns: of panels; they decide the width.
        height: inches.
        x: name of the x column of the csv.
        grid: as for `Figure.subplots`.
    """

    def __init__(
        self, name: str, title: str, rows: int, columns: int, height: float, x: str = "tau", **grid: Any
    ) -> None:
        self.name, self.title, self.x = file_name(name), title, x
        self.figure = Figure(figsize=(WIDTHS.get(columns, WIDE), height), layout="constrained")
        FigureCanvasAgg(self.figure)
        self.grid = self.figure.subplots(rows, columns, squeeze=False, **grid)
        self.runs: list[Run] = []
        self.extras: dict[str, str] = {}  # further text files beside it, by name
        self._parts: list[pd.DataFrame] = []
        self._narrow = columns == 1  # the small print needs a second line
        self._small_print = 0.17 + 0.09 * self._narrow  # inches
        self._keep_free(self._small_print)

    @property
    def table(self) -> pd.DataFrame:
        """All that is drawn so far."""
        return pd.concat(self._parts, ignore_index=True) if self._parts else pd.DataFrame()

    def note(self, x: Any, y: Any, **labels: Any) -> None:
        """Append points to the table without drawing them."""
        labels = {"data": "", "metric": "", "series": "", "weight_decay": "", "seed": ""} | labels
        self._parts.append(pd.DataFrame({**labels, self.x: np.asarray(x), "value": np.asarray(y, float)}))

    def line(self, axes: Axes, x: Any, y: Any, labels: dict[str, Any], at: Any = None, **look: Any) -> None:
        """Draw y against x and note it; `at` gives other positions on the axis for the same x."""
        x, y = np.asarray(x), np.asarray(y, float)
        if axes.get_yscale() == "log":
            y = np.where(y <= 0, FLOOR, y)  # NaN stays NaN
        axes.plot(x if at is None else at, y, **look)
        self.note(x, y, **labels)

    def seeds(
        self, axes: Axes, runs: Sequence[Run], metric: str, curves: Sequence[pd.Series], series: str,
        at: Callable[[Any], Any] = np.asarray, **look: Any,
    ) -> pd.Series:  # fmt: skip
        """Each seed thin, their mean thick. Returns the mean."""
        first = runs[0]
        labels = {"data": first.data, "metric": metric, "series": series, "weight_decay": first.weight_decay}
        thin = look | {"lw": 0.4 * look.get("lw", 1.4), "alpha": 0.45, "marker": ""}
        for run, one in zip(runs, curves, strict=True) if len(runs) > 1 else ():
            self.line(axes, one.index, one, {**labels, "seed": run.seed}, at(one.index), **thin)
        mean = mean_over_seeds(curves, metric)
        self.line(axes, mean.index, mean, {**labels, "seed": "mean"}, at(mean.index), **look)
        return mean

    def curve(
        self, axes: Axes, tau: "TauAxis", runs: Sequence[Run], metric: str, split: str = "train",
        series: str = "", **look: Any,
    ) -> pd.Series:  # fmt: skip
        """A metric of the last layer against tau."""
        found = [run.series(metric, split) for run in runs]
        return self.seeds(axes, runs, metric, found, series or split, tau, **look)

    def curves(
        self,
        columns: Mapping[str, Groups],
        rows: Sequence[Row],
        panel: Callable[[Axes, "TauAxis", Any, Row], None],
        title: Callable[[str, list[Run]], str],
    ) -> None:
        """Metrics by rows, data sets by columns, all against tau; `panel` draws one of them."""
        for place, (data, groups) in enumerate(columns.items()):
            used = [run for group in groups.values() for run in group]
            tau = TauAxis(used)
            for row, axes in zip(rows, self.grid[:, place], strict=False):
                before = len(self._parts)
                panel(axes, tau, groups, row)
                drawn = {metric for part in self._parts[before:] for metric in part["metric"]}
                for metric in ("nrc1", "nrc2"):
                    if metric in drawn:
                        self._floor(axes, tau, used, metric)
                tau.dress(axes, label=row is rows[-1])
                axes.tick_params(labelbottom=row is rows[-1])
                if place == 0 and row[2]:
                    axes.set_ylabel(row[2])
            self.grid[0, place].set_title(title(data, used))
            self.runs += used
        self.figure.align_ylabels(list(self.grid[: len(rows), 0]))

    def _floor(self, axes: Axes, tau: "TauAxis", runs: Sequence[Run], metric: str) -> None:
        """A thin dotted line where rounding of the forward pass hides NRC1 or NRC2, if it is in view of the axis."""
        found = [run.series(f"{metric}_floor").dropna() for run in runs]
        found = [floor for floor in found if len(floor) and floor.max() > axes.get_ylim()[0]]
        if not found or axes.get_yscale() != "log":
            return
        mean = mean_over_seeds(found, metric)
        # an artist of no extent: it shall not stretch the axis
        axes.add_artist(Line2D(tau(mean.index), mean, color=style.GREY, lw=0.6, ls=":"))
        place = (tau(mean.index)[0], mean.iloc[0])
        axes.annotate(
            "rounding", place, (1, 1), textcoords="offset points", fontsize=4.5, color=style.GREY,
            annotation_clip=True,
        )  # fmt: skip
        self.note(
            mean.index, mean, data=runs[0].data, metric=f"{metric}_floor", series="rounding", seed="mean"
        )

    def legend(self, handles: Iterable[Any], columns: int) -> None:
        """One legend for the whole figure, between the panels and the small print, on no curve."""
        handles = list(handles)
        rows = math.ceil(len(handles) / columns)
        self._keep_free(self._small_print + rows * LEGEND_ROW + 0.06)
        place = (0.5, (self._small_print - 0.04) / self.figure.get_figheight())
        legend = self.figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, ncols=columns)
        legend.set_in_layout(False)

    def footer(self) -> None:
        """Protocol, tau, kind of data, model and seeds in small print at the bottom edge."""
        parts = style.small_print(self.runs)
        text = "  |  ".join(parts[:3]) + ("\n" if self._narrow else "  |  ") + "  |  ".join(parts[3:])
        look: dict[str, Any] = {"fontsize": 5.5, "color": style.GREY, "linespacing": 1.1}
        self.figure.text(0.5, 0.03 / self.figure.get_figheight(), text, ha="center", va="bottom", **look)

    def _keep_free(self, inches: float) -> None:
        bottom = inches / self.figure.get_figheight()
        engine = self.figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(0, bottom, 1, 1 - bottom), w_pad=0.03, h_pad=0.03)


class TauAxis:
    """A log axis for tau that has a place for tau = 0 at its left edge."""

    def __init__(self, runs: Sequence[Run]) -> None:
        positive = [t for run in runs for t in run.series("mse").index if t > 0]
        self.first, self.end = min(positive), max(positive)
        self.zero = self.first / 3

    def __call__(self, tau: Any) -> np.ndarray:
        """Positions on the axis."""
        return np.maximum(np.asarray(tau, float), self.zero)

    def dress(self, axes: Axes, label: bool = True) -> None:
        """Scale, limits and ticks; the tick '0' is the state before training."""
        axes.set_xscale("log")
        axes.set_xlim(self.zero / 1.15, self.end * 1.2)
        low, high = int(np.ceil(np.log10(4 * self.zero))), int(np.floor(np.log10(self.end)))
        every = 1 if high - low < 5 else 2
        ticks = [10.0**k for k in range(high, low - 1, -every)][::-1]
        close = len(ticks) < 2
        if close:  # numbers between the decades, too
            between = [m * 10.0**k for k in range(low - 1, high + 1) for m in (1, 2, 5)]
            ticks = [v for v in between if self.first <= v <= self.end]
        names = {self.zero: "0"} | {v: f"{v:g}" if close else style.power(round(np.log10(v))) for v in ticks}
        axes.xaxis.set_major_locator(FixedLocator([self.zero, *ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: names.get(v, "")))
        if label:
            axes.set_xlabel("gradient-flow time τ")


def mean_over_seeds(curves: Sequence[pd.Series], metric: str) -> pd.Series:
    """Mean over the seeds in which the metric is defined: geometric for errors and NRCs, else arithmetic."""
    table = pd.concat(curves, axis=1)
    if metric.startswith(LOG_MEAN):
        return pd.Series(geometric_mean(table.to_numpy(), axis=1, skip_undefined=True), table.index)
    return table.mean(axis=1)


def twin(axes: Axes, colour: str) -> Axes:
    """A second y axis on the right, in this colour."""
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    right.tick_params(axis="y", colors=colour, which="both")
    return right


def log_axis(axes: Axes, shortest: float = 10.0, top: float | None = None) -> None:
    """A log y axis whose ticks are readable however many decades it spans; call it after drawing.

    Args:
        shortest: an axis with a smaller ratio of its ends is widened to it.
        top: the largest value the quantity can have; the axis ends a little above.
    """
    low, high = axes.get_ylim()
    if top is not None:
        high = min(high, 1.4 * top)
    if high / low < shortest:
        middle = (low * high) ** 0.5
        low, high = middle / shortest**0.5, middle * shortest**0.5
        if top is not None and high > 1.4 * top:
            low, high = 1.4 * top / shortest, 1.4 * top
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    if decades > 2.2:
        axes.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
        axes.yaxis.set_minor_formatter(NullFormatter())
        if decades > 4:
            axes.yaxis.set_minor_locator(NullLocator())
        return
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain if low >= 9e-4 else _power))


def rank_axis(axes: Axes) -> None:
    """A log y axis from 1 for stable ranks; call it after drawing."""
    top = max(1.1 * axes.get_ylim()[1], 2.2)
    wanted = (1, 1.5, 2, 3, 5) if top < 8 else (1, 2, 5, 10, 20, 50, 100, 200, 500)
    ticks = [t for t in wanted if t <= top]
    axes.set_ylim(0.85, top)
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_yticks([], minor=True)


def _plain(value: float, _: object) -> str:
    return f"{value:.6g}"


def _power(value: float, _: object) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    return style.power(exponent, round(value / 10.0**exponent))
