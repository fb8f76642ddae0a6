"""Ctrl-C and a cluster's notice to leave (SIGTERM, SIGUSR1 or SIGUSR2) only ask to stop: nothing is cut in half."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nrc.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_asked: list[int] = []  # the signals received; a worker that was asked once starts nothing more
_handled = False  # whether this process has its handlers installed
_inside = 0  # blocks that must not be cut


class Interrupted(UserError):
    """Stopped by a signal; the same command continues. The scripts exit with status 130."""


def asked_to_stop() -> bool:
    """Whether this process was asked to stop."""
    return bool(_asked)


@contextmanager
def stop_signals(*, workers: bool = False) -> Iterator[Callable[[], bool]]:
    """Within the block the signals only ask to stop; yields the question whether they did.

    Blocks inside one another share the answer, and the outermost forgets it at its end. Outside the main
    thread signals cannot be caught: there, whoever owns the main thread decides.

    Args:
        workers: pass the wish on to the child processes of this one.
    """
    global _handled, _inside
    if _handled or threading.current_thread() is not threading.main_thread():
        _inside += 1
        try:
            yield asked_to_stop
        finally:
            _inside -= 1
        return
    before = [signal.signal(number, _ask) for number in SIGNALS]
    _handled = True
    if workers:
        threading.Thread(target=_pass_on, daemon=True).start()
    try:
        yield asked_to_stop
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        _handled = False
        _asked.clear()


@contextmanager
def signals_held() -> Iterator[None]:
    """Within the block signals wait; processes started in it are born with them waiting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_worker(parent: int) -> None:
    """Make this process a worker of `parent`, once and for all.

    From here on signals only ask to stop. A worker whose parent was killed stops as if asked, and ends:
    otherwise it would hold its run directory against the next start.
    """
    global _handled
    if _handled:
        return
    _handled = True
    for number in SIGNALS:
        signal.signal(number, _ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    while _inside:
        time.sleep(0.1)
    os._exit(1)  # nobody is left to hear a result


def _ask(number: int, frame: object) -> None:
    _asked.append(number)


def _pass_on() -> None:
    """Ask the children, again and again: one that is just being born is not yet in the list."""
    while _handled:
        for child in multiprocessing.active_children() if _asked else []:
            child.terminate()
        time.sleep(0.2)
