"""RegressionData, the splits and the scaling, against scikit-learn and numpy."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from nrc import Moments
from nrc.data import Carla, LowRank, RegressionData, Table, UTKFace, standardise, train_test_split_indices
from nrc.data.base import mean_in_deviations, standardised
from nrc.data.settings import moved_targets
from nrc.errors import UserError
from nrc.metrics import Layer


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


@pytest.mark.parametrize("units", [(1, 1, 1), (1, 1e-9, 1), (1e6, 1e-6, 1)])
@pytest.mark.parametrize(("combined", "rank"), [(True, 2), (False, 3)])
def test_rank_is_that_of_the_metrics_whatever_the_units(
    units: tuple[float, ...], combined: bool, rank: int
) -> None:
    y = np.random.default_rng(3).normal(size=(30, 3))
    if combined:
        y[:, 2] = y[:, 0] - 2 * y[:, 1]
    data = make(y_train=y * units, y_test=y[:8] * units, target_names=("u", "v", "w"))
    layer = Layer.of(Moments().update(data.x_train, data.y_train))
    assert data.target_rank == layer.target_rank == rank


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
        (
            {"y_train": np.tile([[0.1 + 0.2, 1.0], [0.3, 2.0]], (15, 1))},
            "target 'u' is constant",
        ),  # rounding of float64
        (
            {"y_train": np.random.default_rng(0).normal(size=(30, 2)) * [1, 1e-60]},
            "the train rows of target 'v' [(].*e-60[)] differ by less than float32 has digits for; use other units",
        ),
        (
            {"y_train": np.linspace(3e-45, 6e-45, 60).reshape(30, 2)},
            "target 'u' .*, 'v' .*data.standardize=xy",
        ),
        (
            {"x_train": np.ma.masked_greater(np.eye(30)[:, :3], 0.5)},
            "x_train: a masked array with 3 masked entries",
        ),
        ({"y_test": np.ma.masked_less(np.ones((8, 2)), 2)}, "y_test: a masked array with 16 masked entries"),
        ({"x_train": np.ones((30, 3), complex)}, "x_train holds complex128, not real numbers"),
        ({"y_test": np.full((8, 2), "a")}, "y_test holds <U1, not real numbers"),
        ({"x_train": np.full((30, 3), None)}, "x_train holds object, not real numbers"),
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


@pytest.mark.parametrize(
    ("offset", "spread"), [(1.7e9, 10.0), (1e7, 1.0), (1.7e18, 1e9), (2_459_000.5, 1e-3), (-1e5, 0.1)]
)
def test_a_large_offset_is_subtracted_before_float32_loses_the_digits(offset: float, spread: float) -> None:
    """Seconds and nanoseconds since 1970, pressures, Julian days; as input and as target."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), offset + spread * rng.normal(size=(300, 2))
    y[:, 1] = rng.normal(size=300)
    x[:, 2] = y[:, 0]
    before = x.copy()
    data = make(x_train=x[:250], y_train=y[:250], x_test=x[250:], y_test=y[250:])
    centred = y - [y[:250, 0].mean(), 0]
    np.testing.assert_allclose(data.sigma, np.cov((y - y[0])[:250].T, bias=True), rtol=1e-5)
    np.testing.assert_allclose(data.y_test, centred[250:], rtol=1e-5, atol=1e-5 * spread)
    np.testing.assert_array_equal(data.x_train[:, 2], data.y_train[:, 0])
    np.testing.assert_array_equal(data.x_train[:, :2], x[:250, :2].astype(np.float32))
    mean = pytest.approx(y[:250, 0].mean(), rel=1e-14)
    assert data.facts()["offset"] == {"x": {"c": mean}, "y": {"u": mean}}
    assert "offsets that float32 cannot carry were subtracted: c" in data.describe()
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("spread", [1, 1000, 5000])
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_the_offset_of_long_whole_numbers_is_subtracted_in_whole_numbers(spread: int, kind: type) -> None:
    """Nanoseconds since 1970, of which float64 keeps every 256th."""
    rng = np.random.default_rng(0)
    near = rng.integers(-3 * spread, 3 * spread + 1, (300, 1))
    y = (1_700_000_000_000_000_000 + near).astype(kind)
    data = make(
        x_train=np.hstack([y, y, y])[:250], x_test=np.hstack([y, y, y])[250:],
        y_train=y[:250], y_test=y[250:], target_names=("u",),
    )  # fmt: skip
    mean = int(np.floor(near[:250].mean()))
    np.testing.assert_array_equal(data.y_train, near[:250] - mean)
    np.testing.assert_array_equal(data.x_test, np.repeat(near[250:] - mean, 3, axis=1))
    assert data.facts()["offset"]["y"] == {"u": 1_700_000_000_000_000_000 + mean}
    assert "were subtracted: a 1.7e+18" in data.describe()


