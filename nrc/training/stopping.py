"""Ctrl-C, a closed terminal and a cluster's notice to leave only ask to stop: nothing is cut in half.

These are SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, of which Windows has the first two. One that is ignored
when the program starts stays ignored, as `nohup` wants it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nrc.errors import UserError

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(signal.Signals[name] for name in NAMES if hasattr(signal, name))

_asked = False  # a worker that was asked once starts nothing more
_handled = False  # whether this process has its handlers installed
_inside = 0  # blocks that must not be cut


class Interrupted(UserError):
    """Stopped by a signal; the same command continues. The scripts exit with status 130."""


def asked_to_stop() -> bool:
    """Whether this process was asked to stop."""
    return _asked


def ask_to_stop(number: int = 0, frame: FrameType | None = None) -> None:
    """Ask this process to stop, as a signal does."""
    global _asked
    _asked = True


def handle(handler: Callable[[int, FrameType | None], object]) -> None:
    """Have the signals that are not ignored call `handler`."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block the signals only ask to stop; yields the question whether they did.

    Blocks inside one another share the answer, and the outermost forgets it at its end. Outside the main
    thread signals cannot be caught: there, whoever owns the main thread decides.
    """
    global _handled, _inside, _asked
    if _handled or threading.current_thread() is not threading.main_thread():
        _inside += 1
        try:
            yield asked_to_stop
        finally:
            _inside -= 1
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle(ask_to_stop)
    _handled = True
    try:
        yield asked_to_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _handled = _asked = False


@contextmanager
def signals_held() -> Iterator[None]:
    """Within the block signals wait; processes started in it are born with them waiting. Not on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_worker() -> None:
    """Make this process a worker, once and for all: from here on signals only ask to stop."""
    global _handled
    _handled = True
    handle(ask_to_stop)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave() -> None:
    """End a worker from another thread than its main one, as soon as what must not be cut has stopped and saved."""
    ask_to_stop()
    while _inside:
        time.sleep(0.1)
    os._exit(1)
