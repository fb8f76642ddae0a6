"""Figure 11 of NeurIPS 2024: residuals of UFM-regularised networks, one target against the other."""

import math

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from nrc.figures._curves import Sheet
from nrc.figures._style import C0, C1, GREY, Drawing, footer, legend_below, new_figure, number, pretty
from nrc.figures.ufm import EXPERIMENT, predicted
from nrc.runs.read import Run, Runs

TWO = 2  # the scatter is that of two targets


def draw(runs: Runs) -> list[Drawing]:
    """`ufm_residuals`: the largest lambda of every data set with two targets."""
    chosen: dict[str, Run] = {}
    for data in runs.of(EXPERIMENT):
        main = runs.headline(EXPERIMENT, data)
        if main and len(main[0].snapshots.get("sigma", [])) == TWO:
            chosen[data] = main[0]
    if not chosen:
        return []
    figure = new_figure(5.5, 2.45 * len(chosen) + 0.3)
    grid = figure.subplots(len(chosen), 2, squeeze=False)
    sheet, said = Sheet("eps1"), []
    for row, (data, run) in enumerate(chosen.items()):
        states = {when: residuals(run, when) for when in ("start", "end")}
        words = []
        for panel, (when, points) in zip(grid[row], states.items(), strict=True):
            variances, correlation = points.var(0), _correlation(points)
            look = {"color": C0 if when == "end" else GREY, "marker": "o", "ls": "", "ms": 1.8, "alpha": 0.7}
            labels = {"data": data, "metric": "eps2", "series": when, "weight_decay": run.weight_decay}
            sheet.line(panel, points[:, 0], points[:, 1], {**labels, "seed": run.seed}, mec="none", **look)
            radius = math.sqrt(predicted(run).c)
            ring = _ellipse(points)
            panel.plot(*ring, color="black", lw=1.0, zorder=4)
            if when == "end":
                panel.add_patch(Circle((0, 0), radius, fill=False, color=C1, lw=1.3, zorder=4))
            reach = 1.08 * np.abs(points).max()
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="ε₁", ylabel="ε₂")
            name = "before" if when == "start" else "after"
            panel.set_title(
                f"{pretty(data)}, {name}:  ρ = {correlation:+.2f},  σ₂/σ₁ = {_ratio(variances):.2f}"
            )
            words.append(f"{name} {correlation:+.2f}, {_pair(variances)}")
        for other in runs.control(EXPERIMENT, data)[:1]:
            points = residuals(other, "end")
            words.append(f"without penalty {_correlation(points):+.2f}, {_pair(points.var(0))}")
        said.append(
            f"{pretty(data)} (lambda {run.weight_decay:g}; theory: 0, sqrt(c) = {number(radius)}): {'; '.join(words)}"
        )
    handles = [
        Line2D([], [], color=C0, marker="o", ms=2, ls="", label="one sample"),
        Line2D([], [], color="black", lw=1.0, label="one standard deviation"),
        Line2D([], [], color=C1, lw=1.3, label="the same in theory, √c"),
    ]
    legend_below(figure, handles, 3)
    footer(figure, list(chosen.values()))
    caption = (
        "Residuals W h + b - y of the second target against the first, for the first 256 training samples. b is the "
        "optimal bias on these samples (the snapshot holds no bias), so they are centred. At the UFM's minimum they are "
        "uncorrelated with variance c = n^2 lambda^2 each (corollary 4.2 v): the circle. A network cannot fit the "
        "noise in the experts' actions, so its cloud is wider than c; that it is round then says as much about that "
        "noise as about the theory, and the run without penalty is the control. Correlation and the two standard "
        "deviations: " + ". ".join(said) + "."
    )
    title = "UFM-regularised networks: residuals before and after"
    return [Drawing("ufm_residuals", title, caption, figure, sheet.table(), list(chosen.values()))]


def residuals(run: Run, when: str) -> np.ndarray:
    """Centred residuals (N, n) of the snapshot's samples at the "start" or the "end"."""
    shots = run.snapshots
    found = (
        shots[f"features_{when}"].astype(float) @ shots[f"weight_{when}"].astype(float).T - shots["targets"]
    )
    return found - found.mean(0)


def _correlation(points: np.ndarray) -> float:
    return float(np.corrcoef(points.T)[0, 1])


def _ellipse(points: np.ndarray) -> np.ndarray:
    """The curve (2, 73) one standard deviation from the mean, in every direction."""
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
    angle = np.linspace(0, 2 * np.pi, 73)
    return vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * np.stack([np.cos(angle), np.sin(angle)]))


def _ratio(variances: np.ndarray) -> float:
    return float(math.sqrt(variances[1] / variances[0]))


def _pair(variances: np.ndarray) -> str:
    return " and ".join(number(math.sqrt(v)) for v in variances)
