"""The unconstrained feature model with non-negative features: cone condition, solver, certificate, predictions."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.optimize
from scipy.stats import norm

import nrc
from nrc.cone import offset, one_sided
from nrc.errors import UserError
from nrc.theory import nonnegative, ufm

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


# --- the model, written out once more and minimised directly


def loss_of(y, w, h, b, lh, lw, lb):  # type: ignore[no-untyped-def]
    """L(W, H, b) for y (M, n), w (n, d), h (d, M), b (n,)."""
    fit = ((w @ h + b[:, None] - y.T) ** 2).sum() / (2 * len(y))
    return fit + lh / (2 * len(y)) * (h**2).sum() + lw / 2 * (w**2).sum() + lb / 2 * (b**2).sum()


def minimise(
    y: np.ndarray, penalties: tuple[float, float, float], d: int, seed: int, steps: int = 3000
) -> tuple:
    """(loss, W, H, b) where L-BFGS ends from a random start with H = U * U."""
    m, n = y.shape
    lh, lw, lb = penalties
    cuts = [n * d, n * d + d * m]

    def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        w, u, b = np.split(x, cuts)
        return w.reshape(n, d), u.reshape(d, m), b

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        w, u, b = parts(x)
        h = u**2
        error = (w @ h + b[:, None] - y.T) / m
        of_w, of_h = error @ h.T + lw * w, w.T @ error + lh / m * h
        gradient = np.concatenate([of_w.ravel(), (2 * u * of_h).ravel(), error.sum(1) + lb * b])
        return float(loss_of(y, w, h, b, lh, lw, lb)), gradient

    rng = np.random.default_rng(seed)
    start = rng.normal(size=cuts[1] + n) * math.sqrt(np.abs(y).max() / d)
    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-12}
    found = scipy.optimize.minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    w, u, b = parts(found.x)
    return found.fun, w, u**2, b


def gauss(m: int, n: int, seed: int = 0) -> np.ndarray:
    """(m, n) rows, centred, with n different variances about 1 in a random basis."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(m, n))
    frame = np.linalg.qr(rng.normal(size=(n, n))).Q
    return (y - y.mean(0)) * np.linspace(0.7, 1.2, n) @ frame


def highest_by_hand(y: np.ndarray, best: nonnegative.Optimum, directions: np.ndarray) -> float:
    residual = y - best.bias - (best.weight @ best.features).T
    return math.sqrt((np.maximum(residual @ directions.T, 0.0) ** 2).mean(0).max())


SETTINGS = list(product((0.0, 1.5), (1.0, 0.15), (0.0, 1e-2)))  # mean in deviations, scale, lambda_b


@pytest.mark.parametrize(("mean", "scale", "lambda_b"), SETTINGS)
def test_one_target_closed_form_against_direct_minimisation(
    mean: float, scale: float, lambda_b: float
) -> None:
    y = scale * (gauss(40, 1) / gauss(40, 1).std() + mean)
    penalties = (0.02, 0.005, lambda_b)
    best = nonnegative.optimum(y, *penalties)
    # a start may end where one side is dead: with H = U * U the gradient vanishes at U = 0
    loss, w, h, b = min((minimise(y, penalties, d=6, seed=seed) for seed in range(3)), key=lambda end: end[0])
    assert best.certificate < 1e-10
    assert loss_of(y, best.weight, best.features, best.bias, *penalties) == pytest.approx(
        best.loss, rel=1e-12
    )
    assert best.loss <= loss * (1 + 1e-12) and loss == pytest.approx(best.loss, rel=1e-6)
    assert b == pytest.approx(best.bias, abs=1e-3 * scale)
    assert (w @ h)[0] == pytest.approx((best.weight @ best.features)[0], abs=3e-3 * scale)
    assert nrc.measure(h.T, y, w)["nrc1"] == pytest.approx(best.nrc1, abs=5e-3)


@pytest.mark.parametrize("lambda_b", [0.0, 1e-2])
def test_one_target_that_a_penalty_kills(lambda_b: float) -> None:
    y = gauss(60, 1) + 1.0
    best = nonnegative.optimum(y, 2.0, 2.0, lambda_b)
    assert best.rays.shape == (1, 0) and best.features.shape == (0, 60) and best.certificate < 1e-12
    assert best.bias == pytest.approx(y.mean(0) / (1 + lambda_b))
    assert math.isnan(best.nrc1) and "no ray is alive" in best.undefined["nrc1"]


