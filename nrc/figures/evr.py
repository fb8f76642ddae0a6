"""Figure 3 of NeurIPS 2024: explained variance ratio of the first five principal components."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes

from nrc.figures import curves, selection, style
from nrc.figures.curves import Drawing, TauAxis
from nrc.figures.registry import figure
from nrc.runs.read import Run, Runs

ROWS = [("linear axis", "", "explained variance\nratio (EVR)"), ("log axis", "", "EVR, log axis")]
COLOURS = (style.C0, style.C1, style.C2, style.C3, style.C4)
LOOKS = [{"color": colour, "ls": line} for colour, line in zip(COLOURS, style.LINES, strict=True)]


@figure(
    "evr",
    paper="NeurIPS 2024",
    numbers=(3,),
    reads=selection.EXPERIMENTS,
    caption="Share of the features' variance in each principal component at the headline weight decay. After collapse "
    "as many components are left as there are targets, fewer where a target direction is dead.",
)
def evr(runs: Runs) -> Iterator[Drawing]:
    """How many principal components hold the features' variance."""
    for kind, words, mains in selection.headlines(runs):
        yield _one(kind, words, mains)


def _one(kind: str, words: str, mains: Mapping[str, list[Run]]) -> Drawing:
    title = f"Explained variance of the principal components, {words}"
    drawing = Drawing(f"evr_{kind}", title, 2, len(mains), 3.4)

    def panel(axes: Axes, tau: TauAxis, groups: Any, row: curves.Row) -> None:
        axes.set_yscale("log" if row[0] == "log axis" else "linear")
        for k, look in enumerate(LOOKS, start=1):
            drawing.curve(axes, tau, groups["main"], f"evr_{k}", series=row[0], **look)
        if row[0] == "log axis":
            curves.log_axis(axes)
        else:
            axes.set_ylim(-0.03, 1.03)

    drawing.curves({data: {"main": main} for data, main in mains.items()}, ROWS, panel, style.column_title)
    drawing.legend((style.key(f"PC{k}", **look) for k, look in enumerate(LOOKS, start=1)), 5)
    return drawing
