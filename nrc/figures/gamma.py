"""Figure 4 of NeurIPS 2024: NRC3 of the final W against gamma."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures._curves import Sheet, log_axis
from nrc.figures._reference import base, differences, on_which_data, published, recipe
from nrc.figures._style import (
    C0,
    C1,
    PUBLISHED,
    Drawing,
    footer,
    legend_below,
    lost,
    new_figure,
    number,
    panels_width,
    pretty,
    scientific,
)
from nrc.figures.prevalence import IMAGES, KINDS, LAYERS, sets
from nrc.metrics import Undefined, gamma_star, nrc3_curve
from nrc.runs.read import Run, Runs

COLOURS = {"relu": C0, "linear": C1, "images": C0, "images_real": C0}
POINTS = 400


def draw(runs: Runs) -> list[Drawing]:
    """`gamma` and `gamma_images`: NRC3(gamma) with the closed-form minimum marked; not for one target."""
    names = {"gamma": list(LAYERS)} | {f"gamma_{kind}": [kind] for kind in IMAGES}
    return [d for name, kinds in names.items() if (d := _figure(runs, name, kinds)) is not None]


def _figure(runs: Runs, name: str, kinds_drawn: list[str]) -> Drawing | None:
    columns: dict[str, dict[str, list[Run]]] = {}
    for kind in kinds_drawn:
        experiment = KINDS[kind][0]
        for data in sets(runs, kind):
            main = [run for run in runs.headline(experiment, data) if len(run.snapshots.get("sigma", [])) > 1]
            if main:
                columns.setdefault(data, {})[kind] = main
    if not columns:
        return None
    figure = new_figure(panels_width(len(columns)), 2.3)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    sheet, said, used = Sheet("gamma_over_lambda_min"), [], []
    for panel, (data, kinds) in zip(axes, columns.items(), strict=True):
        panel.set_yscale("log")
        for kind, main in kinds.items():
            minima = [m for run in main if (m := _one(sheet, panel, run, kind)) is not None]
            places = "/".join(number(m) for m in sorted(minima)) or "undefined"
            said.append(
                f"{pretty(data, main)}, {kind.partition('_')[0]}: minimum at gamma/lambda_min = {places}"
                + (f" ({words})" if (words := lost(main)) else "")
            )
            used += main
        panel.set_title(f"{pretty(data, main)}\n{_lambdas(kinds)}")
        panel.set_xlim(-0.04, 1.04)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        panel.set_xlabel("γ / smallest eigenvalue of Σ")
        log_axis(panel)
        _published_minimum(sheet, panel, data)
    axes[0].set_ylabel("NRC3(γ) of the final W")
    legend_below(figure, _key(columns), 2 if len(columns) == 1 else 4)
    footer(figure, used, features=False)
    caption = (
        "NRC3 of the final W against gamma/lambda_min, one line per seed; the dot is the closed-form minimum, inside "
        "(0, 1) when W fits the shifted root of Sigma; at 1 the shifted root has lost its weakest direction, and W with it. "
        + "; ".join(said)
        + ". Grey ticks on the upper edge: minima printed in the paper"
        + _elsewhere([run for kinds in columns.values() for main in kinds.values() for run in main[:1]])
    )
    return Drawing(name, "NRC3 against gamma", caption, figure, sheet.table(), used)


def _lambdas(kinds: dict[str, list[Run]]) -> str:
    values = {kind: main[0].weight_decay for kind, main in kinds.items()}
    if len(set(values.values())) == 1:
        return f"λ = {scientific(next(iter(values.values())))}"
    return "λ = " + ", ".join(f"{scientific(v)} ({k.replace('relu', 'ReLU')})" for k, v in values.items())


def _one(sheet: Sheet, panel: Axes, run: Run, kind: str) -> float | None:
    """Draw one run; returns gamma*/lambda_min, None where NRC3 is undefined."""
    weight, sigma = run.snapshots["weight_end"], run.snapshots["sigma"]
    smallest = float(np.linalg.eigvalsh(sigma)[0])
    share = np.linspace(0, 1, POINTS + 1)[1:]
    labels = {"data": run.data, "metric": "nrc3", "weight_decay": run.weight_decay, "seed": run.seed}
    try:
        values = nrc3_curve(weight, sigma, share * smallest).numpy()
        best, value = gamma_star(weight, sigma)
    except Undefined:
        return None
    values = np.where(np.isfinite(values), values, np.nan)
    sheet.line(panel, share, values, {**labels, "series": kind}, color=COLOURS[kind], lw=0.9)
    place = {"color": COLOURS[kind], "marker": "o", "ls": "", "ms": 3.5, "zorder": 4, "clip_on": False}
    sheet.line(panel, [best / smallest], [value], {**labels, "series": f"{kind} minimum"}, **place)
    return best / smallest


def _elsewhere(runs: list[Run]) -> str:
    """What the published minima are of."""
    images = [
        f"{pretty(r.data, [r])} {differences(r, 'prevalence')}" for r in runs if recipe("prevalence", r.data)
    ]
    if not any(run.settings["model"].get("kind") == "ResNet" for run in runs):
        return f", for ReLU features and {on_which_data(runs)}."
    return f". There / here: {'; '.join(images)}." if images else "."


def _published_minimum(sheet: Sheet, panel: Axes, data: str) -> None:
    table = published("gamma_minima")
    for place in table[table["dataset"] == base(data)]["gamma_over_lambda_min"]:
        panel.plot(
            [place, place], [0.92, 1.0], transform=panel.get_xaxis_transform(), color=PUBLISHED, lw=1.4
        )
        sheet.note([place], [np.nan], data=data, metric="nrc3", series="published minimum")


def _key(columns: dict[str, dict[str, list[Run]]]) -> list[Line2D]:
    kinds = [kind for kind in KINDS if any(kind in found for found in columns.values())]
    lines = [Line2D([], [], color=COLOURS[k], lw=0.9, label=KINDS[k][1]) for k in kinds]
    return [
        *lines,
        Line2D([], [], color="0.2", marker="o", ls="", label="minimum, closed form"),
        Line2D([], [], color=PUBLISHED, marker="|", ms=6, mew=1.4, ls="", label="published minimum"),
    ]
