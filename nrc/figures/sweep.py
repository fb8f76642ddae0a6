"""Figures 5, 6, 8 and 9 of NeurIPS 2024: what the weight decay, or the UFM's penalty, does, row by row."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes

from nrc.figures import curves, selection, style
from nrc.figures.curves import Drawing, Groups, TauAxis
from nrc.figures.registry import figure
from nrc.figures.style import key
from nrc.runs.read import Runs, lambda_groups

ROWS = [
    ("mse", "train", "train MSE"),
    ("mse", "test", "test MSE"),
    ("r2", "test", "test R²"),
    ("nrc1", "train", "NRC1"),
    ("nrc2", "train", "NRC2"),
    ("nrc3", "train", "NRC3"),
]
CROSS: dict[str, Any] = {"marker": "x", "ms": 5, "mew": 1.3}


@figure(
    "sweep",
    paper="NeurIPS 2024",
    numbers=(5, 8),
    reads=["prevalence", "images"],
    caption="One curve per weight decay, from the largest (dark) to the smallest, 0 black and dashed; each seed thin, "
    "the mean thick. A cross marks where a quantity stops being defined. The decay budget lambda*tau in the key tells "
    "'does not collapse' from 'not yet'.",
)
def sweep(runs: Runs) -> Iterator[Drawing]:
    """NRC1 to NRC3 and errors for five weight decays."""
    for kind, (_, words) in selection.KINDS.items():
        columns = {d: lambda_groups(found) for d, found in selection.sets(runs, kind).items()}
        columns = {d: groups for d, groups in columns.items() if len(groups) > 1}
        if columns and kind != "linear":
            yield _one(f"sweep_{kind}", f"Weight-decay sweep, {words}", columns, ROWS, 7.8)


@figure(
    "ufm_sweep",
    paper="NeurIPS 2024",
    numbers=(6, 9),
    reads=["ufm"],
    caption="Networks trained on 0.5 mean squared error + lambda/2 (|H|^2/B + |W|^2), nothing else penalised. NRC1 and "
    "NRC2 fall with the decay budget lambda*tau in the key. The quick and accelerated protocols take their last steps "
    "at a tenth of the learning rate, which quiets the noise: the drop at the very end.",
)
def ufm_sweep(runs: Runs) -> Iterator[Drawing]:
    """NRC1 to NRC3 with penalties on features and last weight alone."""
    columns = {d: lambda_groups(found) for d, found in runs.of("ufm").items()}
    if columns:
        title = "UFM-regularised networks: sweep of the penalties"
        yield _one("ufm_sweep", title, columns, [row for row in ROWS if row[0] != "r2"], 6.7)


def _one(
    name: str, title: str, columns: Mapping[str, Groups], rows: list[curves.Row], height: float
) -> Drawing:
    heights = [*[1.0] * len(rows), 0.95]
    drawing = Drawing(name, title, len(rows) + 1, len(columns), height, height_ratios=heights)

    def panel(axes: Axes, tau: TauAxis, groups: Groups, row: curves.Row) -> None:
        metric, split, _ = row
        if metric == "nrc3" and selection.targets(next(iter(groups.values()))[0]) == 1:
            axes.text(0.5, 0.5, "one target:\nNRC3 is 0", ha="center", transform=axes.transAxes)
            axes.set_yticks([])
            return
        axes.set_yscale("linear" if metric == "r2" else "log")
        for value, look in style.lambda_colours(groups).items():
            _curve(drawing, axes, tau, groups[value], metric, split, look)
        if metric == "r2":
            # a bad start (say, BatchNorm's running statistics after a few steps) must not hide the rest
            low, high = axes.get_ylim()
            axes.set_ylim(max(min(low, 0.0), -1.0), min(max(high, 0.1), 1.05))
        else:
            curves.log_axis(axes, top=1.0 if metric in ("nrc1", "nrc2") else None)

    drawing.curves(columns, rows, panel, style.pretty)
    for axes, groups in zip(drawing.grid[-1], columns.values(), strict=True):
        _key(axes, groups)
    return drawing


def _curve(
    drawing: Drawing, axes: Axes, tau: TauAxis, group: Any, metric: str, split: str, look: dict[str, Any]
) -> None:
    """One weight decay, with a cross where the metric is defined for the last time."""
    mean = drawing.curve(axes, tau, group, metric, split, lw=1.2, **look)
    defined = mean.dropna()
    if len(defined) and mean.isna().iloc[-1]:
        labels = {"data": group[0].data, "metric": metric, "weight_decay": group[0].weight_decay}
        labels["series"] = group[0].why(metric) or "undefined from here"
        last, cross = defined.iloc[-1:], {"color": look["color"], "ls": "", "clip_on": False} | CROSS
        drawing.line(axes, last.index, last, labels, tau(last.index), **cross)


def _key(axes: Axes, groups: Groups) -> None:
    axes.axis("off")
    handles = []
    for value, look in style.lambda_colours(groups).items():
        group = groups[value]
        budget = f" (λτ = {group[0].budget:.3g})" if value else ""
        gone = _undefined(group)
        handles.append(
            key(f"λ = {style.scientific(value)}{budget}", lw=1.2, **look, **(CROSS if gone else {}))
        )
        if words := f"× {gone}" if gone else style.state(group):
            handles.append(key(words, ls=""))
    axes.legend(handles=handles, loc="upper center", handlelength=2, labelspacing=0.3, borderaxespad=0)


def _undefined(group: Any) -> str:
    """Why NRC1 or NRC2 is undefined at the end; empty when both are defined in every seed."""
    for metric in ("nrc1", "nrc2"):
        for run in group:
            if not math.isfinite(run.last(metric)):
                return run.why(metric) or "undefined"
    return ""
