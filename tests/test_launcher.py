"""Runs launched by Hydra: classes and sweepers from elsewhere, closed output, other systems, other locales."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from command_line import SCRIPTS, in_process
from torch import Tensor, nn

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.models import MLP, MLPNetwork
from nrc.training import Measure, Optim, Protocol, RunSettings, fit, own
from nrc.training.members import stackable
from nrc.training.placement import Placed
from nrc.training.steppers import make_stepper

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

# classes from elsewhere that are wrong, as changes of those above, and words of the one line that answers
WRONG_MODELS: dict[str, tuple[str, str, str]] = {
    "squeezed": ("return self.fc2(self.fc1(x))", "return self.fc2(self.fc1(x)).squeeze(-1)",
                 "returned predictions (16,) for targets (16, 1)"),
    "other outputs": ("nn.Linear(width, n_out)", "nn.Linear(width, n_out + 1)",
                      "returned predictions (16, 2) for targets (16, 1)"),
    "tanh": ("return self.fc2(self.fc1(x))", "return self.fc2(self.fc1(x)).tanh()",
             "is not W h + b of its last measured layer 'fc2'"),
    "scaled": ("return self.fc2(self.fc1(x))", "return 2 * self.fc2(self.fc1(x))",
               "is not W h + b of its last measured layer 'fc2'"),
    "tuple": ("return self.fc2(self.fc1(x))", "return self.fc2(self.fc1(x)), x",
              "returned a tuple; it must return one tensor of floats"),
    "whole numbers": ("return self.fc2(self.fc1(x))", "return self.fc2(self.fc1(x)).long()",
                      "returned a tensor of torch.int64; it must return one tensor of floats"),
    "no network": ("return Network(n_in, self.width, n_out)", "return None", "build() returned None"),
    "no seed": ("n_out: int, seed: int)", "n_out: int)", "build() must take n_in, n_out, seed"),
    "frozen": ("return Network(n_in, self.width, n_out)", "return Network(n_in, self.width, n_out).requires_grad_(False)",
               "the network has no parameter that trains"),
    "float64": ("return Network(n_in, self.width, n_out)", "return Network(n_in, self.width, n_out).double()",
                "forward on train rows (16, 3) of float32 fails with RuntimeError"),
    "float32 alone": ("return self.fc2(self.fc1(x))", "return self.fc2(self.fc1(x.float()))",
                      "tables are measured in float64: let forward work in the type of its input"),
    "other inputs": ("nn.Linear(n_in, width)", "nn.Linear(n_in + 1, width)", "cannot be multiplied (16x3 and 4x4)"),
    "no layers": ("measured_layers", "layers", "Network has no method measured_layers()"),
    "list": ('{"fc1": self.fc1, "fc2": self.fc2}', "[self.fc1, self.fc2]", "measured_layers() returned a list"),
    "none of them": ('{"fc1": self.fc1, "fc2": self.fc2}', "{}", "measured_layers() returned nothing"),
    "foreign": ('"fc2": self.fc2}', '"fc2": nn.Linear(4, 1)}', "measured_layers()['fc2'] is a Linear, no module of"),
    "a comma": ('"fc1":', '"fc,1":', "has the name 'fc,1'; give a text without commas"),
    "not run": ('"fc2": self.fc2}', '"out": self.add_module("a", nn.Linear(1, 1)) or self.a, "fc2": self.fc2}',
                "measured layer 'out' does not run in a forward pass"),
    "twice": ("self.fc2(self.fc1(x))", "self.fc2(self.fc1(self.fc1(x)[:, :3]))",
              "measured layer 'fc1' runs 2 times in a forward pass"),
    "backwards": ('{"fc1": self.fc1, "fc2": self.fc2}', '{"fc2": self.fc2, "fc1": self.fc1}',
                  "measured_layers() gives fc2, fc1, but they run as fc1, fc2"),
    "no head": ('"fc1": self.fc1, "fc2": self.fc2', '"fc1": self.fc1', "so it cannot predict 1 targets; let measured_layers()"),
    "no rows": ("self.fc2(self.fc1(x))", "self.fc2(self.fc1(x[None])[0])", "'fc1' takes a tensor (1, 16, 3) for 16 rows"),
    "overwritten": ("return self.fc2(self.fc1(x))", "h = self.fc1(x); out = self.fc2(h); h += 1; return out",
                    "the input of measured layer 'fc2' is overwritten after it has run"),
}  # fmt: skip
WRONG_DATA: dict[str, tuple[str, str, str]] = {
    "nothing": ("return RegressionData(", "RegressionData(", "load() returned None; it must return a nrc.data.Regr"),
    "arrays": ("return RegressionData(", "return (", "load() returned a tuple; it must return a nrc.data.Regr"),
    "error": ("n = self.n", "n = {}['boom']", "load() fails with KeyError: 'boom' ("),
    "gradients": ('("float32")', '("float32"); import torch; x = torch.tensor(x, requires_grad=True)',
                  "load() fails with RuntimeError: Can't call numpy() on Tensor that requires grad"),
}  # fmt: skip


def changed(folder: Path, name: str, *changes: tuple[str, str]) -> ModuleType:
    """The classes above with these changes, as a module of this name."""
    text = OWN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.py").write_text(text)
    return importlib.import_module(name)


def run_of(module: ModuleType, **plan: Any) -> RunSettings:
    optim = Optim(lr=0.1, batch_size=8)
    measure = Measure(log_spaced=0, evenly=1, **plan)
    return RunSettings(module.MyData(), module.MyModel(), optim, Protocol(epochs=8), measure)


@pytest.mark.parametrize("which", WRONG_MODELS)
def test_a_network_from_elsewhere_is_tried_before_its_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    old, new, words = WRONG_MODELS[which]
    name = f"wrong_{which.replace(' ', '_')}"
    module = changed(tmp_path, name, ("y = x[:, :2]", "y = x[:, :1]"), ('("u", "v")', '("u",)'), (old, new))
    with pytest.raises(UserError, match=re.escape(words)) as told:
        fit(run_of(module), tmp_path / "run", device="cpu")
    assert str(told.value).startswith(f"{name}.MyModel: ") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", WRONG_DATA)
def test_data_from_elsewhere_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = changed(tmp_path, f"wrong_data_{which}", WRONG_DATA[which][:2])
    with pytest.raises(UserError, match=re.escape(WRONG_DATA[which][2])) as told:
        fit(run_of(module), tmp_path / "run", device="cpu")
    assert str(told.value).startswith(f"wrong_data_{which}.MyData: ") and not (tmp_path / "run").exists()


def test_an_output_that_is_bent_later_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clamp that does nothing to the first predictions: W h + b is the output at the start alone."""
    monkeypatch.syspath_prepend(tmp_path)
    module = changed(
        tmp_path,
        "clamped",
        ("self.fc2(self.fc1(x))", "self.fc2(self.fc1(x)).clamp(-2, 2)"),
        ("shift: float = 0.0", "shift: float = 3.0"),
    )
    with pytest.raises(UserError, match=r"the network's output is not W h \+ b"):
        fit(run_of(module), tmp_path / "run", device="cpu")
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["status"] == "failed" and "not W h + b" in info["reason"]


