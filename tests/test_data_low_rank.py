"""Synthetic targets: exact rank, all directions alive, the same set for the same seed."""

from typing import Any

import numpy as np
import pytest

from nrc.data import LowRank
from nrc.errors import UserError


@pytest.mark.parametrize("generator", ["linear", "relu"])
@pytest.mark.parametrize(("t", "r", "rank"), [(10, 2, 2), (3, 10, 3), (5, 1, 1), (1, 4, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_rank_and_liveness(generator: str, t: int, r: int, rank: int, seed: int) -> None:
    data = LowRank(t=t, r=r, n=2000, generator=generator, seed=seed).load()
    assert data.sizes == {"train": 1600, "test": 400, "inputs": 20, "targets": t}
    assert data.target_rank == rank and data.kind == "synthetic"
    alive = data.eigenvalues[:rank]
    assert alive[-1] >= 0.0499 * alive[0]
    assert np.all(data.eigenvalues[rank:] < 1e-9)
    assert data.sigma.trace() / t == pytest.approx(1, rel=1e-5)


def test_linear_targets_are_a_linear_function_of_the_inputs() -> None:
    data = LowRank(n=500, generator="linear").load()
    weight, *_ = np.linalg.lstsq(data.x_train.astype(float), data.y_train.astype(float), rcond=None)
    assert np.linalg.matrix_rank(weight, tol=1e-4) == 2
    np.testing.assert_allclose(data.x_test @ weight, data.y_test, atol=1e-4)


def test_relu_targets_are_not_linear() -> None:
    data = LowRank(n=500, generator="relu").load()
    _, residual, *_ = np.linalg.lstsq(data.x_train.astype(float), data.y_train.astype(float), rcond=None)
    assert residual.sum() / data.y_train.size > 0.05


def test_inputs_are_standard_normal_and_targets_do_not_repeat_over_seeds() -> None:
    data = LowRank().load()
    assert abs(data.x_train.mean()) < 0.01 and abs(data.x_train.std() - 1) < 0.01
    assert LowRank(n=100).load().sha256 == LowRank(n=100).load().sha256
    assert LowRank(n=100).load().sha256 != LowRank(n=100, seed=1).load().sha256


def test_noise_makes_full_rank_of_the_stated_size() -> None:
    data = LowRank(noise=0.1, n=5000).load()
    assert data.target_rank == 10
    np.testing.assert_allclose(data.eigenvalues[2:], 0.01, rtol=0.15)


def test_dead_generators_are_drawn_again() -> None:
    attempts = [LowRank(generator="relu", n=200, seed=s).load().provenance["attempts"] for s in range(8)]
    assert max(attempts) > 1  # width-2 ReLU nets are often dead: some seed must have needed a second draw


def test_standardize_and_limit() -> None:
    data = LowRank(standardize="xy", limit=100).load()
    assert data.sizes["train"] == 80 and data.target_rank == 2
    np.testing.assert_allclose(data.y_train.std(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"generator": "cubic"},
        {"t": 0},
        {"r": 0},
        {"n": 1},
        {"seed": -1},
        {"noise": -0.1},
        {"test_fraction": 1.0},
        {"standardize": "y"},
        {"min_ratio": 1.0},
        {"limit": 0},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(bad))} is"):
        LowRank(**bad)


def test_hopeless_ratio_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nrc.data.synthetic.ATTEMPTS", 3)
    with pytest.raises(UserError, match=r"lower data.min_ratio"):
        LowRank(t=10, r=10, n=100, min_ratio=0.95).load()
