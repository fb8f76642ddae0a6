"""Not in the papers: K = W W' of trained networks against the theory's, element by element."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures import selection, style
from nrc.figures.curves import Drawing
from nrc.figures.registry import figure
from nrc.figures.style import GREY, key, number
from nrc.figures.ufm import EXPERIMENT, predicted
from nrc.metrics import Undefined, gamma_star
from nrc.runs.read import Run, Runs
from nrc.theory import ufm
from nrc.theory.compare import elements, fit_theory, gram

COLOURS = {"relu": style.C0, "linear": style.C1}


@figure(
    "theory",
    reads=[EXPERIMENT, "prevalence", "prevalence_linear"],
    caption="Above, networks with the UFM's penalties: the theory's K follows from Sigma and lambda, nothing is fitted; "
    "it assumes features that fit any target, and a network explains only part of noisy ones. Hollow, where the run has "
    "it: K from the network's own predictions. Below, networks with weight decay on all parameters against "
    "a (S - sqrt(gamma) I), with a and gamma fitted: 2 numbers for 3 or 6 elements.",
)
def theory(runs: Runs) -> Iterator[Drawing]:
    """W Wᵀ of trained networks against the closed form."""
    free = {d: [run for run in found if _usable(run)] for d, found in runs.of(EXPERIMENT).items()}
    decayed: dict[str, dict[str, list[Run]]] = {}
    for kind, (experiment, _) in selection.LAYERS.items():
        for data in runs.of(experiment):
            found = [run for run in runs.headline(experiment, data) if _usable(run)]
            decayed.setdefault(data, {}).update({kind: found} if found else {})
    columns = [d for d in {**free, **decayed} if free.get(d) or decayed.get(d)]
    rows = [part for part in (free, decayed) if any(part.values())]
    if not columns:
        return
    title = "K = W W' of trained networks against the unconstrained feature model"
    drawing = Drawing("theory", title, len(rows), len(columns), 2.35 * len(rows) + 0.5, x="theory")
    for data, panels in zip(columns, drawing.grid.T, strict=True):
        for part, axes in zip(rows, panels, strict=True):
            if not part.get(data):
                axes.axis("off")
            elif part is free:
                _ufm_panel(drawing, axes, data, free[data])
            else:
                _decay_panel(drawing, axes, data, decayed[data])
    for axes in drawing.grid[-1]:
        axes.set_xlabel("element of the theory's K")
    for axes in drawing.grid[:, 0]:
        axes.set_ylabel("element of the measured K = WWᵀ")
    used = [run for found in free.values() for run in found] if free in rows else []
    drawing.legend(_key(used, decayed in rows), 4 if len(columns) > 2 else 2)
    yield drawing


def _usable(run: Run) -> bool:
    shots = run.snapshots
    return run.weight_decay > 0 and "weight_end" in shots and len(shots["sigma"]) > 1 and not run.vanished


def _points(drawing: Drawing, axes: Axes, run: Run, best: np.ndarray, series: str, **look: Any) -> None:
    measured, n = gram(run.snapshots["weight_end"]), len(best)
    labels = {"data": run.data, "series": series, "weight_decay": run.weight_decay, "seed": run.seed}
    for metric, marker, part in (("diagonal", "o", slice(None, n)), ("off-diagonal", "s", slice(n, None))):
        common = {"marker": marker, "ls": "", "ms": 4.2, "mew": 0.8, "zorder": 3}
        x, y = elements(best)[part], elements(measured)[part]
        drawing.line(axes, x, y, {**labels, "metric": metric}, **common, **look)


def _diagonal(axes: Axes) -> None:
    low = min(0.0, axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="0.7", lw=0.8, zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _ufm_panel(drawing: Drawing, axes: Axes, data: str, found: list[Run]) -> None:
    looks = style.lambda_colours([run.weight_decay for run in found])
    for run in found:
        colour = looks[run.weight_decay]["color"]
        best = predicted(run).gram.numpy()
        _points(drawing, axes, run, best, "UFM networks, from Sigma", color=colour)
        if "prediction_moment" in run.snapshots:
            balanced = ufm.balanced_gram(run.snapshots["prediction_moment"], 1.0, 1.0).numpy()
            series = "UFM networks, from the predictions"
            _points(drawing, axes, run, balanced, series, color=colour, mfc="none")
    _diagonal(axes)
    largest, sigma = found[0], found[0].snapshots["sigma"]
    smallest = float(np.linalg.eigvalsh(sigma)[0])
    gammas = predicted(largest).gamma, gamma_star(largest.snapshots["weight_end"], sigma)[0]
    words = [number(gamma / smallest) for gamma in gammas]
    axes.set_title(f"{style.pretty(data)}, UFM penalties\nγ/λmin theory {words[0]}, found {words[1]}")
    drawing.runs += found


def _decay_panel(drawing: Drawing, axes: Axes, data: str, kinds: Mapping[str, list[Run]]) -> None:
    fitted = []
    for kind, found in kinds.items():
        gammas = []
        for run in found:
            try:
                fit = fit_theory(run.snapshots["weight_end"], run.snapshots["sigma"])
            except Undefined:
                continue
            gammas.append(fit.gamma / fit.lambda_min)
            _points(drawing, axes, run, fit.gram, f"weight decay, {kind}", color=COLOURS[kind])
        if gammas:
            fitted.append(f"{number(float(np.mean(gammas)))} ({kind.replace('relu', 'ReLU')})")
        drawing.runs += found
    _diagonal(axes)
    decay = style.scientific(next(iter(kinds.values()))[0].weight_decay)
    axes.set_title(f"{style.pretty(data)}, weight decay {decay}\nγ*/λmin " + ", ".join(fitted))


def _key(free: list[Run], decayed: bool) -> list[Line2D]:
    def dot(label: str, colour: str, marker: str = "o", **look: Any) -> Line2D:
        return key(label, color=colour, marker=marker, ls="", ms=4, **look)

    looks = style.lambda_colours([run.weight_decay for run in free])
    handles = [dot("diagonal", GREY), dot("off-diagonal", GREY, "s")]
    handles += [dot(f"λ = {style.scientific(v)}", look["color"]) for v, look in looks.items()]
    if any("prediction_moment" in run.snapshots for run in free):
        handles.append(dot("hollow: from the predictions", GREY, mfc="none"))
    if decayed:
        handles += [dot(f"{selection.LAYERS[k][1]} (weight decay)", colour) for k, colour in COLOURS.items()]
    return handles
