"""The layer-wise figures of CPAL 2026 and of its poster: one figure per data set, layers on the x axis."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.criteria import geometric_mean
from nrc.figures import layers, style
from nrc.figures.curves import Drawing
from nrc.figures.layers import Layers, Panel
from nrc.figures.reference import same_layers, same_units
from nrc.figures.registry import figure
from nrc.figures.style import C0, key
from nrc.metrics.linalg import stable_rank
from nrc.runs.read import Runs

HELD_OUT: dict[str, Any] = {"color": C0, "ls": (0, (1, 1)), "lw": 1.0}
OF_FEATURES: dict[str, Any] = {"color": C0, "ls": (0, (4, 1, 1, 1)), "lw": 1.0}
NOISE_SIDE: dict[str, Any] = {"color": style.C1, "marker": "s", "lw": 1.0}
ALSO_IN_CSV = ("feature_weight_alignment_k", "feature_rank", "weight_rank")
ALIGNMENT, VACUOUS = "feature_weight_alignment", "feature_target_alignment"
PANELS = [
    Panel("noise", "noise fraction", r"$\Sigma_{j>r}\,\ell_j\;/\;\Sigma_j\,\ell_j$", "log"),
    Panel("cka", "features and targets", r"CKA$(H,Y)$", null="cka_null"),
    Panel(ALIGNMENT, "feature-weight alignment", r"mean $\cos\theta(W,U_k)$", null=f"{ALIGNMENT}_null"),
    Panel("linear_mse", "linear prediction", r"MSE of $H\to Y$", "log"),
    Panel(
        "stable_rank_covariance", "stable rank of features", r"$|\Sigma_H|_F^2\,/\,|\Sigma_H|_2^2$", "rank"
    ),
    Panel("stable_rank_weights", "stable rank of weights", r"$|W|_F^2\,/\,|W|_2^2$", "rank"),
]
LOW_RANK_PANELS = [
    Panel(f"{VACUOUS}_features", "signal alignment, feature side", r"mean $\cos\theta(\Sigma_{HY},U_r)$"),
    Panel(VACUOUS, "the same, target side (vacuous)", r"mean $\cos\theta(\Sigma_{HY},\Sigma_Y)$"),
]
CAPTION = (
    "Layer by layer at the end of training, at the headline weight decay and for the control. Green: the first "
    "collapsed layer by the rule of nrc.metrics.depth (noise, alignment and the affine fit within their bounds). Thin "
    "grey: read off the paper's figures, one run on other rows, where its network has the same layers; errors where they "
    "have the same units."
)


@figure(
    "deep",
    paper="CPAL 2026",
    numbers=(1, 2, 6),
    reads=["deep", "images"],
    caption=CAPTION
    + " A convolution's features are its input channels, its weight is taken as c_in x (c_out kh kw).",
)
def deep(runs: Runs) -> Iterator[Drawing]:
    """Layer by layer: noise, alignments, CKA, ranks, error of the best affine map."""
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
    """The same for targets of rank 2 in 10 dimensions."""
    for data in runs.of("low_rank"):
        yield from _one(runs, "low_rank", data, data, PANELS + LOW_RANK_PANELS)


def _one(runs: Runs, experiment: str, data: str, name: str, panels: Sequence[Panel]) -> Iterator[Drawing]:
    main, control = runs.headline(experiment, data), runs.control(experiment, data)
    if not main or not all(run.snapshots for run in main):
        return
    rows, title = math.ceil(len(panels) / 3), f"Collapse layer by layer, {style.pretty(data, main)}"
    drawing = Drawing(name, title, rows, 3, 0.8 + 1.75 * rows, "layer")
    inside, cells, first = (
        Layers(drawing, main, control),
        list(drawing.grid.flat),
        layers.first_collapsed(main[0]),
    )
    for axes, panel in zip(cells, panels, strict=False):
        _panel(inside, axes, panel)
        inside.finish(axes, panel)
        if first is not None:
            axes.axvline(first, zorder=0, **layers.FIRST)
    mlp = main[0].layers[0].startswith("fc")
    for axes in cells[len(panels) - 3 : len(panels)]:
        axes.set_xlabel("layer (input of fc1, fc2, ...)" if mlp else "input of conv 1, 2, ... and fc")
    if len(panels) < len(cells):
        cells[-1].axis("off")
        cells[-1].legend(handles=_key(inside, first), loc="center left", ncols=1)
    else:
        drawing.legend(_key(inside, first), 4)
    words = style.column_title(data, main, collapsed=first is not None).replace("\n", ", ")
    drawing.figure.suptitle(words, fontsize=9)
    for metric in ALSO_IN_CSV:
        for run in main:
            values = [run.last(metric, layer=layer) for layer in run.layers]
            labels = {
                "metric": metric,
                "series": "headline",
                "weight_decay": run.weight_decay,
                "seed": run.seed,
            }
            drawing.note(inside.x, values, data=data, **labels)
    place = math.nan if first is None else first
    drawing.note([0], [place], data=data, metric="first_collapsed_layer", series="headline")
    drawing.runs += main + control
    yield drawing


def _panel(inside: Layers, axes: Axes, panel: Panel) -> None:
    main = inside.main
    if panel.metric == VACUOUS:
        inside.line(axes, main, "noise_alignment", "noise subspace", **NOISE_SIDE)
        # broad, so that the null on top of it is seen
        inside.line(axes, main, VACUOUS, "headline", color=C0, lw=4, alpha=0.45)
        inside.line(axes, main, f"{VACUOUS}_null", "null", **layers.NULL)
        return
    inside.pair(axes, panel, published=panel.metric != "linear_mse" or same_units(main[0], "deep"))
    if panel.metric == "linear_mse":
        inside.line(axes, main, "linear_mse", "held-out", split="test", **HELD_OUT)
        inside.level(axes, float(geometric_mean([run.last("mse") for run in main])), "model mse")
    elif panel.metric == "stable_rank_covariance":
        inside.line(axes, main, "stable_rank_features", "headline", **OF_FEATURES)
        inside.level(axes, stable_rank(main[0].snapshots["sigma"]), "target stable_rank_covariance")


def _key(inside: Layers, first: int | None) -> list[Line2D]:
    main = inside.main[0]
    noise_side = len(main.snapshots["sigma"]) > 2 and math.isfinite(main.last("noise_alignment"))
    entries = [
        (f"λ = {style.scientific(main.weight_decay)}, train", layers.HEADLINE, True),
        ("the same, held-out (MSE)", HELD_OUT, True),
        ("stable rank $|H|_F^2/|H|_2^2$", OF_FEATURES, True),
        ("control, λ = 0", layers.CONTROL, bool(inside.control)),
        ("null: random pairing, directions", layers.NULL, True),
        ("model's MSE; target's stable rank", layers.TARGET, True),
        ("published, other data", layers.THEIRS, same_layers(main)),
        (f"first collapsed: {main.layers[(first or 1) - 1]}", layers.FIRST, first is not None),
        ("alignment with the noise subspace", NOISE_SIDE, noise_side),
    ]
    return [key(label, **look) for label, look, drawn in entries if drawn]
