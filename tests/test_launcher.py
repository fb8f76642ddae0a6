"""Runs launched by Hydra: classes and sweepers from elsewhere, closed output, other systems, other locales."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import SCRIPTS, in_process

REPO = SCRIPTS.parent
FEW = [
    "data=low_rank",
    "data.n=200",
    "model.width=8",
    "protocol.tau=0.5",
    "measure.log_spaced=0",
    "measure.evenly=0",
]

OWN = """
from dataclasses import dataclass
import numpy as np
from torch import nn
from nrc.data import RegressionData

@dataclass(frozen=True)
class MyData:
    n: int = 40
    shift: float = 0.0
    data_name = "mine"

    def load(self) -> RegressionData:
        x = np.random.default_rng(0).normal(size=(self.n + 10, 3)).astype("float32")
        y = x[:, :2] + self.shift
        n = self.n
        return RegressionData("mine", x[:n], y[:n], x[n:], y[n:], ("a", "b", "c"), ("u", "v"), "real", {})

@dataclass(frozen=True)
class MyModel:
    width: int = 4
    rank: int = 2

    def build(self, n_in: int, n_out: int, seed: int) -> nn.Module:
        return Network(n_in, self.width, n_out)

class Network(nn.Module):
    def __init__(self, n_in: int, width: int, n_out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, width), nn.Linear(width, n_out)

    def forward(self, x):
        return self.fc2(self.fc1(x))

    def measured_layers(self):
        return {"fc1": self.fc1, "fc2": self.fc2}
"""

SWEEPER = '''
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Halving(Sweeper):
    """Two batches: the second takes the better of the first."""

    def __init__(self, **settings):
        """Those of Hydra's own sweeper."""

    def setup(self, *, hydra_context, task_function, config):
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments):
        first = self.launcher.launch([[*arguments, f"optim.weight_decay={wd}"] for wd in (0, 1)], 0)
        errors = [job.return_value for job in first]
        best = (0, 1)[errors.index(min(errors))]
        self.launcher.launch([[*arguments, f"optim.weight_decay={best}", "seed=7"]], 2)
'''


def test_a_model_and_a_data_set_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    result = in_process(
        "train.py",
        ["data._target_=my_package.MyData", "+data.shift=1.5", "model._target_=my_package.MyModel", "model.width=6",
         "+model.rank=3", "protocol.tau=0.5", "measure.log_spaced=0", "measure.evenly=1", "hydra.run.dir=run"],
        tmp_path,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "40 train and 10 test rows, 3 inputs -> 2 targets (u, v)" in result.out
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert recorded["data"] == {"kind": "my_package.MyData", "n": 40, "shift": 1.5}
    assert recorded["model"] == {"kind": "my_package.MyModel", "width": 6, "rank": 3}
    identity = json.loads((tmp_path / "run/run.json").read_text())["identity"]
    assert identity["model"] == recorded["model"]


def test_a_sweeper_from_elsewhere_gets_the_errors_of_the_runs(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "halving.py").write_text(SWEEPER)
    arguments = [
        *FEW,
        "protocol.tau=20",
        "hydra.sweeper._target_=hydra_plugins.halving.Halving",
        "hydra.sweep.dir=runs",
    ]
    arguments = [a for a in arguments if a != "protocol.tau=0.5"]
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / "train.py"), "-m", *arguments,
         "hydra.sweep.subdir=${hydra.job.num}-${slug:hydra.job.override_dirname}"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    names = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/snapshots.npz"))
    assert [name[0] for name in names] == ["0", "1", "2"]
    assert "optim.weight_decay_0" in names[2] and "seed_7" in names[2]  # a decay of 1 kills everything


def test_output_that_nobody_reads_ends_the_program_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train.py"), *FEW[:3], "protocol.tau=null", "protocol.epochs=100000", "hydra.run.dir=run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # as `| head -1` does
    assert process.stderr.read() == "" and process.wait(120) == 141
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_streams_closed_from_the_start(tmp_path: Path, streams: str) -> None:
    closed = ">&-" if streams == "stdout" else ">&- 2>&-"
    command = f"exec {sys.executable} {SCRIPTS}/train.py {' '.join(FEW)} hydra.run.dir=run {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_locale_without_utf8(tmp_path: Path) -> None:
    name = "dé 数.csv"
    rows = "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(60))
    (tmp_path / name).write_text(f"a,b,中\n{rows}", encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / "train.py"), "data=table", f'data.path="{name}"', "data.targets=1",
         *FEW[2:], "hydra.run.dir=run"],
        cwd=tmp_path, capture_output=True, env=os.environ | locale,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    assert recorded["data"]["path"].encode("ascii", "surrogateescape").decode() == name


ELSEWHERE = """
import importlib, os, pkgutil, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.sched_getaffinity, os.getloadavg, signal.pthread_sigmask
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
import nrc
for module in pkgutil.walk_packages(nrc.__path__, "nrc."):
    if module.name != "nrc.cli.slurm":  # SLURM is for Linux
        importlib.import_module(module.name)
from nrc import worker
from nrc.training import stopping
assert [number.name for number in stopping.SIGNALS] == ["SIGINT", "SIGTERM"]
assert worker.cores() == os.cpu_count()
with stopping.signals_held():
    pass
from nrc.cli.early import train
train()
"""


def test_nothing_needs_what_linux_alone_has(tmp_path: Path) -> None:
    """Without fcntl, sched_getaffinity, pthread_sigmask and the signals that Windows lacks."""
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *FEW, "hydra.run.dir=run"], cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