def test_offsets_are_told_apart_where_names_are_not_and_add_up() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)) + np.array([1e7, 2e7, 0])
    before = {"offset": {"x": {"b": 5}, "y": {"u": 3}}}
    data = make(x_train=x, x_test=x[:8], input_names=("a", "a", "b"))
    assert data.facts()["offset"]["x"] == {
        f"a (column {i})": pytest.approx(x[:, i].mean(), rel=1e-14) for i in (0, 1)
    }
    data = make(x_train=x[:, ::-1], x_test=x[:8, ::-1], provenance=before)
    told = {"b": 5 + x[:, 1].mean(), "c": x[:, 0].mean()}
    assert data.facts()["offset"] == {"x": pytest.approx(told, rel=1e-14), "y": {"u": 3}}


def test_inputs_too_close_for_float32_are_said() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)) * [1, 1e-60, 1]
    assert "no digits for how little the train rows of input 'b' (" in make(x_train=x).describe()
    assert "no digits" not in make().describe()


def test_scaling_far_from_0_over_many_rows() -> None:
    """Seconds since 1970 that differ by milliseconds; and a constant whose mean is rounded."""
    near = np.random.default_rng(0).normal(size=200_000) * 1e-3
    seconds = 1.7e9 + near
    train, _, mean, scale = standardise(np.c_[seconds, np.full(200_000, 0.1)], np.zeros((1, 2)))
    exact = seconds - 1.7e9  # without rounding
    np.testing.assert_allclose(scale, [exact.std(), 1], rtol=1e-9)
    np.testing.assert_allclose(train[:, 0], (exact - exact.mean()) / exact.std(), atol=1e-3)
    assert mean[1] == 0.1 and not train[:, 1].any()


def test_columns_that_float32_carries_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    x = np.c_[
        293 + 5 * rng.normal(size=30), np.full(30, 1e9), rng.integers(1990, 2020, 30)
    ]  # kelvin, constant, years
    data = make(x_train=x)
    np.testing.assert_array_equal(data.x_train, x.astype(np.float32))
    assert "offset" not in data.facts()


def test_facts_are_what_run_json_says() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(30, 2)) * [1, 2] + [4, 0]
    data = make(
        y_train=y, dataset="toys", variant={"target_scale": 2.0}, provenance={"left_out": ["a.jpg (cut)"]}
    )
    facts = json.loads(json.dumps(data.facts()))
    known = {"name": "toys", "variant": {"target_scale": 2.0}, "kind": "synthetic", "train": 30, "test": 8, "inputs": 3,
             "targets": 2, "image_size": None, "target_rank": 2, "one_sided": True, "left_out": ["a.jpg (cut)"],
             "sha256": data.sha256, "describe": data.describe()}  # fmt: skip
    assert {key: facts[key] for key in known} == known
    expected = np.linalg.norm(y.mean(0)) / np.sqrt(np.trace(np.cov(y.T, bias=True)) / 2)
    assert (
        facts["mean_in_deviations"] == pytest.approx(expected, rel=1e-6)
        and f"mean of the targets {expected:.3g}" in facts["describe"]
    )
    assert (
        make().facts()["name"] == "toy"
        and not make().one_sided
        and "targets one-sided: no" in make().describe()
    )