def test_an_output_that_is_another_in_training_is_not_broadcast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    bent = "out[:, :1] if self.training else out"
    module = changed(
        tmp_path, "two_ways", ("return self.fc2(self.fc1(x))", f"out = self.fc2(self.fc1(x)); return {bent}")
    )
    with pytest.raises(UserError, match=r"Network returned \(8, 1\) in training for targets \(8, 2\)"):
        fit(run_of(module), tmp_path / "run", device="cpu")


def test_an_output_that_is_overwritten_is_not_measured_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = changed(tmp_path, "in_place", ("self.fc2(self.fc1(x))", "self.fc2(self.fc1(x).relu_())"))
    assert fit(run_of(module), tmp_path / "run", device="cpu") == "finished"
    with pytest.raises(UserError, match="'fc1:out' is measured by is overwritten in place"):
        fit(run_of(module, outputs=True), tmp_path / "outputs", device="cpu")


class Counting(nn.Module):
    """Draws random numbers and moves buffers, in evaluation mode, too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += torch.rand(1)
        return self.fc2(self.norm(self.fc1(x)))

    def measured_layers(self) -> dict[str, nn.Module]:
        return {"fc1": self.fc1, "fc2": self.fc2}


def test_trying_a_network_leaves_it_and_the_random_numbers_as_they_were() -> None:
    model, x = Counting(), torch.randn(20, 3)
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, modes = torch.get_rng_state(), {name: m.training for name, m in model.named_modules()}
    own.check(model, MLP(), Placed(x, x[:, :2], x, x[:, :2]))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Bent(MLPNetwork):
    """Tanh in place of ReLU, which the step by hand knows nothing of."""

    def forward(self, x: Tensor) -> Tensor:
        return self.stack.fc2(self.stack.fc1(x).tanh())


def test_a_network_made_of_an_mlp_is_not_trained_as_one() -> None:
    def mlp() -> MLPNetwork:
        return MLP(num_layers=2, width=4).build(3, 2, seed=0)

    swapped, frozen = mlp(), mlp()
    swapped.stack.relu1 = nn.Tanh()
    frozen.stack.fc1.requires_grad_(False)
    for model in (Bent(MLP(num_layers=2, width=4), 3, 2), swapped, frozen):
        assert make_stepper(model, Optim()).name == "autograd"
    linear = MLP(num_layers=3, width=4, feature_activation="none").build(3, 2, seed=0)
    for model in (mlp(), linear, MLP(num_layers=1).build(3, 2, seed=0)):
        assert make_stepper(model, Optim()).name == "by hand"


@dataclass(frozen=True)
class OwnMLP(MLP):
    """Settings of a network of one's own, by way of those of the MLP."""


