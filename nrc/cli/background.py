"""Draws each figure as soon as its runs are done, and writes the report, while other runs still train.

One process of low priority does one job at a time, and rests where it has had its share of the processors. What it
does not come to is drawn at the end. It ends with its parent, however that ends, and a picture that it leaves
unfinished is drawn anew.
"""

import logging
import os
import queue
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from nrc.errors import in_one_line
from nrc.figures import Runs, draw, figures
from nrc.figures.registry import figure_of
from nrc.report.html import write_report
from nrc.training.pool import CONTEXT
from nrc.training.stopping import SIGNALS, signals_held
from nrc.worker import cores, serve

log = logging.getLogger(__name__)
SHARE = 0.02  # of the time of all processors
NICE = 10  # 19 would be 1 % of a busy core, and ten minutes until the first picture
REPORT = "report"  # the job that is no figure


class Group(NamedTuple):
    """Runs that are made together, as a file of conf/experiment says on its data sets."""

    drawings: tuple[str, ...]  # that need all of them, e.g. prevalence_relu
    runs: frozenset[Path]


class Done(NamedTuple):
    """What the drawing process says of a job."""

    job: str
    drawings: list[str]
    error: str
    seconds: float  # of a processor, since the process began


class Background:
    """The drawing process, seen from the one that runs everything.

    Args:
        outputs: the folder of experiments.
        protocol: of the runs.
        groups: all that is to be run.

    Example:
        background = Background(Path("outputs"), "quick", [Group(("prevalence_relu",), frozenset(directories))])
        try:
            run_all(members, watch=background.watch)
        finally:
            background.close()
    """

    def __init__(self, outputs: Path, protocol: str, groups: Iterable[Group]) -> None:
        self.outputs, self.protocol, self.groups = outputs, protocol, list(groups)
        self.ended: dict[Path, str] = {}
        self.due: set[str] = set()  # drawings whose runs are all done
        self.told: set[str] = set()  # those of them that are there
        self.jobs: list[str] = []
        self.reported = False
        self.working = True  # until it says that it is ready
        self.seconds, self.began = 0.0, time.monotonic()
        self.pipe: Connection | None = None
        self.process: SpawnProcess

    @property
    def pending(self) -> frozenset[Path]:
        """The runs of groups that are not done, but for those that a group that is done shares."""
        runs = [group.runs for group in self.groups]
        done = [found for found in runs if found <= self.ended.keys()]
        return frozenset().union(*runs).difference(*done)

    def watch(self, ended: Mapping[Path, str]) -> None:
        """Hear how further runs have ended, and give the drawing process its next job; for `run_all`."""
        if self.pipe is None:
            self._start()
        assert self.pipe is not None
        self.ended |= ended
        for name in self._complete():
            if name in self.due:
                continue
            self.due.add(name)
            figure = figure_of(name)
            if figure is not None and figure.name not in self.jobs:
                self.jobs.append(figure.name)
        with suppress(EOFError, OSError):  # it was killed: everything is drawn at the end
            while self.pipe.poll():
                self._hear(self.pipe.recv())
            rested = self.seconds <= SHARE * cores() * (time.monotonic() - self.began)
            first = self.jobs[:1] == [REPORT] and not self.reported
            if self.jobs and (rested or first) and not self.working:
                self.reported |= first
                self.pipe.send((self.jobs.pop(0), self.pending))
                self.working = True

    def close(self) -> None:
        """End the drawing process, whatever it does."""
        if self.pipe is not None:
            self.pipe.close()
            self.process.kill()
            self.process.join()

    def _start(self) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        arguments = (theirs, __name__, self.outputs, self.protocol)
        self.process = CONTEXT.Process(target=serve, args=arguments, daemon=True)
        with signals_held():
            self.process.start()
        theirs.close()

    def _complete(self) -> list[str]:
        """Drawings whose runs have all ended, and not all without a result."""
        needs: dict[str, set[Path]] = {}
        for group in self.groups:
            for name in group.drawings:
                needs.setdefault(name, set()).update(group.runs)
        good = {run for run, how in self.ended.items() if how in ("finished", "skipped")}
        return [name for name, runs in needs.items() if runs <= self.ended.keys() and runs & good]

    def _hear(self, answer: Done | None) -> None:
        self.working = False
        if answer is None:
            return
        self.seconds = answer.seconds
        if answer.error:
            log.warning(f"{answer.job} cannot be drawn yet ({answer.error}); it is tried again at the end")
        elif answer.job == REPORT:
            log.info(f"written: {self.outputs / 'report' / 'index.html'}, which says what is pending")
        else:
            new = [name for name in answer.drawings if name in self.due - self.told]
            for name in new:
                log.info(f"drawn: {name}{number_of(name)}")
            others = [job for job in self.jobs if job != REPORT]
            self.jobs = (
                [*others, REPORT] if self.told else [REPORT, *others]
            )  # readable from the first picture on
            self.told.update(new)


def number_of(drawing: str) -> str:
    """Which figure of the papers a drawing is: " (figure 2)"; "" for one of ours."""
    figure = figure_of(drawing)
    if figure is None or not figure.paper:
        return ""
    where = "" if figure.paper == "NeurIPS 2024" else f" of {figure.paper}"
    return f" (figure{'s' * (len(figure.numbers) > 1)} {', '.join(map(str, figure.numbers))}{where})"


# --- in the drawing process


def work(pipe: Connection, jobs: queue.SimpleQueue, outputs: Path, protocol: str) -> None:
    """Do one job after the other; `nrc.worker` ends the process."""
    for number in SIGNALS:  # whoever started it decides
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICE)
    figures()
    pipe.send(None)  # ready
    while True:
        job, pending = jobs.get()
        names, error = [], ""
        try:
            if job == REPORT:
                write_report(outputs, protocol, pending=pending)
            else:
                drawn = draw(job, Runs(outputs, protocol, pending=pending))
                names = [file.path.stem for file in drawn if file.path.suffix == ".png"]
        except Exception as problem:
            error = in_one_line(problem)
        pipe.send(Done(job, names, error, time.process_time()))
