"""All metrics against the definitions, on random, collapsed and degenerate features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import oracle, principal, residual, unit
from sklearn.decomposition import PCA

from nrc import Moments, measure
from nrc.errors import UserError
from nrc.metrics import METRICS, Layer, Undefined, measure_moments, measure_with_reasons, weight_spectrum
from nrc.metrics.last_layer import nrc2_centred
from nrc.metrics.linalg import stable_rank, unevenness

SCALE_FREE = [
    *(
        "nrc1",
        "nrc2",
        "nrc3",
        "nrc3_gamma",
        "nrc1_centred",
        "noise",
        "cka",
        "cka_null",
        "stable_rank_features",
    ),
    *("stable_rank_covariance", "feature_weight_alignment", "feature_target_alignment", "mean_share"),
    *("effective_rank", "participation_ratio", "rankme", "offset"),
    *("feature_target_alignment_features", "feature_target_alignment_null", "linear_mse", "feature_rank"),
    *(f"evr_{k}" for k in range(1, 6)),
]


def problem(n=300, d=9, t=3, seed=0, mean=0.7):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + mean
    w = rng.normal(size=(t, d))
    y = h @ w.T + rng.normal(size=(n, t)) @ rng.normal(size=(t, t)) + 1.0
    return h, y, w, rng.normal(size=t)


def agree(values, expected, tolerance=1e-9):
    for name, value in expected.items():
        scale = max(1.0, abs(value))
        assert abs(values[name] - value) <= tolerance * scale, (name, values[name], value)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rank", [None, 2, 1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_random_features_agree_with_the_definitions(seed, rank, with_bias):
    h, y, w, b = problem(seed=seed)
    b = b if with_bias else None
    values = measure(h, y, w, rank=rank, bias=b)
    assert list(values) == list(METRICS)
    agree(values, oracle(h, y, w, b, rank or 3))


@pytest.mark.parametrize("shape", [(6, 20, 2), (300, 3, 3), (500, 40, 1), (50, 8, 5)])
def test_other_shapes_agree_with_the_definitions(shape):
    n, d, t = shape
    h, y, w, b = problem(n=n, d=d, t=t)
    expected = oracle(h, y, w, b, t)
    if n <= d:  # numpy's least squares and ours may both pick any map through all points
        expected.pop("linear_mse_uncentred")
    agree(measure(h, y, w, bias=b), expected)


def collapsed(tail, n=1000, d=40, t=2, seed=0):
    """Features in the row space of w, plus orthogonal noise of relative variance about `tail`."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    w = rng.normal(size=(t, t)) @ q[:, :t].T
    z = rng.normal(size=(n, t))
    noise = math.sqrt(tail / (d - t)) * rng.normal(size=(n, d - t))
    return z @ q[:, :t].T + noise @ q[:, t:].T, z @ rng.normal(size=(t, t)) + 0.1, w


def test_perfect_collapse_is_zero_and_agrees_with_the_definitions():
    h, y, w = collapsed(tail=0.0)
    values = measure(h, y, w)
    for name in ("nrc1", "nrc2", "nrc1_centred", "noise", "linear_mse"):
        assert 0 <= values[name] < 1e-15, name
    assert values["feature_rank"] == 2 and values["evr_1"] + values["evr_2"] == pytest.approx(1, abs=1e-12)
    assert values["feature_weight_alignment"] == pytest.approx(1, abs=1e-12)
    agree(values, oracle(h, y, w, None, 2))


@pytest.mark.parametrize("tail", [1e-6, 1e-10, 1e-12, 1e-14])
def test_small_tails_keep_their_relative_accuracy(tail):
    h, y, w = collapsed(tail)
    values = measure(h, y, w)
    u = unit(h)
    # The reference projects the rows themselves, so nothing cancels.
    assert values["nrc1"] == pytest.approx(residual(u, principal(h, 2)), rel=1e-2)
    assert values["nrc2"] == pytest.approx(residual(u, np.linalg.qr(w.T)[0]), rel=1e-2)
    expected = residual(h - h.mean(0), principal(h, 2)) / np.trace(np.cov(h.T, bias=True))
    assert values["noise"] == pytest.approx(expected, rel=1e-2)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), exponent=st.floats(-3, 3))
def test_scale_and_rotation_invariance(seed, exponent):
    rng = np.random.default_rng(seed)
    h, y, w, b = problem(seed=seed)
    values = measure(h, y, w, bias=b)
    scale = 10**exponent
    scaled = measure(h * scale, y, w, bias=b)
    assert scaled["nrc1_raw"] == pytest.approx(values["nrc1_raw"] * scale**2)
    agree(scaled, {name: values[name] for name in SCALE_FREE}, 1e-8)
    q = np.linalg.qr(rng.normal(size=(h.shape[1],) * 2))[0]
    turned = measure(h @ q, y, w @ q, bias=b)
    agree(turned, {k: v for k, v in values.items() if k != "cka_first_columns" and not math.isnan(v)}, 1e-8)


