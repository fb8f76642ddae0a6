"""Progress of a sweep: by work, with a time left that holds, on a terminal and without."""

import re
import sys
from pathlib import Path

import pytest

from nrc.cli import config
from nrc.data import LowRank
from nrc.models import MLP
from nrc.training import Measure, Optim, Protocol, RunSettings
from nrc.training import progress as module
from nrc.training.members import Member
from nrc.training.pool import _seats, run_all
from nrc.training.progress import SweepProgress, UnderWay

REPO = Path(__file__).resolve().parents[1]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_line_at_once_and_one_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    progress = SweepProgress(3, 100.0, workers=2, clock=clock)
    said = capsys.readouterr().out
    assert said == "3 runs on 2 workers\n"
    for clock.now in range(1, 31):  # nothing is known while the processes start
        progress.look([UnderWay(40.0), UnderWay(40.0)])
    assert capsys.readouterr().out == "[0/3] 0 % of the work, 30 s, time left not known yet\n"
    for clock.now in range(31, 70):
        progress.look([UnderWay(40.0, 0.0, (clock.now - 30) / 80), UnderWay(40.0)])
    # 15 in 30 s, 85 are left: 170 s
    assert capsys.readouterr().out == "[0/3] 15 % of the work, 60 s, about 2.8 min left\n"
    progress.end(1, UnderWay(40.0, 0.0, 0.5), "a: finished")
    assert capsys.readouterr().out == "[1/3] a: finished\n"


def test_what_was_done_before_makes_nothing_faster(capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run of 90 % in which 5 % were added in 30 s: the last 5 % take as long again."""
    clock = Clock()
    progress = SweepProgress(1, 10.0, workers=1, clock=clock)
    clock.now = 30.0
    progress.look([UnderWay(10.0, 0.9, 0.95)])
    assert "[0/1] 95 % of the work, 30 s, about 30 s left" in capsys.readouterr().out


def test_the_last_long_run_keeps_one_worker_busy(capsys: pytest.CaptureFixture[str]) -> None:
    """60 of 100 done by two workers in 30 s; the rest is one run of 40, on one of them."""
    clock = Clock()
    progress = SweepProgress(2, 100.0, workers=2, clock=clock)
    progress.end(1, UnderWay(60.0, 0.0, 1.0), "done")
    clock.now = 30.0
    progress.look([UnderWay(40.0)])
    assert "about 40 s left" in capsys.readouterr().out


def test_on_a_terminal_the_bar_shows_work_and_its_text_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    clock = Clock()
    progress = SweepProgress(2, 100.0, workers=1, clock=clock)
    clock.now = 10.0
    progress.look([UnderWay(40.0, 0.0, 0.5)])
    assert progress.bar is not None
    assert (progress.bar.n, progress.bar.total, progress.bar.desc) == (
        20.0, 100.0, "0/2 runs, 10 s, about 40 s left",
    )  # fmt: skip
    progress.close()


@pytest.mark.parametrize("stacked", [False, True])
def test_workers_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stacked: bool
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
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 runs on 1 worker"
    shares = [int(found[1]) for line in lines if (found := re.search(r"\] (\d+) % of the work", line))]
    assert shares == sorted(shares) and shares[-1] == 100
    assert any(0 < share < 75 for share in shares)  # while the first run, three quarters of the work, goes on


def test_separate_runs_take_the_cores_or_one_gpu_each() -> None:
    assert _seats(gpus=2, workers=None) == [0, 1]
    assert _seats(gpus=2, workers=5) == [0, 1, 0, 1, 0]
    assert _seats(gpus=0, workers=3) == [None] * 3
    assert set(_seats(gpus=0, workers=None)) == {None}


SECONDS = {  # of whole runs of the quick protocol, one core each, from one reproduction
    ("prevalence", "reacher"): 20,
    ("prevalence", "swimmer"): 14,
    ("prevalence", "hopper"): 34,
    ("deep_reacher", "reacher"): 110,
    ("deep_swimmer", "swimmer"): 56,
    ("deep_hopper", "hopper"): 101,
    ("low_rank", "low_rank"): 142,  # beside other work
    ("ufm", "reacher"): 24,
    ("ufm", "hopper"): 32,
    ("animation", "swimmer"): 20,
    ("images", "carla_2d"): 145,
    ("images", "utkface"): 137,
}


def test_costs_are_proportional_to_times() -> None:
    speed = [
        config.sweep_members(experiment, data, "quick", Path("outputs"))[0].cost / seconds
        for (experiment, data), seconds in SECONDS.items()
    ]
    assert max(speed) < 1.33 * min(speed)
