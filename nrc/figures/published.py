"""Our collapse of raw features beside the published numbers of the paper's earlier runs, which used raw features."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes

from nrc.figures import curves, selection, style
from nrc.figures.curves import Drawing, TauAxis
from nrc.figures.reference import curve
from nrc.figures.registry import figure
from nrc.runs.read import Run, Runs

ROWS = [
    ("nrc1_raw", "train", "NRC1, raw features"),
    ("nrc2_raw", "train", "NRC2, raw features"),
    ("nrc3", "train", "NRC3"),
]
LOOKS: dict[str, dict[str, Any]] = {
    "relu": {"color": style.C0, "ls": "-"},
    "linear": {"color": style.C1, "ls": "--"},
}
THEIRS = {"color": style.PUBLISHED, "lw": 0.8}


@figure(
    "published",
    paper="NeurIPS 2024",
    numbers=(2,),
    reads=["prevalence", "prevalence_linear"],
    caption="Grey: an earlier generation of the paper's runs, the only ones known as numbers; one seed of the 3x256 "
    "network, for Hopper probably with a linear feature layer. The same quantities on the same tau axis, on the rows "
    "that the small print names and at our weight decays.",
)
def published(runs: Runs) -> Iterator[Drawing]:
    """Raw NRC1 and NRC2, and NRC3, beside the published numbers."""
    columns: dict[str, dict[str, list[Run]]] = {}
    for kind, (experiment, _) in selection.LAYERS.items():
        for data in runs.of(experiment):
            main = runs.headline(experiment, data)
            if main and len(curve("prevalence_published", data, "nrc1_raw")):
                columns.setdefault(data, {})[kind] = main
    if not columns:
        return
    drawing = Drawing("published", "Beside the published numbers", len(ROWS), len(columns), 4.6)

    def panel(axes: Axes, tau: TauAxis, kinds: Any, row: curves.Row) -> None:
        axes.set_yscale("log")
        data = next(iter(kinds.values()))[0].data
        theirs = curve("prevalence_published", data, row[0])
        labels = {"data": data, "metric": row[0], "series": "published"}
        labels["weight_decay"] = theirs["weight_decay"].iloc[0]
        drawing.line(axes, theirs["tau"], theirs["value"], labels, **THEIRS)
        for kind, main in kinds.items():
            drawing.curve(axes, tau, main, row[0], series=kind, **LOOKS[kind])
        curves.log_axis(axes)
        tau.end = max(tau.end, float(curve("prevalence_published", data, "nrc1_raw")["tau"].max()))

    drawing.curves(columns, ROWS, panel, _title)
    present = [k for k in LOOKS if any(k in kinds for kinds in columns.values())]
    handles = [style.key(f"ours, {selection.LAYERS[k][1]}", **LOOKS[k]) for k in present]
    drawing.legend([*handles, style.key("published, one seed", **THEIRS)], 1 if len(columns) == 1 else 3)
    yield drawing


def _title(data: str, used: list[Run]) -> str:
    theirs = curve("prevalence_published", data, "nrc1_raw")
    decay = float(theirs["weight_decay"].iloc[0])
    budget = decay * theirs["tau"].max()
    return f"{style.pretty(data)}, published:\nλ = {style.scientific(decay)},  λτ = {budget:.3g}"
