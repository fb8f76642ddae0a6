"""Progress of a sweep: by work, with a time left that holds, on a terminal and without; and portable workers."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nrc.cli.cost import cost
from nrc.data import LowRank
from nrc.models import MLP, ResNet
from nrc.training import Measure, Optim, Protocol, RunSettings
from nrc.training import progress as module
from nrc.training.members import Member
from nrc.training.pool import _seats, run_all
from nrc.training.progress import SweepProgress

LINES = Callable[[], list[str]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The time that tqdm and the heartbeat see."""
    at = {"now": 0.0}
    monkeypatch.setattr(module.tqdm, "_time", lambda self: at["now"], raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: at["now"])
    monkeypatch.setattr(module.time, "monotonic", lambda: at["now"])
    return at


def test_without_a_terminal_a_line_at_once_and_one_every_half_minute(clock: dict, said: LINES) -> None:
    progress = SweepProgress(3, 100.0, workers=2)
    assert said() == ["3 runs on 2 workers"]
    for clock["now"] in range(1, 61):
        progress.look(clock["now"] / 4)
    assert said()[1:] == [
        "[0/3] 8 % of the work, 00:30 gone, 06:10 left",
        "[0/3] 15 % of the work, 01:00 gone, 05:40 left",
    ]
    progress.end(1, "a: finished")
    assert said()[-1] == "[1/3] a: finished"
    progress.close()


def test_what_was_done_before_makes_nothing_faster(clock: dict, said: LINES) -> None:
    """A resumed run of 90 % in which 5 % were added in 30 s: the last 5 % take as long again."""
    progress = SweepProgress(1, 10.0, workers=1)
    progress.resume(9.0)
    clock["now"] = 30.0
    progress.look(9.5)
    assert said()[-1] == "[0/1] 95 % of the work, 00:30 gone, 00:30 left"


def test_on_a_terminal_the_bar_shows_work_and_its_text_the_runs(
    clock: dict, monkeypatch: pytest.MonkeyPatch, said: LINES
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = SweepProgress(2, 100.0, workers=1)
    clock["now"] = 10.0
    progress.look(20.0)
    assert (progress.bar.n, progress.bar.total, said()) == (20.0, 100.0, [])
    assert str(progress.bar).startswith("0/2 runs|") and "20 % of the work, 00:10 gone, 00:40 left" in str(
        progress.bar
    )
    progress.close()


@pytest.mark.parametrize("stacked", [False, True])
def test_workers_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: LINES, stacked: bool
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.0)  # a line at every look
    optim, measure = Optim(lr=0.05, batch_size=48), Measure(log_spaced=0, evenly=30)
    data, model = LowRank(t=2, r=2, d=5, n=200), MLP(num_layers=3, width=16)
    members = [
        Member(
            RunSettings(data, model, optim, Protocol(epochs=epochs), measure), tmp_path / str(epochs), epochs
        )
        for epochs in (6000, 2000)
    ]
    assert set(run_all(members, workers=1, device="cpu", stacked=stacked).values()) == {"finished"}
    assert said()[0] == "2 runs on 1 worker"
    shares = [int(found[1]) for line in said() if (found := re.search(r"\] (\d+) % of the work", line))]
    assert shares == sorted(shares) and shares[-1] == 100
    assert any(0 < share < 75 for share in shares)  # while the first run, three quarters of the work, goes on


def test_separate_runs_take_the_cores_or_one_gpu_each() -> None:
    assert _seats(gpus=2, workers=None) == [0, 1]
    assert _seats(gpus=2, workers=5) == [0, 1, 0, 1, 0]
    assert _seats(gpus=0, workers=3) == [None] * 3
    assert set(_seats(gpus=0, workers=None)) == {None}


def test_workers_with_several_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nrc.training.pool.cores", lambda: 8)
    assert [len(_seats(0, None, threads)) for threads in (1, 3, 8, 20)] == [8, 2, 1, 1]
    assert len(_seats(0, 5, 8)) == 5  # as asked
    assert len(_seats(2, None, 8)) == 2


def test_a_run_costs_its_steps_times_rows_times_parameters() -> None:
    def of(model: object, epochs: int, n: int = 1000) -> float:
        return cost(
            RunSettings(LowRank(n=n), model, Optim(batch_size=100), Protocol(epochs=epochs), Measure())
        )  # type: ignore[arg-type]

    assert of(MLP(width=16), 20) == 2 * of(MLP(width=16), 10)
    assert of(MLP(width=32), 10) == 4 * of(MLP(width=16), 10)
    assert of(ResNet(depth=34), 1) > of(ResNet(depth=18), 1) > of(MLP(width=256), 1)
