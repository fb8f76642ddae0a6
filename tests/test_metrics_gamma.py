"""NRC3: the closed form of gamma* against grids, and the exact optimum of the unconstrained feature model."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import nrc3 as direct
from metric_oracles import root

from nrc import measure
from nrc.errors import UserError
from nrc.metrics import Undefined, gamma_star, nrc3, nrc3_curve


def pair(seed, n, rank=None):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 3 * n)) * rng.uniform(0.2, 2, size=(n, 1))
    w = rng.normal(size=(n, rank or n)) @ rng.normal(size=(rank or n, 12))
    return w, a @ a.T / (3 * n)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 5), deficient=st.booleans())
def test_gamma_star_beats_a_grid(seed, n, deficient):
    w, sigma = pair(seed, n, 1 if deficient else None)
    lowest = np.linalg.eigvalsh(sigma)[0]
    gamma, value = gamma_star(w, sigma)
    roots = np.linspace(0, math.sqrt(lowest), 400)
    grid = [direct(w, sigma, r**2) for r in roots]
    assert 0 <= gamma <= lowest * (1 + 1e-12)
    assert value <= min(grid) + 1e-12
    assert value == pytest.approx(direct(w, sigma, gamma), abs=1e-9)
    assert value == pytest.approx(min(grid), abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_curve_agrees_with_the_definition(n):
    w, sigma = pair(1, n)
    gammas = np.linspace(0, np.linalg.eigvalsh(sigma)[0], 7)
    np.testing.assert_allclose(nrc3_curve(w, sigma, gammas), [direct(w, sigma, g) for g in gammas], atol=1e-9)
    assert nrc3(w, sigma, gammas[3]) == pytest.approx(direct(w, sigma, gammas[3]), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.75, 0.95])
def test_the_gamma_that_made_the_weight_is_found(share):
    _, sigma = pair(2, 3)
    gamma = share * np.linalg.eigvalsh(sigma)[0]
    w = root(root(sigma) - math.sqrt(gamma) * np.eye(3))
    found, value = gamma_star(w, sigma)
    assert found == pytest.approx(gamma, abs=1e-10) and value < 1e-20


def test_isotropic_targets_have_no_best_gamma_but_a_value():
    gamma, value = gamma_star(np.diag([1.0, 2.0]), 4 * np.eye(2))
    assert 0 <= gamma < 4 and value == pytest.approx(direct(np.diag([1.0, 2.0]), 4 * np.eye(2), 1.0))


def test_what_has_no_nrc3_says_so():
    with pytest.raises(Undefined, match="n = 1"):
        gamma_star(np.ones((1, 4)), np.eye(1))
    with pytest.raises(Undefined, match="weight is zero"):
        gamma_star(np.zeros((2, 4)), np.eye(2))
    with pytest.raises(Undefined, match="Sigma is zero"):
        gamma_star(np.eye(2), np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"\(2, 4\).*\(3, 3\)"):
        nrc3(np.ones((2, 4)), np.eye(3), 0.0)


@pytest.mark.parametrize(
    ("sigma", "gammas", "words"),
    [
        ([[1.0, 5.0], [0.0, 2.0]], [0.0], "sigma is not symmetric"),
        ([[-1.0, 0.0], [0.0, 2.0]], [0.0], "sigma has negative eigenvalues"),
        ([[math.inf, 0.0], [0.0, 1.0]], [0.0], "sigma contains NaN or infinity"),
        ([1.0, 2.0], [0.0], r"sigma has shape \(2,\)"),
        (np.eye(2), 0.1, r"gammas must be numbers >= 0 of shape \(m,\), got 0.1"),
        (np.eye(2), [-0.1], "gammas must be numbers >= 0"),
        (np.eye(2), [math.nan], "gammas must be numbers >= 0"),
    ],
)
def test_what_is_no_covariance_and_no_gamma_is_refused(sigma, gammas, words):
    with pytest.raises(UserError, match=words):
        nrc3_curve(np.eye(2, 4), sigma, gammas)
    if "gammas" not in words:
        with pytest.raises(UserError, match=words):
            gamma_star(np.eye(2, 4), sigma)


def test_the_smallest_eigenvalue_may_be_negative_by_rounding():
    w, sigma = np.diag([1.0, 2.0, 1.0]), np.diag([1.0, 4.0, -1e-17])
    assert nrc3_curve(w, sigma, [-1e-17]) == pytest.approx(direct(w, np.diag([1.0, 4.0, 0.0]), 0.0))


@pytest.mark.parametrize(("n", "share", "ratio"), [(2, 0.4, 1.0), (3, 0.9, 0.2), (2, 0.01, 5.0)])
def test_the_optimum_of_the_unconstrained_feature_model_is_fully_collapsed(n, share, ratio):
    """K = sqrt(lH/lW)(S - sqrt(c) I), H = sqrt(lW/lH) W' S^-1 (Y - ybar): theory section of NeurIPS 2024."""
    rng = np.random.default_rng(n)
    y = rng.normal(size=(400, n)) @ rng.normal(size=(n, n)) + 3.0
    yc = y - y.mean(0)
    sigma = yc.T @ yc / len(y)
    c = share * np.linalg.eigvalsh(sigma)[0]
    s = root(sigma)
    lift = np.linalg.qr(rng.normal(size=(16, n)))[0].T
    w = math.sqrt(ratio) ** 0.5 * root(s - math.sqrt(c) * np.eye(n)) @ lift
    h = ratio**-0.5 * yc @ np.linalg.inv(s) @ w
    values = measure(h, y, w, bias=y.mean(0))
    for name in ("nrc1", "nrc2", "nrc3", "nrc1_centred", "noise"):
        assert abs(values[name]) < 1e-12, name
    assert values["nrc3_gamma"] == pytest.approx(share, abs=1e-6)
    assert values["mse"] == pytest.approx(c, rel=1e-9)  # residual covariance c I
    assert values["feature_weight_alignment"] == pytest.approx(1, abs=1e-9)
    # The best linear map on these features is exact: only the decay keeps the model from it.
    assert values["linear_mse"] < 1e-12


def test_low_rank_targets_have_no_gamma_ratio():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(100, 8))
    y = h[:, :1] @ np.ones((1, 3))
    values = measure(h, y, rng.normal(size=(3, 8)))
    assert math.isnan(values["nrc3_gamma"]) and 0 < values["nrc3"] <= 4