def test_gauss_targets_have_the_known_values() -> None:
    """NRC1 .50 .39 .14 .03 at means of 0 to 3 deviations with decayed biases, .50 at any with free ones."""
    y = norm.ppf((np.arange(4000) + 0.5) / 4000)
    decayed = [nonnegative.optimum(y + mean, 1e-2, 1e-2, 1e-2).nrc1 for mean in range(4)]
    assert decayed == pytest.approx([0.50, 0.39, 0.14, 0.03], abs=0.02)
    free = [nonnegative.optimum(y + mean, 1e-2, 1e-2, 0.0).nrc1 for mean in range(4)]
    assert free == pytest.approx([0.5] * 4, abs=1e-3)


@pytest.mark.parametrize(("n", "mean", "lambda_b"), [(2, 0.0, 0.0), (2, 2.0, 0.02), (3, 1.0, 0.02)])
def test_certificate_holds_on_directions_of_our_own(n: int, mean: float, lambda_b: float) -> None:
    y = gauss(120, n) + mean
    best = nonnegative.optimum(y, 0.04, 0.01, lambda_b)
    root_c = math.sqrt(0.04 * 0.01)
    assert best.certificate < 1e-6
    directions = on_a_sphere(np.random.default_rng(5), n, 50_000)
    highest = highest_by_hand(y, best, np.vstack([directions, best.rays.T]))
    assert highest == pytest.approx(root_c, rel=1e-6)
    residual = y - best.bias - (best.weight @ best.features).T
    assert np.abs(lambda_b * best.bias - residual.mean(0)).max() < 1e-8
    rectified = np.maximum(residual @ best.rays, 0.0)  # condition (ii), ray by ray
    cosine = (rectified * best.features.T).sum(0) / (
        np.linalg.norm(rectified, axis=0) * np.linalg.norm(best.features, axis=1)
    )
    assert cosine == pytest.approx(np.ones(len(cosine)), abs=1e-6)
    of_h, of_w = 0.04 / len(y) * (best.features**2).sum(1), 0.01 * (best.weight**2).sum(0)
    assert of_h == pytest.approx(of_w, rel=1e-4)


def against_starts(n: int, starts: int, m: int, d: int) -> None:
    y, penalties = gauss(m, n, seed=3) + 0.8, (0.03, 0.03, 0.03)
    best = nonnegative.optimum(y, *penalties)
    assert best.certificate < 1e-6
    assert loss_of(y, best.weight, best.features, best.bias, *penalties) == pytest.approx(
        best.loss, rel=1e-12
    )
    for seed in range(starts):
        loss, w, h, b = minimise(y, penalties, d, seed, steps=1500)
        assert best.loss <= loss * (1 + 1e-6)
        found = nonnegative.certificate(y, w, h, b, *penalties)
        root_c = math.sqrt(penalties[0] * penalties[1])
        assert loss - best.loss <= found * (loss + best.loss + root_c * np.linalg.norm(b - best.bias)) + 1e-12
        assert loss == pytest.approx(best.loss, rel=2e-2)  # so the starts are a real test of the solver


def test_two_targets_beat_direct_minimisation() -> None:
    against_starts(2, starts=3, m=40, d=8)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_the_solver_beats_twenty_starts(n: int) -> None:
    against_starts(n, starts=20, m=100, d=12)


def test_certificate_tells_what_is_not_optimal() -> None:
    y, penalties = gauss(100, 2) + 1.0, (0.02, 0.02, 0.02)
    best = nonnegative.optimum(y, *penalties)
    good = (best.weight, best.features, best.bias)
    assert nonnegative.certificate(y, *good, *penalties) == best.certificate
    for part in range(3):
        moved = list(good)
        moved[part] = moved[part] * 1.01
        assert nonnegative.certificate(y, *moved, *penalties) > 1e-3
    fewer = (best.weight[:, 1:], best.features[1:], best.bias)  # a ray is missing
    assert nonnegative.certificate(y, *fewer, *penalties) > 1e-3


@pytest.mark.parametrize("n", [2, 3])
def test_narrow_one_sided_targets_and_a_dear_bias_give_the_signed_model(n: int) -> None:
    """The sign then costs nothing: the papers' model without a bias, whose Sigma is not centred."""
    rng = np.random.default_rng(n)
    y = rng.uniform(-0.2, 0.2, size=(200, n))
    y[:, 0] += 2.0
    y = y @ np.linalg.qr(rng.normal(size=(n, n))).Q
    best, signed = nonnegative.optimum(y, 0.05, 0.02, 1e9), ufm.optimum(y.T @ y / 200, 0.05, 0.02)
    assert signed.regime == "collapse"
    assert best.loss == pytest.approx(signed.loss, rel=1e-6)
    assert best.weight @ best.weight.T == pytest.approx(signed.gram.numpy(), rel=1e-3, abs=1e-3)
    assert best.nrc1 < 1e-4 and best.nrc2 < 1e-4
    centred = y - y.mean(0)
    free = nonnegative.optimum(centred, 0.05, 0.02, 1e9)  # around 0 the sign does cost
    assert free.loss > 1.02 * ufm.optimum(centred.T @ centred / 200, 0.05, 0.02).loss and free.nrc1 > 0.3


