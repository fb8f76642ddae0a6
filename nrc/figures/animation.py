"""Features collapsing onto the plane during training, as a GIF, from the frames that a run has kept."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nrc.figures import geometry, style
from nrc.figures.curves import log_axis
from nrc.figures.style import C0, C1, C2
from nrc.places import PROTOCOLS
from nrc.runs.directory import atomic
from nrc.runs.read import Run, Runs

EXPERIMENT = "animation"
DPI, SIZE = 100, (6.4, 2.9)
FPS = 10
HOLD = 12  # times the last frame is shown
COLOURS = 64  # of the palette; keeps the file small
CAPTION = (
    "Features (dots) and rows of W (arrows), every vector scaled to length 1, while the network trains. Shown are the "
    "first two principal components at the end and the main direction outside their plane. As NRC1 falls, the dots "
    "end on the unit circle in the plane."
)


def find(runs: Runs) -> Run | None:
    """The first finished run that has kept frames of a two-target problem; of any protocol if need be."""
    for protocol in dict.fromkeys((runs.protocol, *PROTOCOLS)):
        for found in runs.in_folder(f"{EXPERIMENT}-{protocol}").values():
            for run in found:
                if "frame_steps" in run.snapshots and len(run.snapshots["sigma"]) == geometry.TWO:
                    return run
    return None


def animate(run: Run, file: Path) -> Path:
    """Write the GIF, and beside it the last frame as PNG (for readers who prefer no motion).

    Args:
        run: has `frame_features` (F, N, d), `frame_weight` (F, 2, d) and `frame_steps` (F,) in its snapshots,
            kept with `measure.frames=F`.
        file: where to write; `.png` replaces the suffix for the still.
    """
    shots = {name: value.astype(float) for name, value in run.snapshots.items()}
    seen = geometry.unit(shots["frame_features"])
    axes = geometry.frame(shots["frame_features"][-1], seen[0])
    features, weights = seen @ axes, geometry.unit(shots["frame_weight"]) @ axes
    times = run.table.drop_duplicates("step").set_index("step").tau
    taus = [float(times.loc[step]) for step in run.snapshots["frame_steps"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    with style.style():
        picture, last = _Picture(run), len(taus) - 1
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
            self.outfile, format="GIF", save_all=True, append_images=frames[1:], duration=int(1000 / self.fps),
            loop=0, optimize=True,
        )  # fmt: skip


class _Picture:
    """The figure; `show` moves what moves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.figure = Figure(figsize=SIZE)
        FigureCanvasAgg(self.figure)
        self.words = self.figure.text(0.02, 0.93, "", fontsize=9)
        self.space: Any = self.figure.add_axes((-0.02, -0.06, 0.62, 1.02), projection="3d")
        geometry.space(self.space, low=-0.3, zoom=1.5)
        self.dots: Any = self.space.plot([], [], [], ls="", marker="o", ms=3, mew=0, color=C1, alpha=0.8)[0]
        self.arrows: list[Any] = []
        curve: Axes = self.figure.add_axes((0.68, 0.2, 0.29, 0.62))
        curve.set_yscale("log")
        for metric, line, colour in (("nrc1", "-", C0), ("nrc2", "--", C0), ("nrc3", "-.", C2)):
            series = run.series(metric)
            budget = series.index.to_numpy() * run.weight_decay
            curve.plot(budget, series.to_numpy(), ls=line, color=colour, lw=1.2, label=metric.upper())
        curve.set_xlabel("decay budget λτ")
        curve.legend(loc="lower left", handlelength=1.6)
        log_axis(curve)
        (self.now,) = curve.plot([], [], marker="o", ms=5, color=C1, ls="", zorder=5)

    def show(self, tau: float, features: np.ndarray, weights: np.ndarray) -> None:
        """Move to this moment: features (N, 3), weights (2, 3)."""
        self.dots.set_data_3d(*features.T)
        for arrow in self.arrows:
            arrow.remove()
        look = {"color": C0, "lw": 1.8, "arrow_length_ratio": 0.12}
        self.arrows = [self.space.quiver(0, 0, 0, *weight, **look) for weight in weights]
        value = float(self.run.series("nrc1").loc[tau])
        self.now.set_data([tau * self.run.weight_decay], [value])
        kind = self.run.settings["model"].get("feature_activation", "relu").replace("none", "linear")
        what = f"{style.pretty(self.run.data)}, {kind} features"
        self.words.set_text(f"{what}      τ = {style.whole(tau)}      NRC1 = {style.number(value)}")