def test_evr_and_nrc1_agree_with_sklearn():
    h, y, w, _ = problem()
    pca = PCA(n_components=5).fit(h)
    values = measure(h, y, w)
    np.testing.assert_allclose(
        [values[f"evr_{k}"] for k in range(1, 6)], pca.explained_variance_ratio_, atol=1e-12
    )
    assert values["nrc1"] == pytest.approx(residual(unit(h), pca.components_[:3].T), abs=1e-12)


def test_tensors_arrays_and_target_vectors_are_the_same_thing():
    h, y, w, _ = problem(t=1)
    a = measure(h, y[:, 0], w)
    b = measure(torch.as_tensor(h), torch.as_tensor(y), torch.as_tensor(w))
    for name in a:
        assert a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])), name


def test_one_target_has_no_nrc3():
    h, y, w, _ = problem(t=1)
    result = measure_with_reasons(h, y, w)
    for name in ("nrc3", "nrc3_gamma"):
        assert math.isnan(result[name]) and "n = 1" in result.undefined[name]
    assert 0 < result["nrc2"] < 1


def nan_names(result):
    assert set(result.undefined) == {name for name, value in result.values.items() if math.isnan(value)}
    return set(result.undefined)


ALIVE_WHEN_VANISHED = {
    *("mse", "r2", "noise_abs", "stable_rank_weights", "linear_mse", "linear_mse_uncentred"),
    *("feature_rank", "weight_rank", "weight_rcond", "mean_share", "feature_norm", "signal_share"),
    *("weight_norm", "offset"),
}


@pytest.mark.parametrize("scale", [1e-14, 0.0])
def test_vanished_features_are_reported_by_name(scale):
    h, y, w, b = problem()
    result = measure_with_reasons(h * scale, y, w, bias=b)
    assert nan_names(result) - {"mean_share", "offset"} == set(METRICS) - ALIVE_WHEN_VANISHED
    others = {"balancedness", "offset"}  # the first for want of a second weight, the second where all is 0
    assert all(why.startswith("features vanished") for m, why in result.undefined.items() if m not in others)
    assert result["mse"] == pytest.approx(np.mean((y - b) ** 2))
    if scale == 0:
        assert result["linear_mse"] == pytest.approx(y.var(0).mean())


def test_a_prediction_without_signal_counts_as_vanished():
    h, y, w, b = problem()
    result = measure_with_reasons(h, y, w * 1e-6, bias=b)
    assert nan_names(result) == set(METRICS) - ALIVE_WHEN_VANISHED
    assert result.undefined["nrc1"].startswith("features vanished: the prediction's variance")
    assert result["r2"] < 0.1
    # A weight that is not the model's last one says nothing about the prediction.
    hidden = measure_moments(Moments().update(h, y), w * 1e-6, maps_to_targets=False)
    assert hidden["nrc1"] > 0 and "does not map" in hidden.undefined["nrc2"]


def test_constant_features_and_constant_targets():
    h, y, w, b = problem()
    constant = measure_with_reasons(np.ones_like(h), y, w, bias=b)
    assert constant.undefined["nrc1"] == "features vanished: all rows are equal, no variance is left"
    assert constant["mean_share"] == 1 and constant["feature_rank"] == 0
    assert constant["linear_mse"] == pytest.approx(y.var(0).mean())
    still = measure_with_reasons(h, np.ones_like(y), w, bias=b)
    assert (
        "targets are constant" in still.undefined["r2"] and "targets are constant" in still.undefined["cka"]
    )
    assert 0 < still["nrc1"] < 1


def test_a_rank_deficient_weight_is_reported():
    h, y, w, b = problem()
    w[1] = 2 * w[0]
    result = measure_with_reasons(h, y, w, bias=b)
    assert result["weight_rank"] == 2
    assert math.isnan(result["nrc2"]) and result.undefined["nrc2"] == "W has numerical rank 2 < n = 3"
    assert result["feature_weight_alignment_k"] == 2 and 0 <= result["nrc3"] <= 4


