"""Imported first by the scripts that train: a signal that asks to stop ends the program in one line.

Nothing is lost by it: imports, settings, data and figures are all made again by the same command. Only while a run
trains, `nrc.training.stopping` finishes its step and saves instead.
"""

import signal
import sys


def _leave(number: int, frame: object) -> None:
    print("stopped; the same command continues", file=sys.stderr)
    sys.exit(130)


for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(_number, _leave)
