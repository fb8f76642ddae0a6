"""The tau clock, the loop, and runs that are cut and continued."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.models import MLP
from nrc.record import RunDirectory, find_runs, read_run
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings, fit
from nrc.training.loop import Diverged, batch_order, epoch_order, train_steps
from nrc.training.steppers import AutogradStepper, HandStepper, make_stepper

FAST = Optim(lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=32)


def settings(**changes: object) -> RunSettings:
    values = dict(
        data=LowRank(t=2, r=2, d=5, n=200),
        model=MLP(num_layers=3, width=16),
        optim=FAST,
        protocol=Protocol(epochs=10),
        measure=Measure(log_spaced=4, evenly=4),
    )
    return RunSettings(**(values | changes))  # type: ignore[arg-type]


def quiet(*args: object) -> None:
    pass


# --- the clock


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("milestones", [[], [0.25], [1 / 3, 2 / 3]])
def test_tau_is_the_sum_of_effective_learning_rates(momentum: float, milestones: list[float]) -> None:
    optim = Optim(lr=0.02, momentum=momentum, milestones=milestones)
    clock = Clock.of(optim, Protocol(tau=37.0), n_samples=1000)
    summed = sum(clock.lr_at(step) for step in range(clock.total_steps)) / (1 - momentum)
    assert clock.tau_at(clock.total_steps) == pytest.approx(summed, abs=1e-6)
    assert summed == pytest.approx(37.0, rel=0.02)  # whole steps, whole milestones


def test_published_lengths() -> None:
    """nrc_prevalence, section 3: epochs, steps and tau of the three MuJoCo runs."""
    for epochs, rows, steps, tau in (
        (1_500_000, 1000, 6.0e6, 60_000),
        (1_000_000, 1000, 4.0e6, 40_000),
        (200_000, 10_000, 8.0e6, 80_000),
    ):
        clock = Clock.of(Optim(lr=1e-2), Protocol(name="paper", epochs=epochs), n_samples=rows)
        assert (clock.total_steps, clock.tau_at(clock.total_steps)) == (steps, pytest.approx(tau))


def test_measured_steps_include_both_ends_and_every_epoch_when_asked() -> None:
    clock = Clock.of(Optim(lr=0.1, batch_size=256), Protocol(epochs=7), n_samples=1000)
    steps = clock.measured_steps(Measure(every=1, log_spaced=0, evenly=0))
    assert steps == [0, 4, 8, 12, 16, 20, 24, 28]
    assert clock.measured_steps(Measure(every=None, log_spaced=0, evenly=0)) == [0, 28]


# --- the loop


def test_batches_cover_every_epoch_once_and_resume_anywhere() -> None:
    order = batch_order(10, 4, seed=3)
    first = [next(order) for _ in range(6)]
    assert [len(b) for b in first] == [4, 4, 2, 4, 4, 2]
    assert sorted(torch.cat(first[:3]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(first[:3]), torch.cat(first[3:]))
    resumed = batch_order(10, 4, seed=3, start_step=4)
    assert torch.equal(next(resumed), first[4])


def test_no_epoch_of_one_seed_is_one_of_another() -> None:
    """Reacher's published run has 1,500,000 epochs: its seed 0 must not end with the orders that seed 1 begins with."""
    late = [epoch_order(30, 0, 1_000_003 + epoch) for epoch in range(3)]
    early = [epoch_order(30, 1, epoch) for epoch in range(3)]
    assert not any(torch.equal(a, b) for a, b in zip(late, early, strict=True))
    assert len({tuple(order.tolist()) for order in (*late, *early)}) == 6
    assert all(order.dtype == torch.int64 and sorted(order.tolist()) == list(range(30)) for order in late)
    assert torch.equal(late[1], epoch_order(30, 0, 1_000_004))
    # what was drawn before stays
    assert epoch_order(8, 0, 1_000_002).tolist() == [6, 7, 4, 5, 3, 2, 0, 1]
    assert epoch_order(8, 3, 7).tolist() == [5, 3, 1, 6, 4, 7, 0, 2]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_steps_by_hand_equal_autograd(momentum: float, bias: bool, activation: str) -> None:
    """Parameters within 1e-6 after 200 steps of float32, partial batches included."""
    data = LowRank(t=2, r=2, d=5, n=200).load()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optim = Optim(lr=0.02, momentum=momentum, weight_decay=1e-2, batch_size=48)
    clock = Clock.of(optim, Protocol(epochs=50), len(x))
    weights = []
    for kind in (HandStepper, AutogradStepper):
        model = MLP(num_layers=4, width=16, bias=bias, feature_activation=activation).build(5, 2, seed=0)
        before = [p.detach().clone() for p in model.parameters()]
        train_steps(kind(model, optim), x, y, batch_order(len(x), 48, seed=0), clock, 0, 200)
        weights.append([p.detach() for p in model.parameters()])
    assert max((a - b).abs().max() for a, b in zip(*weights, strict=True)) < 1e-6
    assert max((a - b).abs().max() for a, b in zip(weights[0], before, strict=True)) > 1e-2


