"""The tau clock, the loop and the two ways of taking a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nrc.data import LowRank
from nrc.models import MLP
from nrc.training import Clock, Measure, Optim, Protocol
from nrc.training.loop import Diverged, batch_order, epoch_order, train_steps
from nrc.training.steppers import AutogradStepper, HandStepper, make_stepper

FAST = Optim(lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=32)


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


@pytest.mark.parametrize(
    ("seed", "epoch", "other", "other_epoch"),
    [
        (0, 1_000_003, 1, 0),  # Reacher's published run has 1,500,000 epochs
        (94_489, 0, 0, 2_955),  # 32 bits of (seed + 1) * 1,000,003 + epoch are alike
        (4_295, 0, 0, 45_589),
        (2**32 - 1, 0, 0, 2**32 - 1),
        (1, 2**32, 2, 0),
        (3, 5, 5, 3),
    ],
)
def test_no_epoch_of_one_seed_is_one_of_another(seed: int, epoch: int, other: int, other_epoch: int) -> None:
    """Ten epochs on from each: 20 orders, all different."""
    orders = [epoch_order(30, s, e + k) for s, e in ((seed, epoch), (other, other_epoch)) for k in range(10)]
    assert len({tuple(order.tolist()) for order in orders}) == 20


@given(*[st.integers(0, 2**32 - 1)] * 2, *[st.integers(0, 10**12)] * 2)
def test_orders_belong_to_one_seed_and_epoch(seed: int, other: int, epoch: int, other_epoch: int) -> None:
    order, second = epoch_order(30, seed, epoch), epoch_order(30, other, other_epoch)
    assert order.dtype == torch.int64 and sorted(order.tolist()) == list(range(30))
    assert torch.equal(order, second) == ((seed, epoch) == (other, other_epoch))
    assert torch.equal(order, epoch_order(30, seed, epoch))


def test_orders_are_uniform() -> None:
    """Over seeds and epochs each of 4 rows stands at each place equally often: chi-square of a sum of permutation
    matrices, (n - 1)^2 = 9 degrees of freedom."""
    orders = torch.stack([epoch_order(4, seed, epoch) for seed in range(40) for epoch in range(40)])
    counts = torch.stack([(orders == row).sum(0) for row in range(4)]).double()
    assert (
        3 / 4 * ((counts - 400) ** 2 / 400).sum() < 27.9
    )  # exceeded by chance once in a thousand; the draw is fixed


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("bias", "decay_biases"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_steps_by_hand_equal_autograd(
    momentum: float, bias: bool, decay_biases: bool, activation: str
) -> None:
    """Parameters within 1e-6 after 200 steps of float32, partial batches included."""
    data = LowRank(t=2, r=2, d=5, n=200).load()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optim = Optim(lr=0.02, momentum=momentum, weight_decay=1e-2, batch_size=48, decay_biases=decay_biases)
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


@pytest.mark.parametrize("kind", [HandStepper, AutogradStepper])
@pytest.mark.parametrize("decay_biases", [True, False])
def test_a_bias_without_gradient_shrinks_only_when_biases_are_decayed(kind: type, decay_biases: bool) -> None:
    """A unit that no row switches on: its bias feels weight decay alone, and so do the weights it reads by."""
    model = MLP(num_layers=2, width=4).build(3, 2, seed=0)
    first = model.measured_layers()["fc1"]
    with torch.no_grad():
        first.bias[0] = -100.0
    weight = first.weight[0].detach().clone()
    stepper = kind(model, Optim(weight_decay=0.5, decay_biases=decay_biases))
    for _ in range(10):
        stepper.step(torch.randn(8, 3), torch.randn(8, 2), 0.1)
    shrunk = (1 - 0.1 * 0.5) ** 10
    assert first.bias[0].item() == pytest.approx(-100 * shrunk if decay_biases else -100.0, rel=1e-6)
    assert torch.allclose(first.weight[0], weight * shrunk, rtol=1e-5)


def test_without_decay_of_biases_batchnorm_decays_its_gain_alone() -> None:
    model = MLP(num_layers=3, width=4, norm="batch").build(3, 2, seed=0)
    with torch.no_grad():
        model.stack.norm1.bias.fill_(2.0)
        model.stack.fc3.weight.zero_()  # so that no gradient comes through
    stepper = make_stepper(model, Optim(weight_decay=0.5, decay_biases=False))
    stepper.step(torch.randn(8, 3), torch.randn(8, 2), 0.1)
    assert (model.stack.norm1.bias == 2.0).all()
    assert model.stack.norm1.weight.tolist() == pytest.approx([0.95] * 4)


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