# --- the cone proposition


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_pointed_cone_is_realised_with_exact_collapse(n: int, seed: int) -> None:
    """n independent vectors near the middle of the dual cone give non-negative features of rank n."""
    rng = np.random.default_rng(seed)
    z = pointed_cone(rng, n, 200)
    middle = one_sided(z).direction
    size = (z @ middle).min() / np.linalg.norm(z, axis=1).max()
    v = middle + 0.9 * size * np.linalg.qr(rng.normal(size=(n, n))).Q  # |(v_j - middle)'z_i| < middle'z_i
    mix = rng.uniform(0, 1, size=(12, n))  # and d = 12 neurons
    h, w = z @ (mix @ v).T, np.linalg.pinv(mix @ v)
    assert h.min() >= 0
    assert h @ w.T == pytest.approx(z, abs=1e-7 * np.abs(z).max())
    found = nrc.measure(h, z, w)
    assert found["nrc1"] < 1e-12 and found["nrc2"] < 1e-12


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_centred_nrc1_has_no_such_obstacle(n: int) -> None:
    rng = np.random.default_rng(n)
    z, v = rng.normal(size=(300, n)), rng.normal(size=(8, n))
    z, v = z - z.mean(0), v - v.mean(0)
    h, w = z @ v.T, np.linalg.pinv(v)
    h -= h.min()
    assert h @ w.T == pytest.approx(z, abs=1e-9) and not one_sided(z).holds
    found = nrc.measure(h, z, w)
    assert found["nrc1_centred"] < 1e-12 and found["nrc1"] > 0.1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_exact_collapse_of_non_negative_features_is_one_sided(n: int) -> None:
    rng = np.random.default_rng(n)
    h = rng.exponential(size=(300, n)) @ rng.exponential(size=(n, 20))  # rank n, non-negative
    basis = np.linalg.svd(h, full_matrices=False)[2][:n]
    w = rng.normal(size=(n, n)) @ basis
    found = nrc.measure(h, h @ w.T, w)
    assert found["nrc1"] < 1e-12 and found["nrc2"] < 1e-12
    assert one_sided(h @ w.T).holds


@pytest.mark.parametrize("n", [2, 3])
def test_centred_targets_do_not_collapse_at_any_decay(n: int) -> None:
    y = gauss(150, n, seed=4)
    for strength in (1e-3, 1e-2, 1e-1):
        best = nonnegative.optimum(y, strength, strength, strength)
        z = (best.weight @ best.features).T
        refused = one_sided(z)
        assert not refused.holds and np.abs(refused.multipliers @ z).max() < 1e-9
        assert best.nrc1 > 0.3


# --- invariances


@pytest.mark.parametrize("n", [1, 2, 3])
def test_turned_permuted_and_scaled_targets(n: int) -> None:
    rng = np.random.default_rng(n)
    y = gauss(100, n) + 1.0
    best = nonnegative.optimum(y, 0.02, 0.01, 0.03)
    turn, order = np.linalg.qr(rng.normal(size=(n, n))).Q, rng.permutation(100)
    turned = nonnegative.optimum(y @ turn, 0.02, 0.01, 0.03)
    assert turned.loss == pytest.approx(best.loss, rel=1e-6) and turned.nrc1 == pytest.approx(
        best.nrc1, abs=5e-3
    )
    assert turned.bias == pytest.approx(best.bias @ turn, abs=1e-4)
    permuted = nonnegative.optimum(y[order], 0.02, 0.01, 0.03)
    assert permuted.loss == pytest.approx(best.loss, rel=1e-6) and permuted.nrc1 == pytest.approx(
        best.nrc1, abs=5e-3
    )
    z, permuted_z = (best.weight @ best.features)[:, order], permuted.weight @ permuted.features
    assert permuted_z == pytest.approx(z, abs=1e-3)
    for t in (1e-4, 7.0, 1e4):  # y -> t y and c -> t^2 c: loss t^2, bias t, nothing else changes
        scaled = nonnegative.optimum(t * y, 0.02 * t, 0.01 * t, 0.03)
        assert scaled.loss == pytest.approx(t * t * best.loss, rel=1e-6)
        assert scaled.bias == pytest.approx(t * best.bias, rel=1e-4, abs=1e-4 * t)
        assert scaled.nrc1 == pytest.approx(best.nrc1, abs=5e-3) and scaled.certificate < 1e-6
    other = nonnegative.optimum(y, 0.2, 0.001, 0.03)  # only the product of the two penalties matters for Z
    assert other.loss == pytest.approx(best.loss, rel=1e-6)


