"""Figures 10 and 11 of NeurIPS 2024: norms and residuals of networks with the UFM's penalties on features and last weight."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from nrc.figures import curves, style
from nrc.figures.curves import Drawing, Groups, TauAxis
from nrc.figures.registry import figure
from nrc.figures.style import C0, C1, GREY, key
from nrc.runs.read import Run, Runs, lambda_groups
from nrc.theory import ufm

EXPERIMENT = "ufm"
COLOURS = (C0, C1, style.C2, style.C3)


def predicted(run: Run, loss: str = "coded") -> ufm.Optimum:
    """The UFM's minimum for the penalties and the targets of a run; the coded loss is 0.5 x the mean."""
    # 0.5 * mean over samples and targets is the coded loss; another scale only rescales the penalties
    strength = run.weight_decay * 0.5 / float(run.settings["optim"].get("loss_scale", 0.5))
    return ufm.optimum(run.snapshots["sigma"].astype(float), strength, strength, loss=loss)


@figure(
    "ufm_norms",
    paper="NeurIPS 2024",
    numbers=(10,),
    reads=[EXPERIMENT],
    caption="Above, the size of the features during training, with the theory's sqrt(tr K) at the right edge; below, the "
    "norms of the rows of W after training (hollow: before), with the theory's sqrt(K_jj) as lines, nothing fitted. The "
    "smaller the penalty, the longer it takes; the theory's limit lambda -> 0 is not the run without penalty.",
)
def ufm_norms(runs: Runs) -> Iterator[Drawing]:
    """Norms of features and of the rows of W against the closed form."""
    columns = {d: lambda_groups(found) for d, found in runs.of(EXPERIMENT).items()}
    if not columns:
        return
    title = "UFM-regularised networks: norms of features and weights"
    drawing = Drawing("ufm_norms", title, 2, len(columns), 4.1)

    def panel(axes: Axes, tau: TauAxis, groups: Groups, row: curves.Row) -> None:
        axes.set_yscale("log")
        for value, look in style.lambda_colours(groups).items():
            drawing.curve(axes, tau, groups[value], "feature_norm", lw=1.2, **look)
            if value > 0:
                best = math.sqrt(float(predicted(groups[value][0]).gram.trace()))
                labels = {"data": groups[value][0].data, "metric": "feature_norm", "series": "theory"}
                mark = {
                    "marker": "<",
                    "color": look["color"],
                    "ls": "",
                    "ms": 4,
                    "clip_on": False,
                    "zorder": 4,
                }
                drawing.line(axes, [tau.end * 1.2], [best], labels | {"weight_decay": value}, **mark)
        curves.log_axis(axes)

    row = ("feature_norm", "train", "|h|, root mean square")
    drawing.curves(columns, [row], panel, lambda data, used: style.pretty(data))
    for axes, groups in zip(drawing.grid[1], columns.values(), strict=True):
        _row_norms(drawing, axes, groups)
    drawing.grid[1, 0].set_ylabel("|w₁|, |w₂|, … at the end")
    values = {value for groups in columns.values() for value in groups}
    handles = [key(f"λ = {style.scientific(v)}", **look) for v, look in style.lambda_colours(values).items()]
    handles += [
        key("theory, |h|", color=GREY, marker="<", ls=""),
        key("theory, |wⱼ|", color=GREY, lw=1.0),
        key("|w₁|, |w₂|, … after (hollow: before)", color=C0, marker="o", ls=""),
    ]
    drawing.legend(handles, 4 if len(columns) > 2 else 2)
    yield drawing