def test_a_step_by_hand_makes_its_buffers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = HandStepper(MLP(num_layers=3, width=8).build(3, 2, seed=0), FAST)
    for rows in (6, 4):
        stepper.step(torch.randn(rows, 3), torch.randn(rows, 2), 0.1)
    made = {rows: [b.data_ptr() for part in pair for b in part] for rows, pair in stepper.buffers.items()}
    assert {rows: len(set(places)) for rows, places in made.items()} == {6: 6, 4: 6}  # two for each layer
    monkeypatch.setattr(torch.Tensor, "new_empty", None)
    for rows in (6, 4, 6):
        stepper.step(torch.randn(rows, 3), torch.randn(rows, 2), 0.1)
    assert made == {
        rows: [b.data_ptr() for part in pair for b in part] for rows, pair in stepper.buffers.items()
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_buffers_change_no_bit(bias: bool, activation: str) -> None:
    """300 steps against the same written with fresh tensors, partial batches included: equal to the last bit."""

    class Fresh(HandStepper):
        def step(self, x: torch.Tensor, y: torch.Tensor, lr: float) -> torch.Tensor:
            inputs = [x]
            for (weight, _), b, relu in zip(self.weights, self.biases, self.relu, strict=True):
                out = inputs[-1] @ weight.T if b is None else torch.addmm(b[0], inputs[-1], weight.T)
                inputs.append(out.relu() if relu else out)
            residual = inputs.pop() - y
            delta = residual * (2 * self.optim.loss_scale / residual.numel())
            for k in reversed(range(len(self.weights))):
                (weight, grad), b = self.weights[k], self.biases[k]
                grad.copy_(delta.T @ inputs[k])
                if b is not None:
                    b[1].copy_(delta.sum(0))
                delta = delta @ weight
                if k and self.relu[k - 1]:
                    delta = delta * (inputs[k] > 0)
            self.grad.add_(self.theta, alpha=self.optim.weight_decay)
            self.velocity.mul_(self.optim.momentum).add_(self.grad)
            self.theta.add_(self.velocity, alpha=-lr)
            return residual

    data = LowRank(t=2, r=2, d=5, n=200).load()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    clock = Clock.of(FAST, Protocol(epochs=60), len(x))
    found = []
    for kind in (HandStepper, Fresh):
        model = MLP(num_layers=4, width=32, bias=bias, feature_activation=activation).build(5, 2, seed=0)
        stepper = kind(model, FAST)
        with torch.no_grad():
            train_steps(stepper, x, y, batch_order(len(x), 48, seed=0), clock, 0, 300)
        found.append((stepper.theta, stepper.velocity))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_networks_with_batchnorm_step_by_autograd() -> None:
    assert make_stepper(MLP(norm="batch", width=8).build(3, 1, seed=0), Optim()).name == "autograd"


def test_a_step_is_the_papers_update() -> None:
    """theta <- theta - lr (grad of 0.5 * mean squared error + lambda * theta), biases included."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    model = MLP(num_layers=1).build(3, 2, seed=0).double()
    linear = model.measured_layers()["fc1"]
    w, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    optim = Optim(lr=0.1, weight_decay=0.3, batch_size=8)
    clock = Clock.of(optim, Protocol(epochs=1), 8)
    train_steps(make_stepper(model, optim), x, y, iter([torch.arange(8)]), clock, 0, 1)
    residual = x @ w.T + b - y
    grad_w, grad_b = residual.T @ x / residual.numel(), residual.sum(0) / residual.numel()
    assert torch.allclose(linear.weight, w - 0.1 * (grad_w + 0.3 * w), atol=1e-14)
    assert torch.allclose(linear.bias, b - 0.1 * (grad_b + 0.3 * b), atol=1e-14)


def test_momentum_follows_plain_sgd_in_tau() -> None:
    """Full batches of a linear problem: the two protocols agree at equal tau, and not at equal steps."""
    data = LowRank(t=2, r=2, d=5, n=200).load()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    loss = {}
    for name, lr, momentum in (
        ("plain", 2e-4, 0.0),
        ("momentum", 2e-4, 0.9),
        ("plain, same steps", 2e-4, 0.0),
    ):
        optim = Optim(lr=lr, momentum=momentum, batch_size=len(x))
        tau = 0.3 if name.startswith("plain, same") else 3.0
        model = MLP(num_layers=2, width=16).build(5, 2, seed=1)
        clock = Clock.of(optim, Protocol(tau=tau), len(x))
        order = batch_order(len(x), len(x), seed=0)
        train_steps(make_stepper(model, optim), x, y, order, clock, 0, clock.total_steps)
        loss[name] = (model(x) - y).square().mean().item()
    assert loss["momentum"] == pytest.approx(loss["plain"], rel=0.02)
    assert loss["plain, same steps"] > 1.2 * loss["plain"]


def test_divergence_is_named() -> None:
    x = torch.randn(16, 3) * 1e3
    model = MLP(num_layers=3, width=8).build(3, 1, seed=0)
    optim = Optim(lr=1e3, batch_size=16)
    clock = Clock.of(optim, Protocol(epochs=500), 16)
    order = batch_order(16, 16, seed=0)
    with pytest.raises(Diverged, match="diverged at step"):
        train_steps(make_stepper(model, optim), x, x[:, :1], order, clock, 0, 500)


# --- whole runs


def test_a_run_writes_its_directory(tmp_path: Path) -> None:
    assert fit(settings(), tmp_path / "run", say=quiet) == "finished"
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
    assert find_runs(tmp_path) == [tmp_path / "run"]


def test_the_map_of_the_released_code_is_measured_at_both_ends_alone(tmp_path: Path) -> None:
    fit(settings(), tmp_path, say=quiet)
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
    fit(chosen, tmp_path, say=quiet)
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
        fit(settings(seed=seed), tmp_path / name, say=quiet)
    text = {name: (tmp_path / name / "metrics.csv").read_bytes() for name in "abc"}
    assert text["a"] == text["b"] != text["c"]


@pytest.mark.parametrize("stop_at", [1, 17, 30, 49])
def test_an_interrupted_run_continues_bitwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Cut at a step, with stray rows after the checkpoint as a crash leaves them, then continued."""
    whole = settings()
    fit(whole, tmp_path / "whole", say=quiet)
    import nrc.training.run as module

    real = module.train_steps

    def cut(*args: object) -> int:
        first, last = args[5], args[6]
        if first >= stop_at:
            raise KeyboardInterrupt
        return real(*args[:6], min(last, stop_at), *args[7:])  # type: ignore[operator,arg-type]

    monkeypatch.setattr(module, "train_steps", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(whole, tmp_path / "cut", say=quiet, checkpoint_seconds=0)
    with open(tmp_path / "cut" / "metrics.csv", "a") as handle:
        handle.write(f"9.0,{stop_at + 1},1.0,train,fc3,nrc1,0.5\n9.0,{stop_at + 2},1.0,tra")
    monkeypatch.setattr(module, "train_steps", real)
    assert fit(whole, tmp_path / "cut", say=quiet) == "finished"
    for file in ("metrics.csv",):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    a, b = (torch.load(tmp_path / d / "checkpoint.pt", weights_only=True)["model"] for d in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_finished_run_is_skipped_and_another_one_refused(tmp_path: Path) -> None:
    fit(settings(), tmp_path, say=quiet)
    before = (tmp_path / "metrics.csv").stat().st_mtime_ns
    assert fit(settings(), tmp_path, say=quiet) == "skipped"
    assert (tmp_path / "metrics.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"optim\.weight_decay is 0\.001 there and 0\.1 here"):
        fit(
            settings(optim=Optim(lr=0.05, momentum=0.9, weight_decay=0.1, batch_size=32)), tmp_path, say=quiet
        )


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    wild = settings(optim=Optim(lr=1e4, batch_size=32))
    assert fit(wild, tmp_path, say=quiet) == "diverged"
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["status"] == "diverged" and "diverged at step" in info["reason"]
    assert find_runs(tmp_path) == []


def test_divergence_shows_in_features_or_weights_and_no_other_mistake_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise UserError("measuring does not work")

    monkeypatch.setattr("nrc.training.measuring.evaluate", broken)
    with pytest.raises(UserError, match="measuring does not work"):
        fit(settings(), tmp_path / "broken", say=quiet)
    info = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert (info["status"], info["reason"]) == ("failed", "measuring does not work")
    monkeypatch.undo()

    def spoilt(self: HandStepper, x: torch.Tensor, y: torch.Tensor, lr: float) -> torch.Tensor:
        self.weights[-1][0].fill_(math.nan)  # the last weight alone: all features stay finite
        return torch.zeros(1)

    monkeypatch.setattr(HandStepper, "step", spoilt)
    assert fit(settings(), tmp_path / "spoilt", say=quiet) == "diverged"


def test_too_strong_weight_decay_is_named(tmp_path: Path) -> None:
    """Trap 1: the features vanish, and NRC1 is not a number but a named state."""
    strong = settings(
        optim=Optim(lr=0.05, momentum=0.9, weight_decay=1.0, batch_size=32), protocol=Protocol(epochs=60)
    )
    fit(strong, tmp_path, say=quiet)
    info, rows = read_run(tmp_path)
    assert "features vanished" in info["reason"] and "features vanished" in info["undefined"]["fc3/nrc1"]
    assert math.isnan(rows[(rows.layer == "fc3") & (rows.metric == "nrc1")].value.iloc[-1])


def test_fewer_measured_samples_and_outputs(tmp_path: Path) -> None:
    fit(settings(measure=Measure(log_spaced=0, evenly=0, samples=50, outputs=True)), tmp_path, say=quiet)
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
    fit(settings(), tmp_path / "run", say=quiet)
    assert torch.tensor(1e-40) * 1.0 > 0
