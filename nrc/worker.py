"""Where a worker process of `nrc.training.pool` begins: it follows its parent from its first moment.

Nothing heavy is imported before: torch takes seconds, in which the parent may be killed.
"""

import os
import queue
import threading
from contextlib import suppress
from multiprocessing.connection import Connection


def serve(pipe: Connection, gpu: int | None) -> None:
    """Do what comes through the pipe, until the parent closes it or is gone."""
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    ready = threading.Event()
    threading.Thread(target=_listen, args=(pipe, jobs, ready), daemon=True).start()
    from nrc.training import pool

    ready.set()
    pool.work(pipe, jobs, gpu)


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
    if not ready.is_set():
        os._exit(1)
    from nrc.training.stopping import leave

    leave()
