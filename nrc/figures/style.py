"""Colours, sizes and words that all figures share. Curves differ in their lines too, for prints in grey."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.lines import Line2D

from nrc import criteria
from nrc.runs.read import Run

STYLE = Path(__file__).with_name("nrc.mplstyle")
GREY, CONTROL, PUBLISHED = "0.35", "#B38FD1", "0.45"
C0, C1, C2, C3, C4 = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
NAMES = {"carla_2d": "CARLA 2D", "carla_1d": "CARLA 1D", "utkface": "UTKFace"}
SUPERSCRIPTS = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


@contextmanager
def style() -> Iterator[None]:
    """The project's style, whatever matplotlibrc the user has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc_file(STYLE, use_default_template=False)
        yield


def key(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def lambda_colours(values: Iterable[float]) -> dict[float, dict[str, Any]]:
    """Weight decay -> colour and line: viridis, the largest darkest; 0 black and dashed."""
    positive = sorted({v for v in values if v > 0}, reverse=True)
    shades, last = matplotlib.colormaps["viridis"], max(len(positive) - 1, 1)
    found = {
        v: {"color": matplotlib.colors.to_hex(shades(0.88 * i / last)), "ls": "-"}
        for i, v in enumerate(positive)
    }
    return found | ({0.0: {"color": "black", "ls": "--"}} if 0.0 in values else {})


def number(value: float) -> str:
    """A number for text: 0.034, 1.2e-05, 0."""
    return "undefined" if math.isnan(value) else f"{value:.2g}"


def whole(tau: float) -> str:
    """A tau for text: 20,000; 600; 0.35."""
    return f"{tau:,.0f}" if tau >= 100 else f"{tau:.3g}"


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


def pretty(data: str, runs: Sequence[Run] = ()) -> str:
    """Data set name for a title; with the runs also that it is a stand-in, if so."""
    known, _, file = data.partition("-")
    name = f"{NAMES[known]} {file}".strip() if known in NAMES else data.replace("_", "-").capitalize()
    return name + (" (stand-in)" if any(run.kind == "stand-in" for run in runs) else "")


def lambdas(runs: Sequence[Run]) -> str:
    """Weight decay and decay budget of the runs drawn."""
    return f"λ = {scientific(runs[0].weight_decay)},  λτ = {max(run.budget for run in runs):.3g}"


def state(runs: Sequence[Run], *, collapsed: bool = False) -> str:
    """What keeps these runs from being a collapse with all directions: a word for a title or a key, or ""

    collapsed: some layer has collapsed, however small the budget.
    """
    if not runs[0].weight_decay:
        return ""
    if any(run.vanished for run in runs):
        return "vanished"
    alive, rank = min(((run.alive, run.target_rank) for run in runs), default=(0, 0))
    if alive < rank:
        return f"{alive} of {rank} alive"
    return "not yet" if not collapsed and criteria.not_yet(max(run.budget for run in runs)) else ""


def column_title(data: str, runs: Sequence[Run], *, collapsed: bool = False) -> str:
    """Name of the data set, weight decay and decay budget of the runs drawn, and their state."""
    words = state(runs, collapsed=collapsed)
    return f"{pretty(data, runs)}{f' ({words})' if words else ''}\n{lambdas(runs)}"


def describe_model(run: Run, features: bool = True) -> str:
    """The network in a few words, from its settings; its feature layer only if asked for."""
    model = run.settings["model"]
    if model.get("kind") == "ResNet":
        return f"ResNet{model['depth']}"
    hidden = model["num_layers"] - 1
    parts = [f"MLP of {hidden} hidden layer{'s' * (hidden > 1)}, width {model['width']}"]
    if features:
        relu = model.get("feature_activation", "relu") == "relu"
        parts.append("ReLU features" if relu else "linear features")
    if model.get("norm", "none") != "none":
        parts.append("BatchNorm")
    if not model.get("bias", True):
        parts.append("no biases")
    return ", ".join(parts)


def small_print(runs: Sequence[Run]) -> list[str]:
    """Protocol, tau, kind of data; model and seeds. The feature layer is left out where the runs differ in it."""
    taus = unique(whole(run.tau) for run in runs)
    models = unique(describe_model(run) for run in runs)
    if len(models) > 1:
        models = unique(describe_model(run, features=False) for run in runs)
    seeds: dict[Any, set[int]] = {}
    for run in runs:
        seeds.setdefault((run.data, run.weight_decay), set()).add(run.seed)
    counts = sorted({len(found) for found in seeds.values()})
    return [
        ("archived runs, " if any(run.archived for run in runs) else "")
        + " and ".join(unique(run.protocol for run in runs))
        + " protocol",
        "τ up to " + ("/".join(taus) if len(taus) <= 3 else whole(max(r.tau for r in runs))),
        "data: " + ", ".join(unique(run.kind for run in runs)),
        "; ".join(models),
        f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}",
    ]


def unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
