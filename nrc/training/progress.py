"""A progress bar on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm

HEARTBEAT = 30.0  # seconds between two lines of a sweep where there is no terminal


class Progress:
    """Shows steps done of a run; usable as the `say` and `progress` of `fit`.

    On a terminal a bar; elsewhere one line at each tenth of the way.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.tenth = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def say(self, line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    def __call__(self, done: int, total: int) -> None:
        if self.terminal:
            if self.bar is None:
                self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)
            self.bar.update(done - self.bar.n)
        elif done * 10 // total > self.tenth:
            self.tenth = done * 10 // total
            self.say(f"{self.label}: step {done}/{total}")


@dataclass(frozen=True)
class UnderWay:
    """A job that a worker has begun: its cost, the share that was done before, and the share done by now."""

    cost: float
    before: float = 0.0
    now: float = 0.0


class SweepProgress:
    """How far a sweep is, by the cost of its runs and not by their number: the longest come first.

    On a terminal a bar; elsewhere a line at once and one every half minute.

    Args:
        runs: how many there are.
        cost: theirs together.
        workers: how many go on at a time.
        clock: seconds.
    """

    def __init__(
        self, runs: int, cost: float, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runs, self.cost, self.workers, self.clock = runs, cost, workers, clock
        # earned: in this session, without what was there before
        self.ended, self.done, self.earned = 0, 0.0, 0.0
        self.began = self.spoke = self.started = clock()
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=cost, bar_format="{percentage:3.0f} %|{bar}| {desc}", dynamic_ncols=True)
        else:
            self.say(f"{_many(runs, 'run')} on {_many(workers, 'worker')}")

    def say(self, line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    def end(self, runs: int, job: UnderWay, words: str) -> None:
        """So many runs have ended, with this job, and this is how."""
        self.ended += runs
        self.done += job.cost
        self.earned += job.cost * (1 - job.before)
        self.say(f"[{self.ended}/{self.runs}] {words}")

    def look(self, under_way: list[UnderWay]) -> None:
        """Move the bar, or say a line when it is time."""
        now = self.clock()
        done = self.done + sum(job.cost * job.now for job in under_way)
        words = f"{span(now - self.began)}, {self._left(under_way, done, now)}"
        if self.bar is not None:
            self.bar.n = done
            self.bar.set_description_str(f"{self.ended}/{self.runs} runs, {words}")
        elif now - self.spoke >= HEARTBEAT:
            self.spoke = now
            self.say(f"[{self.ended}/{self.runs}] {100 * done / self.cost:.0f} % of the work, {words}")

    def _left(self, under_way: list[UnderWay], done: float, now: float) -> str:
        """At the speed so far; the last run alone keeps one worker busy, and no more."""
        earned = self.earned + sum(job.cost * (job.now - job.before) for job in under_way)
        if not earned:
            self.started = now  # the processes are still starting
            return "time left not known yet"
        longest = max((job.cost * (1 - job.now) for job in under_way), default=0.0)
        left = max(self.cost - done, longest * self.workers)
        return f"about {span(left * (now - self.started) / earned)} left"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def span(seconds: float) -> str:
    """A time in words.

    Example:
        >>> span(40), span(125), span(780), span(9000)
        ('40 s', '2.1 min', '13 min', '2.5 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
