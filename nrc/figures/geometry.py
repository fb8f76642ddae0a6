"""Figure 1 of NeurIPS 2024: features, rows of W and the principal plane, before and after training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

from nrc.figures import selection, style
from nrc.figures.curves import Drawing
from nrc.figures.registry import figure
from nrc.figures.style import C0, C1, GREY, key
from nrc.runs.read import Run, Runs

TWO = 2  # the picture is that of two targets: a plane


@figure(
    "geometry",
    paper="NeurIPS 2024",
    numbers=(1,),
    reads=["prevalence", "prevalence_linear"],
    caption="Directions alone, every vector scaled to length 1, in one frame per row: the first two principal components "
    "after training and the direction in which most of what lies outside their plane points. What is short in this "
    "picture points into directions not drawn. Collapse: dots and arrows lie on the unit circle in the plane.",
)
def geometry(runs: Runs) -> Iterator[Drawing]:
    """Features and rows of W before and after training, in 3-D."""
    found: dict[str, dict[str, Run]] = {}
    for kind in ("linear", "relu"):
        experiment = selection.LAYERS[kind][0]
        for data in runs.of(experiment):
            main = runs.headline(experiment, data)
            if main and len(main[0].snapshots.get("sigma", [])) == TWO and not main[0].vanished:
                found.setdefault(data, {})[kind] = main[0]
    if not found:
        return
    # the data set with both layers, then the deepest ReLU collapse
    data = min(found, key=lambda d: (-len(found[d]), list(found[d].values())[-1].last("nrc1")))
    rows = found[data]
    drawing = Drawing(
        "geometry", f"Features and weights before and after, {style.pretty(data)}", len(rows), TWO,
        2.1 * len(rows) + 0.4, "point", subplot_kw={"projection": "3d"},
    )  # fmt: skip
    for (kind, run), panels in zip(rows.items(), drawing.grid, strict=True):
        states = _project(run)
        for axes, when, word in zip(panels, ("start", "end"), ("before", "after"), strict=True):
            _panel(drawing, axes, run, kind, when, *states[when])
            nrc1 = run.first("nrc1") if when == "start" else run.last("nrc1")
            axes.set_title(f"{selection.LAYERS[kind][1]}, {word}\nNRC1 = {style.number(nrc1)}", y=1.0)
    drawing.legend(
        [
            key("features, scaled to length 1", color=C1, marker="o", ls=""),
            key("rows of W, scaled to length 1", color=C0, lw=1.6),
            key("plane of the first two PCs (after)", color="0.8", lw=6),
        ],
        3,
    )
    drawing.runs += rows.values()
    yield drawing


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (..., d) scaled to length 1; zeros stay."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1.0, length)


def frame(end: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Axes (d, 3): the first two principal components of `end`, and the main direction of `seen` outside their plane."""
    plane = np.linalg.svd(end - end.mean(0), full_matrices=False)[2][:TWO]
    rest = seen - seen @ plane.T @ plane
    third = np.linalg.svd(rest, full_matrices=False)[2][:1]
    axes = np.concatenate([plane, third]).T
    # the sign of a singular vector is arbitrary: the drawn one makes the mean of what is seen positive
    return axes * np.where((seen @ axes).mean(0) < 0, -1.0, 1.0)


def space(axes: Any, low: float, zoom: float) -> None:
    """An empty space: the unit circle in the plane and three labelled axes; `low` is its bottom."""
    angle = np.linspace(0, 2 * np.pi, 73)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    axes.add_collection3d(Poly3DCollection([ring], facecolor="0.75", alpha=0.25, edgecolor="none"))
    axes.plot(*ring.T, color=GREY, lw=0.6)
    for name, tip in zip(("PC1", "PC2", "outside the plane"), np.eye(3), strict=True):
        axes.plot(*zip((0, 0, 0), tip, strict=True), color="0.6", lw=0.6)
        axes.text(*(1.2 * tip), name, fontsize=6.5, color=GREY, ha="center", va="center")
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(low, 1.05))
    axes.set_box_aspect((2, 2, 1.05 - low), zoom=zoom)
    axes.set_axis_off()
    axes.view_init(elev=22, azim=-60)


def _project(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and rows of W, as directions, in the frame of the end state: when -> (N, 3), (n, 3)."""
    shots = {name: value.astype(float) for name, value in run.snapshots.items()}
    states = [unit(shots["features_start"]), unit(shots["features_end"])]
    axes = frame(shots["features_end"], np.concatenate(states))
    names = ("start", "end")
    return {w: (s @ axes, unit(shots[f"weight_{w}"]) @ axes) for w, s in zip(names, states, strict=True)}


def _panel(
    drawing: Drawing, axes: Any, run: Run, kind: str, when: str, features: np.ndarray, weights: np.ndarray
) -> None:
    space(axes, low=-0.15, zoom=1.4)
    # a thin line to the plane shows how far out of it a feature points
    stems = np.stack([features * (1.0, 1.0, 0.0), features], 1)
    axes.add_collection3d(Line3DCollection(stems, colors=C1, linewidths=0.25, alpha=0.25))
    axes.scatter(*features.T, s=5, color=C1, depthshade=False, linewidths=0, alpha=0.8)
    for row in weights:
        axes.quiver(0, 0, 0, *row, color=C0, lw=1.6, arrow_length_ratio=0.12)
    labels = {"data": run.data, "weight_decay": run.weight_decay, "seed": run.seed}
    for what, points in (("feature", features), ("weight row", weights)):
        for name, values in zip(("pc1", "pc2", "outside"), points.T, strict=True):
            series = f"{kind}, {what}, {when}"
            drawing.note(np.arange(len(values)), values, metric=name, series=series, **labels)
