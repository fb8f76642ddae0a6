"""Effective ranks, norms, balance of weights, intrinsic dimension, and what only a run records."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nrc import Moments
from nrc.cone import one_sided
from nrc.errors import UserError
from nrc.metrics import (
    METRICS,
    Layer,
    Maker,
    intrinsic_dimension,
    measure_moments,
    measure_with_reasons,
    weight_balance,
)
from nrc.metrics.last_layer import nrc1_floor, nrc2_floor
from nrc.models import MLP
from nrc.training import measuring
from nrc.training.clock import Clock
from nrc.training.measuring import Measurer, _one_sided
from nrc.training.placement import Placed
from nrc.training.settings import Measure, Optim, Protocol

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_ranks_of_k_equal_directions_are_k(k):
    h = np.r_[np.eye(8)[:k], -np.eye(8)[:k]] @ np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    y = RNG.normal(size=(2 * k, 1))
    for values in (measure_with_reasons(h, y), measure_moments(Moments().update(h, y))):
        for name in ("effective_rank", "participation_ratio", "stable_rank_features"):
            assert values[name] == pytest.approx(k, rel=1e-7), name
        assert values["rankme"] == pytest.approx(k, rel=1e-4)  # 1e-7 is added to each share


def test_the_mean_feature_counts_in_rankme_alone():
    h = RNG.normal(size=(4000, 3)) * 1e-3 + [1, 0, 0]
    values = measure_with_reasons(h, h[:, 0])
    assert values["rankme"] < 1.05 and values["effective_rank"] > 2.99


def test_effective_ranks_of_collapsed_features_are_exact_where_the_rows_are_at_hand():
    sizes = np.r_[1.0, 1.0, np.full(30, 1e-9)]
    turn = np.linalg.qr(RNG.normal(size=(32, 32)))[0]
    h = np.linalg.qr(RNG.normal(size=(500, 32)))[0]
    h = (h - h.mean(0)) * sizes @ turn
    s = np.linalg.svd(h - h.mean(0), compute_uv=False)
    p = s / s.sum()
    exact = math.exp(-(p * np.log(p)).sum())
    y = RNG.normal(size=(500, 2))
    assert measure_with_reasons(h, y)["effective_rank"] == pytest.approx(exact, rel=1e-7)
    # the sums leave out what is below their resolution, here 6e-7 of the entropy
    assert measure_moments(Moments().update(h, y))["effective_rank"] == pytest.approx(exact, rel=1e-5)


# --- balance


def test_gradient_flow_under_decay_balances_as_exp_of_minus_two_lambda_t():
    """The law that makes it a clock, for two linear layers with a bias between, and for a ReLU by its units."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 4).double(), torch.randn(200, 2).double()
    for relu in (False, True):
        w, b, v = (torch.randn(s, dtype=torch.float64).requires_grad_() for s in ((5, 4), (5,), (2, 5)))
        rate, decay, found = 1e-3, 0.3, []
        for step in range(1001):
            if step % 500 == 0:
                parts = torch.cat((w, b[:, None]), 1).detach()
                gap = v.detach().T @ v.detach() - parts @ parts.T
                found.append(float(torch.linalg.norm(gap.diagonal() if relu else gap)))
                size = [p @ p.T for p in (parts, v.detach().T)]
                size = [float(torch.linalg.norm(s.diagonal() if relu else s)) for s in size]
                value = weight_balance(w, v, b, relu=relu)
                assert value == pytest.approx(found[-1] / sum(size), rel=1e-12)
            h = x @ w.T + b
            loss = ((h.relu() if relu else h) @ v.T - y).square().sum(1).mean() / 2
            loss = loss + decay / 2 * sum(p.square().sum() for p in (w, b, v))
            for p, g in zip((w, b, v), torch.autograd.grad(loss, (w, b, v)), strict=True):
                p.data -= rate * g
        for early, late in pairwise(found):
            assert math.log(early / late) == pytest.approx(2 * decay * rate * 500, rel=0.02)


