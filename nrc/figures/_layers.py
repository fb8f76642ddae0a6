"""The panels of the layer-wise figures: one function per panel, all drawing against the layer number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nrc.criteria import FLOOR, geometric_mean
from nrc.figures._curves import LOG_MEAN, Sheet, log_axis
from nrc.figures._reference import curve, same_layers, same_units
from nrc.figures._style import C0, C1, CONTROL, PUBLISHED
from nrc.runs.read import Run

NULL: dict[str, Any] = {"color": "black", "ls": ":", "lw": 0.9}
TARGET: dict[str, Any] = {"color": C1, "ls": "--", "lw": 0.9}
HELD_OUT: dict[str, Any] = {"color": C0, "ls": (0, (1, 1)), "lw": 1.0}
OF_FEATURES: dict[str, Any] = {"color": C0, "ls": (0, (4, 1, 1, 1)), "lw": 1.0}
NOISE_SIDE: dict[str, Any] = {"color": C1, "marker": "s", "lw": 1.0}


@dataclass
class Panels:
    """What the panels of one figure share: its runs, its sheet of numbers, and the x axis."""

    sheet: Sheet
    main: list[Run]
    control: list[Run]

    @property
    def x(self) -> np.ndarray:
        return np.arange(1, len(self.main[0].layers) + 1)

    def line(
        self, axes: Axes, runs: list[Run], metric: str, series: str, split: str = "train", **style: Any
    ) -> None:
        """Each seed thin, the mean thick, against the layer."""
        if not runs:
            return
        table = np.array([[run.last(metric, split, name) for name in run.layers] for run in runs])
        labels = {
            "data": runs[0].data,
            "metric": metric,
            "series": series,
            "weight_decay": runs[0].weight_decay,
        }
        for run, values in zip(runs, table, strict=True) if len(runs) > 1 else ():
            thin = style | {"lw": 0.5, "alpha": 0.5, "marker": ""}
            self.sheet.line(axes, self.x, values, {**labels, "seed": run.seed}, **thin)
        logs = metric.startswith(LOG_MEAN)
        mean = geometric_mean(table) if logs else table.mean(0)
        self.sheet.line(axes, self.x, mean, {**labels, "seed": "mean"}, **style)

    def pair(self, axes: Axes, metric: str, null: str | None = None, reference: str | None = None) -> None:
        """Control grey, published thin, null dotted, headline on top."""
        self.line(axes, self.control, metric, "control", color=CONTROL, lw=1.2, marker=".")
        published = curve("deep_published", self.main[0].data, reference or metric)
        published = published[published["layer"].between(1, len(self.x))]
        if len(published) and same_layers(self.main[0]):
            labels = {"data": self.main[0].data, "metric": metric, "series": "published"}
            style: dict[str, Any] = {"color": PUBLISHED, "lw": 0.6, "marker": "x", "ms": 2.5, "mew": 0.6}
            self.sheet.line(axes, published["layer"], published["value"], labels, **style)
        self.line(axes, self.main, metric, "headline", color=C0, lw=1.4, marker="o")
        if null:  # on top: a null that equals the metric must be seen to do so
            self.line(axes, self.main, null, "null", **NULL)

    def level(self, axes: Axes, value: float, metric: str) -> None:
        """A horizontal line: the model's MSE or the target's stable rank."""
        labels = {"data": self.main[0].data, "metric": metric, "series": "reference"}
        self.sheet.line(axes, [self.x[0], self.x[-1]], [value, value], labels, **TARGET)


def target_stable_rank(run: Run) -> float:
    """sum of squared eigenvalues over the largest squared, of the targets' covariance."""
    values = np.linalg.eigvalsh(run.snapshots["sigma"])
    return float((values**2).sum() / values[-1] ** 2)


def _noise(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "noise")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOOR))
    log_axis(axes)


def _cka(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "cka", null="cka_null")
    axes.set_ylim(-0.03, 1.03)


def _alignment(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "feature_weight_alignment", null="feature_weight_alignment_null")
    axes.set_ylim(-0.03, 1.03)


def _linear(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "linear_mse", reference=None if same_units(panels.main[0], "deep") else "none")
    panels.line(axes, panels.main, "linear_mse", "held-out", split="test", **HELD_OUT)
    mse = float(geometric_mean([run.last("mse") for run in panels.main]))
    panels.level(axes, mse, "model mse")
    log_axis(axes)


def _feature_rank(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "stable_rank_covariance")
    panels.line(
        axes,
        panels.main,
        "stable_rank_features",
        "headline",
        **OF_FEATURES,
    )
    panels.level(axes, target_stable_rank(panels.main[0]), "target stable_rank_covariance")
    _rank_axis(axes)


def _weight_rank(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "stable_rank_weights")
    _rank_axis(axes)


def _rank_axis(axes: Axes) -> None:
    top = axes.get_ylim()[1]
    top = max(1.1 * top, 2.2)
    axes.set_ylim(0.85, top)
    wanted = (1, 1.5, 2, 3, 5) if top < 8 else (1, 2, 5, 10, 20, 50, 100, 200, 500)
    ticks = [t for t in wanted if t <= top]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_yticks([], minor=True)


def _subspace(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "feature_target_alignment_features", reference="none")
    axes.set_ylim(-0.03, 1.03)


def _vacuous(panels: Panels, axes: Axes) -> None:
    panels.line(axes, panels.main, "noise_alignment", "noise subspace", **NOISE_SIDE)
    # broad, so that the null on top of it is seen
    panels.line(axes, panels.main, "feature_target_alignment", "headline", color=C0, lw=4, alpha=0.45)
    panels.line(axes, panels.main, "feature_target_alignment_null", "null", **NULL)
    axes.set_ylim(-0.03, 1.05)


PANELS: list[tuple[str, str, Callable[[Panels, Axes], None]]] = [
    ("noise fraction", r"$\Sigma_{j>r}\,\ell_j\;/\;\Sigma_j\,\ell_j$", _noise),
    ("features and targets", r"CKA$(H,Y)$", _cka),
    ("feature-weight alignment", r"mean $\cos\theta(W,U_k)$", _alignment),
    ("linear prediction", r"MSE of $H\to Y$", _linear),
    ("stable rank of features", r"$|\Sigma_H|_F^2\,/\,|\Sigma_H|_2^2$", _feature_rank),
    ("stable rank of weights", r"$|W|_F^2\,/\,|W|_2^2$", _weight_rank),
]
LOW_RANK_PANELS: list[tuple[str, str, Callable[[Panels, Axes], None]]] = [
    ("signal alignment, feature side", r"mean $\cos\theta(\Sigma_{HY},U_r)$", _subspace),
    ("the same, target side (vacuous)", r"mean $\cos\theta(\Sigma_{HY},\Sigma_Y)$", _vacuous),
]
