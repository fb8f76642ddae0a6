"""Whole runs: what they write, cut and continued, diverging, on fewer samples."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import FAST

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.models import MLP
from nrc.runs.directory import RunDirectory, read_run
from nrc.training import Measure, Optim, Protocol, RunSettings, fit
from nrc.training.steppers import HandStepper


def settings(**changes: object) -> RunSettings:
    values = dict(
        data=LowRank(t=2, r=2, d=5, n=200),
        model=MLP(num_layers=3, width=16),
        optim=FAST,
        protocol=Protocol(epochs=10),
        measure=Measure(log_spaced=4, evenly=4),
    )
    return RunSettings(**(values | changes))  # type: ignore[arg-type]


def test_a_run_writes_its_directory(tmp_path: Path) -> None:
    assert fit(settings(), tmp_path / "run") == "finished"
    info, rows = read_run(tmp_path / "run")
    assert info["status"] == "finished" and len(info["data"]["sha256"]) == 64
    assert info["environment"]["torch"] == torch.__version__
    assert list(rows.columns) == ["epoch", "step", "tau", "split", "layer", "metric", "value"]
    assert set(rows.layer) == {"model", "fc1", "fc2", "fc3"}
    assert rows.step.min() == 0 and rows.epoch.max() == 10
    mse = rows[(rows.layer == "model") & (rows.metric == "mse") & (rows.split == "train")].value
    assert mse.iloc[-1] < mse.iloc[0]
    arrays = np.load(tmp_path / "run" / "snapshots.npz")
    assert arrays["weight_end"].shape == (2, 16) and arrays["sigma"].shape == (2, 2)


def test_the_map_of_the_released_code_is_measured_at_both_ends_alone(tmp_path: Path) -> None:
    fit(settings(), tmp_path)
    with open(tmp_path / "metrics.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["layer"] == "fc3"]
    at = {
        name: sorted({int(row["step"]) for row in rows if row["metric"] == name})
        for name in ("linear_mse", "linear_mse_uncentred")
    }
    assert len(at["linear_mse"]) > 2
    assert at["linear_mse_uncentred"] == [at["linear_mse"][0], at["linear_mse"][-1]]


def test_recorded_mse_is_the_models_own(tmp_path: Path) -> None:
    chosen = settings()
    fit(chosen, tmp_path)
    _, rows = read_run(tmp_path)
    data = chosen.data.load()
    model = chosen.model.build(5, 2, seed=0)
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        error = (model(torch.from_numpy(x)) - torch.from_numpy(y)).detach().double().square()
        found = rows[(rows.layer == "model") & (rows.split == split)].groupby("metric").value.last()
        total = ((y - y.mean(0)) ** 2).sum()
        assert found["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
        assert found["r2"] == pytest.approx(1 - float(error.sum()) / total, rel=1e-5)


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(settings(seed=seed), tmp_path / name)
    text = {name: (tmp_path / name / "metrics.csv").read_bytes() for name in "abc"}
    assert text["a"] == text["b"] != text["c"]


@pytest.mark.parametrize("stop_at", [1, 17, 30, 49])
def test_an_interrupted_run_continues_bitwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Cut at a step, with stray rows after the checkpoint as a crash leaves them, then continued."""
    whole = settings()
    fit(whole, tmp_path / "whole")
    import nrc.training.run as module

    real = module.train_steps

    def cut(*args: object) -> int:
        first, last = args[5], args[6]
        if first >= stop_at:
            raise KeyboardInterrupt
        return real(*args[:6], min(last, stop_at), *args[7:])  # type: ignore[operator,arg-type]

    monkeypatch.setattr(module, "train_steps", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(whole, tmp_path / "cut", checkpoint_seconds=0)
    with open(tmp_path / "cut" / "metrics.csv", "a") as handle:
        handle.write(f"9.0,{stop_at + 1},1.0,train,fc3,nrc1,0.5\n9.0,{stop_at + 2},1.0,tra")
    monkeypatch.setattr(module, "train_steps", real)
    assert fit(whole, tmp_path / "cut") == "finished"
    for file in ("metrics.csv",):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    a, b = (torch.load(tmp_path / d / "checkpoint.pt", weights_only=True)["model"] for d in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_finished_run_is_skipped_and_another_one_refused(tmp_path: Path) -> None:
    fit(settings(), tmp_path)
    before = (tmp_path / "metrics.csv").stat().st_mtime_ns
    assert fit(settings(), tmp_path) == "skipped"
    assert (tmp_path / "metrics.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"optim\.weight_decay is 0\.001 there and 0\.1 here"):
        fit(settings(optim=Optim(lr=0.05, momentum=0.9, weight_decay=0.1, batch_size=32)), tmp_path)


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    wild = settings(optim=Optim(lr=1e4, batch_size=32))
    assert fit(wild, tmp_path) == "diverged"
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["status"] == "diverged" and "diverged at step" in info["reason"]


def test_divergence_shows_in_features_or_weights_and_no_other_mistake_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise UserError("measuring does not work")

    monkeypatch.setattr("nrc.training.measuring.evaluate", broken)
    with pytest.raises(UserError, match="measuring does not work"):
        fit(settings(), tmp_path / "broken")
    info = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert (info["status"], info["reason"]) == ("failed", "measuring does not work")
    monkeypatch.undo()

    def spoilt(self: HandStepper, x: torch.Tensor, y: torch.Tensor, lr: float) -> torch.Tensor:
        self.weights[-1][0].fill_(math.nan)  # the last weight alone: all features stay finite
        return torch.zeros(1)

    monkeypatch.setattr(HandStepper, "step", spoilt)
    assert fit(settings(), tmp_path / "spoilt") == "diverged"


def test_too_strong_weight_decay_is_named(tmp_path: Path) -> None:
    """Trap 1: the features vanish, and NRC1 is not a number but a named state."""
    strong = settings(
        optim=Optim(lr=0.05, momentum=0.9, weight_decay=1.0, batch_size=32), protocol=Protocol(epochs=60)
    )
    fit(strong, tmp_path)
    info, rows = read_run(tmp_path)
    assert "features vanished" in info["reason"] and "features vanished" in info["undefined"]["fc3/nrc1"]
    assert math.isnan(rows[(rows.layer == "fc3") & (rows.metric == "nrc1")].value.iloc[-1])


def test_fewer_measured_samples_and_outputs(tmp_path: Path) -> None:
    fit(settings(measure=Measure(log_spaced=0, evenly=0, samples=50, outputs=True)), tmp_path)
    with open(tmp_path / "metrics.csv") as handle:
        layers = {row["layer"] for row in csv.DictReader(handle)}
    assert {"fc1:out", "fc2:out"} < layers and "fc3:out" not in layers


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Optim(weight_decay=-1.0), "optim.weight_decay is -1"),
        (lambda: Optim(lr=0.0), "optim.lr is 0"),
        (lambda: Optim(momentum=1.0), "optim.momentum is 1"),
        (lambda: Optim(batch_size=0), "optim.batch_size is 0"),
        (lambda: Optim(milestones=[0.9, 0.1]), "increasing fractions"),
        (lambda: Protocol(tau=None, epochs=None), "exactly one"),
        (lambda: Protocol(tau=1.0, epochs=1), "exactly one"),
        (lambda: Protocol(tau=-1.0), "positive"),
        (lambda: Measure(every=0), "measure.every is 0"),
        (lambda: Measure(layers="some"), "choose last or all"),
        (lambda: MLP(feature_activation="gelu"), "choose relu or none"),
        (lambda: MLP(num_layers=0), "model.num_layers is 0"),
    ],
)
def test_settings_are_checked_when_made(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=words):
        make()