def test_targets_are_moved_along_targets_or_the_axes_of_sigma() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + [1, -2, 3]
    sigma, deviation = np.cov(y[:400].T, bias=True), y[:400].std(0)
    train, test, _ = moved_targets(y[:400], y[400:], [0, 2, -1], "targets", 1.0)
    np.testing.assert_allclose(train.mean(0), deviation * [0, 2, -1], atol=1e-12)
    np.testing.assert_allclose(test - y[400:], np.tile(train[0] - y[0], (100, 1)), atol=1e-12)  # test alike
    np.testing.assert_allclose(np.cov(train.T, bias=True), sigma, rtol=1e-10)
    train, _, done = moved_targets(y[:400], y[400:], [0, 2, 0], "sigma", 1.0)
    values, vectors = np.linalg.eigh(sigma)  # ascending: the second largest is the middle one
    np.testing.assert_allclose(abs(vectors.T @ train.mean(0)), [0, 2 * np.sqrt(values[1]), 0], atol=1e-9)
    assert train.mean(0)[np.abs(train.mean(0)).argmax()] > 0 and "along the eigenvectors" in done["notes"][0]
    train, _, _ = moved_targets(y[:400], y[400:], None, "targets", 3.0)
    np.testing.assert_allclose((train.mean(0), train.std(0)), (y[:400].mean(0), 3 * deviation))
    train, _, _ = moved_targets(y[:400], y[400:], 2.0, "targets", 0.5)
    np.testing.assert_allclose(train.mean(0), deviation)  # 2 deviations of half the size
    for scale in (0.5, 4.0):  # in deviations the mean does not depend on the scale
        assert mean_in_deviations(moved_targets(y, y, [1, 2, 2], "sigma", scale)[0]) == pytest.approx(
            np.linalg.norm(np.sqrt(values_of(y)) * [1, 2, 2]) / np.sqrt(values_of(y).mean())
        )
    with pytest.raises(UserError, match="2 numbers for 3 targets"):
        moved_targets(y, y, [0, 2], "targets", 1.0)


def values_of(y: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(y.T, bias=True))[::-1]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"target_mean": 2}, "low_rank-mean2"),
        ({"target_mean": [0, 2.5]}, "low_rank-mean0_2.5"),
        ({"target_mean": [0, 2], "target_mean_along": "sigma"}, "low_rank-sigmamean0_2"),
        ({"target_scale": 0.5}, "low_rank-scale0.5"),
        ({"target_mean": 0, "target_scale": 2.0}, "low_rank-mean0-scale2"),
    ],
)
def test_a_variant_is_told_in_fields_and_has_a_folder(changes: dict[str, Any], name: str) -> None:
    settings = LowRank(t=2, r=2, n=100, min_ratio=0.05, **changes)
    data = settings.load()
    assert settings.data_name == data.name == name and data.dataset == "low_rank"
    assert data.facts()["variant"] == settings.variant == changes


def test_a_moved_target_of_a_file_is_told_beside_the_file() -> None:
    moved = {"target_mean": 2.0, "target_scale": 0.5}
    for data, expected in (
        (Carla(**moved), moved),
        (Carla(name="my-town", path="SeqTrain", **moved), {"file": "SeqTrain", **moved}),
        (UTKFace(path="faces.zip", target_scale=0.5), {"file": "faces", "target_scale": 0.5}),
        (Table(path="a.csv", targets=["y"], **moved), {"file": "a", **moved}),
    ):
        assert data.variant == expected


@pytest.mark.parametrize(
    "bad",
    [{"target_mean": "far"}, {"target_mean": []}, {"target_mean": [1, None]}, {"target_mean": 101}, {"target_mean": True},
     {"target_mean_along": "x"}, {"target_scale": 0}, {"target_scale": float("nan")}],
)  # fmt: skip
def test_variants_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(bad))} is"):
        LowRank(**bad)
