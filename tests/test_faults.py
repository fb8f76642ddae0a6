"""Killed, stopped, starved of disk, damaged, copied, opened twice: a run ends as if nothing had happened.

Every kill is a real SIGKILL of a real process. `test_faults_slow.py` has the long versions.
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault_tools import (
    FORKS,
    AtStep,
    Deadly,
    KillAtFileEvent,
    LimitFileSize,
    code_of,
    leftovers,
    results,
    settings,
    start,
)

from nrc.errors import UserError
from nrc.runs import checkpoint, files
from nrc.runs.directory import RunDirectory, read_info, read_run
from nrc.training import Optim, fit, stopping
from nrc.training.pool import Member, run_all


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert code_of(settings(), directory) == 0
    return directory


def finishes_like(whole: Path, directory: Path) -> None:
    assert code_of(settings(), directory) == 0
    assert results(directory) == results(whole)
    assert leftovers(directory) == []
    ends = [read_info(d) for d in (whole, directory)]
    for info in ends:
        del info["seconds"], info["environment"]
    assert ends[0] == ends[1] and ends[0]["status"] == "finished"


def status(directory: Path) -> str:
    return read_info(directory)["status"] if (directory / "run.json").exists() else "new"


# --- determinism


def test_two_processes_write_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    finishes_like(whole, tmp_path / "run")
    assert len(results(whole)) > 10  # weights, velocity, snapshots, rows


# --- kill -9


@pytest.mark.parametrize("event", [1, 14, 28, 43])
def test_killed_before_a_file_operation(whole: Path, tmp_path: Path, event: int) -> None:
    directory = tmp_path / "run"
    killed = code_of(settings(), directory, before=KillAtFileEvent(directory, event))
    assert killed == -signal.SIGKILL
    assert status(directory) in ("new", "running")
    finishes_like(whole, directory)


@pytest.mark.parametrize("file", ["metrics.csv", "checkpoint.pt"])
@pytest.mark.parametrize("kill", [True, False])
def test_cut_within_a_write(whole: Path, tmp_path: Path, file: str, kill: bool) -> None:
    """The kernel ends the write in the middle: by killing the process, or by an error as a full disk does."""
    directory = tmp_path / "run"
    rows = (whole / "metrics.csv").stat().st_size
    saved = (halfway(tmp_path / "half") / "checkpoint.pt").stat().st_size  # a finished run's is smaller
    assert saved < 0.9 * rows  # so that a limit between them hits the rows alone
    limit = saved // 2 if file == "checkpoint.pt" else rows - 100
    assert code_of(settings(), directory, before=LimitFileSize(limit, kill)) == (
        -signal.SIGXFSZ if kill else 2
    )
    if not kill:
        words = directory.with_suffix(".error").read_text()
        assert words.startswith(f"cannot write {directory / file}: File too large") and words.count("\n") == 1
        assert (directory / "metrics.csv").read_text().endswith("\n")  # whole rows only
        assert status(directory) == "failed" and leftovers(directory) == []
    finishes_like(whole, directory)


# --- Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_ends_the_step_and_saves(whole: Path, tmp_path: Path, number: int) -> None:
    directory = tmp_path / "run"
    assert code_of(settings(), directory, progress=AtStep(10, number)) == 11
    info = read_info(directory)
    assert info["status"] == "interrupted" and info["reason"].endswith("the same command continues it")
    assert info["steps"] == torch.load(directory / "checkpoint.pt", weights_only=True)["step"] == 10
    finishes_like(whole, directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_anything_to_save_ends_in_one_line(tmp_path: Path, number: int) -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:  # until it catches the signal, which is long before torch is loaded
        caught = Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0]
        if int(caught, 16) >> (signal.SIGUSR2 - 1) & 1:  # the last of them
            break
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "stopped; the same command continues\n"
    assert process.returncode == 130 and not list(tmp_path.iterdir())


LATE = """
import os, signal, sys
from types import ModuleType
from nrc.cli import early
class Last:  # goes when Python takes its modules apart
    def __del__(self, kill=os.kill, here=os.getpid(), number=signal.SIGINT):
        kill(here, number)
