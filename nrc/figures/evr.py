"""Figure 3 of NeurIPS 2024: explained variance ratio of the first five principal components."""

import numpy as np
from matplotlib.lines import Line2D

from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._style import (
    C0,
    C1,
    C2,
    C3,
    C4,
    Drawing,
    column_title,
    footer,
    legend_below,
    lost,
    new_figure,
    panels_width,
    pretty,
)
from nrc.figures.prevalence import KINDS, sets
from nrc.runs.read import Run, Runs

COLOURS = (C0, C1, C2, C3, C4)


def draw(runs: Runs) -> list[Drawing]:
    """`evr_relu`, `evr_linear` and `evr_images`, as far as their runs exist."""
    return [d for kind in KINDS if (d := _one(runs, kind)) is not None]


def _one(runs: Runs, kind: str) -> Drawing | None:
    experiment, words = KINDS[kind]
    columns = {d: main for d in sets(runs, kind) if (main := runs.headline(experiment, d))}
    if not columns:
        return None
    figure = new_figure(panels_width(len(columns)), 3.4)
    axes = figure.subplots(2, len(columns), squeeze=False, sharex="col")
    sheet = Sheet()
    for column, (data, main) in enumerate(columns.items()):
        tau = TauAxis(main)
        upper, lower = axes[:, column]
        lower.set_yscale("log")
        for k, colour in enumerate(COLOURS, start=1):
            draw_runs(sheet, upper, tau, main, f"evr_{k}", colour=colour, series="linear axis")
            draw_runs(sheet, lower, tau, main, f"evr_{k}", colour=colour, series="log axis")
        upper.set_ylim(-0.03, 1.03)
        log_axis(lower)
        tau.dress(lower)
        upper.set_title(column_title(data, main))
    axes[0, 0].set_ylabel("explained variance\nratio (EVR)")
    axes[1, 0].set_ylabel("EVR, log axis")
    handles = [Line2D([], [], color=c, label=f"PC{k}") for k, c in enumerate(COLOURS, start=1)]
    legend_below(figure, handles, 5)
    used = [run for main in columns.values() for run in main]
    footer(figure, used)
    return Drawing(
        f"evr_{kind}",
        f"Explained variance of the principal components, {words}",
        _caption(columns),
        figure,
        sheet.table(),
        used,
    )


def _caption(columns: dict[str, list[Run]]) -> str:
    parts = []
    for data, main in columns.items():
        n = len(main[0].snapshots["sigma"]) if main[0].snapshots else 0
        head = [sum(run.last(f"evr_{k}") for k in range(1, n + 1)) for run in main]
        if n and np.isfinite(head).all():
            parts.append(
                f"{pretty(data, main)}: the first n = {n} components hold {100 * min(head):.5g} % at the end"
                + (f" ({words})" if (words := lost(main)) else "")
            )
        else:
            parts.append(f"{pretty(data, main)}: {main[0].why('evr_1') or 'undefined at the end'}")
    return (
        "Share of the features' variance in each principal component; after collapse as many are left as there are "
        "targets, fewer where a target direction is lost. " + "; ".join(parts) + "."
    )
