"""Not in the papers: K = W W' of trained networks against the theory's, element by element."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures._curves import Sheet
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
from nrc.figures.prevalence import LAYERS
from nrc.figures.ufm import EXPERIMENT, predicted
from nrc.metrics import Undefined, gamma_star
from nrc.runs.read import Run, Runs
from nrc.theory import ufm
from nrc.theory.compare import correlation, deviation, elements, fit_theory, gram

COLOURS = {"relu": C0, "linear": C1}


def draw(runs: Runs) -> list[Drawing]:
    """`theory`: UFM-regularised networks above (nothing fitted), weight-decay networks below (gamma and scale)."""
    free = {d: [r for r in found if _usable(r)] for d, found in runs.of(EXPERIMENT).items()}
    decayed = {
        d: {k: [r for r in runs.headline(e, d) if _usable(r)] for k, (e, _) in LAYERS.items()}
        for d in {**runs.of(LAYERS["relu"][0]), **runs.of(LAYERS["linear"][0])}
    }
    decayed = {d: {k: found for k, found in kinds.items() if found} for d, kinds in decayed.items()}
    columns = [d for d in {**free, **decayed} if free.get(d) or decayed.get(d)]
    if not columns:
        return []
    rows = [any(free.values()), any(decayed.values())]
    figure = new_figure(panels_width(len(columns)), 2.35 * sum(rows) + 0.5)
    grid = figure.subplots(sum(rows), len(columns), squeeze=False)
    sheet, used, said = Sheet("theory"), [], []
    for column, data in enumerate(columns):
        panels = list(grid[:, column])
        if rows[0]:
            said += _ufm_panel(sheet, panels.pop(0), data, free.get(data, []))
            used += free.get(data, [])
        if rows[1]:
            said += _decay_panel(sheet, panels.pop(0), data, decayed.get(data, {}))
            used += [run for found in decayed.get(data, {}).values() for run in found]
    for panel in grid[-1]:
        panel.set_xlabel("element of the theory's K")
    for panel in grid[:, 0]:
        panel.set_ylabel("element of the measured K = WWᵀ")
    legend_below(figure, _key(free, rows), 4 if len(columns) > 2 else 2)
    footer(figure, used, features=False)
    return [
        Drawing(
            "theory",
            "K = W W' of trained networks against the unconstrained feature model",
            _caption(said, rows),
            figure,
            sheet.table(),
            used,
        )
    ]


def _usable(run: Run) -> bool:
    shots = run.snapshots
    return run.weight_decay > 0 and "weight_end" in shots and len(shots["sigma"]) > 1 and not run.vanished


def _points(
    sheet: Sheet, panel: Axes, run: Run, theory: np.ndarray, series: str, colour: str, hollow: bool = False
) -> None:
    measured, n = gram(run.snapshots["weight_end"]), len(theory)
    labels = {"data": run.data, "series": series, "weight_decay": run.weight_decay, "seed": run.seed}
    for metric, marker, part in (("diagonal", "o", slice(None, n)), ("off-diagonal", "s", slice(n, None))):
        look = {"marker": marker, "ls": "", "ms": 4.2, "color": colour, "mfc": "none" if hollow else colour}
        x, y = elements(theory)[part], elements(measured)[part]
        sheet.line(panel, x, y, {**labels, "metric": metric}, mew=0.8, zorder=3, **look)


def _diagonal(panel: Axes) -> None:
    low = min(0.0, panel.get_xlim()[0], panel.get_ylim()[0])
    high = max(panel.get_xlim()[1], panel.get_ylim()[1])
    panel.plot([low, high], [low, high], color="0.7", lw=0.8, zorder=1)
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _ufm_panel(sheet: Sheet, panel: Axes, data: str, found: list[Run]) -> list[str]:
    if not found:
        panel.axis("off")
        return []
    colours = lambda_colours([run.weight_decay for run in found])
    said, lines = [], []
    for run in found:
        best = predicted(run).gram.numpy()
        measured, colour = gram(run.snapshots["weight_end"]), colours[run.weight_decay][0]
        _points(sheet, panel, run, best, "UFM networks, from Sigma", colour)
        words = f"lambda {run.weight_decay:g}: from Sigma correlation {correlation([measured], [best]):.3f}"
        words += f", largest deviation {deviation(measured, best):.0%}"
        if "prediction_moment" in run.snapshots:
            balanced = ufm.balanced_gram(run.snapshots["prediction_moment"], 1.0, 1.0).numpy()
            _points(sheet, panel, run, balanced, "UFM networks, from the predictions", colour, hollow=True)
            words += f"; from its own predictions {correlation([measured], [balanced]):.3f}"
            words += f", {deviation(measured, balanced):.0%}"
        if run.weight_decay == max(r.weight_decay for r in found):
            best_gamma, gamma = (
                predicted(run).gamma,
                gamma_star(run.snapshots["weight_end"], run.snapshots["sigma"])[0],
            )
            smallest = float(np.linalg.eigvalsh(run.snapshots["sigma"])[0])
            lines.append(f"γ/λmin theory {number(best_gamma / smallest)}, found {number(gamma / smallest)}")
        said.append(words)
    _diagonal(panel)
    panel.set_title(f"{pretty(data)}, UFM penalties\n" + "".join(lines[:1]))
    return [f"{pretty(data)}, UFM penalties: " + "; ".join(said)]


def _decay_panel(sheet: Sheet, panel: Axes, data: str, kinds: dict[str, list[Run]]) -> list[str]:
    if not kinds:
        panel.axis("off")
        return []
    said, lines = [], []
    for kind, found in kinds.items():
        fits, grams = [], []
        for run in found:
            try:
                fits.append(fit_theory(run.snapshots["weight_end"], run.snapshots["sigma"], run.weight_decay))
            except Undefined:
                continue
            grams.append(gram(run.snapshots["weight_end"]))
            _points(sheet, panel, run, fits[-1].gram, f"weight decay, {kind}", COLOURS[kind])
        if not fits:
            continue
        worst = max(deviation(k, f.gram) for k, f in zip(grams, fits, strict=True))
        gamma = np.mean([f.gamma / f.lambda_min for f in fits])
        alone = np.mean([f.gamma_from_decay / f.lambda_min for f in fits])
        lines.append(f"{number(float(gamma))} ({kind.replace('relu', 'ReLU')})")
        said.append(
            f"{pretty(data)}, {kind}, lambda {found[0].weight_decay:g}: correlation "
            f"{correlation(grams, [f.gram for f in fits]):.3f}, largest deviation {worst:.0%}, fitted "
            f"gamma/lambda_min {number(float(gamma))} against {number(float(alone))} from lambda and the size of K"
        )
    _diagonal(panel)
    name = scientific(next(iter(kinds.values()))[0].weight_decay)
    panel.set_title(f"{pretty(data)}, weight decay {name}\nγ*/λmin " + ", ".join(lines))
    return said


def _key(free: dict[str, list[Run]], rows: list[bool]) -> list[Line2D]:
    def dot(label: str, colour: str, marker: str = "o", **look: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, ls="", ms=4, label=label, **look)  # type: ignore[arg-type]

    handles = [dot("diagonal", GREY), dot("off-diagonal", GREY, "s")]
    if rows[0]:
        values = [run.weight_decay for found in free.values() for run in found]
        handles += [
            dot(f"λ = {scientific(v)}", c) for v, (c, _) in lambda_colours(sorted(set(values))[::-1]).items()
        ]
        if any("prediction_moment" in run.snapshots for found in free.values() for run in found):
            handles.append(dot("hollow: from the predictions", GREY, mfc="none"))
    if rows[1]:
        handles += [dot(f"{LAYERS[k][1]} (weight decay)", COLOURS[k]) for k in LAYERS]
    return handles


def _caption(said: list[str], rows: list[bool]) -> str:
    parts = []
    if rows[0]:
        parts.append(
            "Above, networks with the UFM's penalties: the theory's K follows from Sigma and lambda alone, nothing is "
            "fitted. It assumes features that can fit any target; a network explains only a part of the noisy "
            "targets, and its K falls short of this; and below a budget lambda*tau of about 10 it has not got "
            "there yet. Hollow, where the run has it: K = (mean of (W h)(W h)')^(1/2) "
            "from the network's own predictions, which the penalties enforce whatever the fit"
        )
    if rows[1]:
        parts.append(
            "Below, networks with weight decay on all parameters, whose lambda_H is not defined: K against "
            "a (S - sqrt(gamma) I) with a and gamma fitted (2 numbers for 3 or 6 elements), one point per element and "
            "seed; gamma is also predicted by taking lambda_W as the weight decay and lambda_H from the size of K"
        )
    note = "Deviations are relative to the largest element of the theory's K"
    return ". ".join([*parts, note, *said]) + "."
