"""The tau clock: plain SGD as published and momentum SGD with large steps, read against the same tau."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nrc.criteria import geometric_mean
from nrc.figures import curves, style
from nrc.figures.curves import Drawing, TauAxis
from nrc.figures.registry import figure
from nrc.runs.read import Run, Runs

NEEDED = ("paper", "accelerated")
ROWS = [("mse", "train", "train MSE"), ("nrc1", "train", "NRC1"), ("nrc3", "train", "NRC3")]
LOOKS: dict[str, dict[str, Any]] = {
    "paper": {"color": style.C0, "ls": "-", "lw": 2.4},
    "accelerated": {"color": style.C1, "ls": "--", "lw": 1.2},
    "quick": {"color": style.C2, "ls": ":", "lw": 1.2},
}


@figure(
    "tau_clock",
    reads=["tau_clock"],
    caption="The published recipe and momentum SGD, read against tau = sum of lr/(1 - momentum): where the dashed curve "
    "lies on the solid one, fewer steps did the same. At the very start they cannot agree, as one step of the second is "
    "many of the first. Above the panels: the gaps to paper at the end, accelerated first, as a share of the error and "
    "in decades of NRC1 and NRC3.",
)
def tau_clock(runs: Runs) -> Iterator[Drawing]:
    """Plain SGD and SGD with momentum on one axis of tau."""
    columns: dict[str, dict[str, list[Run]]] = {}
    for data, found in runs.in_folder("tau_clock").items():
        groups = {p: [run for run in found if run.protocol == p] for p in LOOKS}
        if all(groups[p] for p in NEEDED):
            columns[data] = {p: group for p, group in groups.items() if group}
    if not columns:
        return
    drawing = Drawing("tau_clock", "Two recipes, one clock", len(ROWS), len(columns), 4.6)

    def panel(axes: Axes, tau: TauAxis, groups: Any, row: curves.Row) -> None:
        metric = row[0]
        axes.set_yscale("log")
        for protocol, group in groups.items():
            drawing.curve(axes, tau, group, metric, series=protocol, **LOOKS[protocol])
        curves.log_axis(axes, shortest=6)
        ends = {p: geometric_mean([run.last(metric) for run in g]) for p, g in groups.items()}
        gaps = {p: float(np.log10(end / ends["paper"])) for p, end in ends.items() if p != "paper"}
        words = [f"{100 * (10**g - 1):+.1f} %" if metric == "mse" else f"{g:+.3f}" for g in gaps.values()]
        unit = "" if metric == "mse" else " decades"
        axes.set_title(f"end: {', '.join(words)}{unit}", fontsize=7, loc="right", pad=2)
        for protocol, gap in gaps.items():
            labels = {"data": groups["paper"][0].data, "metric": metric, "seed": "mean"}
            drawing.note([tau.end], [gap], series=f"log10({protocol}/paper) at the end", **labels)

    drawing.curves(columns, ROWS, panel, lambda data, used: style.column_title(data, used) + "\n")
    present = [p for p in LOOKS if any(p in groups for groups in columns.values())]
    drawing.legend((style.key(_words(columns, p), **LOOKS[p]) for p in present), 1)
    yield drawing


def _words(columns: Mapping[str, Mapping[str, list[Run]]], protocol: str) -> str:
    """Settings of one protocol for the key; where the columns differ, one value for each."""
    runs = [groups[protocol][0] for groups in columns.values() if protocol in groups]

    def by_column(values: list[str]) -> str:
        return values[0] if len(set(values)) == 1 else "/".join(values)

    rate = by_column([f"{run.settings['optim']['lr']:g}" for run in runs])
    momentum = by_column([f"{run.settings['optim']['momentum']:g}" for run in runs])
    steps = by_column([f"{int(run.info['steps']):,}" for run in runs])
    return f"{protocol}: lr {rate}, momentum {momentum}, {steps} steps"
