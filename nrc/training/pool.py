"""Many runs on one machine: single-threaded worker processes, the longest run first."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.training.run import fit, is_finished
from nrc.training.settings import RunSettings


@dataclass(frozen=True)
class Member:
    """One run of a sweep: what, where, and its rough cost (any unit) for scheduling."""

    settings: RunSettings
    directory: Path
    cost: float = 1.0


def run_all(members: list[Member], *, workers: int | None = None, device: str = "auto") -> dict[Path, str]:
    """Run every member in its own process and return how each ended.

    A member that diverges or whose input is wrong does not take the others down.

    Args:
        members: what to run; two members must not share a directory.
        workers: processes at a time (default: the cores this process may use).
        device: as for `fit`.

    Returns:
        directory -> "skipped", "finished", "diverged", "interrupted" or "error: ...".
    """
    workers = workers or len(os.sched_getaffinity(0))
    loaded: dict[str, RegressionData] = {}
    outcomes = {m.directory: "skipped" for m in members if is_finished(m.settings, m.directory, loaded)}
    waiting = sorted((m for m in members if m.directory not in outcomes), key=lambda m: -m.cost)
    if not waiting:
        return outcomes
    bar = tqdm(total=len(waiting), unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    # spawn: a forked child would inherit torch's thread pools in an undefined state
    with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run, m.settings, m.directory, device): m for m in waiting}
        for number, future in enumerate(as_completed(futures), start=1):
            directory = futures[future].directory
            try:
                outcomes[directory], last = future.result()
            except UserError as error:
                outcomes[directory], last = f"error: {error}", f"{directory}: error: {error}"
            tqdm.write(f"[{number}/{len(waiting)}] {last}")
            bar.update()
            sys.stdout.flush()
    bar.close()
    return outcomes


def _run(settings: RunSettings, directory: Path, device: str) -> tuple[str, str]:
    lines: list[str] = []
    outcome = fit(settings, directory, device=device, threads=1, say=lines.append)
    return outcome, lines[-1]
