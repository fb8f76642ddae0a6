"""What surrounds a sweep on SLURM, without a SLURM: `make test-slurm` runs one through a real one."""

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="pip install 'nrc[slurm]' brings it")
from submitit.core.utils import UncompletedJobError

from nrc.cli import slurm
from nrc.errors import UserError
from nrc.training.stopping import Interrupted

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `squeue` that shows this file, or fails with its second line."""
    answer = tmp_path / "answer"
    script = tmp_path / "squeue"
    script.write_text(f"#!/bin/sh\ngrep -q error {answer} && {{ cat {answer} >&2; exit 1; }}\ncat {answer}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    return answer


def test_a_task_that_slurm_has_ended_or_forgotten_is_not_waited_for(squeue: Path) -> None:
    queue = slurm.Queue(delay_s=30)
    for task in range(4):
        queue.register_job(f"17_{task}")

    def done() -> list[bool]:
        queue.update()
        return [queue.is_done(f"17_{task}", "cache") for task in range(4)]

    squeue.write_text("17_0|RUNNING\n17_1|PENDING\n17_2|COMPLETING\n17_3|CONFIGURING\n")
    assert done() == [False] * 4
    squeue.write_text("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    assert done() == [False] * 4
    squeue.write_text("17_0|OUT_OF_MEMORY\n17_1|RUNNING\n17_3|PREEMPTED\n")
    assert done() == [True, False, True, False]
    squeue.write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert done() == [True] * 4


@pytest.mark.parametrize(("state", "requeues"), [("RUNNING", 1), ("COMPLETING", 0), ("error", 0)])
def test_a_stopped_task_is_requeued_unless_slurm_has_ended_it(
    squeue: Path, monkeypatch: pytest.MonkeyPatch, state: str, requeues: int
) -> None:
    squeue.write_text(f"{state}\n")
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    try:
        with pytest.raises(SystemExit) as ended, slurm.requeued():
            os.kill(os.getpid(), signal.SIGTERM)
            raise Interrupted("the run was stopped by a signal")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert calls == [signal.SIGUSR2] * requeues
    assert ended.value.code == 1  # so that submitit writes no result, which would end the wait for the task


def test_a_task_that_was_requeued_too_often_says_so(squeue: Path) -> None:
    def refuse(number: int, frame: object) -> None:
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    squeue.write_text("RUNNING\n")
    before = signal.signal(signal.SIGUSR2, refuse)
    try:
        with pytest.raises(UserError, match=r"stopped .*timed-out too many times"), slurm.requeued():
            raise Interrupted("the run was stopped by a signal")
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_finished_task_passes(squeue: Path) -> None:
    with slurm.requeued():
        result = 3
    assert result == 3


def test_errors_of_the_launcher_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(slurm.SlurmJob, "watcher", slurm.SlurmJob.watcher)
    words = (
        "Job 17_2 (task: 0) with path /runs/.submitit/17_2/17_2_0_result.pkl\n"
        "has not produced any output (state: TIMEOUT)\nError stream produced:\n-----\nlong\n"
    )
    line = r"^SLURM job 17_2 left no result \(TIMEOUT\).*/runs/.submitit/17_2;"
    with pytest.raises(UserError, match=line), slurm.launching():
        raise UncompletedJobError(words)
    with pytest.raises(UserError, match="no srun"), slurm.launching():
        raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')
    with pytest.raises(RuntimeError, match="ours"), slurm.launching():
        raise RuntimeError("ours")
    assert str(REPO) in os.environ["PYTHONPATH"]
