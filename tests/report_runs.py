"""Runs for the tests of the report: made up in memory, or trained in a hundredth of a second."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from run_tools import data_facts, purpose

from nrc.data import LowRank
from nrc.models import MLP
from nrc.report.registry import Case
from nrc.runs.directory import COLUMNS
from nrc.runs.read import Run
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

SIGMA = np.diag([1.0, 4.0])
Layers = dict[str, list[float]]


def run_of(
    end: dict[str, float] | None = None,
    start: dict[str, float] | None = None,
    *,
    data: str = "toy",
    kind: str = "synthetic",
    wd: float = 0.01,
    tau: float = 3000.0,
    seed: int = 0,
    sigma: np.ndarray = SIGMA,
    weight: np.ndarray | None = None,
    layers: Layers | None = None,
    layers_start: Layers | None = None,
    held_out: Layers | None = None,
    snapshots: dict[str, np.ndarray] | None = None,
    optim: dict[str, float] | None = None,
    half: dict[str, float] | None = None,
) -> Run:
    """A run with these last-layer values at its ends (and at half of its tau), and, layer by layer, these; `held_out` on
    the test part."""
    depth = len(next(iter(layers.values()))) if layers else 1
    last = f"fc{depth}"
    rows = []
    for when, values in ((0.0, start or {}), (tau / 2, half or {}), (tau, end or {})):
        step = int(when > tau / 2)
        for name, value in values.items():
            metric, split = name.removesuffix(" (test)"), "test" if name.endswith("(test)") else "train"
            place = "model" if metric == "mse" else last
            rows.append((when, step, when, split, place, metric, value))
    for when, table, split in ((tau, layers, "train"), (0.0, layers_start, "train"), (tau, held_out, "test")):
        step = int(when > tau / 2)
        for metric, series in (table or {}).items():
            rows += [(when, step, when, split, f"fc{k}", metric, v) for k, v in enumerate(series, start=1)]
    found = pd.DataFrame(rows, columns=COLUMNS).sort_values(["layer", "step"])
    identity = {
        "data": {"name": data}, "optim": {"weight_decay": wd} | (optim or {}), "protocol": {"name": "quick"},
        "seed": seed, "model": {"num_layers": depth, "width": 8, "feature_activation": "relu"},
    }  # fmt: skip
    info = {
        "identity": identity,
        "tau": tau,
        "data": data_facts(data, kind) | {"target_rank": int(np.linalg.matrix_rank(sigma))},
    }
    run = Run(Path("toy"), info | purpose("toy-quick", data, wd, "quick", seed), found)
    weight = np.eye(2, 8) if weight is None else weight
    shots = {"sigma": sigma, "weight_end": weight, "features_end": np.zeros((4, 8))}
    vars(run)["snapshots"] = shots | (snapshots or {})
    return run


def case(main: Run, control: Run | None = None, *others: Run, published_tau: float = float("nan")) -> Case:
    found = [main, *([control] if control else []), *others]
    return Case(found, [main], [control] if control else [], published_tau)


def toy(wd: float, seed: int = 0, frames: int = 0) -> RunSettings:
    return RunSettings(
        LowRank(t=2, r=2, d=5, n=100),
        MLP(num_layers=3, width=8, feature_activation="none"),
        Optim(lr=0.1, momentum=0.9, weight_decay=wd),
        Protocol(tau=60.0),
        Measure(log_spaced=4, evenly=4, frames=frames),
        seed=seed,
    )


def home(outputs: Path, experiment: str, wd: float, seed: int = 0) -> Path:
    return outputs / f"{experiment}-quick" / "toy" / f"wd={wd:g}" / f"seed={seed}"


def train(
    outputs: Path,
    experiment: str,
    wd: float,
    seed: int = 0,
    frames: int = 0,
    *,
    name: str = "",
    kind: str = "",
    settings: RunSettings | None = None,
) -> None:
    """A run of a second's hundredth, with everything a real one writes; its data may pass for others; any positive
    weight decay is the headline's."""
    place = home(outputs, experiment, wd, seed)
    chosen = replace(settings or toy(wd, seed, frames), experiment=experiment, headline=wd or None)
    assert fit(chosen, place) == "finished"
    info = json.loads((place / "run.json").read_text())
    info["identity"]["data"]["name"] = name or info["identity"]["data"]["name"]
    info["data"]["kind"] = kind or info["data"]["kind"]
    info["data"]["name"] = name.partition("-")[0] or info["data"]["name"]
    (place / "run.json").write_text(json.dumps(info))
