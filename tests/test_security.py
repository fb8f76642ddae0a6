"""Nothing read from outside is run, and nothing is fetched that was not asked for."""

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files import Trap
from command_line import in_process

from nrc.data import Mujoco
from nrc.data.mujoco import hub as _hub
from nrc.data.mujoco.hub import PINNED, pinned
from nrc.errors import UserError

REPO = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPO / "nrc").rglob("*.py")) + sorted((REPO / "scripts").glob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "hydra.utils.instantiate", "hydra.utils.call", "instantiate", "pd.read_pickle",
         "torch.hub.load"}  # fmt: skip
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
           "socket", "urllib.request", "http.client", "requests", "httpx", "ftplib"}  # fmt: skip
# what must be said at every call
SAID = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
MAY_FETCH = {"nrc/data/mujoco/hub.py"}  # the only file that may name the hub's client


def forbidden(source: str) -> list[str]:
    """What a module does that could run foreign code or reach the network, as lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: import {a.name}"
                for a in node.names
                if a.name in MODULES | {"huggingface_hub"}
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in MODULES | {"huggingface_hub"}:
            found.append(f"{node.lineno}: from {node.module} import")
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            option, value = SAID.get(name, (None, None))
            if name in CALLS or name.endswith((".extractall", ".extract")) or given.get("shell") == "True":
                found.append(f"{node.lineno}: {name}")
            elif option is not None and given.get(option) != str(value):
                found.append(f"{node.lineno}: {name} without {option}={value}")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPO)))
def test_nothing_read_can_run_code(file: Path) -> None:
    lines = forbidden(file.read_text(encoding="utf-8"))
    if str(file.relative_to(REPO)) in MAY_FETCH:
        lines = [line for line in lines if "huggingface_hub" not in line]
    assert lines == []


@pytest.mark.parametrize(
    "bad",
    ["eval('1')", "exec(text)", "import pickle", "from pickle import loads", "import urllib.request", "os.system(x)",
     "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)",
     "yaml.load(f)", "subprocess.run(x, shell=True)", "archive.extractall(folder)", "import huggingface_hub"],
)  # fmt: skip
def test_the_search_sees(bad: str) -> None:
    assert len(forbidden(f"def f():\n    {bad}\n")) == 1


def test_the_search_lets_pass() -> None:
    fine = (
        "model.eval()\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nyaml.safe_load(f)\n"
    )
    assert forbidden(fine + "subprocess.run(['git'])\n") == []


def test_every_default_download_is_pinned_to_a_commit() -> None:
    assert len(PINNED) == 6 and all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())
    assert pinned("jat", "reacher", None) == PINNED["jat", "reacher"]
    assert pinned("jat", "ant", "v1") == "v1"
    with pytest.raises(UserError, match="no revision of ant is pinned"):
        pinned("jat", "ant", None)


def test_training_on_the_default_data_asks_for_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`in_process` has no network; this also sees what would be tried and given up in silence."""
    asked: list[Any] = []
    monkeypatch.setattr("command_line.no_network", lambda *address: asked.append(address))
    monkeypatch.setattr(_hub, "download", lambda *a, **k: asked.append(a))
    few = ["protocol.tau=0.5", "measure.log_spaced=0", "measure.evenly=0", "model.width=8"]
    result = in_process("train.py", few, tmp_path)
    assert result.status == 0 and "finished" in result.out, result
    assert asked == []


def test_a_minari_set_cannot_name_an_environment_to_be_made(tmp_path: Path) -> None:
    """Without its spaces Minari would call the entry point that metadata.json names: any function at all."""
    folder = tmp_path / "nrc" / "reacher-expert-v0"
    shutil.copytree(REPO / "data" / "minari" / "nrc" / "reacher-expert-v0", folder)
    file = folder / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    opened = tmp_path / "opened"
    spec = json.loads(metadata.pop("env_spec")) | {"entry_point": "os:mkdir", "kwargs": {"path": str(opened)}}
    for missing in ("observation_space", "action_space"):
        less = {key: value for key, value in metadata.items() if key != missing}
        file.write_text(json.dumps(less | {"env_spec": json.dumps(spec)}))
        with pytest.raises(UserError, match=r"metadata\.json lacks"):
            Mujoco(root=str(tmp_path)).load()
    assert not opened.exists()


def test_a_checkpoint_is_never_unpickled(tmp_path: Path) -> None:
    """A checkpoint.pt that holds objects is not opened, whatever becomes of the run."""
    few = [
        "hydra.run.dir=run",
        "protocol.tau=0.5",
        "measure.log_spaced=0",
        "measure.evenly=0",
        "model.width=8",
    ]
    assert in_process("train.py", few, tmp_path).status == 0
    record = tmp_path / "run" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "interrupted"}))
    torch.save({"step": Trap()}, tmp_path / "run" / "checkpoint.pt")
    result = in_process("train.py", few, tmp_path)
    assert not (tmp_path / "opened").exists()
    assert "Traceback (most recent" not in result.err
