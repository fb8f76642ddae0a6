"""Metrics against the layer number, for the layer-wise figures; and where collapse begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nrc.figures.curves import Drawing
from nrc.figures.reference import curve, same_layers
from nrc.figures.style import C0, C1, CONTROL, PUBLISHED
from nrc.metrics.depth import first_collapsed_layer
from nrc.runs.read import Run

NULL: dict[str, Any] = {"color": "black", "ls": ":", "lw": 0.9}
TARGET: dict[str, Any] = {"color": C1, "ls": "--", "lw": 0.9}
THEIRS: dict[str, Any] = {"color": PUBLISHED, "lw": 0.6, "marker": "x", "ms": 2.5, "mew": 0.6}
NO_DECAY: dict[str, Any] = {"color": CONTROL, "lw": 1.2, "marker": "."}
HEADLINE: dict[str, Any] = {"color": C0, "lw": 1.4, "marker": "o"}


@dataclass
class Panels:
    """What the panels of one figure share: the drawing, its runs, and the x axis."""

    drawing: Drawing
    main: Sequence[Run]
    control: Sequence[Run] = ()

    @property
    def x(self) -> np.ndarray:
        return np.arange(1, len(self.main[0].layers) + 1)

    def line(
        self, axes: Axes, runs: Sequence[Run], metric: str, series: str, split: str = "train", **look: Any
    ) -> None:
        """Each seed thin, the mean thick, against the layer."""
        found = [
            pd.Series([run.last(metric, split, name) for name in run.layers], index=self.x) for run in runs
        ]
        if runs:
            self.drawing.seeds(axes, runs, metric, found, series, **look)

    def pair(self, axes: Axes, metric: str, null: str = "", published: bool = True) -> None:
        """Control grey, published thin, headline on top, null dotted."""
        self.line(axes, self.control, metric, "control", **NO_DECAY)
        theirs = curve("deep_published", self.main[0].data, metric)
        theirs = theirs[theirs["layer"].between(1, len(self.x))]
        if published and len(theirs) and same_layers(self.main[0]):
            labels = {"data": self.main[0].data, "metric": metric, "series": "published"}
            self.drawing.line(axes, theirs["layer"], theirs["value"], labels, **THEIRS)
        self.line(axes, self.main, metric, "headline", **HEADLINE)
        if null:  # on top: a null that equals the metric must be seen to do so
            self.line(axes, self.main, null, "null", **NULL)

    def level(self, axes: Axes, value: float, metric: str) -> None:
        """A horizontal line: the model's MSE or the target's stable rank."""
        labels = {"data": self.main[0].data, "metric": metric, "series": "reference"}
        self.drawing.line(axes, [self.x[0], self.x[-1]], [value, value], labels, **TARGET)

    def dress(self, axes: Axes, title: str, label: str) -> None:
        """Title, label and an x axis of whole layers."""
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xlim(0.6, len(self.x) + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=5))
        axes.grid(axis="x", visible=False)


def target_stable_rank(run: Run) -> float:
    """sum of squared eigenvalues over the largest squared, of the targets' covariance."""
    values = np.linalg.eigvalsh(run.snapshots["sigma"])
    return float((values**2).sum() / values[-1] ** 2)


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
        {
            "noise": at(f"noise{end}", layer),
            "feature_weight_alignment": at(f"feature_weight_alignment{end}", layer),
            "linear_mse": at("linear_mse", layer, split),
        }
        for layer in run.layers
    ]
    sigma = run.snapshots["sigma"]
    return first_collapsed_layer(rows, run.last("mse", split=split), float(np.trace(sigma)) / len(sigma))