def test_balancedness_needs_both_weights():
    h, y = RNG.normal(size=(50, 4)), RNG.normal(size=(50, 2))
    w, v = RNG.normal(size=(4, 3)), RNG.normal(size=(2, 4))
    layer = Layer.of(Moments().update(h, y), v)
    assert "not known" in measure_moments(layer.moments, v).undefined["balancedness"]
    made = Layer(layer.moments, layer.weight, maker=Maker(torch.as_tensor(w)))
    assert METRICS["balancedness"](made) == pytest.approx(weight_balance(w, v))
    gap, parts = v.T @ v - w @ w.T, (v.T @ v, w @ w.T)
    assert weight_balance(w, v) == pytest.approx(np.linalg.norm(gap) / sum(map(np.linalg.norm, parts)))
    assert weight_balance(1e170 * w, 1e170 * v) == pytest.approx(weight_balance(w, v))
    assert weight_balance(w, 0 * v) == 1
    with pytest.raises(UserError, match=r"\(4, 3\) and \(4, 2\)"):
        weight_balance(w, v.T)


# --- intrinsic dimension


def swiss_roll(n):
    t = np.sqrt(RNG.uniform(1.5**2, 4.5**2, n)) * np.pi  # about uniform along the spiral
    return np.c_[t * np.cos(t), 20 * RNG.uniform(size=n), t * np.sin(t)]


def sphere(n, d):
    x = RNG.normal(size=(n, d + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("estimator", ["mle", "fit"])
@pytest.mark.parametrize(
    ("make", "dimension", "tolerance"),
    [
        (lambda n: RNG.normal(size=(n, 1)), 1, 0.06),
        (lambda n: RNG.normal(size=(n, 2)), 2, 0.06),
        (lambda n: RNG.normal(size=(n, 5)), 5, 0.08),
        (lambda n: RNG.normal(size=(n, 10)), 10, 0.15),  # too small by nature: the density is not constant
        (lambda n: sphere(n, 2), 2, 0.06),
        (lambda n: sphere(n, 4), 4, 0.06),
        (swiss_roll, 2, 0.06),
    ],
)
def test_intrinsic_dimension_of_known_manifolds(estimator, make, dimension, tolerance):
    rows = make(3000)
    found = intrinsic_dimension(rows, estimator=estimator)
    assert found == pytest.approx(dimension, rel=tolerance)
    turned = 1e4 + 1e-2 * rows @ np.linalg.qr(RNG.normal(size=(20, 20)))[0][: rows.shape[1]]
    assert intrinsic_dimension(turned, estimator=estimator) == pytest.approx(found, rel=1e-4)


def test_intrinsic_dimension_uses_a_capped_subset_and_each_row_once():
    rows = RNG.normal(size=(2000, 3))
    found = [intrinsic_dimension(rows, samples=500, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert intrinsic_dimension(np.r_[rows, rows]) == pytest.approx(intrinsic_dimension(rows), rel=1e-12)
    halves = intrinsic_dimension(torch.as_tensor(rows @ RNG.normal(size=(3, 256))).half())
    assert halves == pytest.approx(3, rel=0.1)  # rounding to 16 bits averages out over many columns
    brute = np.sort(np.linalg.norm(rows[:, None] - rows, axis=2), axis=1)
    exact = (len(rows) - 1) / np.log(brute[:, 2] / brute[:, 1]).sum()
    assert intrinsic_dimension(rows) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (np.ones((50, 3)), {}, "only 1 different rows"),
        (np.ones(50), {}, r"\(50,\)"),
        (np.eye(20) * np.nan, {}, "NaN"),
        (np.eye(20), {"estimator": "knn"}, "mle or fit"),
        (np.eye(20), {"discard": 1.0}, "discard"),
        (np.eye(20), {}, "for 20 of 20 different rows the two nearest are equally far"),
        (np.argwhere(np.ones((6, 6))), {}, "for 36 of 36"),
        (np.argwhere(np.ones((10, 10))).astype(np.float32) / 10 + 3, {"estimator": "fit"}, "for 100 of 100"),
        (np.random.default_rng(0).normal(size=(500, 2)).round(1), {}, "lattice"),
        (np.eye(20), {"samples": -5}, "samples is -5; give a whole number"),
        (np.eye(20), {"samples": 50.5}, "samples is 50.5"),
    ],
)
def test_intrinsic_dimension_names_mistakes(rows, options, words):
    with pytest.raises(UserError, match=words):
        intrinsic_dimension(rows, **options)


# --- what a run records


def measurer(kind, rows=400, **plan):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, k, generator=generator) for k in (5, 2))
    model = kind.build(5, 2, 0)
    clock = Clock.of(Optim(), Protocol(epochs=1), rows)
    return Measurer(model, Placed(x, y, x[:50], y[:50]), Measure(**plan), clock, 0)


