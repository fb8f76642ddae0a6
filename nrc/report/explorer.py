"""The numbers behind the interactive part of the report: curves of all runs, short enough for one page."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import matplotlib
import numpy as np

from nrc.figures.style import pretty
from nrc.metrics import METRICS
from nrc.places import PROTOCOLS
from nrc.runs.read import LONG, Run, Runs

POINTS = 80  # at most so many per curve
DIGITS = 4
OTHER_FOLDERS = ("figures", "report", "demo", "archive")


def folders(runs: Runs) -> list[str]:
    """Experiment folders of this protocol, and those that belong to none or are too long for it."""
    found: list[str] = []
    if not runs.outputs.is_dir():
        return found
    for path in sorted(p for p in runs.outputs.iterdir() if p.is_dir() and p.name not in OTHER_FOLDERS):
        name, _, ending = path.name.rpartition("-")
        if ending not in PROTOCOLS or ending == runs.protocol or name in LONG:
            found.append(path.name)
    return found


def data(runs: Runs) -> dict[str, Any]:
    """Everything the page's script draws: curves by experiment and data set, and what each metric is."""
    experiments, labels = {}, {}
    for folder in folders(runs):
        here = runs.in_folder(folder)
        if here:
            experiments[folder] = {name: [_curves(run) for run in found] for name, found in here.items()}
            labels[folder] = {name: pretty(name, found) for name, found in here.items()}
    used = {
        m for sets in experiments.values() for found in sets.values() for run in found for m in _names(run)
    }
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 1, 21))
    return {
        "experiments": experiments,
        "labels": labels,
        "about": {name: words for name in sorted(used) if (words := about(name))},
        "viridis": [matplotlib.colors.to_hex(shade) for shade in shades],
    }


def _names(run: dict[str, Any]) -> Iterable[str]:
    return (name for layer in run["layers"].values() for name in layer)


def about(name: str) -> str:
    """What a metric is: the first sentence of its docstring; "" for a name that is no metric."""
    function = METRICS.get(name.removesuffix(" (test)"))
    if isinstance(function, partial):
        function = function.func
    text = " ".join((function.__doc__ or "").split("\n\n")[0].split()) if function else ""
    return text


def _curves(run: Run) -> dict[str, Any]:
    """One run: its clock, and layer -> metric -> values; held-out values are named `mse (test)`."""
    table = run.table
    clock = table.drop_duplicates("step").sort_values("step")
    keep = _thin(len(clock))
    steps = clock.step.to_numpy()[keep]
    layers: dict[str, dict[str, list[float | None]]] = {}
    keys = ["layer", "metric", "split"]
    rows = table[table.step.isin(steps)].drop_duplicates(["step", *keys], keep="last")
    curves = rows[keys].drop_duplicates()
    values = np.full((len(curves), len(steps)), np.nan)
    values[rows.groupby(keys, sort=False).ngroup(), np.searchsorted(steps, rows.step)] = rows.value
    for (layer, metric, split), curve in zip(curves.itertuples(index=False), values, strict=True):
        name = str(metric) if split == "train" else f"{metric} (test)"
        layers.setdefault(str(layer), {})[name] = [_short(v) for v in curve]
    last = run.layers[-1]
    # shown with the layer they belong to: the network's own error beside the output layer's metrics
    layers[last] = layers.pop("model", {}) | layers[last]
    return {
        "wd": run.weight_decay,
        "seed": run.seed,
        "protocol": run.protocol,
        "step": steps.tolist(),
        "epoch": [_short(v) for v in clock.epoch.to_numpy()[keep]],
        "tau": [_short(v) for v in clock.tau.to_numpy()[keep]],
        "layers": {name: layers[name] for name in [*run.layers, *(x for x in layers if x not in run.layers)]},
    }


def _thin(count: int) -> np.ndarray:
    """Indices of at most POINTS of `count` points, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def _short(value: float) -> float | None:
    """Four digits; None (a gap in the curve) for NaN and infinity, which JSON has no word for."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
