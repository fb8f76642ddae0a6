"""The commands, as entry points: they hear signals before anything heavy is imported.

A signal that asks to stop then ends the program in one line. Nothing is lost by it: imports, settings, data and
figures are all made again by the same command. Only while a run trains, `nrc.training.stopping` finishes its step
and saves instead.
"""

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # Windows has the first two


def _heard() -> list[signal.Signals]:
    """The signals that are not ignored."""
    numbers = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _hear_no_more() -> None:
    """The program is leaving: from here on signals are ignored. Python's own end would give them back to the system,
    and a late Ctrl-C would then kill it, instead of the exit status that it has chosen."""
    for number in _heard():
        signal.signal(number, signal.SIG_IGN)


def hear_signals() -> None:
    """From here on a signal ends the program; one that is ignored stays so, as nohup wants it."""

    def leave(number: int, frame: FrameType | None) -> None:
        _hear_no_more()
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)

    for number in _heard():
        signal.signal(number, leave)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a locale that lacks a character


def run(module: str) -> None:
    """Call the command of nrc.cli.`module`; without what it imports, one line names the extra that brings it."""
    hear_signals()
    try:
        command = import_module(f"nrc.cli.{module}").command
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed; pip install 'nrc[reproduce]' brings it", file=sys.stderr
        )
        sys.exit(2)
    try:
        command()
    finally:
        _hear_no_more()


def train() -> None:
    """`scripts/train.py`."""
    run("train")


def sweep() -> None:
    """`scripts/sweep.py`: the same as `train.py -m`."""
    if "-m" not in sys.argv and "--multirun" not in sys.argv:
        sys.argv.insert(1, "-m")
    run("train")


def reproduce() -> None:
    """`scripts/reproduce_figures.py`."""
    run("reproduce")


def check() -> None:
    """`scripts/check.py`."""
    run("check")


def report() -> None:
    """`scripts/report.py`."""
    run("report")
