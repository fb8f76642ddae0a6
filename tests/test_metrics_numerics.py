"""Rounding, units, overflow and width: the right value or NaN with a true reason, never a wrong number."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_oracles import principal, residual, unit

from nrc import Moments, measure
from nrc.errors import UserError
from nrc.metrics import Layer, Maker, evaluate, layerwise, measure_moments, measure_with_reasons
from nrc.metrics import assemble as assemble_module
from nrc.metrics import fit as fit_module
from nrc.metrics import layer as layer_module
from nrc.metrics.layer import Undefined
from nrc.metrics.linalg import smallest_eigenvalue


def affine_error(h, y):
    """Least squares on the numbers given, each column divided by its standard deviation."""
    h, y = np.asarray(h, dtype=float), np.asarray(y, dtype=float)
    c = h - h.mean(0)
    c = c[:, c.std(0) > 0] / c.std(0)[c.std(0) > 0]
    left = np.linalg.svd(c, full_matrices=False)[0]
    yc = y - y.mean(0)
    return np.mean((yc - left @ (left.T @ yc)) ** 2)


def noisy(z, columns, seed=1):
    rng = np.random.default_rng(seed)
    return z[:, columns] / z[:, columns].std(0) + 0.1 * rng.normal(size=(len(z), len(columns)))


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_of_large_columns_does_not_hide_small_ones(dtype):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(800, 40)) * np.geomspace(1, 0.02, 40)
    y = noisy(z, [20, 39])
    h = torch.as_tensor(z).to(dtype)
    for moments in (Moments().update(h[:300], y[:300]).update(h[300:], y[300:]), None):
        values = measure(h, y) if moments is None else measure_moments(moments)
        assert values["linear_mse"] == pytest.approx(affine_error(h.double(), y), rel=1e-6)
        assert values["feature_rank"] == 40


@pytest.mark.parametrize(
    ("shift", "scale", "dtype"),
    [
        ([3e6, 0, 0, 0], [1e6, 1, 1, 1], np.float32),
        ([1e6] * 4, [1] * 4, np.float32),
        ([10] * 4, [0.02] * 4, np.float16),
        ([1e9, 0, 1, 5], [1, 1e-6, 1e4, 1], np.float64),
        ([0] * 4, [1e-12, 1, 1e8, 1e3], np.float64),
    ],
)
def test_columns_in_other_units_and_about_other_means_are_all_read(shift, scale, dtype):
    z = np.random.default_rng(0).normal(size=(500, 4))
    h = (z * scale + shift).astype(dtype)
    y = noisy(z, [0, 1, 3])
    assert measure(h, y)["linear_mse"] == pytest.approx(affine_error(h, y), rel=1e-6)
    assert measure(h, y)["feature_rank"] == 4
    assert measure_moments(Moments().update(h, y))["linear_mse"] == pytest.approx(
        affine_error(h, y), rel=1e-3
    )


def test_rounding_alone_is_no_direction():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 2)) @ rng.normal(size=(2, 30)) + 5
    y = noisy(z, [0])
    for dtype in (np.float64, np.float32, np.float16):
        h = z.astype(dtype)
        assert measure(h, y)["feature_rank"] == 2, dtype
        assert measure_moments(Moments().update(h, y))["feature_rank"] == 2, dtype
    still = measure_with_reasons(np.full((50, 3), 0.1, dtype=np.float32), y[:50])
    assert still["feature_rank"] == 0 and "all rows are equal" in still.undefined["nrc1"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "columns", "mean", "rank", "tails"),
    [(20, 500, 0, 1, 0), (20, 500, 0, 2, 0), (64, 512, 0, 1, 1), (30, 2100, 10, 1, 0), (30, 2100, 0, 2, 0)],
)
def test_few_rows_of_rounding_line_up_and_are_still_no_direction(rows, columns, mean, rank, tails, dtype):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(rows, rank)) * np.exp(tails * rng.normal(size=(rows, rank)))
    h = torch.as_tensor(z @ np.abs(rng.normal(size=(rank, columns))) + mean * rng.normal(size=columns)).to(
        dtype
    )
    y, w = rng.normal(size=(rows, 2)), rng.normal(size=(2, columns))
    half = Moments().update(h[:7], y[:7]) + Moments().update(h[7:], y[7:])
    names = ("feature_rank", "nrc1", "feature_weight_alignment_k")
    for found in (measure_with_reasons(h, y, w), measure_moments(half, w, only=names)):
        assert found["feature_rank"] == found["feature_weight_alignment_k"] == rank
        assert rank == 2 or "rank 1 < n = 2" in found.undefined["nrc1"]


def test_few_rows_of_a_coarse_type_keep_their_directions():
    h = torch.as_tensor(np.random.default_rng(0).normal(size=(100, 128))).bfloat16()
    assert measure(h, np.arange(100.0))["feature_rank"] == 99


def test_a_column_of_nothing_but_rounding_takes_no_real_direction_with_it():
    rng = np.random.default_rng(0)
    for seed in range(5):
        h = np.c_[1000 + 3e-5 * rng.normal(size=300), rng.normal(size=(300, 4))].astype(np.float32)
        assert 0 < h[:, 0].var() < 1e-8  # it jumps between neighbouring numbers
        y = noisy(h.astype(float), [1, 2], seed)
        assert measure(h, y)["feature_rank"] == 4
        assert measure_moments(Moments().update(h, y))["feature_rank"] == 4


def test_directions_that_the_sums_cannot_resolve_are_read_off_the_rows_or_said_so():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    z = rng.normal(size=(400, 6)) * [1, 1, 1, 1, 1e-9, 1]  # one direction of relative variance 1e-18
    y = z[:, [4]] * 1e9 + 0.1 * rng.normal(size=(400, 1))
    h = z @ turn
    exact = affine_error(z, y)  # the turn changes nothing but rounding, by 1e-7 of this direction
    values = measure(h, y)
    assert values["linear_mse"] == pytest.approx(exact, rel=1e-5) and values["feature_rank"] == 6
    z[:, 4] *= 1e2  # relative variance 1e-14: the sums see that there is something, not how much
    moments = Moments().update(z @ turn, y)
    with pytest.raises(Undefined, match="float64 sums do not resolve"):
        _ = Layer.of(moments).affine_map
    assert math.isnan(measure_moments(moments)["linear_mse"])


@pytest.mark.parametrize("columns", [2, 16, 256])
@pytest.mark.parametrize("size", [1e-6, 1e-8, 1e-9, 1e-11, 1e-14])
def test_targets_that_a_tiny_mixed_direction_carries_are_never_called_unpredictable(columns, size):
    # y is one coordinate of h: the best affine map leaves nothing of it, however small that coordinate
    generator = torch.Generator().manual_seed(columns)
    parts = torch.randn(1000, columns, generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    y = parts[:, -1:].clone()
    parts[:, -1] *= size
    h = parts @ mixing.T
    # 1e-14 of 256 columns is float64's own rounding: nobody can read it there
    if size > 1e-14 or columns < 256:
        assert measure(h, y)["linear_mse"] < 0.01
        found = measure_moments(Moments().update(h, y))
        assert found["linear_mse"] < 0.01 or "do not resolve" in found.undefined["linear_mse"]


def test_nrc1_needs_as_many_directions_as_targets():
    rng = np.random.default_rng(1)
    t = rng.normal(size=(200, 1))
    h = t @ rng.normal(size=(1, 8)) + rng.normal(size=8)
    y = np.c_[t, rng.normal(size=200)]
    result = measure_with_reasons(h, y, rng.normal(size=(2, 8)))
    for name in ("nrc1", "nrc1_raw", "nrc1_centred"):
        assert math.isnan(result[name]) and "rank 1 < n = 2" in result.undefined[name]
    assert 0 < result["nrc2"] < 1
    # the second and the third component have the same variance: which of them counts is arbitrary
    tied = np.r_[np.diag([2.0, 1, 1]), -np.diag([2.0, 1, 1])]
    assert "same variance" in measure_with_reasons(tied, tied[:, :2]).undefined["nrc1"]
    assert measure(tied, tied[:, 0])["nrc1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("second", [1e-4, 1e-6, 1e-8])
def test_nrc1_of_a_nearly_dead_direction_is_that_of_the_rows(second):
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    h = (rng.normal(size=(300, 6)) * [1, second, *[second / 3] * 4] + [0.5, 0, 0.3, 0, 0, 0]) @ turn
    y = rng.normal(size=(300, 2))
    values = measure(h, y)
    assert values["nrc1"] == pytest.approx(residual(unit(h), principal(h, 2)), rel=1e-5)


@pytest.mark.parametrize("apart", [1e6, 1e8])
def test_what_is_left_beside_two_far_clusters_is_read_off_the_rows(apart):
    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 2))
    h[:30] += apart
    found, basis, c = measure(h, y), principal(h, 2), h - h.mean(0)
    assert found["noise_abs"] == pytest.approx(residual(c, basis), rel=1e-6)
    assert found["noise"] == pytest.approx(residual(c, basis) / np.square(c).sum(1).mean(), rel=1e-6)
    assert found["nrc1_raw"] == pytest.approx(residual(h, basis), rel=1e-6)
    # a weight that reads the same two directions
    assert measure(h, y, basis.T)["nrc2_raw"] == pytest.approx(residual(h, basis), rel=1e-6)


@pytest.mark.parametrize(("size", "of_targets"), [(1e-75, 1e-94), (1e-100, 1e-100), (1e60, 1e-140)])
def test_squares_that_underflow_leave_the_linear_map(size, of_targets):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(50, 3))
    y = h @ rng.normal(size=(3, 2)) + 0.03 * rng.normal(size=(50, 2))
    exact = affine_error(h, y)
    h, y = h * size, y * of_targets
    for found in (measure(h, y), measure_moments(Moments().update(h, y))):
        assert found["linear_mse"] / of_targets / of_targets == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("apart", [1e-2, 1e-5, 1e-7, 1e-9])
def test_condition_of_a_weight_with_nearly_equal_rows(apart):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(40, 6))
    row, other = rng.normal(size=(2, 6))
    w = np.stack((row, row + apart * other))
    # of two rows: |a x b| = s1 s2, |a|^2 + |b|^2 = s1^2 + s2^2
    across = w[1] - w[0] - row * ((w[1] - w[0]) @ row) / (row @ row)
    product, total = np.linalg.norm(row) * np.linalg.norm(across), np.square(w).sum()
    first = np.sqrt((total + np.sqrt(total**2 - 4 * product**2)) / 2)
    for scale in (1.0, 1e200):
        found = measure(h, h[:, :3], w * scale)["weight_rcond"]
        assert found == pytest.approx(product / first**2, rel=1e-6 + 1e-15 / apart)


def test_targets_in_very_different_units():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(300, 6))
    w = np.diag([1.0, 1e-7, 1e5]) @ rng.normal(size=(3, 6))
    y = h @ w.T + np.array([1e-1, 1e-8, 1e4]) * rng.normal(size=(300, 3))
    values, plain = measure(h, y, w), measure(h, y / y.std(0), w / y.std(0)[:, None])
    layer = Layer.of(Moments().update(h, y), w)
    assert layer.target_rank == 3 and layer.cross[2] == 3
    for name in ("nrc1", "nrc2", "noise", "feature_rank", "feature_target_alignment_features"):
        assert values[name] == pytest.approx(plain[name], rel=1e-9), name
    assert 0 <= values["nrc3_gamma"] <= 1
    # a target in small units that is predicted keeps the features alive, however large the others are
    y = np.c_[1e6 * rng.normal(size=300), h[:, 0]]
    alive = measure_with_reasons(h, y, np.r_[np.zeros((1, 6)), np.eye(1, 6)])
    assert alive["nrc1"] > 0 and alive["signal_share"] < 1e-8


@pytest.mark.parametrize("ratio", [1.0, 1e6, 1e12])
def test_smallest_eigenvalue_of_a_graded_covariance(ratio):
    c = np.array([[1.0, 0.5], [0.5, 1.0]])
    graded = torch.as_tensor(np.diag([ratio, 1]) @ c @ np.diag([ratio, 1]))
    t, det = ratio**2 + 1, 0.75 * ratio**2
    assert smallest_eigenvalue(graded) == pytest.approx(2 * det / (t + math.sqrt(t * t - 4 * det)), rel=1e-12)
    assert smallest_eigenvalue(torch.ones(2, 2, dtype=torch.float64)) == 0


@pytest.mark.parametrize("size", [1e160, 1e-160, 1e300])
def test_weights_whose_squares_overflow(size):
    rng = np.random.default_rng(0)
    h, w = rng.normal(size=(40, 8)), rng.normal(size=(2, 8))
    y = h[:, :2]
    plain, result = measure(h, y, w), measure_with_reasons(h, y, w * size)
    for name in ("weight_rank", "weight_rcond", "stable_rank_weights", "feature_weight_alignment"):
        assert result[name] == pytest.approx(plain[name], rel=1e-9) or result.undefined[name].startswith(
            "features vanished: the prediction"
        ), name
    assert result["weight_norm"] == pytest.approx(size * plain["weight_norm"], rel=1e-12)
    if size > 1:
        for name in ("nrc1", "nrc2", "nrc3"):
            assert result[name] == pytest.approx(plain[name], rel=1e-9)
        assert "overflows" in result.undefined["mse"] and "overflows" in result.undefined["signal_share"]
    assert {m for m, v in result.values.items() if math.isnan(v)} == set(result.undefined)


def test_short_rows_keep_their_direction():
    h = np.random.default_rng(0).normal(size=(30, 4))
    scaled = h * np.geomspace(1, 1e-200, 30)[:, None]
    moments = Moments().update(scaled, h[:, 0])
    assert moments.zero_rows == 0
    np.testing.assert_allclose(moments.unit.mean, unit(h).mean(0), atol=1e-15)


def test_more_columns_than_rows(monkeypatch):
    rng = np.random.default_rng(0)
    h, y, w = (rng.normal(size=s).astype(np.float32) for s in ((20, 60), (20, 2), (2, 60)))
    usual = measure(h, y, w)
    monkeypatch.setattr(assemble_module, "MANY_COLUMNS", 50)
    result = measure_with_reasons(h, y, w)
    assert "more columns than rows" in result.undefined["cka_first_columns"]
    for name, value in usual.items():
        # the null is a mean over draws, which are others
        if name not in result.undefined and name != "feature_target_alignment_null":
            assert result[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    monkeypatch.undo()
    wide = rng.normal(size=(50, 100_000)).astype(np.float32)  # sums would take 80 GB
    values = measure(wide, rng.normal(size=(50, 2)), rng.normal(size=(2, 100_000)))
    assert values["nrc1"] == pytest.approx(residual(unit(wide), principal(wide.astype(float), 2)), rel=1e-6)
    assert values["feature_rank"] == 49 and values["feature_weight_alignment_null"] < 0.01
    wide[7, 5] = np.nan
    with pytest.raises(UserError, match="first in row 7"):
        measure(wide, np.ones(50))
    monkeypatch.setattr(assemble_module, "MOST_COLUMNS", 10)
    with pytest.raises(UserError, match="more than 10"):
        measure(rng.normal(size=(3000, 2100)), rng.normal(size=3000))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("out", [2, 5])
def test_sums_of_more_columns_than_rows(monkeypatch, dtype, out):
    rng = np.random.default_rng(0)
    h, held, y, other, w = (
        rng.normal(size=s).astype(dtype) for s in ((20, 90), (9, 90), (20, 2), (9, 2), (out, 90))
    )
    maker = Maker(torch.as_tensor(rng.normal(size=(90, 7))), relu=True)

    def measured():
        train = Layer.of(Moments().update(h, y).add_centred(h), w, np.zeros(out))
        test = Layer.of(Moments().update(held, other), w, np.zeros(out), linear_map_from=train)
        return [evaluate(replace(train, maker=maker)), evaluate(test)]

    usual = measured()
    monkeypatch.setattr(layer_module, "MANY_COLUMNS", 50)
    decomposed = []
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda m, eigh=torch.linalg.eigh: (decomposed.append(len(m)), eigh(m))[1]
    )
    found = measured()
    assert max(decomposed) <= 20 + out
    for before, now in zip(usual, found, strict=True):
        assert "space of their rows" in now.undefined["cka_first_columns"]
        for name, value in before.values.items():
            if name not in ("cka_first_columns", "feature_target_alignment_null") and math.isfinite(value):
                assert now[name] == pytest.approx(value, rel=1e-8, abs=1e-11), name
    centred = h.astype(float) - h.mean(0, dtype=float)
    assert found[0]["feature_rank"] == 19
    assert found[0]["nrc1"] == pytest.approx(residual(unit(h.astype(float)), principal(h.astype(float), 2)))
    a = np.linalg.lstsq(centred, y - y.mean(0, dtype=float), rcond=1e-10)[0]
    fit = (held - h.mean(0, dtype=float)) @ a + y.mean(0, dtype=float)
    assert found[1]["linear_mse"] == pytest.approx(((fit - other) ** 2).mean(), rel=1e-6)


def test_dead_columns_need_no_second_eigenproblem(monkeypatch):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(200, 30)) * np.geomspace(1, 1e-3, 30)
    h[:, [4, 20]] = 0.0
    y = rng.normal(size=(200, 2))
    monkeypatch.setattr(fit_module, "spectrum", None)
    layer = Layer.of(Moments().update(h, y))
    assert layer.fit.rank == 28 and layer.fit.settled
    assert layerwise.linear_mse(layer) == pytest.approx(affine_error(h, y), rel=1e-9)
