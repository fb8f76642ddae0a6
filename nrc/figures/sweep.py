"""Figures 5 and 8 of NeurIPS 2024: what the weight decay does, row by row."""

import math

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._style import (
    Drawing,
    footer,
    lambda_colours,
    lost,
    new_figure,
    number,
    panels_width,
    pretty,
    scientific,
)
from nrc.figures.prevalence import KINDS, ends, sets
from nrc.runs.read import Run, Runs, lambda_groups

ROWS = [  # metric, split, axis label
    ("mse", "train", "train MSE"),
    ("mse", "test", "test MSE"),
    ("r2", "test", "test R²"),
    ("nrc1", "train", "NRC1"),
    ("nrc2", "train", "NRC2"),
    ("nrc3", "train", "NRC3"),
]


def draw(runs: Runs) -> list[Drawing]:
    """`sweep_relu`, `sweep_images`: six quantities by rows, data sets by columns, one curve per weight decay."""
    return [d for kind in KINDS if kind != "linear" and (d := _one(runs, kind)) is not None]


def _one(runs: Runs, kind: str) -> Drawing | None:
    _, words = KINDS[kind]
    columns = {d: lambda_groups(found) for d, found in sets(runs, kind).items()}
    columns = {d: groups for d, groups in columns.items() if len(groups) > 1}
    if not columns:
        return None
    figure = new_figure(panels_width(len(columns)), 7.8)
    grid = figure.subplots(
        len(ROWS) + 1, len(columns), squeeze=False, height_ratios=[1] * len(ROWS) + [0.95], sharex=False
    )
    sheet = Sheet()
    for column, (data, groups) in enumerate(columns.items()):
        used = [run for group in groups.values() for run in group]
        tau = TauAxis(used)
        colours = lambda_colours(list(groups))
        for row, (metric, split, label) in enumerate(ROWS):
            panel = grid[row, column]
            if metric == "nrc3" and len(used[0].snapshots.get("sigma", [0, 0])) == 1:
                panel.text(0.5, 0.5, "one target:\nNRC3 is 0", ha="center", transform=panel.transAxes)
                panel.set_yticks([])
                tau.dress(panel)
                continue
            _panel(sheet, panel, tau, groups, colours, metric, split)
            tau.dress(panel, label=row == len(ROWS) - 1)
            if row < len(ROWS) - 1:
                panel.tick_params(labelbottom=False)
            if column == 0:
                panel.set_ylabel(label)
        grid[0, column].set_title(pretty(data, used))
        _key(grid[-1, column], groups, colours)
    figure.align_ylabels(list(grid[:-1, 0]))
    everything = [run for groups in columns.values() for group in groups.values() for run in group]
    footer(figure, everything)
    title = f"Weight-decay sweep, {words}"
    return Drawing(f"sweep_{kind}", title, _caption(columns), figure, sheet.table(), everything)


def _panel(
    sheet: Sheet,
    panel: Axes,
    tau: TauAxis,
    groups: dict[float, list[Run]],
    colours: dict[float, tuple[str, str]],
    metric: str,
    split: str,
) -> None:
    if metric != "r2":
        panel.set_yscale("log")
    for value, group in groups.items():
        colour, line = colours[value]
        mean = draw_runs(sheet, panel, tau, group, metric, split=split, colour=colour, line=line, width=1.2)
        alive = mean.dropna()
        if len(alive) and len(alive) < len(mean) and mean.isna().iloc[-1]:
            end = alive.index[-1:]
            panel.plot(
                tau(end), alive.iloc[-1:], marker="x", ms=5, mew=1.3, color=colour, ls="", clip_on=False
            )
            labels = {"data": group[0].data, "metric": metric, "weight_decay": value}
            sheet.note(end, alive.iloc[-1:], series=group[0].why(metric) or "undefined from here", **labels)
    if metric == "r2":
        # a bad start (say, BatchNorm's running statistics after a few steps) must not hide the rest
        panel.set_ylim(max(min(panel.get_ylim()[0], 0.0), -1.0), min(max(panel.get_ylim()[1], 0.1), 1.05))
    else:
        log_axis(panel, top=1.0 if metric in ("nrc1", "nrc2") else None)


def _lost(group: list[Run]) -> str:
    """What has gone wrong at the end, by name; empty when NRC1 and NRC2 are defined in every seed."""
    for metric in ("nrc1", "nrc2"):
        for run in group:
            if not math.isfinite(run.last(metric)):
                return run.why(metric) or "undefined"
    return ""


def _key(panel: Axes, groups: dict[float, list[Run]], colours: dict[float, tuple[str, str]]) -> None:
    panel.axis("off")
    handles = []
    for value, group in groups.items():
        colour, line = colours[value]
        label = f"λ = {scientific(value)}" + (f" (λτ = {group[0].budget:.3g})" if value else "")
        gone = _lost(group)
        mark = {"marker": "x", "ms": 5, "mew": 1.3} if gone else {}
        handles.append(Line2D([], [], color=colour, ls=line, lw=1.2, label=label, **mark))  # type: ignore[arg-type]
        if gone:
            handles.append(Line2D([], [], ls="", label=f"× {gone}"))
        elif value > 0 and lost(group):
            handles.append(Line2D([], [], ls="", label="a target direction is lost"))
    panel.legend(handles=handles, loc="upper center", handlelength=2, labelspacing=0.3, borderaxespad=0)


def _caption(columns: dict[str, dict[float, list[Run]]]) -> str:
    parts = []
    for data, groups in columns.items():
        found = []
        for value, group in groups.items():
            undefined = _lost(group)
            state = f"NRC1 {number(ends(group, 'nrc1'))}"
            if "vanished" in undefined:
                state = undefined
            elif undefined or (value > 0 and lost(group)):
                state += f", {undefined or lost(group)}"
            found.append(f"{value:g}: {state}")
        runs = [run for group in groups.values() for run in group]
        parts.append(f"{pretty(data, runs)} at the end, by lambda: " + "; ".join(found))
    note = (
        "Viridis from the largest weight decay (dark) to the smallest, 0 black and dashed; each seed thin, mean thick. "
        "A cross marks where a quantity stops being defined, and why stands in the key. The budget lambda*tau tells "
        "'does not collapse' from 'not yet': below about 10 not everything has had time to decay. "
    )
    return note + ". ".join(parts) + "."
