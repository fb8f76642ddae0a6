"""Figures 6, 9 and 10 of NeurIPS 2024: networks with the UFM's penalties on features and last weight."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures import sweep
from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._style import (
    C0,
    C1,
    GREY,
    Drawing,
    footer,
    lambda_colours,
    legend_below,
    new_figure,
    number,
    panels_width,
    pretty,
    scientific,
)
from nrc.figures.prevalence import ends
from nrc.runs.read import Run, Runs, lambda_groups
from nrc.theory import ufm

EXPERIMENT = "ufm"
ROWS = [  # metric, split, axis label
    ("mse", "train", "train MSE"),
    ("mse", "test", "test MSE"),
    ("nrc1", "train", "NRC1"),
    ("nrc2", "train", "NRC2"),
    ("nrc3", "train", "NRC3"),
]


def draw(runs: Runs) -> list[Drawing]:
    """`ufm_sweep` and `ufm_norms`, as far as their runs exist."""
    groups = {d: lambda_groups(found) for d, found in runs.of(EXPERIMENT).items()}
    if not groups:
        return []
    return [_sweep(groups), _norms(groups)]


Groups = dict[str, dict[float, list[Run]]]  # data -> weight decay -> runs


def _all(groups: Groups) -> list[Run]:
    return [run for found in groups.values() for group in found.values() for run in group]


def predicted(run: Run, loss: str = "coded") -> ufm.Optimum:
    """The UFM's minimum for the penalties and the targets of a run; the coded loss is 0.5 x the mean."""
    # 0.5 * mean over samples and targets is the coded loss; another scale only rescales the penalties
    strength = run.weight_decay * 0.5 / float(run.settings["optim"].get("loss_scale", 0.5))
    return ufm.optimum(run.snapshots["sigma"].astype(float), strength, strength, loss=loss)


def _sweep(groups: Groups) -> Drawing:
    figure = new_figure(panels_width(len(groups)), 6.7)
    grid = figure.subplots(
        len(ROWS) + 1, len(groups), squeeze=False, height_ratios=[1] * len(ROWS) + [0.95], sharex=False
    )
    sheet = Sheet()
    for column, (data, found) in enumerate(groups.items()):
        tau = TauAxis([run for group in found.values() for run in group])
        colours = lambda_colours(list(found))
        for row, (metric, split, label) in enumerate(ROWS):
            panel = grid[row, column]
            sweep._panel(sheet, panel, tau, found, colours, metric, split)
            tau.dress(panel, label=row == len(ROWS) - 1)
            if row < len(ROWS) - 1:
                panel.tick_params(labelbottom=False)
            if column == 0:
                panel.set_ylabel(label)
        grid[0, column].set_title(pretty(data))
        sweep._key(grid[-1, column], found, colours)
    figure.align_ylabels(list(grid[:-1, 0]))
    footer(figure, _all(groups))
    said = [
        f"{pretty(d)} at the end, by lambda: "
        + "; ".join(
            f"{v:g}: NRC1 {number(ends(g, 'nrc1'))}, NRC3 {number(ends(g, 'nrc3'))}, train MSE {number(ends(g, 'mse'))}"
            for v, g in found.items()
        )
        for d, found in groups.items()
    ]
    caption = (
        "Loss: 0.5 mean squared error + lambda/2 (|H|^2/B + |W|^2), nothing else penalised; lambda_H = lambda_W = "
        "lambda. Viridis from the largest (dark) to the smallest, 0 black and dashed. NRC1 and NRC2 fall with the budget "
        "lambda*tau (in the key): below about 10 there has been no time for collapse. The paper trained on 100,000 rows for 10,000 "
        "epochs; here are the data set's own rows, and the tau in the small print. The quick and accelerated "
        "protocols take the last quarter of their steps at a tenth of the learning rate, which quiets the jitter: the "
        "drop of MSE and NRC3 at the very end. " + ". ".join(said) + "."
    )
    title = "UFM-regularised networks: sweep of the penalties"
    return Drawing("ufm_sweep", title, caption, figure, sheet.table(), _all(groups))


