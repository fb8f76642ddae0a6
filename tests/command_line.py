"""The scripts as their command lines run them: in this process (cheap), or in one of their own (the real thing)."""

import contextlib
import ctypes
import io
import os
import runpy
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from nrc.training.stopping import SIGNALS

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


def no_network(*address: object) -> None:
    raise OSError(f"the network was asked for: {address[-2:]}")


def in_process(script: str, arguments: list[str], folder: Path) -> Result:
    """Run scripts/`script` in this process, without a network. A fresh interpreter needs 3 s to start."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in SIGNALS}  # the script sets its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPTS / script), *arguments])
        patch.setattr("socket.socket.connect", no_network)
        patch.setattr("socket.getaddrinfo", no_network)
        patch.setenv("HYDRA_FULL_ERROR", "")  # set by the script: taken back afterwards
        patch.chdir(folder)
        GlobalHydra.instance().clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                status = 1
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
    return Result(status, out.getvalue(), err.getvalue())


def _obey_permissions() -> None:
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, gone after the next exec
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def in_subprocess(script: str, arguments: list[str], folder: Path) -> Result:
    """Run scripts/`script` in a fresh interpreter, for which file permissions hold even if we are root."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        capture_output=True, text=True, cwd=folder, env=os.environ | ENVIRONMENT, timeout=60, preexec_fn=_obey_permissions,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