def test_a_free_bias_moves_with_the_mean() -> None:
    y = gauss(100, 2)
    here, there = (
        nonnegative.optimum(y, 0.02, 0.02, 0.0),
        nonnegative.optimum(y + np.array([3.0, -2.0]), 0.02, 0.02, 0.0),
    )
    assert there.loss == pytest.approx(here.loss, rel=1e-6)
    assert there.bias - here.bias == pytest.approx([3.0, -2.0], abs=1e-3)


# --- the trainer's words, the curve, wrong input


@pytest.mark.parametrize(("loss_scale", "decay_biases"), [(0.5, True), (1.0, False)])
def test_the_trainers_loss_is_a_multiple_of_the_models(loss_scale: float, decay_biases: bool) -> None:
    rng = np.random.default_rng(0)
    y, w, h, b = (
        rng.normal(size=(20, 3)),
        rng.normal(size=(3, 5)),
        rng.exponential(size=(5, 20)),
        rng.normal(size=3),
    )
    decay = 0.3
    trainer = loss_scale * (((w @ h).T + b - y) ** 2).mean() + decay / 2 * ((h**2).sum() / 20 + (w**2).sum())
    trainer += decay / 2 * (b**2).sum() * decay_biases
    penalties = nonnegative.from_trainer(decay, 3, loss_scale, decay_biases)
    assert loss_of(y, w, h, b, *penalties) == pytest.approx(3 / (2 * loss_scale) * trainer)


def test_the_curve_moves_the_mean_along_an_eigenvector() -> None:
    y = gauss(80, 2) + 5.0
    points = nonnegative.predicted_curve(y, 1e-2, [0.0, 2.0], [1.0, 0.5], direction=1)
    assert [(p.scale, p.mean, p.decayed) for p in points] == list(
        product((1.0, 0.5), (0.0, 2.0), (True, False))
    )
    assert all(p.certificate < 1e-6 for p in points)
    centred = y - y.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 80)
    axis = vectors[:, 0] * np.sign(vectors[np.abs(vectors[:, 0]).argmax(), 0])
    by_hand = nonnegative.optimum(0.5 * (centred + 2 * math.sqrt(values[0]) * axis), 0.02, 0.02, 0.02)
    assert points[6].nrc1 == pytest.approx(by_hand.nrc1, abs=1e-9)
    decayed, free = points[:4:2], points[1:4:2]
    assert decayed[1].nrc1 < decayed[0].nrc1 - 0.02 and decayed[1].nrc2 < decayed[0].nrc2 - 0.1
    assert free[1].nrc1 == pytest.approx(free[0].nrc1, abs=1e-2)


Y = np.eye(4)[:, :2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nonnegative.optimum(Y, 0.0, 1.0, 0.0), "lambda_h is 0"),
        (lambda: nonnegative.optimum(Y, 1.0, math.inf, 0.0), "lambda_w is inf"),
        (lambda: nonnegative.optimum(Y, 1.0, 1.0, -1.0), "lambda_b is -1"),
        (lambda: nonnegative.optimum(np.eye(4), 1.0, 1.0, 0.0), "4 targets"),
        (lambda: nonnegative.optimum([[math.nan]], 1.0, 1.0, 0.0), "finite targets"),
        (lambda: nonnegative.certificate(Y, np.ones((2, 3)), np.ones((3, 5)), [0, 0], 1, 1, 1), r"\(d, 4\)"),
        (
            lambda: nonnegative.certificate(Y, np.ones((2, 3)), np.ones((3, 4)), [0], 1, 1, 1),
            "bias has shape",
        ),
        (lambda: nonnegative.certificate(Y, np.ones((2, 1)), -np.ones((1, 4)), [0, 0], 1, 1, 1), "negative"),
        (lambda: nonnegative.from_trainer(-1.0, 2), "weight_decay is -1"),
        (lambda: nonnegative.predicted_curve(Y, 0.1, [0.0], direction=2), "direction is 2"),
    ],
)
def test_wrong_input_is_named(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=words):
        make()
