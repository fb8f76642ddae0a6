"""Shared paths and fixtures."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NRC_SHARED_DATA", REPO.parent / "shared" / "data"))


# the suite may be started where these are ignored (nohup, a background job), which processes started here inherit
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (getattr(signal, "SIGHUP", None), signal.SIG_DFL),
):
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


_FIRST_STATE: dict[tuple[str, str], object] = {}


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """Every test draws what it would draw alone, whichever tests ran before it in the same process."""
    torch.manual_seed(0)
    for name, value in vars(request.module).items():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = _FIRST_STATE.setdefault(
                (request.module.__name__, name), value.bit_generator.state
            )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the package has logged so far in this test, warnings marked as on the console."""
    logger = logging.getLogger("nrc")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = True  # a command of another test may have changed it
    yield lambda: [
        f"warning: {r.getMessage()}" if r.levelno == logging.WARNING else r.getMessage()
        for r in caplog.records
    ]
    logger.setLevel(before[0])
    logger.propagate = before[1]


@pytest.fixture
def shared_data() -> Path:
    """The folder of real files; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of real data at {SHARED} (set NRC_SHARED_DATA to point to one)")
    return SHARED