def test_run_directory_refuses_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the run directory"):
        RunDirectory.open(tmp_path / "file" / "run", {})


def test_training_leaves_denormal_numbers_as_they_were(tmp_path: Path) -> None:
    fit(settings(), tmp_path / "run")
    assert torch.tensor(1e-40) * 1.0 > 0


def test_a_finished_run_keeps_its_weights_alone_or_nothing(tmp_path: Path) -> None:
    fit(settings(), tmp_path / "kept")
    kept = torch.load(tmp_path / "kept" / "checkpoint.pt", weights_only=True)
    assert set(kept) == {"model", "step", "identity", "finished"}
    assert all(value.dtype == torch.float32 for value in kept["model"].values())
    numbers = sum(value.numel() for value in kept["model"].values())
    assert (
        tmp_path / "kept" / "checkpoint.pt"
    ).stat().st_size < 4 * numbers + 8_000  # no second copy of anything
    fit(replace(settings(), keep_weights=False), tmp_path / "bare")
    assert not list((tmp_path / "bare").glob("checkpoint*")) and not list(
        (tmp_path / "kept").glob("*previous*")
    )
    read = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("kept", "bare")]
    assert read[0] == read[1]
    for name in ("kept", "bare"):  # not what determines the numbers: either way the run is the same
        assert fit(settings(), tmp_path / name) == "skipped"


def test_a_finished_run_whose_record_is_lost_starts_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(settings(), tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "run.json").unlink()
    assert fit(settings(), tmp_path) == "finished"
    assert "the run was finished: it holds the weights alone); starting over" in caplog.text
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_finished_run_is_not_continued_for_longer_and_one_line_says_so(tmp_path: Path) -> None:
    fit(settings(), tmp_path)
    with pytest.raises(
        UserError,
        match=r"holds another run \(protocol.epochs is 10 there and 20 here\); choose another place",
    ):
        fit(settings(protocol=Protocol(epochs=20)), tmp_path)