@pytest.mark.parametrize(
    "kind", [MLP(width=64), MLP(width=64, feature_activation="none"), MLP(width=64, norm="batch")]
)
def test_the_pass_is_that_of_the_weights_in_float64(kind):
    watch = measurer(kind)
    seen = {row[4:6]: row[6] for row in watch.rows(0) if row[3] == "train"}
    double = kind.build(5, 2, 0).double().eval()
    double.load_state_dict(watch.model.state_dict())
    with torch.no_grad():
        h = double.stack[:-1](watch.train.x.double())
        head = double.stack[-1]
        exact = measure_with_reasons(h, watch.train.y, head.weight, bias=head.bias)
    for name in ("nrc1", "nrc2", "nrc3", "noise", "linear_mse", "offset", "effective_rank", "weight_norm"):
        assert seen["fc4", name] == pytest.approx(exact[name], rel=1e-9), name
    assert seen["model", "mse"] == pytest.approx(exact["mse"], rel=1e-9)
    assert seen["fc4", "one_sided"] == one_sided((h @ head.weight.detach().T).numpy()).holds
    assert all(p.dtype == torch.float32 for p in watch.model.parameters())
    assert not any(module._forward_hooks for module in watch.model.modules())


def test_at_both_ends_the_best_map_is_that_of_the_rows_where_sums_do_not_tell():
    # inputs of very different size, mixed afterwards; the targets are in directions that float64 sums lose
    watch = measurer(MLP(width=16))
    mix = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(16)] for i in range(16)])
    with torch.no_grad():
        watch.modules["fc1"].weight.zero_()[:5] = torch.diag(torch.tensor([1.0, 0.5, 2e-8, 2e-8, 1e-8]))
        watch.modules["fc2"].weight.copy_(mix)
        watch.modules["fc1"].bias.fill_(5.0)  # every ReLU lets all pass
        watch.modules["fc2"].bias.copy_(5.0 - 5.0 * mix.sum(1))
        watch.train.y.mul_(0.3).add_(watch.train.x[:, 2:4])  # the test rows are a part of them

    def found(step):
        return {row[3]: row[6] for row in watch.rows(step) if row[4:6] == ("fc3", "linear_mse")}

    x, y = (np.c_[part.double().numpy()] for part in (watch.train.x, watch.train.y))
    map_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y)[0]  # fc1 and fc2 lose nothing of the inputs
    expected = {"train": np.mean((np.c_[x, np.ones(len(x))] @ map_ - y) ** 2)}
    expected["test"] = np.mean((np.c_[x, np.ones(len(x))][:50] @ map_ - y[:50]) ** 2)
    assert found(0) == pytest.approx(expected, rel=1e-5)
    assert found(watch.clock.total_steps) == pytest.approx(expected, rel=1e-5)
    between = found(1)
    assert (
        "train" not in between and np.isnan(between["test"]) and "sums" in watch.undefined["fc3/linear_mse"]
    )


