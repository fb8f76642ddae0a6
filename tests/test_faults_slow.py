"""The long versions: a kill at every file operation, kills at random moments, whole commands, a disk that is full."""

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
from fault_tools import EXIT, KillAtFileEvent, code_of, leftovers, results, settings, start
from test_figures import write_run

from nrc.models import MLP
from nrc.runs.directory import read_info
from nrc.training import Measure, Protocol

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[1]
TINY = ["data=low_rank", "data.n=200", "model.width=16", "device=cpu"]


def begin(script: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal makes it."""
    return subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, str(REPO / "scripts" / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def under_way(root: Path, count: int = 1) -> Callable[[], bool]:
    return lambda: len(list(root.rglob("metrics.csv"))) >= count


# --- kill -9


def test_killed_before_every_file_operation_of_a_run(tmp_path: Path) -> None:
    assert code_of(settings(), tmp_path / "whole") == 0
    event, codes = 0, []
    while not codes or codes[-1] == -signal.SIGKILL:
        event += 1
        directory = tmp_path / f"at{event}"
        codes.append(code_of(settings(), directory, before=KillAtFileEvent(directory, event)))
        assert code_of(settings(), directory) in (0, 10), event
        assert results(directory) == results(tmp_path / "whole"), event
        assert leftovers(directory) == [], event
    assert codes[-1] == 0 and len(codes) > 50


def test_killed_thirty_times_at_random_moments(tmp_path: Path) -> None:
    """Each process is killed before it can be done, so most of the work is done in pieces."""
    long = settings(
        model=MLP(num_layers=4, width=64),
        protocol=Protocol(epochs=1000),
        measure=Measure(log_spaced=9, evenly=120),
    )
    began = time.monotonic()
    assert code_of(long, tmp_path / "whole") == 0
    needed = time.monotonic() - began
    draw, kills, chain = random.Random(time.time_ns()), 0, 0
    while kills < 30:
        chain += 1
        directory = tmp_path / f"chain{chain}"
        while True:
            process = start(long, directory)
            process.join(draw.uniform(0.05, 0.4) * needed)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode in (0, EXIT["skipped"])  # the last kill may come after the run is done
        assert results(directory) == results(tmp_path / "whole")
        assert leftovers(directory) == []
    assert kills >= 30


def test_figures_killed_while_being_drawn(tmp_path: Path) -> None:
    for wd in (0.0, 1e-2):
        write_run(tmp_path / "outputs", "prevalence-quick", "reacher", wd)
    code = (
        "import sys; from pathlib import Path; from nrc.figures import draw_all;"
        "print('ready', flush=True); list(draw_all(Path(sys.argv[1]), folder=Path(sys.argv[2])))"
    )

    def draw(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "outputs"), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    began = time.monotonic()
    assert draw(tmp_path / "whole").wait() == 0
    needed = time.monotonic() - began
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for part in (0.3, 0.5, 0.7):
        process = draw(tmp_path / "killed")
        time.sleep(needed * part)
        process.kill()
        process.wait()
        for path in (tmp_path / "killed").glob("[!.]*"):  # what is there is whole
            assert path.read_bytes() == wanted[path.name]
    assert draw(tmp_path / "killed").wait() == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()} == wanted


# --- whole commands


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_says_how_to_continue(tmp_path: Path, number: int) -> None:
    command = [
        "train.py",
        *TINY,
        "protocol.epochs=3000",
        "protocol.tau=null",
        f"hydra.run.dir={tmp_path}/run",
    ]
    whole = begin(*[c.replace(f"{tmp_path}/run", f"{tmp_path}/whole") for c in command])
    process = begin(*command)
    wait_until(under_way(tmp_path / "run"))
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == f"stopped: {tmp_path}/run was stopped by a signal; the same command continues it\n"
    assert read_info(tmp_path / "run")["status"] == "interrupted"
    again = begin(*command)
    out, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "resumed at step" in out, errors
    assert whole.wait(120) == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def hydra_sweep(outputs: Path) -> subprocess.Popen[str]:
    length = ["protocol.epochs=4000", "protocol.tau=null", f"hydra.sweep.dir={outputs}"]
    return begin("train.py", "-m", *TINY, "seed=0,1,2", *length, "hydra.launcher.n_jobs=2")


def reproduce(outputs: Path) -> subprocess.Popen[str]:
    return begin("reproduce_figures.py", "--dataset", "low_rank", "--outputs", str(outputs), "--workers", "2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_by_hydra_is_stopped(tmp_path: Path, number: int) -> None:
    """Ctrl-C, here four times, goes to the whole group, SIGTERM to the first process alone."""
    process = hydra_sweep(tmp_path)
    wait_until(under_way(tmp_path, 2))
    for _ in range(4 if number == signal.SIGINT else 1):
        (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and errors.endswith("the same command continues them\n")
    found = [read_info(path.parent)["status"] for path in tmp_path.rglob("run.json")]
    assert found == ["interrupted"] * 2
    wait_until(lambda: group_is_gone(process), 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_reproduction_is_stopped(tmp_path: Path, number: int) -> None:
    process = reproduce(tmp_path)
    wait_until(under_way(tmp_path, 2))
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "stopped: 2 of 2 runs are not done; the same command continues them\n"
    assert [read_info(p.parent)["status"] for p in tmp_path.rglob("run.json")] == ["interrupted"] * 2
    wait_until(lambda: group_is_gone(process), 20)


def test_a_reproduction_stopped_while_its_workers_are_born(tmp_path: Path) -> None:
    process = reproduce(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "stopped: 2 of 2 runs are not done; the same command continues them\n"


@pytest.mark.parametrize("command", [reproduce, hydra_sweep])
def test_workers_end_when_their_parent_is_killed(
    tmp_path: Path, command: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """They save first; and nothing is left that holds the run directories against the next start."""
    process = command(tmp_path)
    wait_until(under_way(tmp_path, 2))
    process.kill()
    process.wait()
    wait_until(lambda: group_is_gone(process), 20)
    assert [read_info(p.parent)["status"] for p in tmp_path.rglob("run.json")] == ["interrupted"] * 2


def test_workers_end_when_their_parent_is_killed_while_they_are_born(tmp_path: Path) -> None:
    process = hydra_sweep(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= 2)
    process.kill()
    process.wait()
    wait_until(lambda: group_is_gone(process), 60)
    assert not list(tmp_path.rglob("run.json"))


def test_a_killed_worker_costs_a_hydra_sweep_its_run_alone(tmp_path: Path) -> None:
    """The others end as always, and the same command continues the one."""
    process = hydra_sweep(tmp_path)
    wait_until(under_way(tmp_path, 2))
    os.kill(int(next(tmp_path.rglob(".lock")).read_text().split()[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in errors
    assert "its process was killed (out of memory?); the same command continues it" in errors.splitlines()[-1]
    found = sorted(read_info(path.parent)["status"] for path in tmp_path.rglob("run.json"))
    assert found == ["finished", "finished", "running"]


def test_a_sweep_started_again_with_other_settings(tmp_path: Path) -> None:
    """The finished member is skipped; the same place with another rate is refused, and the difference named."""
    common = [
        "train.py",
        "-m",
        *TINY,
        "protocol.epochs=3",
        "protocol.tau=null",
        f"hydra.sweep.dir={tmp_path}",
    ]
    assert begin(*common, "seed=0").wait() == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.csv")}
    both = begin(*common, "seed=0,1")
    out, errors = both.communicate(timeout=120)
    assert both.returncode == 0 and "1 were there already" in out, errors
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    other = begin(*common, "seed=0,2", "optim.lr=0.01")
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 2 and "Traceback" not in errors
    last = errors.splitlines()[-1]  # before it, Hydra says which member this was
    assert last.startswith("error: ") and "holds another run (optim.lr is 0.05 there and 0.01 here)" in last
    assert len(list(tmp_path.rglob("snapshots.npz"))) == 3  # seed=2 was run all the same


# --- a full disk


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 160 kB in memory: one line; with more room the same command ends as if nothing had been."""
    own = ["unshare", "-Urm"]
    probe = [*own, "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("a file system of one's own needs user namespaces (unshare -Urm)")
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = [*TINY, "protocol.epochs=30", "protocol.tau=null", f"hydra.run.dir={disk}/run"]
    train = " ".join([sys.executable, str(REPO / "scripts/train.py"), *arguments])
    script = f"""
        mount -t tmpfs -o size=160k none {disk}
        {train}; echo code $?
        tail -c1 {disk}/run/metrics.csv | od -c | head -1; ls -A {disk}/run
        mount -o remount,size=16m {disk}
        {train}; echo code $?
        cp -r {disk}/run {tmp_path}/run"""
    done = subprocess.run([*own, "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: cannot write {disk}/run/")
    assert "No space left on device; free some disk space, then run the same command again" in done.stderr
    assert "code 2" in done.stdout and "code 0" in done.stdout and ".tmp" not in done.stdout
    whole = begin("train.py", *arguments[:-1], f"hydra.run.dir={tmp_path}/whole")
    assert whole.wait() == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
