"""Many runs on one machine: workers on the cores of a CPU, or one for each GPU, the longest run first."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.training.members import Member, stacks
from nrc.training.progress import SweepProgress, UnderWay
from nrc.training.run import choose_device, ended, fit
from nrc.training.stacked import fit_stack
from nrc.training.stopping import become_worker, signals_held, stop_signals

Outcomes = dict[Path, str]
LOOK = 1.0  # seconds between two looks at how far the workers are


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
        workers: processes at a time for separate runs; default: one for each core that this process may use, or on
            GPUs one for each of them.
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
    seats = _seats(gpus, workers)
    progress = SweepProgress(
        len(waiting),
        sum(member.cost for member in waiting),
        max(min(len(together), len(places)), min(len(alone), len(seats))),
    )
    ended_now: Outcomes = {}
    with stop_signals(workers=True) as asked:
        # one after the other: a stack fills its GPU
        for jobs, run, where in (
            (together, _run_stack, places),
            ([[member] for member in alone], _run, seats),
        ):
            ended_now |= _work(jobs, run, device, where, asked, progress)
    progress.close()
    return outcomes | {m.directory: "interrupted" for m in waiting} | ended_now


def _seats(gpus: int, workers: int | None) -> list[int | None]:
    """For each worker of separate runs its GPU, or None on a CPU."""
    if gpus:
        return [k % gpus for k in range(workers or gpus)]
    return [None] * (workers or len(os.sched_getaffinity(0)))


@dataclass(eq=False)
class _Worker:
    """A process that takes one job at a time, on this GPU if one is named."""

    gpu: int | None

    def __post_init__(self) -> None:
        # one pool for each worker: when a process is killed, it is known which runs it took along, and no other
        # spawn: a forked child would inherit torch's thread pools in an undefined state
        context = get_context("spawn")
        # of the job: the share that was done before (negative until it is known), and the share done by now
        self.share = context.Array("d", 2, lock=False)
        self.pool = ProcessPoolExecutor(
            1, context, initializer=_begin, initargs=(os.getpid(), self.gpu, self.share)
        )

    def at(self, job: list[Member]) -> UnderWay:
        """How far it is with its job."""
        before, now = self.share
        return UnderWay(sum(member.cost for member in job), max(before, 0.0), now)


_share: Any = [-1.0, 0.0]  # in a worker: its `share`


def _begin(parent: int, gpu: int | None, share: Any) -> None:
    global _share
    become_worker(parent)
    _share = share
    if gpu is not None:
        torch.cuda.set_device(gpu)  # what "cuda" means in this process


def _tell(done: int, total: int) -> None:
    """The `progress` of a worker's job."""
    if _share[0] < 0:
        _share[0] = done / total
    _share[1] = done / total


def _work(
    jobs: list[list[Member]],
    run: Callable[[list[Member], str], tuple[Outcomes, str]],
    device: str,
    seats: list[int | None],
    asked: Callable[[], bool],
    progress: SweepProgress,
) -> Outcomes:
    """Do the jobs in their order, one process for each seat (a GPU, or None), until asked to stop."""
    waiting = list(jobs)
    outcomes: Outcomes = {}
    idle = [_Worker(gpu) for gpu in seats[: len(jobs)]]
    running: dict[Future[tuple[Outcomes, str]], tuple[list[Member], _Worker]] = {}
    while waiting or running:
        with signals_held():  # a worker that is just being born would die of a signal
            while idle and waiting and not asked():
                job, worker = waiting.pop(0), idle.pop()
                worker.share[:] = -1.0, 0.0
                try:
                    future = worker.pool.submit(run, job, device)
                except BrokenProcessPool:  # its process was killed while it had nothing to do
                    waiting.insert(0, job)
                    idle.append(_Worker(worker.gpu))
                else:
                    running[future] = job, worker
        if asked():
            waiting.clear()
        for future in wait(running, timeout=LOOK, return_when=FIRST_COMPLETED).done:
            job, worker = running.pop(future)
            found, words = _result(future, job)
            outcomes |= found
            progress.end(len(job), worker.at(job), words)
            if isinstance(future.exception(), BrokenProcessPool):
                worker.pool.shutdown()
                worker = _Worker(worker.gpu)
            idle.append(worker)
        progress.look([worker.at(job) for job, worker in running.values()])
    for worker in idle:
        worker.pool.shutdown()
    return outcomes


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
    outcome = fit(
        member.settings, member.directory, device=device, threads=1, say=lines.append, progress=_tell
    )
    warnings = [line for line in lines if line.startswith("warning: ")]
    return {member.directory: outcome}, "\n".join([*warnings, lines[-1]])


def _run_stack(job: list[Member], device: str) -> tuple[Outcomes, str]:
    lines: list[str] = []
    outcomes = fit_stack(job, device=device, threads=1, say=lines.append, progress=_tell)
    return outcomes, "\n".join(lines)
