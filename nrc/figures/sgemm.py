"""SGEMM, the one experiment of CPAL 2026 on the paper's own rows: figures 7 (r = 4), 3 (r = 1) and 9."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nrc.figures._curves import Sheet, log_axis
from nrc.figures._layers import NULL, TARGET, Panels
from nrc.figures._reference import curve
from nrc.figures._style import (
    C0,
    C2,
    PUBLISHED,
    WIDE,
    Drawing,
    footer,
    lambda_colours,
    legend_below,
    new_figure,
    number,
    scientific,
)
from nrc.figures.sgemm_table import (
    ASKED,
    ablation,
    compare,
    first_collapsed,
    line,
    markdown,
    score,
    tolerance,
)
from nrc.runs.read import Run, Runs, lambda_groups, runs_of

BAND = {"color": PUBLISHED, "alpha": 0.16, "lw": 0}
PANELS = [  # metric, its null, title, y label
    ("noise", "", "noise, r = 4", r"$\Sigma_{j>r}\,\ell_j\;/\;\Sigma_j\,\ell_j$"),
    ("cka", "cka_null", "features and targets", r"CKA$(H,Y)$"),
    ("feature_weight_alignment", "feature_weight_alignment_null", "alignment, r = 4", r"mean $\cos\theta(W,U_k)$"),
    ("linear_mse", "", "linear prediction", r"MSE of $H\to Y$"),
    ("noise_r1", "", "noise, r = 1", r"$\Sigma_{j>r}\,\ell_j\;/\;\Sigma_j\,\ell_j$"),
    ("stable_rank_covariance", "", "stable rank of H", r"$|\Sigma_H|_F^2\,/\,|\Sigma_H|_2^2$"),
    (
        "feature_weight_alignment_r1", "feature_weight_alignment_null_r1", "alignment, r = 1",
        r"$\cos\theta(W,U_1)$",
    ),
]  # fmt: skip
DECAY_PANELS = [
    ("noise", "noise, r = 4", r"$\Sigma_{j>4}\,\ell_j\;/\;\Sigma_j\,\ell_j$"),
    ("noise_r1", "noise, r = 1", r"$\Sigma_{j>1}\,\ell_j\;/\;\Sigma_j\,\ell_j$"),
    ("feature_weight_alignment", "alignment, r = 4", r"mean $\cos\theta(W,U_k)$"),
    ("feature_weight_alignment_r1", "alignment, r = 1", r"$\cos\theta(W,U_1)$"),
    ("stable_rank_weights", "stable rank of W", r"$|W|_F^2\,/\,|W|_2^2$"),
]
LOGARITHMIC = ("linear_mse", "stable_rank_covariance", "stable_rank_weights")


def draw(runs: Runs) -> list[Drawing]:
    """`sgemm`: layer by layer against the published curves; `sgemm_decay`: what the weight decay does."""
    drawings = []
    main = runs_of(runs, "sgemm").headline("sgemm", "sgemm")
    groups = lambda_groups(runs_of(runs, "sgemm_decay").of("sgemm_decay").get("sgemm", []))
    if len(groups) < 2:
        groups = {}
    text = (markdown(compare(main), main) if main else "") + (ablation(groups) if groups else "")
    extras = {"sgemm_table.md": text} if text else {}
    if main:
        drawings.append(_against_published(main, extras))
    if groups:
        drawings.append(_decay(groups, {} if main else extras))
    return drawings


def _against_published(main: list[Run], extras: dict[str, str]) -> Drawing:
    panels = Panels(Sheet("layer"), main, [])
    table = compare(main)
    figure = new_figure(WIDE, 3.7)
    grid = figure.subplots(2, 4)
    for axes, (metric, null, title, label) in zip(grid.flat, PANELS, strict=False):
        _band(axes, metric)
        if metric in LOGARITHMIC:
            axes.set_yscale("log")
        panels.pair(axes, metric, null=null or None)
        if metric == "linear_mse":
            panels.level(axes, float(np.mean([run.last("mse") for run in main])), "model mse")
        if metric == "stable_rank_covariance":
            panels.level(axes, 1.0, "target stable_rank_covariance")
        _dress(axes, metric, title, label, len(panels.x))
        axes.axvline(line("first_collapsed_layer"), color=C2, lw=1.6, alpha=0.45, zorder=0)
    rest = list(grid.flat)[-1]
    rest.axis("off")
    rest.legend(handles=_key(main[0]), loc="center left", ncols=1, borderaxespad=0, handlelength=1.6)
    for axes in [*grid[1, :3], grid[0, 3]]:
        axes.set_xlabel("layer (input of fc k)")
    run = main[0]
    figure.suptitle(
        f"SGEMM, the paper's own rows, {run.protocol} protocol, λ = {scientific(run.weight_decay)},  λτ = {run.budget:.3g}",
        fontsize=9,
    )
    footer(figure, main)
    return Drawing(
        "sgemm",
        "SGEMM against the published curves",
        _caption(table, main),
        figure,
        panels.sheet.table(),
        main,
        {"sgemm_table.csv": table.to_csv(index=False, lineterminator="\n"), **extras},
    )


def _band(axes: Axes, metric: str) -> None:
    """What counts as reproduced, around the published values of the layers that are asked for."""
    published = curve("deep_published", "sgemm", metric)
    published = published[published["layer"] <= ASKED]
    low, high = ([value + sign * tolerance(value) for value in published["value"]] for sign in (-1, 1))
    axes.fill_between(published["layer"], np.maximum(low, 1e-4), high, **BAND)  # type: ignore[arg-type]


def _dress(axes: Axes, metric: str, title: str, label: str, layers: int) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.set_xlim(0.6, layers + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=5))
    axes.grid(axis="x", visible=False)
    if metric == "linear_mse":
        axes.set_ylim(1e-3, 1)
        log_axis(axes)
    elif metric in LOGARITHMIC:
        top = 1.15 * axes.get_ylim()[1]
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if t <= top]
        axes.set_ylim(0.9, max(top, 2.2))
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_yticks([], minor=True)
    else:
        axes.set_ylim(-0.03, 1.03)


def _key(run: Run) -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=C0, marker="o", label="measured here"),
        Line2D([], [], color=PUBLISHED, lw=0.6, marker="x", ms=2.5, mew=0.6, label="published"),
        Patch(**BAND, label=f"target, fc1-fc{ASKED}"),  # type: ignore[arg-type]
        Line2D([], [], **NULL, label="null"),
        Line2D([], [], **TARGET, label="model's MSE;\ntarget's rank"),
        Line2D([], [], color=C2, lw=1.6, alpha=0.45, label="published first\ncollapsed layer"),
    ]


def _caption(table: pd.DataFrame, main: list[Run]) -> str:
    asked = table[table["asked"]]
    misses = asked[~asked["within"]]
    named = ", ".join(
        f"{row.metric} at fc{row.layer} ({number(row.measured)} against {number(row.published)})"  # type: ignore[arg-type]
        for row in misses.itertuples()
    )
    mse = float(np.mean([run.last("mse") for run in main]))
    starts = [
        f"r = {d}: fc{first_collapsed(table, 'measured', mse, d)} here, "
        f"fc{first_collapsed(table, 'published', line('model_mse'), d)} in the published values".replace(
            "fcNone", "none"
        )
        for d in (4, 1)
    ]
    return (
        f"{_which(main[0])} The paper's own 193,280 train rows, so the curves should lie on the published ones (one run, "
        "seed unknown). "
        f"Grey band: within 15 % or 0.05. At fc1-fc{ASKED} {score(table)} are"
        + (f"; outside: {named}" if named else "")
        + f". First collapsed layer by our rule on both, {'; '.join(starts)}; the paper's green line stands at "
        f"fc{line('first_collapsed_layer'):g}. The four targets correlate by 0.9999, so directions 2 to 4 carry less than "
        "1e-4 of their variance, and alignment with r = 4 is mostly about directions that the targets hardly have. The paper's "
        "second curve in figure 3, alignment with the noise subspace, is sqrt(1 - a^2) of the one drawn: it adds nothing. "
        "Every cell: sgemm_table.md."
    )


def _which(run: Run) -> str:
    """Which protocol this is, and that the README's table is of the accelerated one."""
    said = f"{run.protocol.capitalize()} protocol, {run.info['steps']:,} steps, tau {run.tau:,.0f}"
    if run.protocol == "quick":
        said += "; too short for the published end values: the table in the README is of protocol=accelerated"
    return said + "."


