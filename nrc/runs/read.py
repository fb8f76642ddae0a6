"""Finished runs as figures, report and checks read them: facts, measured curves and snapshots, nothing else."""

import logging
import math
import shlex
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nrc import criteria
from nrc.places import PROTOCOLS
from nrc.runs.archive import mark
from nrc.runs.directory import COLUMNS, read_info, read_run

log = logging.getLogger(__name__)
DATA_ORDER = (
    "reacher",
    "swimmer",
    "hopper",
    "carla_2d",
    "carla_1d",
    "utkface",
)  # as in the papers; others follow in alphabetical order

FACTS = ("experiment", "role", "protocol", "data", "dataset", "kind", "weight_decay", "seed", "run")


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: its record (`run.json`) and its metric rows (`metrics.csv`)."""

    path: Path
    info: dict[str, Any]
    table: pd.DataFrame
    archived: bool = False  # it was not made here: see `nrc.runs.archive`

    @property
    def settings(self) -> dict[str, Any]:
        return self.info["identity"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings with the place of the data, which `settings` leave out; {} when not saved."""
        file = self.path / "config.yaml"
        return (yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None) or {}

    @property
    def experiment(self) -> str | None:
        """Name of the experiment that the run belongs to; None for a run by itself."""
        return self.info["experiment"]

    @property
    def role(self) -> str | None:
        """Its part in the experiment: "headline", "control" or "sweep"; None for a run by itself."""
        return self.info["role"]

    @property
    def overrides(self) -> list[str]:
        """The settings as they were typed."""
        return list(self.info["overrides"])

    @property
    def command(self) -> str:
        """The command that makes this run."""
        return commands([self])[0]

    @property
    def data(self) -> str:
        """The data set with its variant, as in the run directory: reacher, utkface-faces, swimmer-mean4."""
        return str(self.settings["data"]["name"])

    @property
    def dataset(self) -> str:
        """The data set without what makes this a variant of it: utkface."""
        return str(self.info["data"]["name"])

    @property
    def variant(self) -> dict[str, Any]:
        """What makes the data a variant of the set, e.g. {"target_mean": 4.0}; {} for the set itself."""
        return dict(self.info["data"]["variant"])

    @property
    def weight_decay(self) -> float:
        return float(self.settings["optim"]["weight_decay"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def protocol(self) -> str:
        return str(self.settings["protocol"]["name"])

    @property
    def kind(self) -> str:
        return str(self.info["data"]["kind"])

    @property
    def tau(self) -> float:
        return float(self.info["tau"])

    @property
    def budget(self) -> float:
        """The decay budget lambda * tau at the end."""
        return self.weight_decay * self.tau

    @cached_property
    def layers(self) -> list[str]:
        """Measured layers in forward order; the last one feeds the output."""
        return [name for name in self.table["layer"].unique() if name != "model" and ":" not in name]

    @cached_property
    def _wide(self) -> pd.DataFrame:
        keys = ["tau", "split", "layer", "metric"]
        rows = self.table.drop_duplicates(keys, keep="last")
        return rows.pivot(index="tau", columns=["split", "layer", "metric"], values="value")

    def series(self, metric: str, split: str = "train", layer: str | None = None) -> pd.Series:
        """Values against tau; NaN where the metric is undefined, empty where it was never measured."""
        name = layer or ("model" if metric in ("mse", "r2") else self.layers[-1])
        if (split, name, metric) not in self._wide.columns:
            return pd.Series(dtype=float)
        return self._wide[(split, name, metric)].sort_index()

    def last(self, metric: str, split: str = "train", layer: str | None = None) -> float:
        """The value at the end of the run, NaN if undefined."""
        found = self.series(metric, split, layer)
        return float(found.iloc[-1]) if len(found) else math.nan

    def first(self, metric: str, split: str = "train", layer: str | None = None) -> float:
        """The value before training (the first one measured), NaN if undefined."""
        found = self.series(metric, split, layer)
        return float(found.iloc[0]) if len(found) else math.nan

    def why(self, metric: str) -> str:
        """Why a metric of the last layer is undefined, in two or three words; empty if it never was."""
        reason = self.info.get("undefined", {}).get(f"{self.layers[-1]}/{metric}", "")
        if "vanished" in reason:
            return "features vanished"
        return "W loses rank" if "rank" in reason else ("undefined" if reason else "")

    @property
    def vanished(self) -> bool:
        """Whether the features (or the prediction) are gone at the end, so that NRC1 means nothing."""
        return not math.isfinite(self.last("nrc1"))

    @property
    def target_rank(self) -> int:
        """Number of directions in which the train targets vary: the numerical rank of Sigma."""
        return int(self.info["data"]["target_rank"])

    @property
    def alive(self) -> int:
        """Target directions that the network still reads at the end."""
        if self.vanished or "weight_end" not in self.snapshots:
            return 0
        weight = self.snapshots["weight_end"].astype(float)
        return criteria.directions_alive(np.linalg.svd(weight, compute_uv=False), self.last("r2"))

    @property
    def lost_direction(self) -> bool:
        """Whether a target direction died: collapse is then bought with signal."""
        return self.alive < self.target_rank

    @cached_property
    def snapshots(self) -> Mapping[str, np.ndarray]:
        """features_start, features_end, weight_start, weight_end, targets, sigma, each read when it is asked for; {} when
        not saved."""
        file = self.path / "snapshots.npz"
        return Snapshots(file) if file.exists() else {}


class Snapshots(Mapping[str, np.ndarray]):
    """The arrays of a file snapshots.npz, each read when it is asked for: most readers want a small one beside large ones.

    Example:
        Snapshots(Path("outputs/prevalence-quick/swimmer/wd=0/seed=0/snapshots.npz"))["sigma"]
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read: dict[str, np.ndarray] = {}
        with zipfile.ZipFile(file) as archive:
            self._names = [name.removesuffix(".npy") for name in archive.namelist()]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            with np.load(self.file, allow_pickle=False) as archive:
                self._read[name] = archive[name]
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class Runs:
    """All finished runs below `outputs`, found by experiment and read once.

    Attributes:
        datasets: of these data sets alone; None: of all.
        pending: directories of runs that do not count yet, as others like them are still under way.
    """

    outputs: Path
    protocol: str = "quick"
    datasets: Sequence[str] | None = None
    pending: Collection[Path] = ()
    _read: dict[str, dict[str, list[Run]]] = field(default_factory=dict)

    def of(self, experiment: str) -> dict[str, list[Run]]:
        """Data set (with its variant) -> finished runs, largest weight decay first, then by seed; {} if there are none."""
        return self.in_folder(f"{experiment}-{self.protocol}")

    def in_folder(self, folder: str) -> dict[str, list[Run]]:
        """The same of one folder of `outputs`, whatever the protocol of its runs."""
        if folder not in self._read:
            self._read[folder] = self._find(self.outputs / folder)
        return self._read[folder]

    def waits(self, experiment: str, dataset: str) -> bool:
        """Whether runs of this experiment on this data set, or on a variant of it, are pending."""
        for place in self.pending:
            folder, data = place.relative_to(self.outputs).parts[:2]
            name, _, protocol = folder.rpartition("-")
            if (name if protocol in PROTOCOLS else folder) == experiment and data.partition("-")[
                0
            ] == dataset:
                return True
        return False

    def _find(self, root: Path) -> dict[str, list[Run]]:
        found: list[Run] = []
        archived = mark(self.outputs) is not None
        for file in sorted(root.glob("*/**/run.json")):
            if file.parent in self.pending:
                continue
            info = read_info(file.parent)
            if info["status"] != "finished" or info["experiment"] is None:
                why = "belongs to no experiment" if info["status"] == "finished" else info["status"]
                log.info(f"{file.parent}: {why}, not drawn")
                continue
            run = Run(file.parent, *read_run(file.parent), archived)
            if self.datasets is None or run.data in self.datasets:
                found.append(run)
        names = {run.data for run in found}
        order = [d for d in DATA_ORDER if d in names] + sorted(names - set(DATA_ORDER))
        key = {d: [run for run in found if run.data == d] for d in order}
        return {d: sorted(runs, key=lambda r: (-r.weight_decay, r.seed, r.path)) for d, runs in key.items()}

    def headline(self, experiment: str, data: str) -> list[Run]:
        """The runs at the weight decay that the experiment shows first; [] when there are none."""
        runs = self.of(experiment).get(data, [])
        found = [run for run in runs if run.role == "headline"]
        if runs and not found:
            log.info(
                f"{experiment}/{data}: no finished run at the headline weight decay; run it, or make another the "
                "headline with experiment.headline=VALUE"
            )
        return found

    def control(self, experiment: str, data: str) -> list[Run]:
        """The runs without weight decay."""
        return [run for run in self.of(experiment).get(data, []) if run.role == "control"]


LONG = ("sgemm", "sgemm_decay")  # too long for the quick protocol: any protocol will do, and is named


def runs_of(runs: Runs, experiment: str) -> Runs:
    """The runs in the protocol asked for; for LONG experiments in whichever there is."""
    if experiment not in LONG or runs.of(experiment):
        return runs
    for protocol in PROTOCOLS[::-1]:
        other = replace(runs, protocol=protocol)  # folders name their protocol: what was read serves both
        if other.of(experiment):
            return other
    return runs


def commands(runs: Iterable[Run]) -> list[str]:
    """The commands that make these runs: as few as cover them and no other run.

    Example:
        ["python scripts/train.py -m experiment=sweep data=reacher protocol=quick optim.weight_decay=0.01,0.001"]
    """
    boxes: list[dict[str, list[str]]] = []
    for run in runs:  # a setting given twice: the last one counts
        box = {key: [value] for key, value in (text.split("=", 1) for text in run.overrides)}
        if box not in boxes:
            boxes.append(box)
    # two sweeps that differ in the values of one setting alone are one sweep
    for key in sorted({key for box in boxes for key in box}, key=lambda key: key != "seed"):
        merged: list[dict[str, list[str]]] = []
        for box in boxes:
            same = (
                other
                for other in merged
                if {**other, key: []} == {**box, key: []} and key in other and key in box
            )
            found = next(same, None)
            if found is None:
                merged.append({name: list(values) for name, values in box.items()})
            else:
                found[key] += [value for value in box[key] if value not in found[key]]
        boxes = merged
    lines = []
    for box in boxes:
        sweeps = any(len(values) > 1 for values in box.values())
        names = sorted(
            box, key=lambda name: (name != "experiment", name != "data")
        )  # Hydra puts what is swept first
        given = [f"{name}={','.join(box[name])}" for name in names]
        lines.append(shlex.join(["python", "scripts/train.py", *(["-m"] if sweeps else []), *given]))
    return list(dict.fromkeys(lines))


def lambda_groups(runs: Sequence[Run]) -> dict[float, list[Run]]:
    """Runs by weight decay, largest first."""
    values = sorted({run.weight_decay for run in runs}, reverse=True)
    return {v: [run for run in runs if run.weight_decay == v] for v in values}


def falling(runs: Sequence[Run], metric: str) -> bool:
    """Whether a metric still falls at the end of every run; see `nrc.criteria.still_falling`."""
    return all(criteria.still_falling(run, metric) for run in runs)


def collapsed(runs: Sequence[Run], *metrics: str) -> bool:
    """Whether these metrics have collapsed in every run with all target directions alive; see `nrc.criteria.collapsed`."""
    if any(run.lost_direction for run in runs):
        return False
    ends = {metric: [run.last(metric) for run in runs] for metric in metrics}
    return all(criteria.collapsed([run.first(m) for run in runs], ends[m]) for m in metrics)


def frame(outputs: Path, protocol: str | None = None, experiment: str | None = None) -> pd.DataFrame:
    """All measurements of the finished runs below `outputs` as one tidy table.

    Args:
        outputs: the folder of experiments; it is searched at every depth, but for archived runs in it.
        protocol: of this protocol alone; None: of all.
        experiment: of this experiment alone; None: of all, runs that belong to none included.

    Returns:
        One row for each measurement: the run's `experiment`, `role`, `protocol`, `data` (with its variant), `dataset`,
        `kind`, `weight_decay`, `seed` and `run` (its directory), then the columns of metrics.csv.

    Example:
        rows = frame(Path("outputs"), "quick", "prevalence")
        rows[(rows.metric == "nrc1") & (rows.split == "train")].groupby(["data", "weight_decay"]).value.last()
    """
    parts = []
    for file in sorted(Path(outputs).rglob("run.json")):
        if mark(Path(outputs) / file.relative_to(outputs).parts[0]) is not None:
            continue  # archived runs are no runs of one's own
        info = read_info(file.parent)
        other = (protocol not in (None, info["protocol"])) or (experiment not in (None, info["experiment"]))
        if info["status"] != "finished" or other:
            continue
        run = Run(file.parent, *read_run(file.parent))
        facts = {name: getattr(run, name) for name in FACTS[:-1]} | {"run": str(run.path)}
        parts.append(run.table.assign(**facts)[[*FACTS, *COLUMNS]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*FACTS, *COLUMNS])
