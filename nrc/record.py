"""The run directory: metrics as long rows, an atomic checkpoint, and a record of how it ended.

    config.yaml      the settings
    metrics.csv      epoch, step, tau, split, layer, metric, value
    run.json         identity, versions, data sha256, device, wall time, status and why
    checkpoint.pt    weights, optimiser state and step; enough to continue
    snapshots.npz    feature layer at the start and the end (for the 3-D picture and the theory)

A run is identified by what determines its numbers. Opening the same directory again finds the run
finished (skipped), half done (resumed) or different (refused).
"""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from nrc.errors import UserError

COLUMNS = ["epoch", "step", "tau", "split", "layer", "metric", "value"]
FINAL = ("finished", "diverged")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; move it into place only when the block succeeds."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        with open(tmp, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary as readable JSON, atomically."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1) + "\n")


def environment(device: str) -> dict[str, Any]:
    """Versions, commit and machine facts stored with every run."""
    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "git_commit": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


class RunDirectory:
    """One run on disk.

    Example:
        run = RunDirectory.open(path, identity)
        if not run.finished: ...
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info

    @classmethod
    def open(cls, path: Path, identity: dict[str, Any]) -> "RunDirectory":
        """Open or create the directory of the run with this identity.

        Raises:
            UserError: the directory holds a run with another identity.
        """
        path = Path(path)
        identity = json.loads(json.dumps(identity))  # as it will be read back
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run directory {path}: {error.strerror or error}") from None
        info_file = path / "run.json"
        if not info_file.exists():
            return cls(path, {"status": "new", "identity": identity})
        info = json.loads(info_file.read_text())
        differences = _differences(info["identity"], identity)
        if differences:
            raise UserError(
                f"{path} holds another run ({'; '.join(differences[:3])}); "
                "choose another place with name=... or hydra.run.dir=..., or delete that directory"
            )
        return cls(path, info)

    @property
    def finished(self) -> bool:
        return self.info["status"] in FINAL

    def start(self, config: dict[str, Any], environment: dict[str, Any], data: dict[str, Any]) -> None:
        """Record what is about to run."""
        with atomic(self.path / "config.yaml") as tmp:
            tmp.write_text(yaml.safe_dump(config, sort_keys=False))
        self.info |= {"status": "running", "environment": environment, "data": data}
        write_json(self.path / "run.json", self.info)

    def end(self, status: str, reason: str, **facts: Any) -> None:
        """Record how the run ended: finished, diverged or interrupted, and why."""
        self.info |= {"status": status, "reason": reason, **facts}
        write_json(self.path / "run.json", self.info)

    def truncate(self, step: int) -> None:
        """Drop metric rows later than `step`: they will be written again after a resume."""
        file = self.path / "metrics.csv"
        if step < 0 or not file.exists():
            file.unlink(missing_ok=True)
            return
        kept = []
        for line in file.read_text().splitlines(keepends=True)[1:]:
            fields = line.split(",")
            # a last line cut short by a crash has too few fields or no line end
            if len(fields) == len(COLUMNS) and line.endswith("\n") and int(fields[1]) <= step:
                kept.append(line)
        with atomic(file) as tmp:
            tmp.write_text(",".join(COLUMNS) + "\n" + "".join(kept))

    def append(self, rows: Iterable[tuple[float, int, float, str, str, str, float]]) -> None:
        """Append metric rows (in the order of COLUMNS); values keep all their digits."""
        file = self.path / "metrics.csv"
        text = "" if file.exists() else ",".join(COLUMNS) + "\n"
        for epoch, step, tau, split, layer, metric, value in rows:
            text += f"{epoch!r},{step},{tau!r},{split},{layer},{metric},{value!r}\n"
        with open(file, "a") as handle:
            handle.write(text)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        with atomic(self.path / "checkpoint.pt") as tmp:
            torch.save(state, tmp)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None when there is none."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        return torch.load(file, map_location="cpu", weights_only=True)

    def save_snapshots(self, arrays: dict[str, np.ndarray]) -> None:
        with atomic(self.path / "snapshots.npz") as tmp, open(tmp, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} is {a} there and {b} here")
    return found


def read_run(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record and the metric rows of one finished run."""
    info = json.loads((Path(path) / "run.json").read_text())
    return info, pd.read_csv(Path(path) / "metrics.csv")


def find_runs(root: Path) -> list[Path]:
    """Directories below `root` that hold a finished run, in a stable order."""
    runs = []
    for file in sorted(Path(root).glob("**/run.json")):
        if json.loads(file.read_text())["status"] == "finished":
            runs.append(file.parent)
    return runs
