"""The tau clock: plain SGD as published and momentum SGD with large steps, read against the same tau."""

import math

from matplotlib.lines import Line2D

from nrc.criteria import geometric_mean
from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
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
from nrc.runs.read import Run, Runs

NEEDED = ("paper", "accelerated")
ROWS = [("mse", "train MSE"), ("nrc1", "NRC1"), ("nrc3", "NRC3")]
LOOK = {"paper": (C0, "-", 2.4), "accelerated": (C1, "--", 1.2), "quick": (C2, ":", 1.2)}


def draw(runs: Runs) -> list[Drawing]:
    """`tau_clock`: the protocols on one axis, with their gaps to `paper` at the end as text and in the csv."""
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
            gaps = {p: _gap(metric, both, p) for p in both if p != "paper"}
            text = ", ".join(gaps.values()).replace(" decades,", ",")
            panel.set_title(f"end: {text}", fontsize=7, loc="right", pad=2)
            for protocol in gaps:
                labels = {"data": data, "metric": metric, "series": f"log10({protocol}/paper) at the end"}
                sheet.note([tau.end], [_decades(metric, both, protocol)], seed="mean", **labels)
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
    said = {
        p: "; ".join(
            f"{pretty(d)}: " + ", ".join(f"{label} {_gap(m, both, p)}" for m, label in ROWS)
            for d, both in columns.items()
            if p in both
        )
        for p in LOOK
        if p != "paper"
    }
    caption = (
        "The published recipe and momentum SGD, read against tau = sum of lr/(1 - momentum): where the dashed curve "
        "lies on the solid one, the fewer steps did the same. (At the very start they cannot agree: one step of the "
        "second is many of the first, and momentum has yet to build up.) The quick protocol takes larger steps still on "
        "some sets, as the key says, and pays for it with a larger gap. Above the panels: the gaps to paper at the end, "
        "accelerated first, geometric mean over seeds. In full, "
        + ". ".join(f"{p}: {words}" for p, words in said.items() if words)
        + ". NRC3 at its best gamma may pass through 0, where its gap in decades says little."
    )
    return [Drawing("tau_clock", "Two recipes, one clock", caption, figure, sheet.table(), used)]


def _decades(metric: str, both: dict[str, list[Run]], protocol: str) -> float:
    """log10 of this protocol's value at the end over that of `paper`."""
    ends = {p: geometric_mean([run.last(metric) for run in both[p]]) for p in (protocol, "paper")}
    return math.log10(ends[protocol] / ends["paper"])


def _gap(metric: str, both: dict[str, list[Run]], protocol: str) -> str:
    """The same in words: per cent for errors, decades for NRC."""
    gap = _decades(metric, both, protocol)
    return f"{100 * (10**gap - 1):+.1f} %" if metric == "mse" else f"{gap:+.3f} decades"


def _words(columns: dict[str, dict[str, list[Run]]], protocol: str) -> str:
    """Settings of one protocol for the key; where the columns differ, one value for each."""
    runs = [both[protocol][0] for both in columns.values() if protocol in both]

    def by_column(values: list[str]) -> str:
        return values[0] if len(set(values)) == 1 else "/".join(values)

    rate = by_column([f"{run.settings['optim']['lr']:g}" for run in runs])
    momentum = by_column([f"{run.settings['optim']['momentum']:g}" for run in runs])
    steps = by_column([f"{int(run.info['steps']):,}" for run in runs])
    return f"{protocol}: lr {rate}, momentum {momentum}, {steps} steps"
