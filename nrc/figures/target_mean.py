"""Where the targets' mean lies decides whether ReLU features collapse: the control for the prevalence figure."""

from nrc.criteria import FLOOR
from nrc.figures._curves import Sheet, log_axis
from nrc.figures._style import (
    C0,
    C1,
    C2,
    GREY,
    Drawing,
    column_title,
    footer,
    legend_below,
    new_figure,
    number,
    panels_width,
    pretty,
)
from nrc.metrics import ALIVE
from nrc.runs.read import Run, Runs

COLLAPSE = [("nrc1", "NRC1", C0, "-"), ("nrc2", "NRC2", C0, "--")]
HEALTH = [("weight_rcond", "smallest / largest singular value of W", C2, "-"), ("r2", "train R²", C1, "-")]


def draw(runs: Runs) -> list[Drawing]:
    """`target_mean`: NRC1 and NRC2 at the end against the targets' mean, per data set."""
    columns: dict[str, dict[float, Run]] = {}
    for name, found in runs.of("target_mean").items():
        base, _, mean = name.rpartition("-mean")
        if base:
            columns.setdefault(base, {})[float(mean)] = found[0]
    columns = {data: dict(sorted(by_mean.items())) for data, by_mean in columns.items() if len(by_mean) > 1}
    if not columns:
        return []
    figure = new_figure(panels_width(len(columns)), 3.6)
    grid = figure.subplots(
        2, len(columns), squeeze=False, sharex="col", height_ratios=[3, 2], gridspec_kw={"hspace": 0.05}
    )
    sheet = Sheet("target_mean")
    used = [run for by_mean in columns.values() for run in by_mean.values()]
    for column, (data, by_mean) in enumerate(columns.items()):
        means, members = list(by_mean), list(by_mean.values())
        upper, lower = grid[:, column]
        upper.set_yscale("log")
        for panel, rows in ((upper, COLLAPSE), (lower, HEALTH)):
            for metric, label, colour, line in rows:
                labels = {"data": data, "metric": metric, "weight_decay": members[0].weight_decay}
                values = [run.last(metric) for run in members]
                style = {"color": colour, "ls": line, "marker": "o", "ms": 3, "lw": 1.2, "label": label}
                sheet.line(panel, means, values, {**labels, "series": "end"}, **style)
        start = [float(run.series("nrc1").iloc[0]) for run in members]
        labels = {"data": data, "metric": "nrc1", "weight_decay": members[0].weight_decay, "series": "start"}
        sheet.line(upper, means, start, labels, color=GREY, ls=":", lw=1, label="NRC1 before training")
        log_axis(upper, top=1.0)
        lower.axhline(ALIVE, color=GREY, lw=0.7, ls=":")
        lower.set_ylim(0, 1)
        upper.set_title(column_title(data, members), pad=3)
        lower.set_xlabel("mean of the targets\n(standard deviations)")
    grid[0, 0].set_ylabel("at the end")
    grid[1, 0].set_ylabel("at the end")
    handles = [line for panel in grid[:, 0] for line in panel.get_legend_handles_labels()[0]]
    legend_below(figure, handles, 3)
    footer(figure, used)
    said = "; ".join(_in_words(data, by_mean) for data, by_mean in columns.items())
    caption = (
        "The published network on the same inputs and targets, with every target shifted to a mean of 0, 2 and 4 "
        "of its standard deviations. Sigma does not change, so by the unconstrained feature model nothing "
        "should. With ReLU features the mean decides: they are non-negative, so a plane that holds them all is "
        "cheap only for targets that lie to one side of 0; for centred ones the mean feature is still outside. "
        f"Dotted below: where a target direction would count as dead. NRC1 at the end: {said}."
    )
    return [Drawing("target_mean", "One-sided targets collapse", caption, figure, sheet.table(), used)]


def _in_words(data: str, by_mean: dict[float, Run]) -> str:
    ends = {mean: max(run.last("nrc1"), FLOOR) for mean, run in by_mean.items()}
    falls = ", ".join(f"{number(value)} at mean {mean:g}" for mean, value in ends.items())
    alive = all(run.last("weight_rcond") >= ALIVE for run in by_mean.values())
    return f"{pretty(data)} {falls}" + (
        ", all target directions alive" if alive else ", not all directions alive"
    )
