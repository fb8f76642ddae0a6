"""The layer-wise figures of CPAL 2026 and of its poster: one figure per data set, layers on the x axis."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.criteria import geometric_mean
from nrc.figures import curves, style
from nrc.figures.curves import FLOOR, Drawing
from nrc.figures.layers import (
    HEADLINE,
    NO_DECAY,
    NULL,
    TARGET,
    THEIRS,
    Panels,
    first_collapsed,
    target_stable_rank,
)  # fmt: skip
from nrc.figures.reference import same_layers, same_units
from nrc.figures.registry import figure
from nrc.figures.style import C0, C1, C2, key
from nrc.runs.read import Run, Runs

HELD_OUT: dict[str, Any] = {"color": C0, "ls": (0, (1, 1)), "lw": 1.0}
OF_FEATURES: dict[str, Any] = {"color": C0, "ls": (0, (4, 1, 1, 1)), "lw": 1.0}
NOISE_SIDE: dict[str, Any] = {"color": C1, "marker": "s", "lw": 1.0}
FIRST: dict[str, Any] = {"color": C2, "lw": 1.6, "alpha": 0.55}
ALSO_IN_CSV = ("feature_weight_alignment_k", "feature_rank", "weight_rank")
CAPTION = (
    "Layer by layer at the end of training, at the headline weight decay and for the control. Green: the first "
    "collapsed layer by the rule of nrc.metrics.depth (noise, alignment and the affine fit within their bounds). Thin "
    "grey: read off the paper's figures, one run on other rows, where its network has the same layers; errors where they "
    "have the same units."
)


def _noise(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "noise")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOOR))
    curves.log_axis(axes)


def _cka(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "cka", null="cka_null")
    axes.set_ylim(-0.03, 1.03)


def _alignment(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "feature_weight_alignment", null="feature_weight_alignment_null")
    axes.set_ylim(-0.03, 1.03)


def _linear(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "linear_mse", published=same_units(panels.main[0], "deep"))
    panels.line(axes, panels.main, "linear_mse", "held-out", split="test", **HELD_OUT)
    mse = geometric_mean([max(run.last("mse"), FLOOR) for run in panels.main])
    panels.level(axes, float(mse), "model mse")
    curves.log_axis(axes)


def _feature_rank(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "stable_rank_covariance")
    panels.line(axes, panels.main, "stable_rank_features", "headline", **OF_FEATURES)
    panels.level(axes, target_stable_rank(panels.main[0]), "target stable_rank_covariance")
    curves.rank_axis(axes)


def _weight_rank(panels: Panels, axes: Axes) -> None:
    axes.set_yscale("log")
    panels.pair(axes, "stable_rank_weights")
    curves.rank_axis(axes)


def _feature_side(panels: Panels, axes: Axes) -> None:
    panels.pair(axes, "feature_target_alignment_features", published=False)
    axes.set_ylim(-0.03, 1.03)


def _target_side(panels: Panels, axes: Axes) -> None:
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
    ("signal alignment, feature side", r"mean $\cos\theta(\Sigma_{HY},U_r)$", _feature_side),
    ("the same, target side (vacuous)", r"mean $\cos\theta(\Sigma_{HY},\Sigma_Y)$", _target_side),
]


@figure(
    "deep",
    paper="CPAL 2026",
    numbers=(1, 2, 6),
    reads=["deep", "images"],
    caption=CAPTION
    + " A convolution's features are its input channels, its weight is taken as c_in x (c_out kh kw).",
)
def deep(runs: Runs) -> Iterator[Drawing]:
    for experiment in ("deep", "images"):
        for data in runs.of(experiment):
            if experiment == "deep" or data not in runs.of("deep"):
                yield from _one(runs, experiment, data, f"deep_{data}", PANELS)


@figure(
    "low_rank",
    paper="CPAL 2026",
    numbers=(3, 4),
    reads=["low_rank"],
    caption=CAPTION
    + " Target-side alignment is 1 for any features when the targets have exact rank r, trained or not: "
    "it stands beside its permutation null, and the feature side is the one to read.",
)
def low_rank(runs: Runs) -> Iterator[Drawing]:
    for data in runs.of("low_rank"):
        yield from _one(runs, "low_rank", data, data, PANELS + LOW_RANK_PANELS)


def _one(runs: Runs, experiment: str, data: str, name: str, contents: list) -> Iterator[Drawing]:
    main, control = runs.headline(experiment, data), runs.control(experiment, data)
    if not main or not all(run.snapshots for run in main):
        return
    title = f"Collapse layer by layer, {style.pretty(data, main)}"
    rows = math.ceil(len(contents) / 3)
    drawing = Drawing(name, title, rows, 3, 0.8 + 1.75 * rows, "layer")
    panels, run = Panels(drawing, main, control), main[0]
    first = first_collapsed(run)
    cells = list(drawing.grid.flat)
    for axes, (words, label, content) in zip(cells, contents, strict=False):
        content(panels, axes)
        panels.dress(axes, words, label)
        if first is not None:
            axes.axvline(first, zorder=0, **FIRST)
    mlp = run.layers[0].startswith("fc")
    for axes in cells[len(contents) - 3 : len(contents)]:
        axes.set_xlabel("layer (input of fc1, fc2, ...)" if mlp else "input of conv 1, 2, ... and fc")
    if len(contents) < len(cells):
        cells[-1].axis("off")
        cells[-1].legend(handles=_key(panels, first), loc="center left", ncols=1)
    else:
        drawing.legend(_key(panels, first), 4)
    drawing.figure.suptitle(style.column_title(data, main).replace("\n", ", "), fontsize=9)
    for metric in ALSO_IN_CSV:
        for one in main:
            values = [one.last(metric, layer=layer) for layer in one.layers]
            labels = {"data": data, "metric": metric, "series": "headline", "weight_decay": run.weight_decay}
            drawing.note(panels.x, values, seed=one.seed, **labels)
    place = math.nan if first is None else first
    drawing.note([0], [place], data=data, metric="first_collapsed_layer", series="headline")
    drawing.runs += main + control
    yield drawing


def _key(panels: Panels, first: int | None) -> list[Line2D]:
    main: Run = panels.main[0]
    handles = [
        key(f"λ = {style.scientific(main.weight_decay)}, train", **HEADLINE),
        key("the same, held-out (MSE)", **HELD_OUT),
        key("stable rank $|H|_F^2/|H|_2^2$", **OF_FEATURES),
    ]
    if panels.control:
        handles.append(key("control, λ = 0", **NO_DECAY))
    handles.append(key("null: random pairing, directions", **NULL))
    handles.append(key("model's MSE; target's stable rank", **TARGET))
    if same_layers(main):
        handles.append(key("published, other data", **THEIRS))
    if first is not None:
        handles.append(key(f"first collapsed: {main.layers[first - 1]}", **FIRST))
    if len(main.snapshots["sigma"]) > 2 and math.isfinite(main.last("noise_alignment")):
        handles.append(key("alignment with the noise subspace", **NOISE_SIDE))
    return handles
