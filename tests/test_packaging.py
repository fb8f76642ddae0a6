"""What `pip install` gives: a wheel that carries the configuration and the data, and commands that run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nrc
from nrc.places import ROOT

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())


def test_the_source_tree_is_its_own_root() -> None:
    assert ROOT == REPO and (ROOT / "conf" / "train.yaml").is_file()


@pytest.mark.parametrize("name", PROJECT["project"]["scripts"])
def test_every_command_runs_an_existing_script(name: str) -> None:
    module, function = PROJECT["project"]["scripts"][name].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert (REPO / "scripts" / f"{name.removeprefix('nrc-').replace('-', '_')}.py").is_file()


def test_a_command_is_the_script(tmp_path: Path) -> None:
    code = "import sys; from nrc.cli.train import command; sys.argv = ['nrc-train', 'optim.lr=-1']; command()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.startswith("error: optim.lr is -1"), result.stderr


CORE = """
import sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    # torch and numpy, and what torch itself asks for
    known = {*sys.stdlib_module_names, "nrc", "numpy", "torch", "typing_extensions", "sympy", "mpmath", "networkx",
             "jinja2", "markupsafe", "filelock", "fsspec", "torchgen", "functorch"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
import numpy as np, torch, nrc
x, y = np.random.default_rng(0).normal(size=(50, 3)), np.ones((50, 2))
y[:, 0] = x[:, 1]; y[:, 1] = x[:, 2]
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
assert nrc.measure(x, y, np.eye(3)[1:])["nrc1"] >= 0
batches = [(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))]
assert list(nrc.collect(model, batches)) == list(nrc.CollapseMonitor(model).measure(batches)) == ["0", "2"]
nrc.Moments, nrc.metrics, nrc.errors
"""


def test_the_library_needs_torch_and_numpy_alone() -> None:
    assert [re.split("[>=<]", name)[0] for name in PROJECT["project"]["dependencies"]] == ["torch", "numpy"]
    result = subprocess.run(
        [sys.executable, "-c", CORE], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPO)}
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_a_command_without_its_extra_names_it_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['hydra'] = None; from nrc.cli.early import train; train()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == "error: hydra is not installed; pip install 'nrc[reproduce]' brings it\n"


def test_without_the_embedded_data_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nrc.data import Mujoco
    from nrc.data.mujoco import sources as _sources

    monkeypatch.setattr(_sources, "EMBEDDED", tmp_path / "data" / "minari")
    with pytest.raises(nrc.errors.UserError, match=r"no expert set .* set data.root"):
        Mujoco("reacher").load()


def test_every_package_is_in_the_wheel() -> None:
    found = {".".join(file.parent.relative_to(REPO).parts) for file in REPO.glob("nrc/**/__init__.py")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert {name for name in listed if name.split(".")[0] == "nrc" and "_project" not in name} == found
    assert "hydra_plugins" in listed


def test_the_package_is_typed_and_has_one_version() -> None:
    assert (REPO / "nrc" / "py.typed").is_file()
    assert nrc.__version__ == PROJECT["project"]["version"]


def test_the_constraints_are_exact_versions_that_the_project_allows() -> None:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    exact = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert all(exact)  # no address, no local tag
    pinned = {canonicalize_name(found[1]): found[2] for found in exact if found}
    assert len(pinned) == len(lines) and "nrc" not in pinned
    asked = [*PROJECT["project"]["dependencies"]]
    for extra in ("reproduce", "dev"):
        asked += PROJECT["project"]["optional-dependencies"][extra]
    for text in asked:
        wanted = Requirement(text)
        if wanted.name not in ("nrc", "setuptools"):  # setuptools is part of every environment
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes into the tree it builds from."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPO / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, str(source), "--wheel-dir", str(built)], check=True)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_carries_configuration_data_and_types(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, patterns in {"conf": ["*.yaml"], "data": ["*"], "scripts": ["*"]}.items():
        for pattern in patterns:
            for file in (REPO / folder).rglob(pattern):
                if file.is_file() and "__pycache__" not in file.parts:
                    assert f"nrc/_project/{file.relative_to(REPO).as_posix()}" in inside
    for file in (REPO / "nrc").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert file.relative_to(REPO).as_posix() in inside
    top = {name.split("/")[0] for name in inside}
    assert top == {"nrc", "hydra_plugins", f"nrc-{nrc.__version__}.dist-info"}
    assert "hydra_plugins/nrc_launcher.py" in inside and "hydra_plugins/__init__.py" not in inside


@pytest.mark.slow
def test_the_installed_wheel_runs_away_from_the_repository(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import nrc; print(nrc.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    example = (REPO / "examples" / "your_own_model.py").read_text()
    (tmp_path / "your_own_model.py").write_text(example)
    assert "NRC1" in run(installed, tmp_path, "your_own_model.py")


@pytest.mark.slow
def test_the_examples_run_in_a_clean_environment_outside_the_repository(wheel: Path) -> None:
    """A fresh virtual environment with the wheel and what it asks for from the index: minutes, and 3 GB of disk."""
    pinned = [name for name in PROJECT["project"]["optional-dependencies"]["dev"] if name.startswith("torch")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        python = place / "venv" / "bin" / "python"

        def clean(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [python, *command], cwd=place / "elsewhere", env=environment, capture_output=True, text=True
            )

        venv.create(place / "venv", with_pip=True)
        (place / "elsewhere").mkdir()
        reached = clean("-m", "pip", "install", "--dry-run", "--no-deps", "omegaconf")
        if reached.returncode:
            pytest.skip(f"pip reaches no index: {reached.stderr.strip().splitlines()[-1]}")
        made = clean("-m", "pip", "install", "--quiet", *pinned, f"{wheel}[examples,reproduce]")
        assert made.returncode == 0, made.stderr
        where = clean("-c", "import nrc; print(nrc.__file__)")
        assert Path(where.stdout.strip()).is_relative_to(place / "venv"), where
        examples = sorted((REPO / "examples").glob("*.py"))
        assert len(examples) == 6
        for example in examples:
            shutil.copy(example, place / "elsewhere")
            result = clean(example.name)
            assert result.returncode == 0 and "nrc1" in result.stdout.lower(), result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "directory"),
    [
        (["data=low_rank", "optim.batch_size=800"], "train-quick/low_rank/wd=0/seed=0"),
        (["data=reacher", "optim.weight_decay=0", "optim.batch_size=100"], "train-quick/reacher/wd=0/seed=0"),
        (["-m", "data=low_rank", "optim.batch_size=800", "optim.weight_decay=0,1e-3"],
         "train-quick/low_rank/wd=0.001/seed=0"),
    ],
)  # fmt: skip
def test_the_installed_command_trains_for_ten_steps(
    installed: Path, tmp_path: Path, overrides: list[str], directory: str
) -> None:
    if "optim.weight_decay=0" not in str(overrides):
        overrides = [*overrides, "optim.weight_decay=0"]
    run(installed, tmp_path, str(installed / "bin" / "nrc-train"), *overrides, "protocol.epochs=1")
    metrics = (tmp_path / "outputs" / directory / "metrics.csv").read_text().splitlines()
    assert metrics[-1].split(",")[1] == "10"