@pytest.mark.parametrize("second", [1.0, 0.3, 0.0098, 1e-5, 0.0])
def test_a_dying_target_direction_is_seen_long_before_the_rank_falls(second):
    """Swimmer at weight decay 5e-2 ended with singular values 1.02 and 0.010, and rank 2."""
    h, y, _, _ = problem(d=9, t=2)
    u, v = (np.linalg.qr(np.random.default_rng(5).normal(size=(k, 2)))[0] for k in (2, 9))
    w = 1.02 * u @ np.diag([1.0, second]) @ v.T
    for scale in (1.0, 1e-6):  # of the direction, not of the weight
        values = measure(h, y, (w * scale).astype(np.float32))
        assert values["weight_rcond"] == pytest.approx(second, rel=1e-3, abs=1e-7)
        assert values["weight_rank"] == 1 + (second > 1e-6)
    with pytest.raises(Undefined, match="the weight is zero"):
        METRICS["weight_rcond"](Layer.of(Moments().update(h, y), w * 0))


@pytest.mark.parametrize(("outputs", "dtype"), [(3, np.float32), (9, np.float32), (3, np.float64)])
def test_rounding_does_not_restore_the_rank_of_a_weight(outputs, dtype):
    h, y, _, _ = problem()
    rng = np.random.default_rng(3)
    w = (rng.normal(size=(outputs, 2)).astype(dtype) @ rng.normal(size=(2, 9)).astype(dtype)) / 3
    result = measure_with_reasons(h, y, w)
    assert result["weight_rank"] == 2 and math.isnan(result["nrc2"])


def test_zero_rows_count_in_the_mean():
    h, y, w, _ = problem()
    h[::3] = 0
    assert measure(h, y, w)["nrc1"] == pytest.approx(residual(unit(h), principal(h, 3)), abs=1e-12)


def test_a_weight_of_another_width_leaves_the_prediction_undefined():
    h, y, _, _ = problem()
    result = measure_with_reasons(h, y, np.ones((5, 9)))
    assert nan_names(result) == {
        "mse",
        "r2",
        "nrc2",
        "nrc2_raw",
        "nrc3",
        "nrc3_gamma",
        "noise_alignment",
        "signal_share",
        "offset",
        "balancedness",
    }
    assert nan_names(measure_with_reasons(h, y)) >= {"mse", "weight_rank", "weight_rcond"}


def test_a_convolution_is_aligned_on_its_input_channels():
    h, y, _, _ = problem()
    kernel = np.random.default_rng(1).normal(size=(5, 9, 3, 3))
    flat = np.transpose(kernel, (1, 0, 2, 3)).reshape(9, -1)  # c_in x (c_out kh kw)
    agree(
        {
            k: measure(h, y, kernel)[k]
            for k in ("feature_weight_alignment", "stable_rank_weights", "weight_rank")
        },
        {
            "feature_weight_alignment": float(
                np.linalg.svd(np.linalg.svd(flat)[0][:, :3].T @ principal(h, 3), compute_uv=False).mean()
            ),
            "stable_rank_weights": np.linalg.norm(flat) ** 2 / np.linalg.norm(flat, 2) ** 2,
            "weight_rank": 9,
        },
    )


def test_mistakes_are_named():
    h, y, w, b = problem()
    for arguments, words in (
        ((h, y, w[:, :4]), ["(3, 4)", "9 columns"]),
        ((h[:5], y), ["(5, 9)", "(300, 3)"]),
        ((h, y, w[0]), ["(9,)"]),
    ):
        with pytest.raises(UserError) as error:
            measure(*arguments)
        assert all(word in str(error.value) for word in words), error.value
    for rank in (0, 4):
        with pytest.raises(UserError, match=f"rank={rank}"):
            measure(h, y, w, rank=rank)
    with pytest.raises(UserError, match="bias has 2 entries"):
        measure(h, y, w, bias=b[:2])
    for where, what in ((h, "features"), (y, "targets")):
        where[7, 1] = np.nan
        with pytest.raises(UserError, match=rf"{what} contain NaN or infinity, first in row 7"):
            measure(h, y, w)
        where[7, 1] = 0
    with pytest.raises(UserError, match=r"weight .* contains NaN"):
        measure(h, y, w * np.inf)
    with pytest.raises(UserError, match="no metric 'nrc4'"):
        measure_moments(Moments().update(h, y), only=["nrc4"])
    with pytest.raises(UserError, match=r"weight has shape \(0, .*expected \(out, d\)"):
        measure(h, y, w[:0])
    with pytest.raises(UserError, match="features: a tensor on torch's meta device"):
        measure(torch.empty(60, 7, device="meta"), y)
    with pytest.raises(UserError, match="groups: a masked array with 1 masked entries"):
        measure(h, y, groups=np.ma.array(np.arange(len(h)) % 2, mask=np.arange(len(h)) == 3))
    for features, weight in ((h, w[:, :3]), (h[0], w), (h, w[0])):
        with pytest.raises(UserError, match=r"expected \(N, d\) and \(n, d\)"):
            nrc2_centred(features, weight)
    for covariance in (np.ones((2, 3)), np.ones(2)):
        for function in (stable_rank, unevenness):
            with pytest.raises(UserError, match=r"expected \(n, n\)"):
                function(covariance)


