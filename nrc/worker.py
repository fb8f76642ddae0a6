"""How many worker processes there is room for, and where one begins.

One that trains (`nrc.training.pool`) or draws (`nrc.cli.background`) follows its parent from its first moment.
Nothing heavy is imported before: torch takes seconds, in which the parent may be killed.
"""

import os
import queue
import sys
import threading
from contextlib import suppress
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process may use all
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def follow_parent() -> None:
    """End this worker of a `ProcessPoolExecutor` as soon as its parent is gone, however that ended.

    By themselves its workers wait for ever for the next job of a parent that was killed.
    """
    parent = parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def serve(pipe: Connection, module: str, *arguments: Any) -> None:
    """Do what comes through the pipe, until the parent closes it or is gone.

    Args:
        pipe: brings jobs, and takes what `work` sends.
        module: holds `work(pipe, jobs, *arguments)`, which takes one job after the other from the queue `jobs`.
    """
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    ready = threading.Event()
    threading.Thread(target=_listen, args=(pipe, jobs, ready), daemon=True).start()
    work = import_module(module).work
    ready.set()
    work(pipe, jobs, *arguments)


def _listen(pipe: Connection, jobs: queue.SimpleQueue, ready: threading.Event) -> None:
    """Put jobs into the queue and pass on the wish to stop (None); the end of the pipe ends the process."""
    with suppress(EOFError, OSError):
        while True:
            heard = pipe.recv()  # only when this process has said that it is ready
            if heard is None:
                from nrc.training.stopping import ask_to_stop

                ask_to_stop()
            else:
                jobs.put(heard)
    trains = "nrc.training.stopping" in sys.modules
    if not ready.is_set() or not trains:  # nothing to save
        os._exit(1)
    from nrc.training.stopping import leave

    leave()
