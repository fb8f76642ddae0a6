"""Runs in processes of their own that are killed, starved of disk or asked to stop at a chosen point."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nrc.data import LowRank
from nrc.data.base import RegressionData
from nrc.errors import UserError
from nrc.models import MLP
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

# its server has torch loaded and computes nothing itself, so a fork of it starts at once
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["nrc.training"])
EXIT = {"finished": 0, "skipped": 10, "interrupted": 11, "diverged": 12}


def settings(**changes: Any) -> RunSettings:
    """A run of 40 steps, measured 5 times."""
    values = dict(
        data=LowRank(t=2, r=2, d=5, n=100),
        model=MLP(num_layers=3, width=8),
        optim=Optim(lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=16),
        protocol=Protocol(epochs=8),
        measure=Measure(log_spaced=0, evenly=4, frames=2),
    )
    return RunSettings(**(values | changes))


@dataclass(frozen=True)
class Deadly(LowRank):
    """Data whose loading kills the process, as running out of memory does."""

    def load(self) -> RegressionData:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def run(
    chosen: RunSettings, directory: Path, before: Callable[[], None] | None = None, **fit_arguments: Any
) -> None:
    """What the process does: fit with a checkpoint at every chance; its exit code says how that ended."""
    if before is not None:
        before()
    try:
        outcome = fit(chosen, directory, checkpoint_seconds=0, **fit_arguments)
    except UserError as error:
        directory.with_suffix(".error").write_text(f"{error}\n")
        os._exit(2)
    os._exit(EXIT[outcome])


def start(chosen: RunSettings, directory: Path, **arguments: Any) -> BaseProcess:
    process = FORKS.Process(target=run, args=(chosen, directory), kwargs=arguments)
    process.start()
    return process


def code_of(chosen: RunSettings, directory: Path, **arguments: Any) -> int | None:
    """The exit code of a process that runs these settings; minus the signal if one killed it."""
    process = start(chosen, directory, **arguments)
    process.join(60)
    return process.exitcode


@dataclass(frozen=True)
class KillAtFileEvent:
    """Kill this process just before the n-th time that it opens, renames, removes or truncates a file of the run."""

    directory: Path
    n: int

    def __call__(self) -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir") and str(
                arguments[0]
            ).startswith(str(self.directory)):
                seen += 1
                if seen == self.n:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


@dataclass(frozen=True)
class LimitFileSize:
    """Let the kernel cut every write at this many bytes of a file; and, if asked, kill the process there."""

    size: int
    kill: bool

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self.kill else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


@dataclass(frozen=True)
class AtStep:
    """A `progress` that sends this process a signal at a step."""

    step: int
    signal: int

    def __call__(self, done: int, total: int) -> None:
        if done >= self.step:
            os.kill(os.getpid(), self.signal)


def results(directory: Path) -> dict[str, bytes]:
    """The bytes of all that a finished run promises to repeat, by name."""
    found = {"metrics.csv": (directory / "metrics.csv").read_bytes()}
    state = torch.load(directory / "checkpoint.pt", weights_only=True)
    found |= {f"model.{k}": v.numpy().tobytes() for k, v in state["model"].items()}
    with np.load(directory / "snapshots.npz") as arrays:
        found |= {name: arrays[name].tobytes() for name in arrays.files}
    return found


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]