def _decay(groups: dict[float, list[Run]], extras: dict[str, str]) -> Drawing:
    sheet, everything = Sheet("layer"), [run for group in groups.values() for run in group]
    colours = lambda_colours(list(groups))
    figure = new_figure(WIDE, 2.3)
    grid = figure.subplots(1, len(DECAY_PANELS))
    for axes, (metric, title, label) in zip(grid.flat, DECAY_PANELS, strict=True):
        if metric in LOGARITHMIC:
            axes.set_yscale("log")
        for value, group in groups.items():
            colour, style = colours[value]
            Panels(sheet, group, []).line(
                axes, group, metric, "train", color=colour, ls=style, lw=1.2, marker="o", ms=2
            )
        _dress(axes, metric, title, label, len(everything[0].layers))
        axes.set_xlabel("layer")
    handles = [
        Line2D([], [], color=colours[v][0], ls=colours[v][1], lw=1.2, label=_budget(v, group))
        for v, group in groups.items()
    ]
    legend_below(figure, handles, 4)
    footer(figure, everything)
    return Drawing(
        "sgemm_decay", "SGEMM: what the weight decay does", _decay_caption(groups), figure, sheet.table(),
        everything, extras,
    )  # fmt: skip


def _budget(value: float, group: list[Run]) -> str:
    return f"λ = {scientific(value)},  λτ = {group[0].budget:.3g}"


def _decay_caption(groups: dict[float, list[Run]]) -> str:
    said = []
    for value, group in groups.items():
        noise, cosine, rank = (
            float(np.mean([run.last(metric, layer="fc5") for run in group]))
            for metric in ("noise_r1", "feature_weight_alignment_r1", "stable_rank_weights")
        )
        said.append(
            f"lambda {value:g} (budget {group[0].budget:.3g}, factor {math.exp(-group[0].budget):.2g}): "
            f"{number(noise)}, {number(cosine)}, {number(rank)}"
        )
    return (
        f"{_which(next(iter(groups.values()))[0])} Layer by layer at the end of the run, by weight decay. The decay budget lambda*tau stands beside each: a weight "
        "that the loss does not hold shrinks by the factor exp(-budget). Where that factor is near 1 the decay has had no "
        "time to act, and such curves do not differ from lambda = 0 because of it. Noise (r = 1), alignment (r = 1) and "
        f"stable rank of W at fc5: {'; '.join(said)}. No published curve is drawn: the paper's figure 9 was not digitised."
    )
