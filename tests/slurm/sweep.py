"""Sweeps through the sbatch of a real SLURM; `make test-slurm` starts one and runs this file."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MEMBERS = [f"low_rank/wd={wd}/seed={seed}" for wd in ("0", "0.001") for seed in (0, 1)]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=1"]


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command a user gives: four runs of some seconds, measured often, below `folder`."""
    command = [
        sys.executable, str(REPO / "scripts" / "train.py"), "-m", "data=low_rank", "data.n=400", "model.width=64",
        "optim.weight_decay=0,1e-3", "seed=0,1", "protocol.epochs=3000", "measure.evenly=40", "device=cpu",
        f"hydra.sweep.dir={folder}", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # fmt: skip


def finish(sweep: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    try:
        _, errors = sweep.communicate(timeout=seconds)
    finally:
        sweep.kill()
    return sweep.returncode, errors


def metrics(folder: Path) -> list[bytes]:
    return [(folder / member / "metrics.csv").read_bytes() for member in MEMBERS]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def job_of(folder: Path) -> str:
    """The number of the sweep's array job, once it is submitted."""
    found: list[str] = []

    def submitted() -> bool:
        found[:] = [path.name for path in (folder / ".submitit").glob("[0-9]*_[0-9]*")]
        return bool(found)

    wait_until(submitted)
    return found[0].split("_")[0]


def under_way(folder: Path, member: str) -> Callable[[], bool]:
    file = folder / member / "metrics.csv"
    return lambda: file.exists() and len(set(re.findall(r"^[^,]+,(\d+),", file.read_text(), re.M))) > 5


def log(folder: Path, job: str, task: int) -> str:
    return (folder / ".submitit" / f"{job}_{task}" / f"{job}_{task}_0_log.out").read_text()


def jobs_left() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def notify(number: str, job: str, task: int) -> None:
    """Send a task a signal the way SLURM does."""
    found = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}_{task}", "--format=%A"],
        capture_output=True,
        text=True,
        check=True,
    )  # its step: to a task of an array scancel sends it again and again, and hits the requeued one
    subprocess.run(["scancel", f"--signal={number}", f"{found.stdout.strip()}.0"], check=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("local")
    assert finish(begin(folder)) == (0, "")
    return metrics(folder)


def test_requeued_and_preempted_tasks_go_on_and_end_in_the_same_numbers(
    tmp_path: Path, local: list[bytes]
) -> None:
    sweep = begin(tmp_path, *SLURM)
    job = job_of(tmp_path)
    wait_until(under_way(tmp_path, MEMBERS[0]))
    subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)  # SLURM preempts it without a notice
    wait_until(under_way(tmp_path, MEMBERS[1]))
    notify("USR2", job, 1)  # the notice before the time limit
    wait_until(under_way(tmp_path, MEMBERS[2]))
    notify("TERM", job, 2)  # the notice of a preemption
    assert finish(sweep) == (0, "")
    for task in (0, 1, 2):
        text = log(tmp_path, job, task)
        saved = re.search(r"stopped by a signal at step (\d+);", text)
        assert saved and f"resumed at step {saved[1]}," in text, text
    assert "resumed" not in log(tmp_path, job, 3)
    assert metrics(tmp_path) == local


def test_a_sweep_does_not_wait_for_a_task_that_is_gone_and_the_same_command_continues(
    tmp_path: Path, local: list[bytes]
) -> None:
    sweep = begin(tmp_path, *SLURM)
    job = job_of(tmp_path)
    wait_until(under_way(tmp_path, MEMBERS[0]))
    subprocess.run(["scancel", f"{job}_0"], check=True)
    code, errors = finish(sweep, seconds=90)
    assert code == 2 and errors.startswith(f"error: SLURM job {job}_0 left no result (CANCELLED)"), errors
    assert errors.count("\n") == 1
    assert json.loads((tmp_path / MEMBERS[0] / "run.json").read_text())["status"] == "interrupted"

    wait_until(lambda: not jobs_left())
    again = begin(tmp_path, *SLURM)
    wait_until(lambda: bool(jobs_left()))
    again.send_signal(signal.SIGINT)  # the user need not wait, the tasks go on
    code, errors = finish(again, seconds=30)
    assert code == 130 and re.fullmatch(r"stopped: SLURM job \d+ goes on .*\n", errors), errors
    wait_until(lambda: not jobs_left())
    assert metrics(tmp_path) == local


def test_what_sbatch_refuses_ends_in_one_line(tmp_path: Path) -> None:
    code, errors = finish(begin(tmp_path, *SLURM, "hydra.launcher.partition=nowhere"))
    assert code == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: SLURM: sbatch: ") and "artition" in errors, errors
