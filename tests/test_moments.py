"""Moments: exact, mergeable, independent of the split, accurate in the tail."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrc.errors import UserError
from nrc.metrics import measure_moments
from nrc.moments import Moments

RNG = np.random.default_rng(0)


def data(n=200, d=7, t=3, mean=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + mean, rng.normal(size=(n, t)) - mean


def same(a: Moments, b: Moments, tolerance=1e-12):
    assert (a.count, a.d, a.n, a.zero_rows) == (b.count, b.d, b.n, b.zero_rows)
    for x, y in (
        (a.mean_h, b.mean_h),
        (a.mean_y, b.mean_y),
        (a.sigma_h, b.sigma_h),
        (a.sigma_hy, b.sigma_hy),
        (a.sigma_y, b.sigma_y),
        (a.unit.mean, b.unit.mean),
        (a.unit.covariance, b.unit.covariance),
    ):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def test_equal_to_direct_numpy():
    h, y = data()
    m = Moments().update(h, y)
    hc, yc = h - h.mean(0), y - y.mean(0)
    u = h / np.linalg.norm(h, axis=1, keepdims=True)
    np.testing.assert_allclose(m.mean_h, h.mean(0), atol=1e-12)
    np.testing.assert_allclose(m.sigma_h, hc.T @ hc / len(h), atol=1e-12)
    np.testing.assert_allclose(m.sigma_hy, hc.T @ yc / len(h), atol=1e-12)
    np.testing.assert_allclose(m.sigma_y, yc.T @ yc / len(h), atol=1e-12)
    second = m.unit.covariance + torch.outer(m.unit.mean, m.unit.mean)
    np.testing.assert_allclose(second, u.T @ u / len(h), atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 199), max_size=6), seed=st.integers(0, 3))
def test_independent_of_the_split_and_of_the_grouping(cuts, seed):
    h, y = data(seed=seed)
    edges = [0, *sorted(set(cuts)), len(h)]
    whole = Moments().update(h, y)
    streamed = Moments()
    parts = []
    for a, b in pairwise(edges):
        streamed.update(h[a:b], y[a:b])
        parts.append(Moments().update(h[a:b], y[a:b]))
    left = parts[0]
    for part in parts[1:]:
        left = left + part
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part + right
    for other in (streamed, left, right):
        same(whole, other)


def test_merging_leaves_both_operands_as_they_were_and_empty_is_neutral():
    h, y = data()
    a, b = Moments().update(h[:50], y[:50]), Moments().update(h[50:], y[50:])
    before = a.sigma_h.clone()
    same(a.merge(b), Moments().update(h, y))
    assert a.count == 50 and torch.equal(a.sigma_h, before)
    same(Moments() + a, a)
    same(a + Moments(), a)


def test_a_large_mean_does_not_swamp_a_small_variance():
    h, y = data(n=1000, mean=0.0)
    shifted = 1e6 + 1e-2 * h  # variance 1e-4 under a mean square of 1e12
    m = Moments()
    for rows, targets in zip(np.split(shifted, 10), np.split(y, 10), strict=True):
        m.update(rows, targets)
    exact = np.cov((shifted - 1e6).T, bias=True)
    np.testing.assert_allclose(m.sigma_h, exact, rtol=1e-7, atol=1e-11)


def test_chunks_of_a_long_array_agree_with_one_product(monkeypatch):
    h, y = data()
    whole = Moments().update(h, y)
    monkeypatch.setattr("nrc.moments.CHUNK_ELEMENTS", 130)
    same(whole, Moments().update(h, y))


def test_zero_rows_are_counted_and_have_no_direction():
    h, y = data(n=10)
    h[[2, 5]] = 0.0
    m = Moments().update(h[:4], y[:4]) + Moments().update(h[4:], y[4:])
    lengths = np.linalg.norm(h, axis=1, keepdims=True)
    u = np.divide(h, lengths, out=np.zeros_like(h), where=lengths > 0)
    assert m.zero_rows == 2
    np.testing.assert_allclose(m.unit.mean, u.mean(0), atol=1e-14)


def test_centred_directions_need_the_mean_and_then_agree_with_numpy():
    h, y = data()
    m = Moments().update(h[:90], y[:90]).update(h[90:], y[90:])
    assert m.centred is None
    m.add_centred(h[:20]).add_centred(h[20:])
    c = h - h.mean(0)
    v = c / np.linalg.norm(c, axis=1, keepdims=True)
    np.testing.assert_allclose(m.centred.mean, v.mean(0), atol=1e-13)
    np.testing.assert_allclose(m.centred.covariance, np.cov(v.T, bias=True), atol=1e-13)
    known = Moments(centre=h.mean(0)).update(h[:90], y[:90]) + Moments(centre=h.mean(0)).update(
        h[90:], y[90:]
    )
    torch.testing.assert_close(known.centred.covariance, m.centred.covariance)


def test_merging_moments_of_different_centres_drops_the_centred_part_with_a_reason():
    h, y = data()
    a = Moments().update(h[:90], y[:90]).add_centred(h[:90])
    b = Moments().update(h[90:], y[90:]).add_centred(h[90:])
    assert (a + b).centred is None and "different points" in (a + b).centred_missing


@pytest.mark.parametrize("kinds", [(False, False), (True, False), (False, True)])
def test_directions_that_were_left_out_of_a_part_are_left_out_of_the_whole(kinds):
    h, y = data()
    a, b = (
        Moments(directions=kind).update(h[part], y[part])
        for kind, part in zip(kinds, (slice(50), slice(50, 90)), strict=True)
    )
    m = (a + b).update(h[90:], y[90:])
    assert m.count == len(h) and m.unit is None
    assert "were not summed" in measure_moments(m).undefined["nrc1"]


def test_centred_directions_of_some_of_the_rows_are_not_those_of_all():
    h, y = data()
    late = Moments().update(h[:90], y[:90]).add_centred(h[:90]).update(h[90:], y[90:])
    part = Moments().update(h, y).add_centred(h[:90])
    twice = Moments().update(h, y).add_centred(h).add_centred(h)
    for m, words in ((late, "after add_centred"), (part, "had 90 rows"), (twice, "had 400 rows")):
        found = measure_moments(m, only=["nrc1", "nrc1_centred"])
        assert words in found.undefined["nrc1_centred"] and found["nrc1"] > 0
    whole = measure_moments(Moments().update(h, y).add_centred(h))["nrc1_centred"]
    assert measure_moments(late.add_centred(h))["nrc1_centred"] == pytest.approx(whole, rel=1e-12)
    about = Moments(centre=h.mean(0)).update(h[:90], y[:90]).update(h[90:], y[90:])
    assert measure_moments(about)["nrc1_centred"] == pytest.approx(whole, rel=1e-12)


def test_sums_and_copies_are_moments_of_their_own():
    h, y = data()
    a = Moments().update(h[:50], y[:50])
    for copy in (Moments() + a, a + Moments(), a.to("cpu")):
        copy.update(h[50:], y[50:])
        assert (a.count, copy.count) == (50, 200)


def test_the_coarsest_input_type_is_remembered():
    h, y = data()
    m = Moments().update(h, y).update(h.astype(np.float32), y)
    assert m.feature_eps == np.finfo(np.float32).eps and m.target_eps == np.finfo(np.float64).eps
    assert Moments().update(torch.as_tensor(h).bfloat16(), y).feature_eps == torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    ("h", "y", "words"),
    [
        (np.ones((3, 2)), np.ones((4, 1)), ["(3, 2)", "(4, 1)"]),
        (np.ones(3), np.ones(3), ["(3,)", "(3, 1)"]),
        (np.ones((3, 2, 1)), np.ones(3), ["(3, 2, 1)"]),
        (np.ones((0, 2)), np.ones(0), ["empty"]),
        ("text", np.ones(3), ["features"]),
        (np.ones((3, 2)) * 1j, np.ones(3), ["complex"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(h, y, words):
    with pytest.raises(UserError) as error:
        Moments().update(h, y)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_other_widths_and_empty_moments_are_refused():
    m = Moments().update(np.ones((3, 2)), np.ones(3))
    with pytest.raises(UserError, match=r"4 features and 1 targets.*2 and 1"):
        m.update(np.ones((3, 4)), np.ones(3))
    with pytest.raises(UserError, match="4 features"):
        m + Moments().update(np.ones((3, 4)), np.ones(3))
    with pytest.raises(UserError, match="empty"):
        _ = Moments().sigma_h
    with pytest.raises(UserError, match="centre"):
        Moments(centre=np.zeros(3)).update(np.ones((3, 2)), np.ones(3))
    for rows in (np.ones((3, 4)), np.ones(2)):
        with pytest.raises(UserError, match=r"expected \(N, 2\), as in the first"):
            m.add_centred(rows)
    with pytest.raises(UserError, match="NaN"):
        measure_moments(m.add_centred(np.full((3, 2), np.nan)))