def test_balancedness_of_a_run_is_that_of_the_weights_on_both_sides():
    watch = measurer(MLP(width=16, feature_activation="none"))
    seen = {row[4]: row[6] for row in watch.rows(0) if row[5] == "balancedness"}
    fc = watch.modules
    assert list(seen) == ["fc2", "fc3", "fc4"]
    for k in (2, 3, 4):
        before = fc[f"fc{k - 1}"]
        expected = weight_balance(before.weight, fc[f"fc{k}"].weight, before.bias, relu=k < 4)
        assert seen[f"fc{k}"] == pytest.approx(expected, rel=1e-12)
    assert "no weight" in watch.undefined["fc1/balancedness"]
    normed = measurer(MLP(width=16, norm="batch"))
    normed.rows(0)
    assert "BatchNorm" in normed.undefined["fc2/balancedness"]


def test_layers_of_very_many_features_are_named_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(measuring, "MAX_FEATURES", 10)
    watch = measurer(MLP(width=16))
    assert {row[4] for row in watch.rows(0)} == {"fc1", "fc4", "model"}  # the head always is
    assert watch.undefined["fc2"] == "reads 16 features, more than 10, and is not measured"
    assert "layer 'fc3' reads 16 features" in caplog.text


@pytest.mark.parametrize("width", [64, 256])
def test_the_floor_is_what_a_float32_pass_adds(width):
    """Features that are in a plane but for rounding: what a float32 pass moves them out of it."""
    torch.manual_seed(0)
    a = torch.randn(2000, width).relu()
    w = torch.randn(width, 2) @ torch.randn(2, width) / width
    h, exact = a @ w.T, a.double() @ w.double().T
    head = torch.linalg.pinv(torch.linalg.svd(w.double()).U[:, :2]).float()
    # w itself has more directions, by its own rounding: only the difference of the passes counts
    layer = Layer.of(Moments().update(h, torch.randn(2000, 2)), head)
    basis = torch.linalg.svd(exact - exact.mean(0), full_matrices=False).Vh[:2].T
    error = (h.double() - exact) / torch.linalg.norm(exact, dim=1, keepdim=True)
    added = float((error - error @ basis @ basis.T).square().sum(1).mean())
    for floor in (nrc1_floor, nrc2_floor):
        estimate = floor(layer, torch.finfo(torch.float32).eps, width)
        assert estimate / 10 < added < 10 * estimate, (floor.__name__, added, estimate)


@pytest.mark.parametrize("shift", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("n", [1, 3])
def test_one_sidedness_by_few_rows_is_that_of_all(shift, n):
    for seed in range(3):
        z = np.random.default_rng(seed).normal(size=(700, n)) + shift
        assert _one_sided(z) == one_sided(z).holds
    z[:650] = abs(z[:650]) + 1
    z[650:] = 0.5  # zeros and single rows on the wrong side are found, wherever they stand
    assert _one_sided(z)
    z[699] *= -1
    assert not _one_sided(z)


@pytest.mark.parametrize("shift", [0.0, 6.0])
def test_plain_cases_of_one_sidedness_need_no_programme(monkeypatch, shift):
    z = np.random.default_rng(0).normal(size=(700, 3)) + shift
    expected = one_sided(z).holds
    monkeypatch.setattr(measuring, "one_sided", None)
    assert _one_sided(z) == expected == (shift > 0)


@pytest.mark.parametrize("lift", [0.0, -1e-5, 1e-5, 1e-14])
def test_nearly_one_sided_rows_are_decided_as_the_programme_does(lift):
    z = np.array([[1.0, lift], [-1.0, lift], [0.3, 1.0], [-0.3, 1.0]])
    assert _one_sided(z) == one_sided(z).holds == (lift == 1e-5)
    assert not _one_sided(np.vstack([z, np.zeros(2)]))
