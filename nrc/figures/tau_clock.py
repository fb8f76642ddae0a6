"""The tau clock: plain SGD as published and momentum SGD with a large step, read against the same tau."""

import math

import numpy as np
from matplotlib.lines import Line2D

from nrc.figures._command import command
from nrc.figures._curves import FLOOR, Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._load import Run, Runs
from nrc.figures._style import (
    C0,
    C1,
    C2,
    Drawing,
    column_title,
    footer,
    legend_below,
    new_figure,
    panels_width,
    pretty,
)

NEEDED = ("paper", "accelerated")
ROWS = [("mse", "train MSE"), ("nrc1", "NRC1"), ("nrc3", "NRC3")]
LOOK = {"paper": (C0, "-", 2.4), "accelerated": (C1, "--", 1.2), "quick": (C2, ":", 1.2)}


def draw(runs: Runs) -> list[Drawing]:
    """`tau_clock`: the protocols on one axis, with the difference at the end as text."""
    columns: dict[str, dict[str, list[Run]]] = {}
    for data, found in runs.of("tau_clock", both_protocols=True).items():
        both = {p: [run for run in found if run.protocol == p] for p in LOOK}
        if all(both[p] for p in NEEDED):
            columns[data] = {p: group for p, group in both.items() if group}
    if not columns:
        return []
    figure = new_figure(panels_width(len(columns)), 4.6)
    grid = figure.subplots(len(ROWS), len(columns), squeeze=False, sharex="col")
    sheet, used = Sheet(), []
    for column, (data, both) in enumerate(columns.items()):
        everything = [run for group in both.values() for run in group]
        used += everything
        tau = TauAxis(everything)
        for row, (metric, label) in enumerate(ROWS):
            panel = grid[row, column]
            panel.set_yscale("log")
            for protocol, group in both.items():
                colour, line, width = LOOK[protocol]
                draw_runs(
                    sheet, panel, tau, group, metric, colour=colour, line=line, width=width, series=protocol
                )
            log_axis(panel, shortest=6)
            panel.set_title(_difference(metric, both), fontsize=7, loc="right", pad=2)
            if column == 0:
                panel.set_ylabel(label)
        grid[0, column].set_title(column_title(data, everything) + "\n", pad=2)
        tau.dress(grid[-1, column])
    handles = [
        Line2D([], [], color=c, ls=ls, lw=w, label=_words(columns, p))
        for p, (c, ls, w) in LOOK.items()
        if any(p in both for both in columns.values())
    ]
    legend_below(figure, handles, 1)
    footer(figure, used)
    said = "; ".join(
        f"{pretty(d)}: " + ", ".join(f"{label} {_difference(m, both, plain=True)}" for m, label in ROWS)
        for d, both in columns.items()
    )
    caption = (
        "The published recipe and momentum SGD, read against tau = sum of lr/(1 - momentum): where the dashed curve "
        "lies on the solid one, the fewer steps did the same. (At the very start they cannot agree: one step of the "
        "second is many of the first, and momentum has yet to build up.) Accelerated against paper at the end, "
        f"geometric mean over seeds: {said}."
    )
    commands = [
        command("tau_clock", [run for group in both.values() for run in group]) for both in columns.values()
    ]
    return [Drawing("tau_clock", "Two recipes, one clock", caption, figure, sheet.table(), used, commands)]


def _difference(metric: str, both: dict[str, list[Run]], plain: bool = False) -> str:
    """Accelerated against paper at the end: per cent for errors, decades for NRC."""
    logs = {
        p: float(np.mean([math.log10(max(run.last(metric), FLOOR)) for run in group]))
        for p, group in both.items()
    }
    gap = logs["accelerated"] - logs["paper"]
    if metric == "mse":
        return f"{100 * (10**gap - 1):+.1f} %" if plain else f"end: {100 * (10**gap - 1):+.1f} %"
    return f"{gap:+.3f} decades" if plain else f"end: {gap:+.3f} decades"


def _words(columns: dict[str, dict[str, list[Run]]], protocol: str) -> str:
    runs = [run for both in columns.values() for run in both.get(protocol, [])]
    rates = sorted({run.settings["optim"]["lr"] for run in runs})
    momentum = sorted({run.settings["optim"]["momentum"] for run in runs})
    steps = sorted({int(run.info["steps"]) for run in runs})
    text = "/".join(f"{s:,}" for s in steps)
    rate = "/".join(f"{r:g}" for r in rates)
    return f"{protocol}: lr {rate}, momentum {'/'.join(f'{m:g}' for m in momentum)}, {text} steps"
