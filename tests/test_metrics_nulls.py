"""Null lines against simulation, and golden values for data that anybody can make."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from nrc import Moments, measure
from nrc.metrics import Layer, layerwise, measure_moments
from nrc.metrics.linalg import random_subspace_cosine


def correlated(n=60, d=6, t=4, seed=0):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) * np.geomspace(10, 0.01, d)
    return h, h @ rng.normal(size=(d, t)) * np.array([2, 1, 0.7, 0.3][:t]) + 0.3 * rng.normal(size=(n, t))


@pytest.mark.parametrize("rank", [1, 2])
def test_alignment_null_is_the_mean_over_permutations(rank):
    h, y = correlated()
    rng = np.random.default_rng(1)
    shuffled = [measure(h, rng.permutation(y), rank=rank)["feature_target_alignment"] for _ in range(300)]
    null = measure(h, y, rank=rank)["feature_target_alignment_null"]
    # The null is a mean of 20 draws; its own error is what sets the tolerance.
    assert abs(null - np.mean(shuffled)) < 4 * np.std(shuffled) / math.sqrt(layerwise.NULL_DRAWS)
    assert null == measure(h, y, rank=rank)["feature_target_alignment_null"]


def test_alignment_null_converges_to_the_permutation_mean(monkeypatch):
    h, y = correlated()
    rng = np.random.default_rng(1)
    shuffled = [measure(h, rng.permutation(y), rank=2)["feature_target_alignment"] for _ in range(1500)]
    monkeypatch.setattr(layerwise, "NULL_DRAWS", 4000)
    null = measure(h, y, rank=2)["feature_target_alignment_null"]
    assert abs(null - np.mean(shuffled)) < 0.01


def test_exact_low_rank_targets_align_with_any_features():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 10))
    values = measure(rng.normal(size=(200, 30)), y)
    assert values["feature_target_alignment"] == pytest.approx(1, abs=1e-6)
    assert values["feature_target_alignment_null"] == pytest.approx(1, abs=1e-6)
    assert values["noise_alignment"] == pytest.approx(0, abs=1e-6)
    assert values["feature_target_alignment_features"] < 0.9


def test_cka_null_is_the_exact_mean_over_all_permutations():
    h, y = correlated(n=6, d=3, t=2)
    every = [measure(h, y[list(p)])["cka"] for p in itertools.permutations(range(6))]
    assert measure(h, y)["cka_null"] == pytest.approx(np.mean(every), abs=1e-9)


def test_cka_of_the_targets_themselves_is_one_and_the_released_variant_is_not():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(100, 2))
    h = y @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:2]
    values = measure(h, y)
    assert values["cka"] == pytest.approx(1, abs=1e-9) and values["cka_first_columns"] < 0.99


@pytest.mark.parametrize(("d", "k"), [(5, 1), (12, 3), (6, 4)])
def test_random_subspace_cosine_agrees_with_simulation(d, k):
    draws = ortho_group.rvs(d, size=4000, random_state=0)[:, :k, :k]
    simulated = np.linalg.svd(draws, compute_uv=False).mean()
    assert random_subspace_cosine(d, k) == pytest.approx(simulated, abs=0.02)
    assert random_subspace_cosine(k, k) == 1.0


def test_golden_values_of_isotropic_inputs():
    """Second paper's synthetic inputs, N(0, I_20) with n = 8000; sd <= .0011 over draws."""
    x = torch.randn(8000, 20, generator=torch.Generator().manual_seed(0))
    layer = Layer.of(Moments().update(x, x[:, 0]))
    for k, expected in {1: 0.9454, 2: 0.8916, 3: 0.8383, 4: 0.7856, 5: 0.7333, 10: 0.4784}.items():
        assert layerwise.noise(layer, k) == pytest.approx(expected, abs=0.0035), k
    assert layerwise.stable_rank_covariance(layer) == pytest.approx(16.83, abs=0.8)
    assert layerwise.stable_rank_features(layer) == pytest.approx(18.32, abs=0.45)


def test_every_null_stands_below_its_metric_for_collapsed_features():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    w = rng.normal(size=(2, 32))
    result = measure_moments(Moments().update(z @ w, z), w)
    for name in ("feature_weight_alignment", "cka"):
        assert result[f"{name}_null"] < 0.3 < result[name], name
