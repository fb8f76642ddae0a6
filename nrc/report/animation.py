"""Features collapsing onto the plane during training, as a GIF, from the frames that a run has kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from nrc.figures._curves import log_axis
from nrc.figures._style import C0, C1, C2, GREY, number, pretty, style, whole
from nrc.places import PROTOCOLS
from nrc.runs.directory import atomic
from nrc.runs.read import Run, Runs

EXPERIMENT = "animation"
TWO = 2  # targets: the features collapse onto a plane
DPI, SIZE = 100, (6.4, 2.9)
FPS = 10
HOLD = 12  # times the last frame is shown
COLOURS = 64  # of the palette; keeps the file small


def find(runs: Runs) -> Run | None:
    """The first finished run that has kept frames of a two-target problem; of any protocol if need be."""
    for protocol in dict.fromkeys((runs.protocol, *PROTOCOLS)):
        here = runs if protocol == runs.protocol else replace(runs, protocol=protocol, _read={})
        for found in here.of(EXPERIMENT).values():
            for run in found:
                if "frame_steps" in run.snapshots and len(run.snapshots["sigma"]) == TWO:
                    return run
    return None


def caption(run: Run) -> str:
    """What is to be seen, with the run's own numbers."""
    start = run.series("nrc1").iloc[0]
    return (
        f"{pretty(run.data)}, seed {run.seed}, λ = {run.weight_decay:g}, λτ = {run.budget:.3g}: features (dots) and "
        "rows of W (arrows), every vector scaled to length 1, while the network trains. Shown are the first two "
        "principal components at the end and the main direction outside their plane. NRC1 falls from "
        f"{number(float(start))} to {number(run.last('nrc1'))}: the dots end on the unit circle in the plane."
    )


def animate(run: Run, file: Path) -> Path:
    """Write the GIF, and beside it the last frame as PNG (for readers who prefer no motion).

    Args:
        run: has `frame_features` (F, N, d), `frame_weight` (F, 2, d) and `frame_steps` (F,) in its snapshots,
            kept with `measure.frames=F`.
        file: where to write; `.png` replaces the suffix for the still.
    """
    shots = run.snapshots
    features, weights = _project(shots["frame_features"].astype(float), shots["frame_weight"].astype(float))
    times = run.table.drop_duplicates("step").set_index("step").tau
    taus = [float(times.loc[step]) for step in shots["frame_steps"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    with style():
        picture = _Picture(run)
        last = len(taus) - 1
        with atomic(file) as tmp:
            writer = _SmallGif(fps=FPS)
            with writer.saving(picture.figure, str(tmp), DPI):
                for i in [*range(len(taus)), *[last] * HOLD]:
                    picture.show(taus[i], features[i], weights[i])
                    writer.grab_frame()
        with atomic(file.with_suffix(".png")) as tmp:
            picture.figure.savefig(tmp, format="png", dpi=DPI, metadata={"Software": None})
    return file


class _SmallGif(PillowWriter):
    """A GIF of few colours: a third of the size."""

    def finish(self) -> None:
        frames = [frame.convert("RGB").quantize(COLOURS, dither=0) for frame in self._frames]  # type: ignore[attr-defined]
        frames[0].save(
            self.outfile,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=int(1000 / self.fps),
            loop=0,
            optimize=True,
        )


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1.0, length)


def _project(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions of (F, N, d) features and (F, 2, d) weights in the frame of the end: (F, N, 3), (F, 2, 3)."""
    end = features[-1]
    plane = np.linalg.svd(end - end.mean(0), full_matrices=False)[2][:TWO]
    units = _unit(features)
    rest = units[0] - units[0] @ plane.T @ plane
    third = np.linalg.svd(rest, full_matrices=False)[2][:1]
    axes = np.concatenate([plane, third]).T
    # the sign of a singular vector is arbitrary: the drawn one makes the mean feature of the start positive
    axes *= np.where((units[0] @ axes).mean(0) < 0, -1.0, 1.0)
    return units @ axes, _unit(weights) @ axes


class _Picture:
    """The figure; `show` moves what moves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.figure = Figure(figsize=SIZE)
        FigureCanvasAgg(self.figure)
        self.space: Any = self.figure.add_axes((-0.02, -0.06, 0.62, 1.02), projection="3d")
        self.curve: Axes = self.figure.add_axes((0.68, 0.2, 0.29, 0.62))
        self._frame()
        self._curves()
        self.dots: Any = self.space.plot([], [], [], ls="", marker="o", ms=3, mew=0, color=C1, alpha=0.8)[0]
        self.arrows: list[Any] = []
        self.words = self.figure.text(0.02, 0.93, "", fontsize=9)

    def _frame(self) -> None:
        angle = np.linspace(0, 2 * np.pi, 73)
        ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
        self.space.add_collection3d(Poly3DCollection([ring], facecolor="0.75", alpha=0.3, edgecolor="none"))
        self.space.plot(*ring.T, color=GREY, lw=0.6)
        tips = {"PC1": (1.0, 0.0, 0.0), "PC2": (0.0, 1.0, 0.0), "outside the plane": (0.0, 0.0, 1.0)}
        for name, tip in tips.items():
            self.space.plot(*zip((0, 0, 0), tip, strict=True), color="0.6", lw=0.6)
            self.space.text(*(1.15 * np.array(tip)), name, fontsize=7, color=GREY, ha="center", va="center")
        self.space.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-0.3, 1.05))
        self.space.set_box_aspect((2, 2, 1.35), zoom=1.5)
        self.space.set_axis_off()
        self.space.view_init(elev=24, azim=-60)

    def _curves(self) -> None:
        self.curve.set_yscale("log")
        for metric, line, colour in (("nrc1", "-", C0), ("nrc2", "--", C0), ("nrc3", "-", C2)):
            series = self.run.series(metric)
            x = series.index.to_numpy() * self.run.weight_decay
            self.curve.plot(x, series.to_numpy(), ls=line, color=colour, lw=1.2, label=metric.upper())
        self.curve.set_xlabel("decay budget λτ")
        self.curve.legend(loc="lower left", handlelength=1.6)
        log_axis(self.curve)
        (self.now,) = self.curve.plot([], [], marker="o", ms=5, color=C1, ls="", zorder=5)

    def show(self, tau: float, features: np.ndarray, weights: np.ndarray) -> None:
        """Move to this moment: features (N, 3), weights (2, 3)."""
        self.dots.set_data_3d(*features.T)
        for arrow in self.arrows:
            arrow.remove()
        self.arrows = [
            self.space.quiver(0, 0, 0, *w, color=C0, lw=1.8, arrow_length_ratio=0.12) for w in weights
        ]
        value = float(self.run.series("nrc1").loc[tau])
        self.now.set_data([tau * self.run.weight_decay], [value])
        kind = self.run.settings["model"].get("feature_activation", "relu").replace("none", "linear")
        what = f"{pretty(self.run.data)}, {kind} features"
        self.words.set_text(f"{what}      τ = {whole(tau)}      NRC1 = {number(value)}")
