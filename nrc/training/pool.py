"""Many runs on one machine: a worker process for each core of a CPU, or for each GPU, the longest run of a rank first.

A worker is told its jobs, and that it shall stop, through a pipe, and answers through it. The end of the pipe is
the end of the other side: a worker whose parent was killed saves and leaves, wherever it is in its life, and a
worker that was killed costs its own job alone. This works alike on Linux, macOS and Windows.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nrc.data import RegressionData
from nrc.errors import UserError, in_one_line
from nrc.training.members import Member, stacks
from nrc.training.progress import SweepProgress
from nrc.training.run import choose_device, ended, fit
from nrc.training.stacked import fit_stack
from nrc.training.stopping import become_worker, signals_held, stop_signals
from nrc.worker import cores, serve

log = logging.getLogger(__name__)
Outcomes = dict[Path, str]
Lines = list[tuple[int, str]]  # level and message
Work = Callable[[list[Member], str, Callable[[int, int], None]], Outcomes]
LOOK = 1.0  # seconds between two looks at how far the workers are
# a forked child would inherit torch's thread pools in an undefined state
CONTEXT = get_context("spawn")


def run_all(
    members: list[Member],
    *,
    workers: int | None = None,
    device: str = "auto",
    stacked: bool | None = None,
    watch: Callable[[Outcomes], None] = lambda ended: None,
) -> Outcomes:
    """Run every member in a worker process and return how each ended.

    On a GPU the members that differ in weight decay and seed alone train as one program (`fit_stack`), one
    worker for each GPU, and then the others separately. On a CPU all train separately, where stacking gains
    nothing. A member that diverges, whose input is wrong or whose process is killed does not take the others
    down, but for those of its stack. On Ctrl-C or SIGTERM the members under way finish their step and save, and
    no other is started.

    Args:
        members: what to run; two members must not share a directory.
        workers: processes at a time for separate runs; default: as many as the cores that this process may use
            have threads for, or on GPUs one for each of them.
        device: as for `fit`.
        stacked: whether to stack; None: on a GPU.
        watch: hears, while there is something to run, at least once a second how further members have ended, at first
            those that need no run.

    Returns:
        directory -> "skipped", "finished", "diverged", "interrupted" or "error: ...".
    """
    gpus = torch.cuda.device_count() if choose_device(device) == "cuda" else 0
    outcomes, waiting = _sort_out(members)
    if not waiting:
        return outcomes
    together, alone = stacks(waiting) if stacked or (stacked is None and gpus) else ([], waiting)
    together.sort(key=lambda stack: (min(member.rank for member in stack), -_cost(stack)))
    places: list[int | None] = list(range(gpus)) or [None]
    seats = _seats(gpus, workers, max(member.threads for member in waiting))
    at_once = max(min(len(together), len(places)), min(len(alone), len(seats)))
    progress = SweepProgress(len(waiting), _cost(waiting), at_once)
    done: Outcomes = {}
    watch(outcomes)
    with stop_signals() as asked:
        # one after the other: a stack fills its GPU
        for jobs, work, where in ((together, _stack, places), ([[m] for m in alone], _single, seats)):
            done |= _work(jobs, work, device, where, asked, progress, watch)
    progress.close()
    return outcomes | {member.directory: "interrupted" for member in waiting} | done


def _sort_out(members: list[Member]) -> tuple[Outcomes, list[Member]]:
    """How members ended that need no run, and the others: by rank, the longest first."""
    loaded: dict[str, RegressionData] = {}
    outcomes: Outcomes = {}
    for member in members:
        try:
            outcome = ended(member.settings, member.directory, loaded)
        except UserError as error:
            outcome = f"error: {error}"
        if outcome is not None:
            outcomes[member.directory] = outcome
    return outcomes, sorted(
        (m for m in members if m.directory not in outcomes), key=lambda m: (m.rank, -m.cost)
    )


def _seats(gpus: int, workers: int | None, threads: int = 1) -> list[int | None]:
    """For each worker of separate runs its GPU, or None on a CPU, whose cores go to so many threads each."""
    if gpus:
        return [k % gpus for k in range(workers or gpus)]
    return [None] * (workers or max(1, cores() // threads))


def _cost(members: list[Member]) -> float:
    return sum(member.cost for member in members)


# --- in the parent


class _Worker:
    """A process that does one job at a time, on this GPU if one is named; a killed one is replaced when needed."""

    def __init__(self, gpu: int | None) -> None:
        self.gpu = gpu
        self.task: tuple[Work, list[Member], str] | None = None
        self.share: float | None = None  # of the job that is done; None until it is known
        self._start()

    @property
    def job(self) -> list[Member]:
        return self.task[1] if self.task else []

    def _start(self) -> None:
        self.ready = False  # whether it has imported what it needs and waits for a job
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, __name__, self.gpu), daemon=True)
        with signals_held():  # a process that is just being born would die of a signal
            self.process.start()
        theirs.close()

    def begin(self, work: Work, job: list[Member], device: str) -> None:
        self.task, self.share = (work, job, device), None
        try:
            if self.ready:
                self.pipe.send(self.task)
            elif self.pipe.closed:
                self._start()
        except OSError:  # it was killed
            self.close()
            self._start()

    def stop(self) -> bool:
        """Ask it to stop; whether there is anything to wait for."""
        if not self.ready:
            self.process.kill()
        with suppress(OSError):
            self.pipe.send(None)
        return self.ready

    def answer(self) -> float | tuple[Outcomes, Lines] | None:
        """The share of the job that is done, or how it ended and what was logged; None: it is ready."""
        with suppress(EOFError, OSError):
            answer = self.pipe.recv()
            if answer is None:
                self.ready = True
                self.pipe.send(self.task)
            return answer
        self.close()
        return _failed(self.job, "its process was killed (out of memory?); the same command continues it"), []

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _work(
    jobs: list[list[Member]],
    work: Work,
    device: str,
    seats: list[int | None],
    asked: Callable[[], bool],
    progress: SweepProgress,
    watch: Callable[[Outcomes], None],
) -> Outcomes:
    """Do the jobs in their order, one process for each seat (a GPU, or None), until asked to stop."""
    waiting, told = list(jobs), False
    outcomes: Outcomes = {}
    done = progress.bar.n
    idle = [_Worker(gpu) for gpu in seats[: len(jobs)]]
    busy: dict[Any, _Worker] = {}
    try:
        while busy or (waiting and not asked()):
            while idle and waiting and not asked():
                worker = idle.pop()
                worker.begin(work, waiting.pop(0), device)
                busy[worker.pipe] = worker
            if asked() and not told:
                told = True
                left = [worker for worker in busy.values() if not worker.stop()]
                idle += left
                busy = {pipe: worker for pipe, worker in busy.items() if worker not in left}
            ended: Outcomes = {}
            for pipe in connection.wait(list(busy), timeout=LOOK):
                worker = busy[pipe]
                answer = worker.answer()
                if answer is None:
                    continue
                if isinstance(answer, float):
                    if worker.share is None:
                        progress.resume(answer * _cost(worker.job))
                    worker.share = answer
                    continue
                idle.append(busy.pop(pipe))
                ended |= answer[0]
                done += _cost(worker.job)
                _report(*answer, progress)
            outcomes |= ended
            watch(ended)
            progress.look(done + sum(_cost(worker.job) * (worker.share or 0.0) for worker in busy.values()))
    finally:
        for worker in [*idle, *busy.values()]:
            worker.close()
    return outcomes


def _failed(job: list[Member], words: str) -> Outcomes:
    """An error for every run of a job."""
    return {member.directory: f"error: {words}" for member in job}


def _report(outcomes: Outcomes, lines: Lines, progress: SweepProgress) -> None:
    """Log the warnings of a job and its last line, or the error of each run."""
    for level, line in lines:
        if level >= logging.WARNING:
            log.log(level, line)
    wrong = [f"{place}: {how}" for place, how in outcomes.items() if how.startswith("error")]
    progress.end(len(outcomes), "\n".join(wrong or [line for _, line in lines][-1:]))


# --- in a worker


class _Collect(logging.Handler):
    """Keeps what is logged, for the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def work(pipe: Connection, jobs: queue.SimpleQueue, gpu: int | None) -> None:
    """Do one job after the other; `nrc.worker` ends the process."""
    become_worker()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed leaves behind
    if gpu is not None:
        torch.cuda.set_device(gpu)  # what "cuda" means in this process
    logger, logged = logging.getLogger("nrc"), _Collect()
    logger.setLevel(logging.INFO)
    logger.addHandler(logged)
    logger.propagate = False
    pipe.send(None)  # ready
    while True:
        do, job, device = jobs.get()
        logged.lines = []
        try:
            outcomes = do(job, device, _teller(pipe))
        except Exception as error:  # a defect in one run must not cost the others
            outcomes = _failed(job, in_one_line(error))
        with suppress(OSError):  # nobody is left to hear it
            pipe.send((outcomes, logged.lines))


def _teller(pipe: Connection) -> Callable[[int, int], None]:
    """The `progress` of a job: tells the parent at once, and then every half second."""
    told = -1.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if told < 0 or time.monotonic() - told > 0.5:
            told = time.monotonic()
            with suppress(OSError):
                pipe.send(done / total)

    return tell


def _single(job: list[Member], device: str, progress: Callable[[int, int], None]) -> Outcomes:
    [member] = job
    outcome = fit(
        member.settings, member.directory, device=device, resident=member.resident, threads=member.threads,
        progress=progress, tensorboard=member.tensorboard,
    )  # fmt: skip
    return {member.directory: outcome}


def _stack(job: list[Member], device: str, progress: Callable[[int, int], None]) -> Outcomes:
    return fit_stack(job, device=device, threads=1, progress=progress)
