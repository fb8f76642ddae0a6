"""RegressionData, the splits and the scaling, against scikit-learn and numpy."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from nrc.data import RegressionData, standardise, train_test_split_indices
from nrc.data.base import standardised
from nrc.errors import UserError


def make(seed: int = 0, **changes: Any) -> RegressionData:
    rng = np.random.default_rng(seed)
    parts: dict[str, Any] = {
        "name": "toy", "x_train": rng.normal(size=(30, 3)), "y_train": rng.normal(size=(30, 2)),
        "x_test": rng.normal(size=(8, 3)), "y_test": rng.normal(size=(8, 2)),
        "input_names": ("a", "b", "c"), "target_names": ("u", "v"), "kind": "synthetic",
    }  # fmt: skip
    return RegressionData(**(parts | changes))


def test_arrays_are_float32_and_contiguous() -> None:
    data = make(x_train=np.asfortranarray(np.random.default_rng(1).normal(size=(30, 3))))
    for array in (data.x_train, data.y_train, data.x_test, data.y_test):
        assert array.dtype == np.float32 and array.flags.c_contiguous
    assert data.sizes == {"train": 30, "test": 8, "inputs": 3, "targets": 2}


def test_sigma_is_the_centred_covariance_over_n() -> None:
    data = make()
    y = data.y_train.astype(np.float64)
    np.testing.assert_allclose(data.sigma, np.cov(y.T, bias=True), rtol=1e-12)
    assert data.sigma.dtype == np.float64
    assert data.lambda_min == pytest.approx(np.linalg.eigvalsh(np.cov(y.T, bias=True))[0], rel=1e-10)


def test_target_rank_sees_collinear_targets() -> None:
    y = np.random.default_rng(3).normal(size=(30, 1)).astype(np.float32)
    data = make(y_train=np.hstack([y, 2 * y + 5]))
    assert data.target_rank == 1 and make().target_rank == 2
    assert 0 <= data.lambda_min < 1e-12


def test_rank_agrees_with_numpy_on_float32_data() -> None:
    data = make()
    y = data.y_train.astype(np.float64)
    centred = (y - y.mean(0)).astype(np.float32)
    assert data.target_rank == np.linalg.matrix_rank(centred)


def test_sha256_is_stable_and_sees_one_bit_and_names() -> None:
    first, again = make(), make()
    assert first.sha256 == again.sha256 and len(first.sha256) == 64
    for part in ("x_train", "y_train", "x_test", "y_test"):
        array = getattr(first, part).copy()
        array.view(np.uint32)[0, 0] ^= 1
        assert make(**{part: array}).sha256 != first.sha256
    assert make(target_names=("u", "w")).sha256 != first.sha256
    assert make(name="other", provenance={"source": "elsewhere"}).sha256 == first.sha256
    assert make(sha256=first.sha256).sha256 == first.sha256
    with pytest.raises(UserError, match="expected 000000000000"):
        make(sha256="0" * 64)


def test_sha256_has_not_changed() -> None:
    # pins the recipe: a change here would orphan every recorded run
    x = np.arange(6.0).reshape(3, 2)
    data = RegressionData("toy", x, x[:, :1], x, x[:, :1], ("a", "b"), ("y",), "synthetic")
    assert data.sha256 == "6cec498967e8f4bb7d0c4a49b55f6b8aeb0993dd7884cf8d70dd92abd5b1bfc4"


def test_describe_states_the_facts() -> None:
    data = make()
    text = data.describe()
    for fact in ("30 train", "8 test", "3 inputs", "2 targets", "Sigma", "lambda_min", data.sha256[:12],
                 "numerical rank of the targets 2 of 2", "paper's own data: no"):  # fmt: skip
        assert fact in text
    assert "paper's own data: yes" in make(kind="paper").describe()
    wide = np.random.default_rng(0).normal(size=(30, 12))
    names = tuple(f"y{i}" for i in range(12))
    assert "12 x 12" in make(y_train=wide, y_test=wide[:8], target_names=names).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mine"}, "kind is 'mine'"),
        ({"x_train": np.zeros((30, 4))}, r"x_train has shape \(30, 4\)"),
        ({"x_train": np.zeros(30)}, "x_train has shape"),
        ({"x_test": np.zeros((7, 3))}, "7 test inputs but 8 test targets"),
        ({"x_train": np.zeros((1, 3)), "y_train": np.zeros((1, 2))}, "at least 2"),
        ({"x_test": np.zeros((0, 3)), "y_test": np.zeros((0, 2))}, "at least 1"),
        ({"y_train": np.stack([np.arange(30.0), np.ones(30)], 1)}, "target 'v' is constant"),
        ({"x_test": np.full((8, 3), np.inf)}, "x_test row 1, column 'a' is inf"),
        (
            {"y_train": np.full((30, 2), 1e300)},
            "y_train row 1, column 'u' is 1e[+]300, not finite as float32",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@given(n=st.integers(2, 300), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_split_equals_scikit_learn(n: int, fraction: float, seed: int) -> None:
    try:
        expected = train_test_split(np.arange(n), test_size=fraction, random_state=seed)
    except ValueError:
        with pytest.raises(UserError, match="cannot be split"):
            train_test_split_indices(n, fraction, seed)
        return
    for ours, theirs in zip(train_test_split_indices(n, fraction, seed), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_split_by_number_of_rows_equals_scikit_learn() -> None:
    expected = train_test_split(np.arange(1000), test_size=200, random_state=42)
    for ours, theirs in zip(train_test_split_indices(1000, 200, 42), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(1e-2, 1e3),
    shift=st.floats(-1e3, 1e3),
    rows=st.integers(2, 40),
)
@settings(max_examples=60, deadline=None)
def test_standardise_equals_scikit_learn(seed: int, scale: float, shift: float, rows: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = (rng.normal(size=(n, 4)) * scale + shift for n in (rows, 5))
    train[:, 1] = shift  # a constant column
    scaler = StandardScaler().fit(train)
    ours_train, ours_test, mean, used = standardise(train, test)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(used, scaler.scale_, rtol=1e-8)
    assert used[1] == 1.0
    np.testing.assert_allclose(ours_train, scaler.transform(train), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours_test, scaler.transform(test), rtol=1e-6, atol=1e-6)


def test_standardised_modes() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, size=shape) for shape in ((20, 3), (20, 2), (5, 3), (5, 2))]
    same, done = standardised("none", *parts)
    assert all(a is b for a, b in zip(same, parts, strict=True)) and done == {"standardize": "none"}
    (x, y, _, _), done = standardised("x", *parts)
    np.testing.assert_allclose(x.std(0), 1)
    assert y is parts[1] and set(done) == {"standardize", "x_mean", "x_scale"}
    (x, y, _, _), done = standardised("xy", *parts)
    np.testing.assert_allclose([y.mean(0), y.std(0)], [[0, 0], [1, 1]], atol=1e-12)
    np.testing.assert_allclose(y * done["y_scale"] + done["y_mean"], parts[1])
    json.dumps(done)
