"""TensorBoard curves beside metrics.csv: the same numbers, no part of what identifies a run."""

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.models import MLP
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

SETTINGS = RunSettings(
    LowRank(t=2, r=2, d=5, n=100),
    MLP(num_layers=2, width=8),
    Optim(lr=0.05, batch_size=32),
    Protocol(epochs=4),
    Measure(log_spaced=0, evenly=2, outputs=True),
)


def test_the_curves_hold_the_rows_of_the_csv(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install 'nrc[tensorboard]')")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    threads = threading.active_count()
    fit(SETTINGS, tmp_path, tensorboard=True)
    assert threading.active_count() == threads  # the writer is closed
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        (tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)
    }
    with open(tmp_path / "metrics.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["value"] != "nan"]
    assert len(found) == len(rows) > 100
    for row in rows:
        tag = f"{row['layer'].replace(':', '_')}/{row['metric']}/{row['split']}"
        assert found[tag, int(row["step"])] == pytest.approx(float(row["value"]), rel=1e-6, abs=1e-37)


def test_it_is_no_part_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install 'nrc[tensorboard]')")
    fit(SETTINGS, tmp_path / "with", tensorboard=True)
    fit(SETTINGS, tmp_path / "without")
    files = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("with", "without")]
    assert files[0] == files[1]
    assert fit(SETTINGS, tmp_path / "with") == "skipped"


def test_without_the_package_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'nrc\[tensorboard\]'"):
        fit(SETTINGS, tmp_path, tensorboard=True)
    assert not (tmp_path / "metrics.csv").exists()


def test_the_command_takes_the_option(tmp_path: Path) -> None:
    (tmp_path / "tensorboard.py").write_text("raise ImportError('not here')")
    script = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
    result = subprocess.run(
        [sys.executable, str(script), "data=low_rank", "tensorboard=true", f"hydra.run.dir={tmp_path}/run"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: tensorboard=true needs TensorBoard")
