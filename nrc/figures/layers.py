"""Metrics against the layer number, for the layer-wise figures; and where collapse begins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nrc.criteria import FLOOR
from nrc.figures import curves, style
from nrc.figures.curves import Drawing
from nrc.figures.reference import curve, same_layers
from nrc.metrics.depth import first_collapsed_layer
from nrc.runs.read import Run

NULL: dict[str, Any] = {"color": "black", "ls": ":", "lw": 0.9}
TARGET: dict[str, Any] = {"color": style.C1, "ls": "--", "lw": 0.9}
THEIRS: dict[str, Any] = {"color": style.PUBLISHED, "lw": 0.6, "marker": "x", "ms": 2.5, "mew": 0.6}
CONTROL: dict[str, Any] = {"color": style.CONTROL, "lw": 1.2, "marker": "."}
HEADLINE: dict[str, Any] = {"color": style.C0, "lw": 1.4, "marker": "o"}
FIRST: dict[str, Any] = {"color": style.C2, "lw": 1.6, "alpha": 0.55}


class Panel(NamedTuple):
    """A metric with its words, the null it is held against, and its axis: "share" (0 to 1), "log" or "rank"."""

    metric: str
    title: str
    label: str
    axis: str = "share"
    null: str = ""


class Layers:
    """The panels of one figure: all draw against the layer number."""

    def __init__(self, drawing: Drawing, main: Sequence[Run], control: Sequence[Run] = ()) -> None:
        self.drawing, self.main, self.control = drawing, main, control
        self.x = np.arange(1, len(main[0].layers) + 1)

    def line(
        self, axes: Axes, runs: Sequence[Run], metric: str, series: str, split: str = "train", **look: Any
    ) -> None:
        """Each seed thin, the mean thick."""
        found = [pd.Series([r.last(metric, split, name) for name in r.layers], index=self.x) for r in runs]
        if runs:
            self.drawing.seeds(axes, runs, metric, found, series, **look)

    def pair(self, axes: Axes, panel: Panel, published: bool = True) -> None:
        """Control grey, published thin, headline on top, null dotted; `finish` the axis when all is drawn."""
        axes.set_yscale("linear" if panel.axis == "share" else "log")
        self.line(axes, self.control, panel.metric, "control", **CONTROL)
        theirs = curve("deep_published", self.main[0].data, panel.metric)
        theirs = theirs[theirs["layer"].between(1, len(self.x))]
        if published and len(theirs) and same_layers(self.main[0]):
            labels = {"data": self.main[0].data, "metric": panel.metric, "series": "published"}
            self.drawing.line(axes, theirs["layer"], theirs["value"], labels, **THEIRS)
        self.line(axes, self.main, panel.metric, "headline", **HEADLINE)
        if panel.null:  # on top: a null that equals the metric must be seen to do so
            self.line(axes, self.main, panel.null, "null", **NULL)

    def level(self, axes: Axes, value: float, metric: str) -> None:
        """A horizontal line: the model's MSE or the target's stable rank."""
        labels = {"data": self.main[0].data, "metric": metric, "series": "reference"}
        self.drawing.line(axes, [self.x[0], self.x[-1]], [value, value], labels, **TARGET)

    def finish(self, axes: Axes, panel: Panel) -> None:
        """Title, label and axes."""
        if panel.axis == "share":
            axes.set_ylim(-0.03, 1.05)
        elif panel.axis == "rank":
            curves.rank_axis(axes)
        else:
            axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOOR))
            curves.log_axis(axes)
        axes.set_title(panel.title)
        axes.set_ylabel(panel.label)
        axes.set_xlim(0.6, len(self.x) + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=5))
        axes.grid(axis="x", visible=False)


def first_collapsed(run: Run, end: str = "", when: str = "end") -> int | None:
    """Number of the first collapsed layer, counted from 1, or None, by the rule of `nrc.metrics.depth`.

    The affine map is fitted on the train rows and judged on the held-out ones where those were measured: on its own
    rows any layer of as many features as rows predicts everything, a random one too.

    Args:
        end: "_r1" counts one direction only.
        when: "start" asks the untrained network, held against the trained one's error.
    """
    held_out = any(len(run.series("linear_mse", "test", name)) for name in run.layers)
    split = "test" if held_out else "train"

    def at(metric: str, layer: str, part: str = "train") -> float:
        series = run.series(metric, part, layer)
        return float(series.iloc[-1 if when == "end" else 0]) if len(series) else float("nan")

    rows = [
        {name: at(name + end, layer) for name in ("noise", "feature_weight_alignment")}
        | {"linear_mse": at("linear_mse", layer, split)}
        for layer in run.layers
    ]
    sigma = run.snapshots["sigma"]
    return first_collapsed_layer(rows, run.last("mse", split=split), float(np.trace(sigma)) / len(sigma))
