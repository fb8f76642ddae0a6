"""Figure 1 of NeurIPS 2024: features, rows of W and the principal plane, before and after training."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

from nrc.figures._curves import Sheet
from nrc.figures._style import C0, C1, GREY, Drawing, footer, legend_below, new_figure, number, pretty
from nrc.figures.prevalence import LAYERS
from nrc.runs.read import Run, Runs

TWO = 2  # the picture is that of two targets: a plane


def draw(runs: Runs) -> list[Drawing]:
    """`geometry`: for the n = 2 data set that collapsed furthest, each feature layer before and after."""
    found: dict[str, dict[str, Run]] = {}
    for kind in ("linear", "relu"):
        for data in runs.of(LAYERS[kind][0]):
            main = runs.headline(LAYERS[kind][0], data)
            if main and len(main[0].snapshots.get("sigma", [])) == TWO and not main[0].vanished:
                found.setdefault(data, {})[kind] = main[0]
    if not found:
        return []
    # the data set with both layers, then the deepest ReLU collapse
    data = min(found, key=lambda d: (-len(found[d]), list(found[d].values())[-1].last("nrc1")))
    rows = found[data]
    figure = new_figure(5.5, 2.1 * len(rows) + 0.4)
    sheet = Sheet("point")
    for row, (kind, run) in enumerate(rows.items()):
        states = _project(run)
        for column, when in enumerate(("start", "end")):
            axes: Any = figure.add_subplot(len(rows), 2, TWO * row + column + 1, projection="3d")
            _panel(sheet, axes, run, kind, when, *states[when])
            word = "before" if column == 0 else "after"
            value = run.series("nrc1").iloc[0] if when == "start" else run.last("nrc1")
            axes.set_title(f"{LAYERS[kind][1]}, {word}\nNRC1 = {number(float(value))}", y=1.0)
    handles = [
        Line2D([], [], color=C1, marker="o", ls="", label="features, scaled to length 1"),
        Line2D([], [], color=C0, lw=1.6, label="rows of W, scaled to length 1"),
        Line2D([], [], color="0.8", lw=6, label="plane of the first two PCs (after)"),
    ]
    legend_below(figure, handles, 3)
    footer(figure, list(rows.values()), features=False)
    said = "; ".join(
        f"{kind}: NRC1 {number(float(run.series('nrc1').iloc[0]))} -> {number(run.last('nrc1'))}"
        for kind, run in rows.items()
    )
    caption = (
        f"{pretty(data)}, seed {next(iter(rows.values())).seed}, directions only (every vector scaled to length 1), "
        "in one frame per row: the first two principal components after training and the direction in which most of "
        "what lies outside their plane points. What is short in this picture points into directions not drawn. "
        "Collapse: dots and arrows lie on the unit circle in the plane. " + said + "."
    )
    used = list(rows.values())
    return [
        Drawing(
            "geometry",
            "Features and weights before and after",
            caption,
            figure,
            sheet.table(),
            used,
        )
    ]


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1.0, length)


def _project(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and rows of W, as directions, in the frame of the end state: when -> (N, 3), (n, 3)."""
    shots = {name: value.astype(float) for name, value in run.snapshots.items()}
    end = shots["features_end"]
    plane = np.linalg.svd(end - end.mean(0), full_matrices=False)[2][:TWO]
    both = np.concatenate([_unit(shots["features_start"]), _unit(end)])
    rest = both - both @ plane.T @ plane
    third = np.linalg.svd(rest, full_matrices=False)[2][:1]
    frame = np.concatenate([plane, third]).T
    # the sign of a singular vector is arbitrary: the drawn one makes the mean feature positive
    frame *= np.where((both @ frame).mean(0) < 0, -1.0, 1.0)
    return {
        when: (_unit(shots[f"features_{when}"]) @ frame, _unit(shots[f"weight_{when}"]) @ frame)
        for when in ("start", "end")
    }


def _panel(
    sheet: Sheet, axes: Any, run: Run, kind: str, when: str, features: np.ndarray, weights: np.ndarray
) -> None:
    angle = np.linspace(0, 2 * np.pi, 73)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    axes.add_collection3d(Poly3DCollection([ring], facecolor="0.75", alpha=0.25, edgecolor="none"))
    axes.plot(*ring.T, color=GREY, lw=0.6)
    frame = {"PC1": (1.0, 0.0, 0.0), "PC2": (0.0, 1.0, 0.0), "outside the plane": (0.0, 0.0, 1.0)}
    for name, tip in frame.items():
        axes.plot(*zip((0, 0, 0), tip, strict=True), color="0.6", lw=0.6)
        axes.text(*(1.2 * np.array(tip)), name, fontsize=6.5, color=GREY, ha="center", va="center")
    # a thin line to the plane shows how far out of it a feature points
    stems = np.stack([features * (1.0, 1.0, 0.0), features], 1)
    axes.add_collection3d(Line3DCollection(stems, colors=C1, linewidths=0.25, alpha=0.25))
    axes.scatter(*features.T, s=5, color=C1, depthshade=False, linewidths=0, alpha=0.8)
    for row in weights:
        axes.quiver(0, 0, 0, *row, color=C0, lw=1.6, arrow_length_ratio=0.12)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-0.15, 1.05))
    axes.set_box_aspect((2, 2, 1.2), zoom=1.4)
    axes.set_axis_off()
    axes.view_init(elev=22, azim=-60)
    labels = {"data": run.data, "weight_decay": run.weight_decay, "seed": run.seed}
    for what, points in (("feature", features), ("weight row", weights)):
        for name, values in zip(("pc1", "pc2", "outside"), points.T, strict=True):
            sheet.note(
                np.arange(len(values)), values, metric=name, series=f"{kind}, {what}, {when}", **labels
            )
