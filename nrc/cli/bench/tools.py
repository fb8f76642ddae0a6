"""What the benchmarks share: timing in turn, a fresh process, the machine's facts."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from nrc.errors import UserError
from nrc.runs.directory import environment
from nrc.training.run import choose_device
from nrc.worker import cores

CORES = cores()


def best_of(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Seconds of the fastest of several calls of each function, called in turn."""
    found = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[i] = min(found[i], time.perf_counter() - began)
    return found


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Within the block torch computes with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_fresh_process(function: Callable[..., Any], *arguments: Any, no_holes: bool = False) -> Any:
    """The result of a call in a new process, which is the only way to a peak of memory of its own.

    no_holes: glibc gives freed blocks back at once, which takes time, and else keeps those of up to 32 MB in its heap,
    whose holes count as memory in use.
    """
    if no_holes:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # read when a process starts
    try:
        with get_context("spawn").Pool(1) as pool:
            return pool.apply(function, arguments)
    finally:
        if no_holes:
            del os.environ["MALLOC_MMAP_THRESHOLD_"]


def peak_mb() -> float:
    """The most memory this process has held so far (Linux)."""
    # getrusage's ru_maxrss will not do: a child starts with the peak of the process that started it
    status = Path("/proc/self/status")
    if not status.exists():
        raise UserError("the peak of memory is read from /proc, which Linux alone has; give other benchmarks")
    return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024


def machine() -> dict[str, Any]:
    """Versions, device, cores, kind of CPU and how busy it is."""
    names = [line for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return {
        **environment(choose_device("auto")),
        "cores": CORES,
        "cpu": names[0].split(":")[1].strip() if names else None,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # not on Windows
    }


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8") if file.exists() else ""