def _norms(groups: Groups) -> Drawing:
    figure = new_figure(panels_width(len(groups)), 4.1)
    grid = figure.subplots(2, len(groups), squeeze=False)
    sheet, said = Sheet("tau"), []
    for column, (data, found) in enumerate(groups.items()):
        tau = TauAxis([run for group in found.values() for run in group])
        upper, lower = grid[:, column]
        upper.set_yscale("log")
        for value, (colour, line) in lambda_colours(list(found)).items():
            draw_runs(sheet, upper, tau, found[value], "feature_rms", colour=colour, line=line, width=1.2)
            if value > 0:
                best = math.sqrt(float(predicted(found[value][0]).gram.trace()))
                edge = [tau.end * 1.2]
                labels = {"data": data, "metric": "feature_rms", "series": "theory", "weight_decay": value}
                mark = {"marker": "<", "color": colour, "ls": "", "ms": 4, "clip_on": False, "zorder": 4}
                sheet.line(upper, edge, [best], labels, **mark)
        log_axis(upper)
        tau.dress(upper)
        upper.set_title(pretty(data))
        said.append(f"{pretty(data)}: {_row_norms(sheet, lower, found)}")
    grid[0, 0].set_ylabel("|h|, root mean square")
    grid[1, 0].set_ylabel("|w₁|, |w₂|, … at the end")
    handles = [
        Line2D([], [], color=c, ls=line, label=f"λ = {scientific(v)}")
        for v, (c, line) in lambda_colours(list(next(iter(groups.values())))).items()
    ]
    handles += [
        Line2D([], [], color=GREY, marker="<", ls="", label="theory, |h|"),
        Line2D([], [], color=GREY, lw=1.0, label="theory, |wⱼ|"),
        Line2D([], [], color=C0, marker="o", ls="", label="|w₁|, |w₂|, … after (hollow: before)"),
    ]
    legend_below(figure, handles, 4 if len(groups) > 2 else 2)
    footer(figure, _all(groups))
    caption = (
        "Above the size of the features during training, with the theory's sqrt(tr K) at the right edge; below the "
        "norms of the rows of W after training (before: hollow), with the theory's sqrt(K_jj) as lines, no "
        "parameter fitted. At a minimum lambda_H |H|^2 / M = lambda_W |W|^2 (corollary 4.2 iii), so here mean |h|^2 "
        "equals |W|^2; their ratio is 1 when that has been reached. Ratio by lambda, "
        + "; ".join(said)
        + ". The smaller lambda, the longer it takes; the theory's limit lambda -> 0 is not the unpenalised run."
    )
    title = "UFM-regularised networks: norms of features and weights"
    return Drawing("ufm_norms", title, caption, figure, sheet.table(), _all(groups))


def _row_norms(sheet: Sheet, panel: Axes, found: dict[float, list[Run]]) -> str:
    """Norms of the rows of W against lambda; returns the ratio mean |h|^2 / |W|^2 by lambda, as text."""
    positive = sorted(v for v in found if v > 0)
    panel.set_xscale("log")
    zero = min(positive, default=1.0) / 10
    said = []
    for value, group in found.items():
        for run in group:
            labels = {"data": run.data, "metric": "row norm", "weight_decay": value, "seed": run.seed}
            for when, face in (("start", "none"), ("end", None)):
                norms = np.linalg.norm(run.snapshots[f"weight_{when}"].astype(float), axis=1)
                for j, norm in enumerate(norms):
                    colour = (C0, C1, "#009E73", "#CC79A7")[j % 4]
                    look = {"marker": "o", "ls": "", "ms": 3.5, "color": colour, "mfc": face or colour}
                    sheet.line(
                        panel, [value or zero], [norm], labels | {"series": f"w{j + 1} {when}"}, **look
                    )
            if value > 0:
                square = float((run.snapshots["weight_end"].astype(float) ** 2).sum())
                said.append(f"{value:g}: {number(run.last('feature_rms') ** 2 / square, 3)}")
    if positive:
        grams = [predicted(found[v][0]).gram.diagonal().sqrt().numpy() for v in positive]
        for j, norms in enumerate(np.array(grams).T):
            labels = {"data": found[positive[0]][0].data, "metric": "row norm", "series": f"w{j + 1} theory"}
            colour = (C0, C1, "#009E73", "#CC79A7")[j % 4]
            sheet.line(panel, positive, norms, labels, color=colour, lw=1.0)
    ticks = [v for v in (zero, *positive)]
    panel.set_xticks(ticks, ["0" if v == zero else scientific(v) for v in ticks], fontsize=6)
    panel.minorticks_off()
    panel.set_ylim(0, 1.08 * max(float(np.max(line.get_ydata())) for line in panel.lines))
    panel.set_xlabel("λ")
    return ", ".join(said)