def test_other_kinds_of_arguments_measure_the_same():
    h, y, w, _ = problem()
    usual = measure(h, y, w)
    assert measure(h, y, torch.as_tensor(w).to_sparse()) == pytest.approx(usual, nan_ok=True)
    m = Moments().update(h, y)
    assert measure_moments(m, w, only="nrc2").values == measure_moments(m, w, only=["nrc2"]).values
    halves = measure(h, y, w, groups=(torch.arange(len(h)) % 2).bfloat16()).groups
    assert halves[1.0] == pytest.approx(measure(h[1::2], y[1::2], w), nan_ok=True) and len(halves) == 2
    usual = nrc2_centred(h, w)
    assert nrc2_centred(h * 1e-170, w) == pytest.approx(usual)
    assert math.isnan(nrc2_centred(h, 0 * w)) and math.isnan(nrc2_centred(h, w * np.eye(len(w))[:, :1]))
    for size in (1e-200, 1.0, 1e200):
        c = np.diag([2.0, 1.0]) * size
        assert stable_rank(c) == pytest.approx(1.25) and unevenness(c) == pytest.approx(1 / 3)


def test_held_out_moments_use_the_training_map_and_sigma():
    h, y, w, b = problem(n=400)
    train, test = Moments().update(h[:100], y[:100]), Moments().update(h[100:], y[100:])
    result = measure_moments(test, w, b, linear_map_from=train)
    fitted = np.linalg.lstsq(np.c_[h[:100], np.ones(100)], y[:100], rcond=None)[0]
    expected = np.mean((np.c_[h[100:], np.ones(300)] @ fitted - y[100:]) ** 2)
    assert result["linear_mse"] == pytest.approx(expected, abs=1e-9)
    assert result["nrc3"] == measure_moments(train, w, b)["nrc3"] != measure_moments(test, w, b)["nrc3"]
    other = Moments().update(h[:, :4], y)
    with pytest.raises(UserError, match="linear_map_from has 4 features"):
        measure_moments(test, w, b, linear_map_from=other)


def test_the_affine_fit_survives_collapsed_float32_features():
    h, y, w = collapsed(1e-15, n=2000)
    y = y + 0.3 * np.random.default_rng(5).normal(size=y.shape)
    single = (h + 1000.0).astype(np.float32)  # rounding now exceeds what float64 sums would resolve
    train, test = Moments().update(single[:1000], y[:1000]), Moments().update(single[1000:], y[1000:])
    result = measure_moments(test, w, linear_map_from=train)
    assert result["linear_mse"] == pytest.approx(0.09, rel=0.1)
    assert measure_moments(train, w)["feature_rank"] == 2


def test_target_rank_of_float32_targets():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(500, 12)).astype(np.float32)
    z = rng.normal(size=(500, 2)).astype(np.float32) @ rng.normal(size=(2, 10)).astype(np.float32)
    moments = Moments().update(h, z + np.float32(3))
    by_default, by_name = measure_moments(moments), measure_moments(moments, rank=2)
    assert by_default["noise"] == by_name["noise"] != measure_moments(moments, rank=3)["noise"]
    nearly_collinear = z[:, :1] + 0.003 * rng.normal(
        size=(500, 4)
    )  # condition number of order 1e5, as SGEMM's
    moments = Moments().update(h, nearly_collinear)
    assert measure_moments(moments)["noise"] == measure_moments(moments, rank=4)["noise"]


def test_a_decomposed_weight_and_a_choice_of_metrics_give_the_same_numbers():
    h, y, w, b = problem()
    moments = Moments().update(h, y)
    whole = measure_moments(moments, w, b)
    part = measure_moments(moments, weight_spectrum(w), b, only=["nrc2", "cka"])
    assert part.values == {name: whole[name] for name in ("nrc2", "cka")}


@pytest.mark.parametrize("outputs", [3, 9])
def test_a_zero_weight_is_reported(outputs):
    h, y, _, b = problem()
    result = measure_with_reasons(h, y, np.zeros((outputs, 9)), bias=b if outputs == 3 else None)
    assert result["weight_rank"] == 0 and result.undefined["stable_rank_weights"] == "the weight is zero"
    if outputs == 3:
        assert result["signal_share"] == 0 and result.undefined["nrc3"].startswith("features vanished")
    else:
        assert 0 < result["nrc1"] < 1
