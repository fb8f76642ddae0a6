"""Many runs on one machine: workers on the cores of a CPU, or one for each GPU, the longest run first."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.training.members import Member, stacks
from nrc.training.run import choose_device, ended, fit
from nrc.training.stacked import fit_stack
from nrc.training.stopping import become_worker, signals_held, stop_signals

Outcomes = dict[Path, str]


def run_all(
    members: list[Member], *, workers: int | None = None, device: str = "auto", stacked: bool | None = None
) -> Outcomes:
    """Run every member in a worker process and return how each ended.

    On a GPU the members that differ in weight decay and seed alone train as one program (`fit_stack`), one
    worker for each GPU, and then the others separately. On a CPU all train separately, where stacking gains
    nothing. A member that diverges, whose input is wrong or whose process is killed does not take the others
    down, but for those of its stack. On Ctrl-C or SIGTERM the members under way finish their step and save, and
    no other is started.

    Args:
        members: what to run; two members must not share a directory.
        workers: processes at a time for separate runs (default: the cores this process may use).
        device: as for `fit`.
        stacked: whether to stack; None: on a GPU.

    Returns:
        directory -> "skipped", "finished", "diverged", "interrupted" or "error: ...".
    """
    gpus = torch.cuda.device_count() if choose_device(device) == "cuda" else 0
    outcomes, waiting = _sort_out(members)
    if not waiting:
        return outcomes
    together, alone = stacks(waiting) if stacked or (stacked is None and gpus) else ([], waiting)
    together.sort(key=lambda stack: -sum(member.cost for member in stack))
    places: list[int | None] = list(range(gpus)) or [None]
    workers = workers or len(os.sched_getaffinity(0))
    bar = tqdm(total=len(waiting), unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    ended_now: Outcomes = {}

    def report(found: Outcomes, words: str) -> None:
        ended_now.update(found)
        bar.update(len(found))
        tqdm.write(f"[{len(ended_now)}/{len(waiting)}] {words}")
        sys.stdout.flush()

    with stop_signals(workers=True) as asked:
        # one after the other: a stack fills its GPU
        for jobs, run, seats in (
            (together, _run_stack, places),
            ([[member] for member in alone], _run, [places[k % len(places)] for k in range(workers)]),
        ):
            _work(jobs, run, device, seats, asked, report)
    bar.close()
    return outcomes | {m.directory: "interrupted" for m in waiting} | ended_now


@dataclass(eq=False)
class _Worker:
    """A process that takes one job at a time, on this GPU if one is named."""

    gpu: int | None

    def __post_init__(self) -> None:
        # one pool for each worker: when a process is killed, it is known which runs it took along, and no other
        # spawn: a forked child would inherit torch's thread pools in an undefined state
        self.pool = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_begin, initargs=(os.getpid(), self.gpu)
        )


def _begin(parent: int, gpu: int | None) -> None:
    become_worker(parent)
    if gpu is not None:
        torch.cuda.set_device(gpu)  # what "cuda" means in this process


def _work(
    jobs: list[list[Member]],
    run: Callable[[list[Member], str], tuple[Outcomes, str]],
    device: str,
    seats: list[int | None],
    asked: Callable[[], bool],
    report: Callable[[Outcomes, str], None],
) -> None:
    """Do the jobs in their order, one process for each seat (a GPU, or None), until asked to stop."""
    waiting = list(jobs)
    idle = [_Worker(gpu) for gpu in seats[: len(jobs)]]
    running: dict[Future[tuple[Outcomes, str]], tuple[list[Member], _Worker]] = {}
    while waiting or running:
        with signals_held():  # a worker that is just being born would die of a signal
            while idle and waiting and not asked():
                job, worker = waiting.pop(0), idle.pop()
                try:
                    future = worker.pool.submit(run, job, device)
                except BrokenProcessPool:  # its process was killed while it had nothing to do
                    waiting.insert(0, job)
                    idle.append(_Worker(worker.gpu))
                else:
                    running[future] = job, worker
        if asked():
            waiting.clear()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, worker = running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                worker.pool.shutdown()
                worker = _Worker(worker.gpu)
            idle.append(worker)
            report(*_result(future, job))
    for worker in idle:
        worker.pool.shutdown()


def _sort_out(members: list[Member]) -> tuple[Outcomes, list[Member]]:
    """How members ended that need no run, and the others, the longest first."""
    loaded: dict[str, RegressionData] = {}
    outcomes: Outcomes = {}
    for member in members:
        try:
            outcome = ended(member.settings, member.directory, loaded)
        except UserError as error:
            outcome = f"error: {error}"
        if outcome is not None:
            outcomes[member.directory] = outcome
    return outcomes, sorted((m for m in members if m.directory not in outcomes), key=lambda m: -m.cost)


def _result(future: Future[tuple[Outcomes, str]], job: list[Member]) -> tuple[Outcomes, str]:
    try:
        return future.result()
    except BrokenProcessPool:
        outcome = "error: its process was killed (out of memory?); the same command continues it"
    except UserError as error:
        outcome = f"error: {error}"
    except Exception as error:  # a defect in one run must not cost the others
        outcome = f"error: {type(error).__name__}: {error}"
    outcomes = {member.directory: outcome for member in job}
    return outcomes, "\n".join(f"{directory}: {outcome}" for directory in outcomes)


def _run(job: list[Member], device: str) -> tuple[Outcomes, str]:
    [member] = job
    lines: list[str] = []
    outcome = fit(member.settings, member.directory, device=device, threads=1, say=lines.append)
    warnings = [line for line in lines if line.startswith("warning: ")]
    return {member.directory: outcome}, "\n".join([*warnings, lines[-1]])


def _run_stack(job: list[Member], device: str) -> tuple[Outcomes, str]:
    lines: list[str] = []
    outcomes = fit_stack(job, device=device, threads=1, say=lines.append)
    return outcomes, "\n".join(lines)
