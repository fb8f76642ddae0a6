"""Many runs on one machine: single-threaded worker processes, the longest run first."""

import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.training.run import ended, fit
from nrc.training.settings import RunSettings
from nrc.training.stopping import become_worker, signals_held, stop_signals


@dataclass(frozen=True)
class Member:
    """One run of a sweep: what, where, and its rough cost (any unit) for scheduling."""

    settings: RunSettings
    directory: Path
    cost: float = 1.0


def run_all(members: list[Member], *, workers: int | None = None, device: str = "auto") -> dict[Path, str]:
    """Run every member in a worker process and return how each ended.

    A member that diverges, whose input is wrong or whose process is killed does not take the others down.
    On Ctrl-C or SIGTERM the members under way finish their step and save, and no other is started.

    Args:
        members: what to run; two members must not share a directory.
        workers: processes at a time (default: the cores this process may use).
        device: as for `fit`.

    Returns:
        directory -> "skipped", "finished", "diverged", "interrupted" or "error: ...".
    """
    workers = workers or len(os.sched_getaffinity(0))
    outcomes, waiting = _sort_out(members)
    total = len(waiting)
    if not waiting:
        return outcomes
    bar = tqdm(total=total, unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    # one pool for each worker: when a process is killed, it is known which run it took along, and no other
    idle = [_worker() for _ in range(min(workers, total))]
    running: dict[Future[tuple[str, str]], tuple[Member, ProcessPoolExecutor]] = {}
    with stop_signals(workers=True) as asked:
        while waiting or running:
            with signals_held():  # a worker that is just being born would die of a signal
                while idle and waiting and not asked():
                    member, pool = waiting.pop(0), idle.pop()
                    try:
                        future = pool.submit(_run, member.settings, member.directory, device)
                    except BrokenProcessPool:  # its process was killed while it had nothing to do
                        waiting.insert(0, member)
                        idle.append(_worker())
                    else:
                        running[future] = member, pool
            if asked():
                outcomes |= {m.directory: "interrupted" for m in waiting}
                waiting.clear()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                member, pool = running.pop(future)
                outcome, words = _result(future, member.directory)
                if isinstance(future.exception(), BrokenProcessPool):
                    pool.shutdown()
                    pool = _worker()
                idle.append(pool)
                outcomes[member.directory] = outcome
                bar.update()
                tqdm.write(f"[{total - len(waiting) - len(running)}/{total}] {words}")
                sys.stdout.flush()
        for pool in idle:
            pool.shutdown()
    bar.close()
    return outcomes


def _sort_out(members: list[Member]) -> tuple[dict[Path, str], list[Member]]:
    """How members ended that need no run, and the others, the longest first."""
    loaded: dict[str, RegressionData] = {}
    outcomes: dict[Path, str] = {}
    for member in members:
        try:
            outcome = ended(member.settings, member.directory, loaded)
        except UserError as error:
            outcome = f"error: {error}"
        if outcome is not None:
            outcomes[member.directory] = outcome
    return outcomes, sorted((m for m in members if m.directory not in outcomes), key=lambda m: -m.cost)


def _worker() -> ProcessPoolExecutor:
    # spawn: a forked child would inherit torch's thread pools in an undefined state
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=become_worker, initargs=(os.getpid(),))


def _result(future: Future[tuple[str, str]], directory: Path) -> tuple[str, str]:
    try:
        return future.result()
    except BrokenProcessPool:
        outcome = "error: its process was killed (out of memory?); the same command continues it"
    except UserError as error:
        outcome = f"error: {error}"
    except Exception as error:  # a defect in one run must not cost the others
        outcome = f"error: {type(error).__name__}: {error}"
    return outcome, f"{directory}: {outcome}"


def _run(settings: RunSettings, directory: Path, device: str) -> tuple[str, str]:
    lines: list[str] = []
    outcome = fit(settings, directory, device=device, threads=1, say=lines.append)
    warnings = [line for line in lines if line.startswith("warning: ")]
    return outcome, "\n".join([*warnings, lines[-1]])
