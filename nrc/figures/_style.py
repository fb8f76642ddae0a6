"""What every figure shares: the style sheet, words and colours, the footer, and byte-stable files."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nrc.figures._load import Run
from nrc.record import atomic

STYLE = Path(__file__).with_name("nrc.mplstyle")
GREY, CONTROL, PUBLISHED = "0.35", "0.72", "0.45"
C0, C1, C2, C3, C4 = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
WIDTH, WIDE = 5.5, 7.0  # inches
FOOTER = 0.17  # inches kept free below the panels

LABELS = {
    "mse": "MSE",
    "r2": "$R^2$",
    "nrc1": "NRC1",
    "nrc2": "NRC2",
    "nrc3": "NRC3",
    "nrc1_centred": "NRC1, centred",
    "nrc1_raw": "NRC1, raw",
    "nrc2_raw": "NRC2, raw",
}


@dataclass
class Drawing:
    """One figure before it is saved: what is drawn, the numbers, and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure
    table: pd.DataFrame
    runs: Sequence[Run]
    commands: list[str] = field(default_factory=list)


@contextmanager
def style() -> Iterator[None]:
    """The project's style, whatever matplotlibrc the user has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.style.use(STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, laid out so that nothing is cut off, with room for the footer."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    bottom = FOOTER / height
    figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom), w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr]
    return figure


def panels_width(columns: int) -> float:
    """Width for so many columns side by side: one column is narrow, three take the wide format."""
    return {1: 3.4, 2: WIDTH}.get(columns, WIDE)


def number(value: float, digits: int = 2) -> str:
    """A number for text: 0.034, 1.2e-05, 0."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}g}"


def scientific(value: float) -> str:
    """A weight decay as mathematics: 1.5e-3 becomes 1.5 x 10^-3 in mathtext (without dollar signs)."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.4e}".split("e")
    head = f"{float(mantissa):g}"
    power = f"10^{{{int(exponent)}}}"
    return power if head == "1" else rf"{head}\!\times\!{power}"


def column_title(data: str, runs: Sequence[Run]) -> str:
    """Name of the data set with lambda and the decay budget of the runs drawn."""
    lam, budget = runs[0].weight_decay, max(run.budget for run in runs)
    return f"{pretty(data)}\n$\\lambda={scientific(lam)}$, $\\lambda\\tau={budget:.3g}$"


def pretty(data: str) -> str:
    """Data set name for a title."""
    return data.replace("_", "-").capitalize()


def describe_model(run: Run) -> str:
    """The network in a few words, from its settings."""
    model = run.settings["model"]
    parts = [f"{model['num_layers']}-layer MLP, width {model['width']}"]
    parts.append("ReLU features" if model.get("feature_activation", "relu") == "relu" else "linear features")
    if model.get("norm", "none") != "none":
        parts.append("BatchNorm")
    if not model.get("bias", True):
        parts.append("no biases")
    return ", ".join(parts)


def unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def footer(figure: Figure, runs: Sequence[Run], model: bool = True) -> None:
    """Protocol, tau, kind of data, model and seeds in small print at the bottom edge."""
    taus = unique(f"{run.tau:.5g}" for run in runs)
    parts = [
        " and ".join(unique(run.protocol for run in runs)) + " protocol",
        "$\\tau$ up to " + ("/".join(taus) if len(taus) <= 3 else f"{max(r.tau for r in runs):.5g}"),
        "data: " + ", ".join(unique(run.kind for run in runs)),
    ]
    if model:
        parts.append("; ".join(unique(describe_model(run) for run in runs)))
    seeds = len({run.seed for run in runs})
    parts.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    wrap = figure.get_figwidth() < 5
    text = "  |  ".join(parts[:3]) + ("\n" if wrap else "  |  ") + "  |  ".join(parts[3:])
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
    targets = [folder / f"{drawing.name}.{end}" for end in ("png", "pdf", "csv")]
    with atomic(targets[0]) as tmp:
        drawing.figure.savefig(tmp, format="png", metadata={"Software": None})
    with atomic(targets[1]) as tmp:
        nothing = {"Creator": None, "Producer": None, "CreationDate": None}
        drawing.figure.savefig(tmp, format="pdf", metadata=nothing)
    with atomic(targets[2]) as tmp:
        drawing.table.to_csv(tmp, index=False, lineterminator="\n")
    return targets
