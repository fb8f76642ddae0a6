"""The run directory: metrics as long rows, checkpoints, and a record of how the run ended.

    config.yaml      the settings
    metrics.csv      epoch, step, tau, split, layer, metric, value
    run.json         experiment, role, protocol, overrides, facts of the data, identity, versions, device, wall time,
                     status and why
    checkpoint.pt    weights, optimiser state and step, enough to continue; of a finished run the weights alone, or nothing
    checkpoint.previous.pt    the one before, until the run is finished
    snapshots.npz    feature layer at the start and the end (for the 3-D picture and the theory)
    .lock            held by the process that writes here; readers need no lock

A run is identified by what determines its numbers. Opening the same directory again finds the run
finished (skipped), half done (resumed) or different (refused). A directory holds no path of its own, so it
may be moved and copied. `run.json` says running (or, if no process holds the lock, killed while running),
finished, diverged, interrupted (by a signal) or failed; it does not exist before the first step.
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
from nrc.places import CARRIED, ROOT
from nrc.runs import checkpoint
from nrc.runs.files import atomic, lock, size, writing

COLUMNS = ["epoch", "step", "tau", "split", "layer", "metric", "value"]
FINAL = ("finished", "diverged")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary as readable JSON, atomically."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def environment(device: str) -> dict[str, Any]:
    """Versions, commit and machine facts stored with every run."""
    commit = ""
    if ROOT != CARRIED:  # an installed package has none, though it may lie inside somebody's repository
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        with contextlib.suppress(OSError):  # no git on this machine
            commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "git_commit": commit or None,
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
        if not (path / "run.json").exists():
            return cls(path, {"status": "new", "identity": identity})
        info = read_info(path)
        found = checkpoint.differences(info["identity"], identity)
        if found:
            raise UserError(
                f"{path} holds another run ({'; '.join(found[:3])}); "
                "choose another place with name=... or hydra.run.dir=..., or delete that directory"
            )
        return cls(path, info)

    @property
    def finished(self) -> bool:
        return self.info["status"] in FINAL

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within the block this process alone writes here; see `nrc.runs.files.lock` for network file systems.

        Raises:
            UserError: another process writes here.
        """
        with lock(self.path / ".lock"):
            self.info = self.open(
                self.path, self.info["identity"]
            ).info  # the holder before may have ended it
            for stale in self.path.glob(".*.tmp"):
                stale.unlink(missing_ok=True)
            yield

    def start(
        self,
        config: dict[str, Any],
        environment: dict[str, Any],
        data: dict[str, Any],
        purpose: dict[str, Any] | None = None,
    ) -> None:
        """Record what is about to run.

        Args:
            config: all settings, for config.yaml.
            environment: machine and versions.
            data: facts of the data, as `RegressionData.facts()` has them.
            purpose: `experiment`, `role`, `protocol` and `overrides`, as `RunSettings.purpose()` has them.
        """
        with atomic(self.path / "config.yaml") as tmp:
            tmp.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        purpose = {"experiment": None, "role": None, "protocol": None, "overrides": []} | (purpose or {})
        self.info = (
            {"status": "running", "reason": ""}
            | purpose
            | {"data": data, "environment": environment}
            | {
                key: value
                for key, value in self.info.items()
                if key not in ("status", "environment", "data", *purpose)
            }
        )
        write_json(self.path / "run.json", self.info)

    def end(self, status: str, reason: str, **facts: Any) -> None:
        """Record how the run ended: finished, diverged, interrupted or failed, and why."""
        self.info |= {"status": status, "reason": reason, **facts}
        write_json(self.path / "run.json", self.info)
        if status == "finished":
            (self.path / checkpoint.PREVIOUS).unlink(missing_ok=True)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Record an error in the block as the end of the run, unless it has ended or the disk is full, and pass
        it on."""
        try:
            yield
        except Exception as error:
            if not self.finished:
                with contextlib.suppress(UserError):
                    self.end("failed", " ".join(str(error).split()) or type(error).__name__)
            raise

    def append(self, rows: Iterable[tuple[float, int, float, str, str, str, float]]) -> None:
        """Append metric rows (in the order of COLUMNS), all or none; values keep all their digits.

        Raises:
            UserError: the disk is full or may not be written.
        """
        file = self.path / "metrics.csv"
        before = size(file)
        text = "" if before else ",".join(COLUMNS) + "\n"
        for epoch, step, tau, split, layer, metric, value in rows:
            text += f"{epoch!r},{step},{tau!r},{split},{layer},{metric},{value!r}\n"
        with writing(file):
            try:
                with open(file, "a", encoding="utf-8", newline="\n") as handle:
                    handle.write(text)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(file, before)
                raise

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        checkpoint.save(self.path, self.info["identity"], state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        return checkpoint.load(self.path, self.info["identity"])

    def slim(self, keep_weights: bool) -> None:
        """Leave of the newest checkpoint the weights, or nothing: the run is at its end, and nobody continues it."""
        checkpoint.slim(self.path, keep_weights)

    def save_snapshots(self, arrays: dict[str, np.ndarray]) -> None:
        with atomic(self.path / "snapshots.npz") as tmp, open(tmp, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def read_info(path: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
        UserError: `run.json` is missing or damaged.
    """
    file = Path(path) / "run.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        info["identity"], info["status"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {error}); delete it and run the same command again: "
            "the run continues from its checkpoint"
        ) from None
    return info


def damaged(path: Path, what: str) -> UserError:
    """For the metric rows of a run that cannot be used."""
    return UserError(f"{Path(path) / 'metrics.csv'} {what}; delete {path} and run the same command again")


def read_run(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record and the metric rows of one run.

    Raises:
        UserError: the record or the rows are damaged, or the rows end before the run did.
    """
    file = Path(path) / "metrics.csv"
    info = read_info(path)
    try:
        rows = pd.read_csv(file)
        with open(file, "rb") as handle:
            handle.seek(-1, os.SEEK_END)
            whole = handle.read() == b"\n"
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read ({type(error).__name__}: {error})") from None
    last = info.get("steps") if info["status"] == "finished" else None
    if list(rows.columns) != COLUMNS or not whole or not len(rows):
        raise damaged(path, "is cut short or changed")
    if last is not None and rows.step.max() != last:
        raise damaged(path, f"ends at step {rows.step.max()} of {last}")
    return info, rows
