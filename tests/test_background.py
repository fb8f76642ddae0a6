"""What is drawn while runs train: which picture when, what the report says of the others, and that nothing is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from report_runs import home, train

from nrc.cli import background as module
from nrc.cli import config
from nrc.cli.background import Background, Group, figure_of, number_of
from nrc.experiments import experiments
from nrc.figures import Runs, draw
from nrc.report.registry import NOT_RUN, PENDING
from nrc.report.scorecard import scorecard
from nrc.training.members import Member
from nrc.training.pool import run_all


class Pipe:
    """Takes jobs in the place of a process, which the test answers for."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, frozenset[Path]]] = []
        self.answers: list[module.Done | None] = [None]

    def poll(self) -> bool:
        return bool(self.answers)

    def recv(self) -> module.Done | None:
        return self.answers.pop(0)

    def send(self, job: tuple[str, frozenset[Path]]) -> None:
        self.jobs.append(job)


MAIN, LINEAR, SWEEP = ({Path(f"out/{name}-quick/toy/{k}") for k in range(2)} for name in ("a", "b", "c"))
GROUPS = [
    Group(("prevalence_relu", "published"), frozenset(MAIN)),
    Group(("prevalence_linear", "published", "collapse"), frozenset(LINEAR)),
    Group(("sweep_relu",), frozenset(SWEEP | MAIN)),  # shares runs with the first
]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Background:
    monkeypatch.setattr(module, "SHARE", 1e9)
    found = Background(Path("out"), "quick", GROUPS)
    found.pipe = Pipe()  # type: ignore[assignment]
    return found


def answer(drawing: Background, *names: str, error: str = "", seconds: float = 1.0) -> None:
    pipe = drawing.pipe
    pipe.answers.append(module.Done(pipe.jobs[-1][0], list(names), error, seconds))  # type: ignore[union-attr]


def test_a_picture_is_drawn_when_all_its_runs_are_done_and_not_before(drawing: Background) -> None:
    first, second = sorted(MAIN)
    drawing.watch({first: "finished"})
    assert drawing.pipe.jobs == []  # type: ignore[union-attr]
    drawing.watch({second: "diverged"})
    assert drawing.pipe.jobs == [("prevalence", frozenset(LINEAR | SWEEP))]  # type: ignore[union-attr]
    drawing.watch(dict.fromkeys(LINEAR, "finished"))  # one at a time: this waits
    assert len(drawing.pipe.jobs) == 1  # type: ignore[union-attr]
    answer(drawing, "prevalence_relu", "prevalence_linear")
    drawing.watch({})
    assert drawing.pipe.jobs[1:] == [("report", frozenset(SWEEP))]  # type: ignore[union-attr]
    for _ in range(4):
        answer(drawing)
        drawing.watch({})
    assert [job for job, _ in drawing.pipe.jobs] == [
        "prevalence",
        "report",
        "published",
        "prevalence",
        "report",
    ]  # type: ignore[union-attr]


def test_a_picture_without_a_single_result_is_not_drawn(drawing: Background) -> None:
    drawing.watch(dict.fromkeys(MAIN, "error: no such data"))
    assert drawing.pipe.jobs == []  # type: ignore[union-attr]


