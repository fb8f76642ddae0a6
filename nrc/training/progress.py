"""Progress by tqdm: a bar on a terminal, plain lines otherwise."""

import logging
import os
import sys
import time
from types import TracebackType
from typing import IO

from tqdm import tqdm

log = logging.getLogger(__name__)
HEARTBEAT = 30.0  # seconds between two lines of a sweep where there is no terminal


def _screen() -> IO[str] | None:
    """Where a bar is drawn; None where there is no terminal."""
    return sys.stderr if sys.stderr.isatty() else None


class Progress:
    """The `progress` of `fit` for one run: a bar, or without a terminal one line at each tenth of the way."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm | None = None
        self.tenth = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        if _screen() is not None:
            if self.bar is None:
                self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)
            self.bar.update(done - self.bar.n)
        elif done * 10 // total > self.tenth:
            self.tenth = done * 10 // total
            log.info(f"{self.label}: step {done}/{total}")


class SweepProgress:
    """How far a sweep is, by the cost of its runs and not by their number: the longest come first.

    On a terminal a bar; elsewhere a line at once and one every half minute.

    Args:
        runs: how many there are.
        cost: theirs together, in any unit.
        workers: how many go on at a time.
    """

    def __init__(self, runs: int, cost: float, workers: int) -> None:
        self.runs, self.ended = runs, 0
        screen = _screen()
        self.out = screen or open(os.devnull, "w")  # noqa: SIM115 (closed below)
        shape = "{percentage:.0f} % of the work, {elapsed} gone, {remaining} left"
        self.bar = tqdm(
            total=cost, file=self.out, smoothing=0, dynamic_ncols=True,
            bar_format="{desc}|{bar}| " + shape if screen else shape,
        )  # fmt: skip
        self.spoke: float | None = None if screen else time.monotonic()
        self._show()
        if not screen:
            log.info(f"{runs} run{'s' * (runs != 1)} on {workers} worker{'s' * (workers != 1)}")

    def _show(self) -> None:
        self.bar.set_description_str(f"{self.ended}/{self.runs} runs", refresh=False)

    def resume(self, cost: float) -> None:
        """This much was done before: it makes nothing faster."""
        self.bar.initial += cost

    def end(self, runs: int, words: str) -> None:
        """So many runs have ended, and this is how."""
        self.ended += runs
        self._show()
        log.info(f"[{self.ended}/{self.runs}] {words}")

    def look(self, done: float) -> None:
        """Move the bar to this cost, or say a line when it is time."""
        self.bar.update(done - self.bar.n)
        if self.spoke is not None and time.monotonic() - self.spoke >= HEARTBEAT:
            self.spoke = time.monotonic()
            log.info(f"[{self.ended}/{self.runs}] {self.bar}")

    def close(self) -> None:
        self.bar.close()
        if self.spoke is not None:
            self.out.close()
