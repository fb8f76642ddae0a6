"""What every figure shares: the style sheet, words and colours, the footer, and byte-stable files."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nrc.criteria import SIGNAL
from nrc.metrics import ALIVE
from nrc.runs.directory import atomic
from nrc.runs.read import Run

STYLE = Path(__file__).with_name("nrc.mplstyle")
GREY, CONTROL, PUBLISHED = "0.35", "0.72", "0.45"
C0, C1, C2, C3, C4 = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
WIDTH, WIDE = 5.5, 7.0  # inches
FOOTER = 0.17  # inches kept free below the panels for a line of small print
LEGEND_ROW = 0.15  # inches of one row of the legend


@dataclass
class Drawing:
    """One figure before it is saved: what is drawn, the numbers, and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure
    table: pd.DataFrame
    runs: Sequence[Run]
    extras: dict[str, str] = field(default_factory=dict)  # further text files beside it, by name


@contextmanager
def style() -> Iterator[None]:
    """The project's style, whatever matplotlibrc the user has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc_file(STYLE, use_default_template=False)
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, laid out so that nothing is cut off, with room for the footer."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    _keep_free(figure, _small_print(figure))
    return figure


def _is_narrow(figure: Figure) -> bool:
    """Whether the small print needs a second line."""
    return figure.get_figwidth() < 5


def _small_print(figure: Figure) -> float:
    return FOOTER + 0.09 * _is_narrow(figure)


def _keep_free(figure: Figure, inches: float) -> None:
    bottom = inches / figure.get_figheight()
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, bottom, 1, 1 - bottom), w_pad=0.03, h_pad=0.03)


def legend_below(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """One legend for the whole figure, between the panels and the footer, on no curve."""
    rows = math.ceil(len(handles) / columns)
    _keep_free(figure, _small_print(figure) + rows * LEGEND_ROW + 0.06)
    place = (0.5, (_small_print(figure) - 0.04) / figure.get_figheight())
    legend = figure.legend(handles=list(handles), loc="lower center", bbox_to_anchor=place, ncols=columns)
    legend.set_in_layout(False)


def twin(axes: Axes, colour: str) -> Axes:
    """A second y axis on the right, in this colour."""
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    right.tick_params(axis="y", colors=colour, which="both")
    return right


def panels_width(columns: int) -> float:
    """Width for so many columns side by side: one column is narrow, three take the wide format."""
    return {1: 3.4, 2: WIDTH}.get(columns, WIDE)


def number(value: float, digits: int = 2) -> str:
    """A number for text: 0.034, 1.2e-05, 0."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}g}"


def whole(tau: float) -> str:
    """A tau for text: 20,000; 600; 0.35."""
    return f"{tau:,.0f}" if tau >= 100 else f"{tau:.3g}"


SUPERSCRIPTS = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def power(exponent: int, mantissa: float = 1) -> str:
    """A power of ten as plain characters: laying out mathtext took a third of the drawing time."""
    head = "" if mantissa == 1 else f"{mantissa:g}\u00d7"
    return f"{head}10{str(exponent).translate(SUPERSCRIPTS)}"


