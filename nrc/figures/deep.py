"""The layer-wise figures of CPAL 2026 and of its poster: one figure per data set, layers on the x axis."""

import math

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nrc.figures._curves import Sheet
from nrc.figures._depth import first_collapsed
from nrc.figures._layers import (
    HELD_OUT,
    LOW_RANK_PANELS,
    NOISE_SIDE,
    NULL,
    OF_FEATURES,
    PANELS,
    TARGET,
    Panels,
    target_stable_rank,
)
from nrc.figures._reference import differences, recipe, same_layers, same_units
from nrc.figures._style import (
    C0,
    C2,
    CONTROL,
    PUBLISHED,
    WIDE,
    Drawing,
    footer,
    legend_below,
    lost,
    new_figure,
    number,
    pretty,
    scientific,
)
from nrc.metrics.depth import RULE
from nrc.runs.read import Run, Runs

EXPERIMENTS = ("deep", "low_rank", "images")
ALSO_IN_CSV = ("feature_weight_alignment_k", "feature_rank", "weight_rank")


def draw(runs: Runs) -> list[Drawing]:
    """`deep_<data>` for each data set of the experiment `deep`, else of `images`; and `low_rank`."""
    drawings = []
    for experiment in EXPERIMENTS:
        for data in runs.of(experiment):
            if experiment == "images" and data in runs.of("deep"):
                continue
            main = runs.headline(experiment, data)
            if main and all(run.snapshots for run in main):
                drawings.append(_one(runs, experiment, data, main))
    return drawings


def _one(runs: Runs, experiment: str, data: str, main: list[Run]) -> Drawing:
    control = runs.control(experiment, data)
    panels = Panels(Sheet("layer"), main, control)
    low_rank = experiment == "low_rank"
    contents = PANELS + (LOW_RANK_PANELS if low_rank else [])
    figure = new_figure(WIDE, 6.0 if low_rank else 4.4)
    grid = figure.subplots(math.ceil(len(contents) / 3), 3)
    first = first_collapsed(main[0])
    for axes, (title, label, content) in zip(grid.flat, contents, strict=False):
        content(panels, axes)
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xlim(0.6, len(panels.x) + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=5))
        axes.grid(axis="x", visible=False)
        if first is not None:
            axes.axvline(first, color=C2, lw=1.6, alpha=0.55, zorder=0)
    for axes in list(grid.flat)[len(contents) :]:
        axes.axis("off")
    for axes in list(grid.flat)[len(contents) - 3 : len(contents)]:
        axes.set_xlabel(_x_label(main[0]))
    if len(contents) < grid.size:
        list(grid.flat)[-1].legend(handles=_key(panels, first), loc="center left", ncols=1)
    else:
        legend_below(figure, _key(panels, first), 4)
    lam, budget = main[0].weight_decay, main[0].budget
    figure.suptitle(f"{pretty(data, main)}, λ = {scientific(lam)},  λτ = {budget:.3g}", fontsize=9)
    footer(figure, main + control)
    for metric in ALSO_IN_CSV:
        for run in main:
            values = [run.last(metric, layer=name) for name in run.layers]
            panels.sheet.note(
                panels.x, values, data=data, metric=metric, series="headline", seed=run.seed, weight_decay=lam
            )
    panels.sheet.note(
        [0],
        [math.nan if first is None else first],
        data=data,
        metric="first_collapsed_layer",
        series="headline",
    )
    name = data if data == experiment else f"deep_{data}"
    title = f"Collapse layer by layer, {pretty(data, main)}"
    caption = _caption(main, control, first, low_rank)
    return Drawing(
        name,
        title,
        caption,
        figure,
        panels.sheet.table(),
        main + control,
    )


def _x_label(run: Run) -> str:
    if run.layers[0].startswith("fc"):
        return "layer (input of fc1, fc2, ...)"
    return "input of conv 1, 2, ... and fc"


def _key(panels: Panels, first: int | None) -> list[Line2D]:
    main = panels.main[0]
    handles = [
        Line2D([], [], color=C0, marker="o", label=f"λ = {scientific(main.weight_decay)}, train"),
        Line2D([], [], **HELD_OUT, label="the same, held-out (MSE)"),
        Line2D([], [], **OF_FEATURES, label="stable rank $|H|_F^2/|H|_2^2$"),
    ]
    if panels.control:
        handles.append(Line2D([], [], color=CONTROL, marker=".", lw=1.2, label="λ = 0"))
    handles += [
        Line2D([], [], **NULL, label="null: random pairing, directions"),
        Line2D([], [], **TARGET, label="model's MSE; target's stable rank"),
    ]
    if same_layers(main):
        handles.append(
            Line2D(
                [], [], color=PUBLISHED, lw=0.6, marker="x", ms=2.5, mew=0.6, label="published, other data"
            )
        )
    if first is not None:
        handles.append(
            Line2D(
                [],
                [],
                color=C2,
                lw=1.6,
                alpha=0.55,
                label=f"first collapsed: {main.layers[first - 1]}",
            )
        )
    if len(main.snapshots["sigma"]) > 2 and math.isfinite(main.last("noise_alignment")):
        handles.append(Line2D([], [], **NOISE_SIDE, label="alignment with the noise subspace"))
    return handles


def _caption(main: list[Run], control: list[Run], first: int | None, low_rank: bool) -> str:
    run = main[0]
    last = run.layers[-1]
    depth = 0 if first is None else len(run.layers) - first + 1
    text = (
        f"Layer by layer at lambda {run.weight_decay:g} (budget lambda*tau {run.budget:.3g}): noise goes from "
        f"{number(run.last('noise', layer=run.layers[0]))} at {run.layers[0]} to "
        f"{number(run.last('noise', layer=last))} at {last}"
    )
    if control:
        text += f" (without weight decay {number(control[0].last('noise', layer=last))})"
    text += f"; {words}" if (words := lost(main)) else ""
    start = f"collapse starts at {run.layers[first - 1]}" if first else "no layer is collapsed"
    text += f". By the rule ({RULE}) {start}: depth of collapse {depth} of {len(run.layers)} layers."
    text += (
        f" The target's stable rank is {number(target_stable_rank(run), 3)}. Dotted: the null of CKA and alignment;"
        " the number of directions k of the alignment is in the csv."
    )
    if not run.layers[0].startswith("fc"):
        how = (
            "at every position of the image"
            if run.settings["measure"].get("positions") == "all"
            else "averaged over the image"
        )
        text += f" A convolution's features are its input channels, {how}; its weight is taken as c_in x (c_out kh kw)."
    if low_rank:
        text += (
            " Target-side alignment is 1 for any features when the targets have exact rank r, trained or not: it is "
            "shown beside its permutation null, and the feature-side version is the one to read."
        )
    if same_layers(run):
        text += f" Thin grey: read off the paper's figures, one run. There / here: {differences(run, 'deep')}"
        text += ", measured with 3 directions / 2" if low_rank else ""
        text += (
            "." if same_units(run, "deep") else "; its linear prediction MSE is in other units and not drawn."
        )
    elif recipe("deep", run.data):
        there = recipe("deep", run.data)["network"].split(",")[0]
        text += f" The published curves are of another depth ({there}) and not drawn."
    return text