def test_it_rests_when_it_has_had_its_share(drawing: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 % of 4 cores: after 1 s of work, 12.5 s; the first report comes at once."""
    now = drawing.began
    monkeypatch.setattr(module, "SHARE", 0.02)
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    drawing.watch(dict.fromkeys(MAIN | LINEAR, "finished"))
    answer(drawing, "prevalence_relu", seconds=0.5)
    drawing.watch({})
    assert [job for job, _ in drawing.pipe.jobs] == ["prevalence", "report"]  # type: ignore[union-attr]
    answer(drawing, seconds=1.0)
    for after, jobs in ((12.4, 2), (12.6, 3)):
        now = drawing.began + after
        drawing.watch({})
        assert len(drawing.pipe.jobs) == jobs  # type: ignore[union-attr]


def test_what_goes_wrong_is_said_and_the_rest_goes_on(
    drawing: Background, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    drawing.watch(dict.fromkeys(MAIN | LINEAR, "finished"))
    answer(drawing, error="no space left")
    drawing.watch({})
    assert "prevalence cannot be drawn yet (no space left); it is tried again at the end" in caplog.text
    answer(drawing, "published")
    drawing.watch({})
    assert "drawn: published (figure 2)" in caplog.text


def test_every_drawing_that_an_experiment_declares_is_known() -> None:
    names = {name for found in experiments().values() for name in found["figures"]}
    assert {name for name in names if figure_of(name) is None} == {"collapse"}  # the report's animation
    assert figure_of("sweep_relu").name == "sweep" and figure_of("ufm_sweep").name == "ufm_sweep"  # type: ignore[union-attr]
    assert [number_of(n) for n in ("prevalence_relu", "cone", "collapse")] == [" (figure 2)", "", ""]
    assert number_of("deep_reacher") == " (figures 1, 2, 6 of CPAL 2026)"


def test_the_runs_of_the_first_picture_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from nrc.cli.reproduce import ranked

    order = []
    for experiment, expected in (("prevalence", {0}), ("prevalence_linear", {1}), ("sweep", {1, 2})):
        found = [
            ranked(m, experiment) for m in config.sweep_members(experiment, "swimmer", "quick", Path("out"))
        ]
        assert {member.rank for member in found} == expected
        order += found
    from nrc.training import pool

    monkeypatch.setattr(pool, "ended", lambda *_: None)
    _, waiting = pool._sort_out(order[::-1])
    assert [member.rank for member in waiting] == sorted(member.rank for member in order)


def test_pending_runs_do_not_count_and_what_waits_for_them_says_so(tmp_path: Path) -> None:
    for wd in (0.05, 0.0):
        train(tmp_path, "prevalence", wd, name="swimmer")
    place = home(tmp_path, "prevalence", 0.05).relative_to(tmp_path)
    waits = tmp_path / "prevalence_linear-quick/swimmer/wd=0.01/seed=0"
    runs = Runs(tmp_path, "quick", pending={tmp_path / place, waits})
    assert [run.weight_decay for run in runs.of("prevalence")["swimmer"]] == [0.0]
    verdicts = {(row.experiment, row.data): row.verdict for row in scorecard(runs)}
    assert verdicts["prevalence_linear", "swimmer"] == PENDING
    assert verdicts["prevalence_linear", "hopper"] == NOT_RUN
    # drawn from fewer runs than there are in the end: not up to date then
    assert not draw("prevalence", runs)
    assert [file.unchanged for file in draw("prevalence", Runs(tmp_path))] == [False] * 3
    assert [file.unchanged for file in draw("prevalence", Runs(tmp_path))] == [True] * 3


def test_a_real_process_draws_while_others_wait_and_is_gone_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tmp_path, "prevalence", 0.05)
    done = home(tmp_path, "prevalence", 0.05)
    waits = tmp_path / "prevalence_linear-quick/swimmer/wd=0.01/seed=0"
    found = Background(
        tmp_path, "quick", [Group(("prevalence_relu",), frozenset({done})), Group((), frozenset({waits}))]
    )
    found.began -= 1e6  # it has rested
    try:
        found.watch({done: "skipped"})
        until = time.monotonic() + 600
        while "written: " not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)
            found.watch({})
        assert "drawn: prevalence_relu (figure 2)" in caplog.text and found.process.is_alive()
    finally:
        found.close()
    assert not found.process.is_alive()
    assert (tmp_path / "figures" / "prevalence_relu.png").is_file()
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "pending" in page and "1 runs are under way" in page


ORPHAN = """
import sys, time
from pathlib import Path
from nrc.cli.background import Background, Group
if __name__ == "__main__":
    found = Background(Path(sys.argv[1]), "quick", [Group(("prevalence_relu",), frozenset({Path("x")}))])
    found.watch({})
    if sys.argv[2] == "ready":
        while found.working:
            time.sleep(0.05)
            found.watch({})
    print(found.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("when", ["born", "ready"])
def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path, when: str) -> None:
    (tmp_path / "script.py").write_text(ORPHAN)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path), when], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_pool_tells_how_runs_end_while_others_go_on(tmp_path: Path) -> None:
    from test_reproduce import small

    members = [Member(small(seed), tmp_path / str(seed)) for seed in (0, 1)]
    run_all(members[:1], workers=1)
    heard: list[dict[Path, str]] = []
    outcomes = run_all(members, workers=1, watch=lambda ended: heard.append(dict(ended)))
    assert heard[0] == {members[0].directory: "skipped"}
    assert {k: v for part in heard for k, v in part.items()} == outcomes
    heard.clear()
    run_all(members, workers=1, watch=lambda ended: heard.append(dict(ended)))
    assert heard == []  # nothing to run: nothing to watch