def test_a_class_derived_from_the_mlp_is_not_stacked() -> None:
    settings = RunSettings(LowRank(), OwnMLP(), Optim(), Protocol(tau=1.0), Measure())
    assert stackable(replace(settings, model=MLP())) and not stackable(settings)


def test_a_name_that_leaves_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    changed(tmp_path, "leaving", ('data_name = "mine"', 'data_name = "a/../../b"'))
    target = ["data._target_=leaving.MyData", *FEW[2:]]
    (tmp_path / "here").mkdir()
    result = in_process("train.py", target, tmp_path / "here")
    assert result.status == 2 and "leaving.MyData.data_name is 'a/../../b'" in result.err
    assert not list((tmp_path / "here").iterdir())
    assert in_process("train.py", [*target, "hydra.run.dir=../free"], tmp_path / "here").status == 0
    assert (tmp_path / "free/run.json").exists()


@pytest.mark.parametrize("cut", ["header", "row", "step"])
def test_a_finished_run_whose_rows_are_cut_short_says_so(tmp_path: Path, cut: str) -> None:
    command = [*FEW[:-1], "hydra.run.dir=run", "measure.evenly=3"]
    assert in_process("train.py", command, tmp_path).status == 0
    file = tmp_path / "run/metrics.csv"
    lines = file.read_text().splitlines(keepends=True)
    last = lines[-1].split(",")[1]
    kept = {"header": lines[0][:20], "row": "".join(lines)[:-5],
            "step": "".join(line for line in lines if line.split(",")[1] != last)}[cut]  # fmt: skip
    file.write_text(kept)
    result = in_process("train.py", command, tmp_path)
    assert result.status == 2 and result.err.count("\n") == 1
    assert "run/metrics.csv " in result.err and "run and run the same command again" in result.err


BROKEN = {
    "import numpy\nx = numpy.nonsense\n": "fails with AttributeError: module 'numpy' has no attribute 'nonsense' (",
    "\nimport no_such_library\n": "fails with ModuleNotFoundError: No module named 'no_such_library' (",
    "\ndef f(:\n": "fails with SyntaxError: invalid syntax",
    "\n": "Are you sure that 'MyModel' is importable from module",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_an_error_in_ones_own_module_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{list(BROKEN).index(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    result = in_process("train.py", [f"model._target_={name}.MyModel"], tmp_path)
    assert result.status == 2 and BROKEN[text] in result.err and "PYTHONPATH" not in result.err
    assert f"{name}.py:2)" in result.err or text == "\n"


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