def scientific(value: float) -> str:
    """A weight decay for a label: 1.5e-3 becomes 1.5 times 10 to the -3; 0 stays 0."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.4e}".split("e")
    return power(int(exponent), float(mantissa))


def lost(runs: Sequence[Run]) -> str:
    """In words that W no longer reads some target directions; empty when it reads all, in every seed."""
    left, n = min(((run.alive, run.target_rank) for run in runs if not run.vanished), default=(0, 0))
    if left >= n:
        return ""
    if not left:
        return f"the network explains less than {SIGNAL:g} of the targets' variance"
    return f"only {left} of {n} target directions left, as W's other singular values fell below {ALIVE:g} of the largest"


NAMES = {"carla_2d": "CARLA 2D", "carla_1d": "CARLA 1D", "utkface": "UTKFace"}


def column_title(data: str, runs: Sequence[Run]) -> str:
    """Name of the data set with lambda and the decay budget of the runs drawn."""
    lam, budget = runs[0].weight_decay, max(run.budget for run in runs)
    return f"{pretty(data, runs)}\nλ = {scientific(lam)},  λτ = {budget:.3g}"


def pretty(data: str, runs: Sequence[Run] = ()) -> str:
    """Data set name for a title; with the runs also that it is a stand-in, if so."""
    known, _, file = data.partition("-")
    name = f"{NAMES[known]} {file}".strip() if known in NAMES else data.replace("_", "-").capitalize()
    return name + (" (stand-in)" if any(run.kind == "stand-in" for run in runs) else "")


def describe_model(run: Run, features: bool = True) -> str:
    """The network in a few words, from its settings; its feature layer only if asked for."""
    model = run.settings["model"]
    if model.get("kind") == "ResNet":
        return f"ResNet{model['depth']}"
    parts = [f"{model['num_layers']}-layer MLP, width {model['width']}"]
    if features:
        relu = model.get("feature_activation", "relu") == "relu"
        parts.append("ReLU features" if relu else "linear features")
    if model.get("norm", "none") != "none":
        parts.append("BatchNorm")
    if not model.get("bias", True):
        parts.append("no biases")
    return ", ".join(parts)


def unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def footer(figure: Figure, runs: Sequence[Run], features: bool = True) -> None:
    """Protocol, tau, kind of data, model and seeds in small print at the bottom edge."""
    taus = unique(whole(run.tau) for run in runs)
    parts = [
        " and ".join(unique(run.protocol for run in runs)) + " protocol",
        "τ up to " + ("/".join(taus) if len(taus) <= 3 else whole(max(r.tau for r in runs))),
        "data: " + ", ".join(unique(run.kind for run in runs)),
    ]
    parts.append("; ".join(unique(describe_model(run, features) for run in runs)))
    by_run: dict[Any, set[int]] = {}
    for run in runs:
        by_run.setdefault((run.data, run.weight_decay), set()).add(run.seed)
    counts = sorted({len(seeds) for seeds in by_run.values()})
    parts.append(f"{' or '.join(str(c) for c in counts)} seed{'s' if counts[-1] > 1 else ''}")
    text = "  |  ".join(parts[:3]) + ("\n" if _is_narrow(figure) else "  |  ") + "  |  ".join(parts[3:])
    height = figure.get_figheight()
    figure.text(0.5, 0.03 / height, text, ha="center", va="bottom", fontsize=5.5, color=GREY, linespacing=1.1)


def lambda_colours(values: Sequence[float]) -> dict[float, tuple[str, str]]:
    """Weight decay -> (colour, line style): viridis, the largest darkest; 0 black and dashed."""
    positive = sorted((v for v in values if v > 0), reverse=True)
    shades = matplotlib.colormaps["viridis"]
    last = max(len(positive) - 1, 1)
    found = {v: (matplotlib.colors.to_hex(shades(0.88 * i / last)), "-") for i, v in enumerate(positive)}
    return found | ({0.0: ("black", "--")} if 0.0 in values else {})


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write NAME.png, NAME.pdf and NAME.csv; equal numbers give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = drawing.figure.get_layout_engine()
    if layout is not None:  # placed once, not again for every file; "none" would still draw each file twice
        layout.execute(drawing.figure)
        drawing.figure.set_layout_engine(None)
    targets = [folder / f"{drawing.name}.{end}" for end in ("png", "pdf", "csv")]
    with atomic(targets[0]) as tmp:
        drawing.figure.savefig(tmp, format="png", metadata={"Software": None})
    with atomic(targets[1]) as tmp:
        nothing = {"Creator": None, "Producer": None, "CreationDate": None}
        drawing.figure.savefig(tmp, format="pdf", metadata=nothing)
    with atomic(targets[2]) as tmp:
        drawing.table.to_csv(tmp, index=False, lineterminator="\n")
    for name, text in drawing.extras.items():
        with atomic(folder / name) as tmp:
            tmp.write_text(text)
    return [*targets[:2], *(folder / name for name in drawing.extras), targets[2]]