last = Last()
sys.modules["nrc.cli.ending"] = ending = ModuleType("ending")
ending.command = lambda: sys.exit(7)
early.run("ending")
"""


def test_a_signal_while_python_ends_does_not_change_the_exit_status() -> None:
    result = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (7, "")


# --- a full disk


def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UserError, match=r"cannot write .*rows.csv: No space left on device; free some disk space"
        ),
        files.writing(tmp_path / "rows.csv"),
        open("/dev/full", "w") as handle,
    ):
        handle.write("x")


@pytest.mark.parametrize("call", (3, 6, 11))
def test_a_disk_that_fills_up_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """As many file systems tell it: only when the bytes are to reach the disk."""
    real, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some disk space"):
        fit(settings(), tmp_path / "run", checkpoint_seconds=0)
    monkeypatch.setattr(os, "fsync", real)
    assert leftovers(tmp_path) == [] and status(tmp_path / "run") == "running"
    finishes_like(whole, tmp_path / "run")


# --- damaged checkpoints


def halfway(directory: Path) -> Path:
    assert code_of(settings(), directory, progress=AtStep(30, signal.SIGTERM)) == 11
    return directory


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    whole: Path, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    directory = halfway(tmp_path / "run")
    damage(directory / "checkpoint.pt")
    assert fit(settings(), directory) == "finished"
    warnings = [line for line in said() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "checkpoint.pt cannot be used" in warnings[0]
    assert warnings[0].endswith("taking the one before")
    assert results(directory) == results(whole)


@pytest.mark.parametrize("what", ["damaged", "rows lost", "not a checkpoint"])
def test_without_a_usable_checkpoint_it_starts_over_and_says_so(
    whole: Path, tmp_path: Path, what: str, said: Callable[[], list[str]]
) -> None:
    directory = halfway(tmp_path / "run")
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        if what == "damaged":
            damage(directory / name)
        elif what == "not a checkpoint":
            (directory / name).write_bytes(b"PK\x03\x04")
    if what == "rows lost":
        os.truncate(directory / "metrics.csv", 1000)
    assert fit(settings(), directory) == "finished"
    warnings = [line for line in said() if line.startswith("warning: ")]
    assert len(warnings) == 2 and warnings[1].endswith("starting over")
    assert results(directory) == results(whole)


def test_no_damage_of_a_checkpoint_goes_unseen(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    """Flipped bits, lost ends and blocks of zeros: either found, or without any effect on the content."""
    state = {"step": 7, "model": {"w": torch.randn(40, 5)}, "measurer": {"start": {}, "first_nrc1": 0.5}}
    checkpoint.save(tmp_path, {"seed": 0}, state)
    file, draw, seen = tmp_path / checkpoint.NEWEST, random.Random(0), 0
    good = file.read_bytes()
    for trial in range(300):
        bad, place = bytearray(good), draw.randrange(len(good))
        if trial % 3 == 0:
            bad[place] ^= 1 << draw.randrange(8)
        elif trial % 3 == 1:
            del bad[place:]
        else:
            bad[place : place + 64] = bytes(len(bad[place : place + 64]))
        file.write_bytes(bad)
        before = len(said())
        found = checkpoint.load(tmp_path, {"seed": 0})
        seen += found is None
        assert len(said()) - before == (found is None)
        if found is not None:
            assert torch.equal(found["model"]["w"], state["model"]["w"])
            assert (found["step"], found["rows"], found["measurer"]) == (7, 0, state["measurer"])
    assert seen > 200


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    halfway(tmp_path / "run")
    assert code_of(settings(seed=1), tmp_path / "other", progress=AtStep(10, signal.SIGTERM)) == 11
    shutil.copy(tmp_path / "run/checkpoint.pt", tmp_path / "other/checkpoint.pt")
    with pytest.raises(
        UserError, match=r"checkpoint.pt is of another run \(seed is 0 there and 1 here\); delete"
    ):
        fit(settings(seed=1), tmp_path / "other")


def test_a_damaged_record_is_named_and_its_remedy_works(whole: Path, tmp_path: Path) -> None:
    directory = halfway(tmp_path / "run")
    (directory / "run.json").write_text('{"status": ')
    with pytest.raises(
        UserError, match=r"run.json cannot be read .* delete it and run the same command again"
    ):
        fit(settings(), directory)
    (directory / "run.json").unlink()
    finishes_like(whole, directory)


# --- moved, copied, opened twice


def test_a_run_directory_may_be_moved_and_copied(whole: Path, tmp_path: Path) -> None:
    halfway(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "a copy ü")
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("a copy ü", "moved"):
        finishes_like(whole, tmp_path / name)


def hold(path: Path, ready: object) -> None:
    with files.lock(path):
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_second_process_is_refused_until_the_first_is_gone(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, ready = tmp_path / "run", FORKS.Event()
    directory.mkdir()
    holder = FORKS.Process(target=hold, args=(directory / ".lock", ready))
    holder.start()
    assert ready.wait(30)
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    with pytest.raises(UserError, match=rf"{directory} is in use by process {holder.pid} on .*; wait for it"):
        fit(settings(), directory)
    assert sorted(path.name for path in directory.iterdir()) == [".lock"]
    holder.kill()
    holder.join()
    finishes_like(whole, directory)


def test_who_waits_for_the_lock_sees_what_the_holder_did(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 60)  # a busy machine may need longer than a user is made to wait
    second = settings()
    both = [start(second, tmp_path / "run") for _ in range(2)]
    for process in both:
        process.join(60)
    assert sorted(process.exitcode for process in both) == [0, 10]  # finished and skipped
    assert results(tmp_path / "run") == results(whole)


def test_where_there_are_no_locks_a_warning_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    def none_here(self: object, timeout: float) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.FileLock, "acquire", none_here)
    assert fit(settings(), tmp_path / "run") == "finished"
    assert [line for line in said() if "no lock on this file system" in line]


def test_stale_files_go_and_those_at_work_stay(tmp_path: Path) -> None:
    gone = FORKS.Process(target=os.getpid)
    gone.start()
    gone.join()
    stale, busy = (tmp_path / f".figure.png.{pid}.tmp" for pid in (gone.pid, os.getppid()))
    stale.write_text("half")
    busy.write_text("half")
    with files.atomic(tmp_path / "figure.png") as tmp:
        tmp.write_text("whole")
    assert leftovers(tmp_path) == [busy.name]


# --- members of a sweep


def test_a_diverged_run_keeps_its_rows_and_its_verdict(tmp_path: Path) -> None:
    wild = settings(optim=Optim(lr=30.0, batch_size=16))
    assert code_of(wild, tmp_path / "whole") == 12
    rows = (tmp_path / "whole/metrics.csv").read_text().splitlines()
    last = int(rows[-1].split(",")[1])
    reason = read_info(tmp_path / "whole")["reason"]
    assert reason.startswith("diverged at step ") and 0 <= last < int(reason.split()[3].rstrip(":"))
    assert code_of(wild, tmp_path / "whole") == 12  # again the same answer, without a run
    directory = tmp_path / "killed"
    assert code_of(wild, directory, before=KillAtFileEvent(directory, 22)) == -signal.SIGKILL
    assert code_of(wild, directory) == 12
    assert (directory / "metrics.csv").read_text().splitlines() == rows
    assert read_info(directory)["reason"] == reason


def test_a_killed_worker_costs_its_own_run_alone(tmp_path: Path) -> None:
    deadly = Member(settings(data=Deadly(t=2, r=2, d=5, n=100)), tmp_path / "deadly", cost=2.0)
    good = [Member(settings(seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    outcomes = run_all([deadly, *good], workers=1)
    assert outcomes[deadly.directory].startswith("error: its process was killed (out of memory?)")
    assert [outcomes[m.directory] for m in good] == ["finished", "finished"]
    assert run_all(good, workers=1) == {m.directory: "skipped" for m in good}


def test_a_directory_of_another_run_costs_that_member_alone(tmp_path: Path) -> None:
    assert code_of(settings(), tmp_path / "run") == 0
    other = Member(settings(optim=Optim(lr=0.01)), tmp_path / "run")
    outcome = run_all([other], workers=1)[other.directory]
    assert outcome.startswith("error: ") and "optim.lr is 0.05 there and 0.01 here" in outcome


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_rows_that_are_lost_are_said(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    (directory / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read .* run the same command again"):
        read_run(directory)


def test_rows_changed_before_the_checkpoint_are_measured_again(
    whole: Path, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    directory = tmp_path / "run"
    assert code_of(settings(), directory, progress=AtStep(20, signal.SIGTERM)) == 11
    flip(directory / "metrics.csv", 200)
    assert fit(settings(), directory) == "finished"
    assert any("metrics.csv was changed since); taking the one before" in line for line in said())
    assert any("metrics.csv was changed since); starting over" in line for line in said())
    assert results(directory) == results(whole)


def test_the_record_never_lacks_a_status(tmp_path: Path) -> None:
    """At every step of a run `run.json` reads as JSON with a status."""
    seen: list[str] = []

    def look(done: int, total: int) -> None:
        seen.append(json.loads((tmp_path / "run/run.json").read_text())["status"])

    assert fit(settings(), tmp_path / "run", progress=look) == "finished"
    assert set(seen) == {"running"} and status(tmp_path / "run") == "finished"
    assert RunDirectory.open(tmp_path / "run", read_info(tmp_path / "run")["identity"]).finished


POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from nrc.worker import follow_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), follow_parent) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
        jobs = [pool.submit(time.sleep, seconds) for seconds in (0, 600)]  # one worker waits, the other works
        print(*pool._processes, flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc, which Linux has")
def test_workers_that_draw_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    command = [sys.executable, str(tmp_path / "pool.py")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        workers = process.stdout.readline().split()
        process.kill()
    assert len(workers) == 2
    until = time.monotonic() + 30
    while any(Path("/proc", worker).exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path("/proc", worker).exists() for worker in workers)