def _row_norms(drawing: Drawing, axes: Axes, groups: Mapping[float, list[Run]]) -> None:
    """Norms of the rows of W against lambda."""
    positive = sorted(v for v in groups if v > 0)
    zero = min(positive, default=1.0) / 10
    axes.set_xscale("log")
    for value, group in groups.items():
        for run in group:
            labels = {"data": run.data, "metric": "row norm", "weight_decay": value, "seed": run.seed}
            for when in ("start", "end"):
                norms = np.linalg.norm(run.snapshots[f"weight_{when}"].astype(float), axis=1)
                for j, norm in enumerate(norms):
                    look: dict[str, Any] = {"marker": "o", "ls": "", "ms": 3.5, "color": COLOURS[j % 4]}
                    look |= {"mfc": "none"} if when == "start" else {}
                    drawing.line(
                        axes, [value or zero], [norm], labels | {"series": f"w{j + 1} {when}"}, **look
                    )
    if positive:
        grams = np.array([predicted(groups[v][0]).gram.diagonal().sqrt().numpy() for v in positive])
        for j, norms in enumerate(grams.T):
            labels = {"data": groups[positive[0]][0].data, "metric": "row norm", "series": f"w{j + 1} theory"}
            drawing.line(axes, positive, norms, labels, color=COLOURS[j % 4], lw=1.0, ls=style.LINES[j % 4])
    ticks = [zero, *positive]
    axes.set_xticks(ticks, ["0" if v == zero else style.scientific(v) for v in ticks], fontsize=6)
    axes.minorticks_off()
    axes.set_ylim(0, 1.08 * max(float(np.max(line.get_ydata())) for line in axes.lines))
    axes.set_xlabel("λ")


@figure(
    "ufm_residuals",
    paper="NeurIPS 2024",
    numbers=(11,),
    reads=[EXPERIMENT],
    caption="Residuals W h + b - y of the second target against the first, for 256 training samples and the bias that "
    "is best on them. At the UFM's minimum they are uncorrelated with variance c = n^2 lambda^2 each: the circle. A "
    "network cannot fit the noise in the experts' actions, so its cloud is wider; that it is round says as much about "
    "that noise as about the theory.",
)
def ufm_residuals(runs: Runs) -> Iterator[Drawing]:
    """Residuals of two targets against each other: the theory's circle."""
    mains = {data: runs.headline(EXPERIMENT, data) for data in runs.of(EXPERIMENT)}
    chosen = [main[0] for main in mains.values() if main and len(main[0].snapshots.get("sigma", [])) == 2]
    if not chosen:
        return
    title = "UFM-regularised networks: residuals before and after"
    drawing = Drawing("ufm_residuals", title, len(chosen), 2, 2.45 * len(chosen) + 0.3, x="eps1")
    for run, panels in zip(chosen, drawing.grid, strict=True):
        for axes, when in zip(panels, ("start", "end"), strict=True):
            _residuals(drawing, axes, run, when)
    drawing.legend(
        [
            key("one sample", color=C0, marker="o", ms=2, ls=""),
            key("one standard deviation", color="black", lw=1.0),
            key("the same in theory, √c", color=C1, lw=1.3, ls="--"),
        ],
        3,
    )
    drawing.runs += chosen
    yield drawing


def _residuals(drawing: Drawing, axes: Axes, run: Run, when: str) -> None:
    points = residuals(run, when)
    colour, name = (C0, "after") if when == "end" else (GREY, "before")
    labels = {"data": run.data, "metric": "eps2", "series": when, "weight_decay": run.weight_decay}
    look = {"color": colour, "marker": "o", "ls": "", "ms": 1.8, "alpha": 0.7, "mec": "none"}
    drawing.line(axes, points[:, 0], points[:, 1], {**labels, "seed": run.seed}, **look)
    axes.plot(*_ellipse(points), color="black", lw=1.0, zorder=4)
    if when == "end":
        radius = math.sqrt(predicted(run).c)
        axes.add_patch(Circle((0, 0), radius, fill=False, color=C1, lw=1.3, ls="--", zorder=4))
    reach = 1.08 * np.abs(points).max()
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="ε₁", ylabel="ε₂")
    ratio = math.sqrt(points[:, 1].var() / points[:, 0].var())
    correlation = np.corrcoef(points.T)[0, 1]
    axes.set_title(f"{style.pretty(run.data)}, {name}:  ρ = {correlation:+.2f},  σ₂/σ₁ = {ratio:.2f}")


def residuals(run: Run, when: str) -> np.ndarray:
    """Centred residuals (N, n) of the snapshot's samples at the "start" or the "end"."""
    shots = {name: run.snapshots[name].astype(float) for name in (f"features_{when}", f"weight_{when}")}
    found = shots[f"features_{when}"] @ shots[f"weight_{when}"].T - run.snapshots["targets"]
    return found - found.mean(0)


def _ellipse(points: np.ndarray) -> np.ndarray:
    """The curve (2, 73) one standard deviation from the mean, in every direction."""
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
    angle = np.linspace(0, 2 * np.pi, 73)
    return vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
