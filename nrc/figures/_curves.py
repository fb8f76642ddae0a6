"""Curves against tau that are drawn and written down in one go, so the csv is exactly what is drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from nrc.criteria import FLOOR, geometric_mean
from nrc.figures._style import power
from nrc.runs.read import Run

LOG_MEAN = ("mse", "nrc", "noise", "linear_mse")  # quantities whose mean over seeds is geometric


class Sheet:
    """The numbers of a figure. `line` draws on an axis and appends the same points as rows.

    Args:
        x: name of the x column.
    """

    def __init__(self, x: str = "tau") -> None:
        self.x = x
        self.parts: list[pd.DataFrame] = []

    def note(self, x: Any, y: Any, **labels: Any) -> None:
        """Append points without drawing them."""
        labels = {"data": "", "metric": "", "series": "", "weight_decay": "", "seed": ""} | labels
        self.parts.append(pd.DataFrame({**labels, self.x: np.asarray(x), "value": np.asarray(y, float)}))

    def line(self, axes: Axes, x: Any, y: Any, labels: dict[str, Any], at: Any = None, **style: Any) -> None:
        """Draw y against x and note it; `at` gives other positions on the axis for the same x."""
        x, y = np.asarray(x), np.asarray(y, float)
        if axes.get_yscale() == "log":
            y = np.where(y <= 0, FLOOR, y)  # NaN stays NaN
        axes.plot(x if at is None else at, y, **style)
        self.note(x, y, **labels)

    def table(self) -> pd.DataFrame:
        """All rows so far."""
        return pd.concat(self.parts, ignore_index=True) if self.parts else pd.DataFrame()


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
        names = {self.zero: "0"} | {v: f"{v:g}" if close else power(round(np.log10(v))) for v in ticks}
        axes.xaxis.set_major_locator(FixedLocator([self.zero, *ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: names.get(v, "")))
        if label:
            axes.set_xlabel("gradient-flow time τ")


def mean_over_seeds(
    runs: Sequence[Run], metric: str, split: str = "train", layer: str | None = None
) -> pd.Series:
    """Mean over the seeds in which the metric is defined: geometric for errors and NRCs, else arithmetic."""
    table = pd.concat([run.series(metric, split, layer) for run in runs], axis=1)
    if metric.startswith(LOG_MEAN):
        return pd.Series(geometric_mean(table.to_numpy(), axis=1, skip_undefined=True), table.index)
    return table.mean(axis=1)


def draw_runs(
    sheet: Sheet,
    axes: Axes,
    tau: TauAxis,
    runs: Sequence[Run],
    metric: str,
    *,
    split: str = "train",
    colour: str,
    label: str | None = None,
    width: float = 1.4,
    line: str = "-",
    series: str = "",
    **style: Any,
) -> pd.Series:
    """Each seed thin, the mean thick. Returns the mean."""
    common = {
        "data": runs[0].data,
        "metric": metric,
        "series": series or split,
        "weight_decay": runs[0].weight_decay,
    }
    for run in runs if len(runs) > 1 else []:
        one = run.series(metric, split)
        thin = {"color": colour, "lw": 0.4 * width, "alpha": 0.45, "ls": line}
        sheet.line(axes, one.index, one, {**common, "seed": run.seed}, at=tau(one.index), **thin)
    mean = mean_over_seeds(runs, metric, split)
    thick = {"color": colour, "lw": width, "ls": line, "label": label} | style
    sheet.line(axes, mean.index, mean, {**common, "seed": "mean"}, at=tau(mean.index), **thick)
    return mean


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


def _plain(value: float, _: object) -> str:
    return f"{value:.6g}"


def _power(value: float, _: object) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = round(value / 10.0**exponent)
    return power(exponent, mantissa)
