"""The examples run as they stand; those for other libraries where these are installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nrc
import nrc.models._torchvision  # the other libraries import torchvision, which may not load as it is

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_your_own_model_collapses_in_the_table_it_prints() -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "your_own_model.py")],
        capture_output=True, text=True, env={"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines[1:8]]
    nrc1 = [float(row[2]) for row in rows]
    assert nrc1[0] > 0.1 and nrc1[-1] < 0.01
    assert (
        lines[8].startswith("Collapsed") and "Decay budget lambda * tau = 20" in lines[9] and len(lines) == 10
    )


def test_the_lightning_callback_logs_what_the_monitor_measures() -> None:
    pytest.importorskip("lightning", reason="lightning is not installed (pip install lightning)")
    module = load("lightning_callback")
    trainer = module.main()
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    batches = next(c.batches for c in trainer.callbacks if isinstance(c, module.CollapseCallback))
    expected = nrc.CollapseMonitor(trainer.lightning_module).measure(batches)
    assert list(expected) == ["net.0", "net.1"]
    assert logged == {
        f"{layer}/{name}": pytest.approx(value, rel=1e-5, abs=1e-9, nan_ok=True)  # logged in 32 bits
        for layer, metrics in expected.items()
        for name, value in metrics.items()
    }


def test_the_hugging_face_callback_logs_every_epoch() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install transformers)")
    pytest.importorskip("accelerate", reason="accelerate is not installed (pip install accelerate)")
    first, second = load("hf_trainer_callback").main()
    assert (first["epoch"], second["epoch"]) == (1.0, 2.0)
    assert 0 <= second["classifier/nrc1"] <= 1 and second["classifier/mse"] < first["classifier/mse"]
    assert second["bert.pooler.dense/noise"] != first["bert.pooler.dense/noise"]


@pytest.mark.parametrize(
    ("name", "package", "head"),
    [
        ("hf_regression_head", "transformers", "score"),
        ("sb3_policy", "stable_baselines3", "action_net"),
        ("lora", "peft", "base_model.model.4"),
    ],
)
def test_examples_of_other_libraries_find_the_head_or_are_skipped_with_a_line(name, package, head) -> None:
    if importlib.util.find_spec(package) is None:
        result = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{name}.py")],
            capture_output=True, text=True, env={"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert result.returncode == 1 and result.stdout == ""
        assert result.stderr == f"skipped: No module named '{package}'; " + result.stderr.partition("; ")[2]
        assert result.stderr.count("\n") == 1 and "pip install" in result.stderr
        return
    monitor = load(name).main()
    assert monitor.head == head and 0 <= monitor.table[head]["nrc1"] <= 1
    assert monitor.table[head]["mse"] == monitor.table[head]["mse"] and not monitor.undefined[head].get("mse")
