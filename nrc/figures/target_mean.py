"""Where the targets' mean lies decides whether ReLU features collapse: the control for the prevalence figure."""

from collections.abc import Iterator
from typing import Any

from nrc.figures import curves, style
from nrc.figures.curves import Drawing
from nrc.figures.registry import figure
from nrc.metrics import ALIVE
from nrc.runs.read import Run, Runs

COLLAPSE = [("nrc1", "NRC1", style.C0, "-"), ("nrc2", "NRC2", style.C0, "--")]
HEALTH = [
    ("weight_rcond", "smallest / largest singular value of W", style.C2, "-"),
    ("r2", "train R²", style.C1, "-."),
]


@figure(
    "target_mean",
    reads=["target_mean"],
    caption="The published network on the same inputs and targets, every target shifted by multiples of its deviation. "
    "Sigma does not change, so by the unconstrained feature model nothing should; ReLU features are non-negative, and "
    "a plane that holds them all is cheap only for targets to one side of 0. Dotted below: where a target direction "
    "counts as dead.",
)
def target_mean(runs: Runs) -> Iterator[Drawing]:
    columns: dict[str, dict[float, Run]] = {}
    for run, *_ in runs.of("target_mean").values():
        others = [str(value) for key, value in run.variant.items() if key != "target_mean"]
        columns.setdefault("-".join([run.dataset, *others]), {})[float(run.variant["target_mean"])] = run
    columns = {data: dict(sorted(by_mean.items())) for data, by_mean in columns.items() if len(by_mean) > 1}
    if not columns:
        return
    layout: dict[str, Any] = {"height_ratios": [3, 2], "gridspec_kw": {"hspace": 0.05}, "sharex": "col"}
    drawing = Drawing(
        "target_mean", "One-sided targets collapse", 2, len(columns), 3.6, "target_mean", **layout
    )
    for (data, by_mean), (upper, lower) in zip(columns.items(), drawing.grid.T, strict=True):
        means, members = list(by_mean), list(by_mean.values())
        common = {"data": data, "weight_decay": members[0].weight_decay}
        upper.set_yscale("log")
        for axes, rows in ((upper, COLLAPSE), (lower, HEALTH)):
            for metric, label, colour, line in rows:
                look = {"color": colour, "ls": line, "marker": "o", "ms": 3, "lw": 1.2, "label": label}
                values = [run.last(metric) for run in members]
                drawing.line(axes, means, values, {**common, "metric": metric, "series": "end"}, **look)
        start = [run.first("nrc1") for run in members]
        look = {"color": style.GREY, "ls": ":", "lw": 1, "label": "NRC1 before training"}
        drawing.line(upper, means, start, {**common, "metric": "nrc1", "series": "start"}, **look)
        curves.log_axis(upper, top=1.0)
        lower.axhline(ALIVE, color=style.GREY, lw=0.7, ls=":")
        lower.set_ylim(0, 1)
        upper.set_title(style.column_title(data, members), pad=3)
        lower.set_xlabel("mean of the targets\n(standard deviations)")
        drawing.runs += members
    for axes in drawing.grid[:, 0]:
        axes.set_ylabel("at the end")
    drawing.legend((line for axes in drawing.grid[:, 0] for line in axes.get_legend_handles_labels()[0]), 3)
    yield drawing
