"""Figure 4 of NeurIPS 2024: NRC3 of the final W against gamma."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nrc.figures import curves, reference, selection, style
from nrc.figures.curves import Drawing
from nrc.figures.registry import figure
from nrc.figures.style import C0, C1, PUBLISHED, key
from nrc.metrics import Undefined, gamma_star, nrc3_curve
from nrc.runs.read import Run, Runs

NAMES = {"gamma": list(selection.LAYERS)} | {f"gamma_{kind}": [kind] for kind in selection.IMAGES}
LOOKS: dict[str, dict[str, Any]] = {kind: {"color": C0, "lw": 0.9} for kind in selection.KINDS}
LOOKS["linear"] = {"color": C1, "lw": 0.9, "ls": "--"}
POINTS = 400


@figure(
    "gamma",
    paper="NeurIPS 2024",
    numbers=(4,),
    reads=selection.EXPERIMENTS,
    caption="NRC3 of the final W against gamma over the smallest eigenvalue of Sigma, one line per seed; the dot is the "
    "closed-form minimum, inside (0, 1) when W fits the shifted root of Sigma. At 1 the shifted root has lost its weakest "
    "direction, and W with it. Grey ticks on the upper edge: minima printed in the paper, of ReLU features on its rows.",
)
def gamma(runs: Runs) -> Iterator[Drawing]:
    """NRC3 against gamma, the minimum marked."""
    for name, kinds in NAMES.items():
        columns: dict[str, dict[str, list[Run]]] = {}
        for kind in kinds:
            for data in selection.sets(runs, kind):
                main = runs.headline(selection.KINDS[kind][0], data)
                main = [run for run in main if len(run.snapshots.get("sigma", [])) > 1]
                if main:
                    columns.setdefault(data, {})[kind] = main
        if columns:
            yield _one(name, columns)


def _one(name: str, columns: Mapping[str, Mapping[str, list[Run]]]) -> Drawing:
    drawing = Drawing(name, "NRC3 against gamma", 1, len(columns), 2.5, "gamma_over_lambda_min")
    for axes, (data, kinds) in zip(drawing.grid[0], columns.items(), strict=True):
        axes.set_yscale("log")
        for kind, main in kinds.items():
            for run in main:
                _curve(drawing, axes, run, kind)
            drawing.runs += main
        axes.set_title(f"{style.pretty(data, drawing.runs[-1:])}\n{_lambdas(kinds)}")
        axes.set_xlim(-0.04, 1.04)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_xlabel("γ / smallest eigenvalue of Σ")
        curves.log_axis(axes)
        printed = reference.published("gamma_minima")
        for place in printed[printed["dataset"] == reference.base(data)]["gamma_over_lambda_min"]:
            at = axes.get_xaxis_transform()
            axes.plot([place, place], [0.92, 1.0], transform=at, color=PUBLISHED, lw=1.4)
            drawing.note([place], [np.nan], data=data, metric="nrc3", series="published minimum")
    drawing.grid[0, 0].set_ylabel("NRC3(γ) of the final W")
    present = [k for k in LOOKS if any(k in kinds for kinds in columns.values())]
    handles = [key(selection.KINDS[k][1], **LOOKS[k]) for k in present]
    handles.append(key("minimum, closed form", color="0.2", marker="o", ls=""))
    handles.append(key("published minimum", color=PUBLISHED, marker="|", ms=6, mew=1.4, ls=""))
    drawing.legend(handles, 2 if len(columns) == 1 else 4)
    return drawing


def _curve(drawing: Drawing, axes: Axes, run: Run, kind: str) -> None:
    """One run, unless its NRC3 is undefined."""
    weight, sigma = run.snapshots["weight_end"], run.snapshots["sigma"]
    smallest = float(np.linalg.eigvalsh(sigma)[0])
    share = np.linspace(0, 1, POINTS + 1)[1:]
    labels = {"data": run.data, "metric": "nrc3", "weight_decay": run.weight_decay, "seed": run.seed}
    try:
        values = nrc3_curve(weight, sigma, share * smallest).numpy()
        best, value = gamma_star(weight, sigma)
    except Undefined:
        return
    values = np.where(np.isfinite(values), values, np.nan)
    drawing.line(axes, share, values, {**labels, "series": kind}, **LOOKS[kind])
    dot = {"color": LOOKS[kind]["color"], "marker": "o", "ls": "", "ms": 3.5, "zorder": 4, "clip_on": False}
    drawing.line(axes, [best / smallest], [value], {**labels, "series": f"{kind} minimum"}, **dot)


def _lambdas(kinds: Mapping[str, list[Run]]) -> str:
    """One line per feature layer: weight decay, and what keeps the runs from being a collapse."""
    lines = []
    for kind, main in kinds.items():
        layer = {"relu": "ReLU", "linear": "linear"}.get(kind, "ResNet")
        words = [layer, f"λ = {style.scientific(main[0].weight_decay)}", style.state(main)]
        lines.append(", ".join(filter(None, words)))
    return "\n".join(lines)
