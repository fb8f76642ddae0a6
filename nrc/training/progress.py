"""A progress bar on a terminal, plain lines otherwise."""

import sys
from types import TracebackType

from tqdm import tqdm


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
