"""Figure 2 of NeurIPS 2024: NRC1-3 above, errors and R^2 below, one column per data set."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.criteria import geometric_mean
from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._reference import curve, on_which_data, same_units
from nrc.figures._style import (
    C0,
    C1,
    C2,
    CONTROL,
    PUBLISHED,
    Drawing,
    column_title,
    footer,
    legend_below,
    lost,
    new_figure,
    number,
    panels_width,
    pretty,
    twin,
)
from nrc.metrics import ALIVE
from nrc.runs.read import Run, Runs

LAYERS = {
    "relu": ("prevalence", "ReLU feature layer"),
    "linear": ("prevalence_linear", "linear feature layer"),
}
IMAGES = {
    "images": ("images", "ResNet features, stand-in images"),
    "images_real": ("images", "ResNet features, real images"),
}
KINDS = LAYERS | IMAGES


def sets(runs: Runs, kind: str) -> dict[str, list[Run]]:
    """Data set -> runs of one kind of figure; stand-ins and real images never share a figure."""
    found = runs.of(KINDS[kind][0])
    if kind not in IMAGES:
        return found
    return {d: these for d, these in found.items() if (these[0].kind == "stand-in") == (kind == "images")}


def draw(runs: Runs) -> list[Drawing]:
    """`prevalence_relu`, `prevalence_linear` and `prevalence_images`, as far as their runs exist."""
    return [d for kind in KINDS if (d := _one(runs, kind)) is not None]


def _one(runs: Runs, kind: str) -> Drawing | None:
    experiment, words = KINDS[kind]
    columns = {d: main for d in sets(runs, kind) if (main := runs.headline(experiment, d))}
    if not columns:
        return None
    figure = new_figure(panels_width(len(columns)), 3.9)
    axes = figure.subplots(2, len(columns), squeeze=False, sharex="col")
    sheet, used = Sheet(), []
    for column, (data, main) in enumerate(columns.items()):
        control = runs.control(experiment, data)
        edge = "both" if len(columns) == 1 else ("left" if column == 0 else "")
        edge = "right" if edge == "" and column == len(columns) - 1 else edge
        tau = TauAxis(main + control)
        _collapse(sheet, axes[0, column], tau, main, control, kind, edge)
        _errors(sheet, axes[1, column], tau, main, kind, edge)
        axes[0, column].set_title(column_title(data, main))
        tau.dress(axes[1, column])
        used += main + control
    legend_below(figure, _key(kind, any(map(_comparable, columns.values()))), 3 if len(columns) > 1 else 2)
    footer(figure, used)
    return Drawing(
        f"prevalence_{kind}",
        f"Prevalence of neural regression collapse, {words}",
        _caption(columns, {d: runs.control(experiment, d) for d in columns}, kind),
        figure,
        sheet.table(),
        used,
    )


def _collapse(
    sheet: Sheet, left: Axes, tau: TauAxis, main: list[Run], control: list[Run], kind: str, edge: str
) -> None:
    left.set_yscale("log")
    if control:
        draw_runs(sheet, left, tau, control, "nrc1", colour=CONTROL, width=1.0, series="control")
    draw_runs(sheet, left, tau, main, "nrc1", colour=C0, series="headline")
    draw_runs(sheet, left, tau, main, "nrc2", colour=C0, line="--", series="headline")
    if kind != "linear":
        draw_runs(sheet, left, tau, main, "nrc1_centred", colour=C2, line=":", width=1.1, series="headline")
    log_axis(left, top=1.0)
    left.tick_params(axis="y", colors=C0, which="both")
    if len(main[0].snapshots.get("sigma", [[], []])) > 1:
        right = twin(left, C1)
        right.set_yscale("log")
        draw_runs(sheet, right, tau, main, "nrc3", colour=C1, width=1.1, series="headline")
        log_axis(right)
        if edge in ("right", "both"):
            right.set_ylabel("NRC3 at its best γ", color=C1)
    if edge in ("left", "both"):
        left.set_ylabel("NRC1, NRC2", color=C0)


def _published_decay(main: list[Run]) -> float:
    """The weight decay of the run that was published for this data set; NaN if there is none."""
    values = curve("prevalence_published", main[0].data, "mse_train")["weight_decay"]
    return float(values.iloc[0]) if len(values) else math.nan


def _comparable(main: list[Run]) -> bool:
    """Whether it is within a factor of 2 of ours, on which the error depends, and errors share their units."""
    near = 0.5 <= _published_decay(main) / main[0].weight_decay <= 2
    return near and same_units(main[0], "prevalence")


def _errors(sheet: Sheet, left: Axes, tau: TauAxis, main: list[Run], kind: str, edge: str) -> None:
    left.set_yscale("log")
    for split, line in (("train", "-"), ("test", "--")):
        reference = curve("prevalence_published", main[0].data, f"mse_{split}")
        reference = reference[reference["tau"].between(tau.zero, tau.end)]
        if kind == "relu" and _comparable(main):
            labels: dict[str, Any] = {"data": main[0].data, "metric": f"mse_{split}", "series": "published"}
            labels["weight_decay"] = _published_decay(main)
            style = {"color": PUBLISHED, "lw": 0.6, "ls": line}
            sheet.line(left, reference["tau"], reference["value"], labels, **style)
        draw_runs(sheet, left, tau, main, "mse", split=split, colour=C0, line=line)
    log_axis(left)
    left.tick_params(axis="y", colors=C0, which="both")
    right = twin(left, C1)
    draw_runs(sheet, right, tau, main, "r2", split="test", colour=C1, width=1.1)
    right.set_ylim(max(min(0.0, right.get_ylim()[0]), -1.0), 1)  # a bad start must not hide the rest
    if edge in ("left", "both"):
        left.set_ylabel("MSE", color=C0)
    if edge in ("right", "both"):
        right.set_ylabel("test R²", color=C1)


def _key(kind: str, reference: bool) -> list[Line2D]:
    entries = [
        ("NRC1; train MSE", C0, "-", 1.4),
        ("NRC2; test MSE", C0, "--", 1.4),
        ("NRC3; test R² (right)", C1, "-", 1.1),
        ("NRC1 without weight decay", CONTROL, "-", 1.0),
    ]
    if kind != "linear":
        entries.append(("NRC1, features centred first", C2, ":", 1.1))
    if kind == "relu" and reference:
        entries.append(("published MSE (see caption)", PUBLISHED, "-", 0.6))
    return [Line2D([], [], color=c, ls=ls, lw=lw, label=label) for label, c, ls, lw in entries]


def ends(runs: list[Run], metric: str, split: str = "train") -> float:
    """Geometric mean of the last values over the seeds (NaN if undefined in any)."""
    return float(geometric_mean([run.last(metric, split) for run in runs]))


def _caption(columns: dict[str, list[Run]], controls: dict[str, list[Run]], kind: str) -> str:
    parts = []
    for data, main in columns.items():
        first = main[0].series("nrc1").iloc[0]
        text = (
            f"{pretty(data, main)} (lambda {main[0].weight_decay:g}, budget lambda*tau {main[0].budget:.3g})"
        )
        if any(run.vanished for run in main):
            text += f": {main[0].why('nrc1') or 'NRC1 undefined'}"
        else:
            text += f": NRC1 {number(first)} -> {number(ends(main, 'nrc1'))}, NRC2 -> {number(ends(main, 'nrc2'))}"
            n = len(main[0].snapshots.get("sigma", [0, 0]))
            text += f", NRC3 -> {number(ends(main, 'nrc3'))}" if n > 1 else ""
            text += f" ({words})" if (words := lost(main)) else ""
        if kind != "linear":
            text += f", centred first -> {number(ends(main, 'nrc1_centred'))}"
        if any(run.lost_direction for run in main) and not any(run.vanished for run in main):
            text += f", a target direction is dead (a singular value of W below {ALIVE:g} of the largest)"
        if controls[data]:
            text += f"; without weight decay NRC1 ends at {number(ends(controls[data], 'nrc1'))}"
        parts.append(text)
    note = (
        "Above NRC1 solid, NRC2 dashed, NRC3 right; below train MSE solid, test MSE dashed, test R^2 right. "
        "Each seed thin, the geometric mean thick (R^2: arithmetic); tau = 0 sits at the left edge. "
        "NRC3 is taken at the best gamma of each moment; with one target it is 0 by definition and not drawn."
    )
    if kind in IMAGES:
        note += (
            " Measured with BatchNorm's running statistics, which lag behind the weights while the learning rate is "
            "high: the curves jump where it drops."
        )
    return ". ".join(parts) + ". " + note + (_published_words(columns) if kind == "relu" else "")


def _published_words(columns: dict[str, list[Run]]) -> str:
    """What the thin grey curves are, and which published run is left out."""
    drawn = {d: main for d, main in columns.items() if _comparable(main)}
    left = {d: main for d, main in columns.items() if d not in drawn and _published_decay(main) > 0}
    text = ""
    if drawn:
        decays = ", ".join(f"{pretty(d)} lambda {_published_decay(main):g}" for d, main in drawn.items())
        runs = [run for main in drawn.values() for run in main]
        text += (
            f" Thin grey: the MSE of an earlier generation of the paper's runs ({decays}, one seed) on "
            f"{on_which_data(runs)}; its NRC1 was measured on raw features and is compared in figure published."
        )
    for data, main in left.items():
        text += f" That of {pretty(data)} is not drawn: its lambda was {_published_decay(main):g}."
    return text
