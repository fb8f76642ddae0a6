"""The unconstrained feature model with non-negative features: cone condition, solver, certificate, predictions."""

import math

import numpy as np
import pytest

from nrc.cone import offset, one_sided
from nrc.errors import UserError

# --- one-sidedness


def pointed_cone(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Non-negative combinations of n random independent vectors: (rows, n)."""
    return rng.exponential(size=(rows, n)) @ rng.normal(size=(n, n))


def on_a_sphere(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    v = rng.normal(size=(count, n))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def rms(z: np.ndarray) -> float:
    return math.sqrt((z**2).sum(1).mean())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_pointed_cone_is_one_sided_and_the_direction_proves_it(n: int, seed: int) -> None:
    z = pointed_cone(np.random.default_rng(seed), n, 300)
    found = one_sided(z)
    assert found.holds and found.multipliers is None and found.share == 1.0
    assert np.linalg.norm(found.direction) == pytest.approx(1.0)
    assert (z @ found.direction).min() > 0
    assert found.margin == pytest.approx((z @ found.direction).min() / rms(z))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_centred_vectors_are_refused_and_the_multipliers_prove_it(n: int, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(300, n))
    z -= z.mean(0)
    found = one_sided(z)
    assert not found.holds and 0 < found.share < 1 and found.margin < 0
    assert (found.multipliers >= 0).all() and found.multipliers.sum() == pytest.approx(1.0)
    assert np.abs(found.multipliers @ z).max() < 1e-9 * rms(z)


def test_a_cone_with_one_vector_turned_round_is_refused() -> None:
    z = pointed_cone(np.random.default_rng(0), 3, 100)
    z = np.vstack([z, -z.mean(0)])
    assert not one_sided(z).holds and one_sided(z[:-1]).holds
    found = one_sided(z, exceptions=0.01)
    assert found.holds and found.share == pytest.approx(100 / 101) and found.multipliers is None
    assert (z[:-1] @ found.direction > 0).all()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
def test_the_answer_has_no_scale_and_no_axes(n: int, scale: float) -> None:
    rng = np.random.default_rng(n)
    turn = np.linalg.qr(rng.normal(size=(n, n))).Q
    for mean, margin in ((0.5, 0.0), (4.0, 0.0), (4.0, 0.3), (4.0, 0.6)):
        z = rng.normal(size=(200, n))
        z[:, 0] += mean
        assert one_sided(z @ turn * scale, margin=margin).holds == one_sided(z, margin=margin).holds


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_margin_is_decided_on_both_sides_of_the_largest_one(n: int, seed: int) -> None:
    """The largest margin by random search; just below it the answer is yes, just above it no."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(60, n))
    z[:, 0] += 5.0
    v = one_sided(z).direction
    for _ in range(20):  # the best margin of all: minus the least of a convex function
        nearby = on_a_sphere(rng, n, 500) * np.logspace(-6, 0, 500)[:, None] + v
        nearby = np.vstack([v, nearby / np.linalg.norm(nearby, axis=1, keepdims=True)])
        v = nearby[(z @ nearby.T).min(0).argmax()]
    best = (z @ v).min() / rms(z)
    found = one_sided(z, margin=best - 1e-3)
    assert found.holds and best - 1e-3 < found.margin <= best + 1e-4
    refused = one_sided(z, margin=best + 1e-3)
    assert not refused.holds and refused.multipliers.sum() == pytest.approx(1.0)
    assert np.linalg.norm(refused.multipliers @ z) / rms(z) <= best + 1e-3


def test_directions_alone_matter_without_a_margin() -> None:
    rng = np.random.default_rng(3)
    z = pointed_cone(rng, 3, 100)
    assert one_sided(z * 10 ** rng.uniform(-8, 0, size=(100, 1))).holds


def test_zeros_lie_on_no_side() -> None:
    z = pointed_cone(np.random.default_rng(1), 2, 50)
    z[7] = 0.0
    found = one_sided(z)
    assert not found.holds and found.multipliers[7] == 1.0
    assert one_sided(z, exceptions=0.02).holds
    nothing = one_sided(np.zeros((3, 2)))
    assert not nothing.holds and nothing.direction is None and nothing.share == 0.0


def test_numbers_on_a_line() -> None:
    assert one_sided([-1.0, -2.0]).direction == [-1.0]
    assert not one_sided([-1.0, 2.0]).holds
    assert one_sided([-1.0, 2.0]).multipliers == pytest.approx([2 / 3, 1 / 3])
    assert not one_sided([1.0, 3.0], margin=0.5).holds and one_sided([1.0, 3.0], margin=0.4).holds


def test_ten_thousand_rows_near_the_edge_are_decided() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(10_000, 3))
    for mean, exceptions, holds in (
        (3.0, 0.0, False),
        (3.0, 0.01, True),
        (1.0, 0.01, False),
        (6.0, 0.0, True),
    ):
        assert one_sided(z + np.array([mean, 0, 0]), exceptions=exceptions).holds == holds


def test_offset_from_moments() -> None:
    z = np.random.default_rng(0).normal(size=(200, 3)) + np.array([1.0, 2.0, 0.0])
    moment = z.T @ z / 200
    expected = (z.mean(0) ** 2).sum() / (z**2).sum(1).mean()
    assert offset(z.mean(0), moment) == pytest.approx(expected)
    assert offset(z.mean(0), np.trace(moment)) == pytest.approx(expected)
    assert math.isnan(offset([0.0], [[0.0]]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1.0, math.nan]],), "finite predictions"),
        (([],), "finite predictions"),
        (([1.0], -0.1), "margin is -0.1"),
        (([1.0], 0.0, 1.0), "a share of the rows"),
    ],
)
def test_wrong_vectors_are_named(arguments: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        one_sided(*arguments)
