"""The SGEMM set: its inputs, the golden values of the first layer, and files that are not it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from sklearn.model_selection import train_test_split

from nrc import Moments
from nrc.cli import config
from nrc.data import RegressionData, Sgemm, sgemm
from nrc.data.tables import Columns
from nrc.errors import UserError
from nrc.metrics import Layer, layerwise
from nrc.training import Clock

REPO = Path(__file__).resolve().parents[1]


@cache
def all_inputs() -> np.ndarray:
    return sgemm.inputs()


@cache
def loaded(path: str) -> RegressionData:
    return Sgemm(path).load()


def layer(x: np.ndarray, y: np.ndarray) -> Layer:
    return Layer.of(Moments().update(torch.from_numpy(x), torch.from_numpy(y)))


def real(shared_data: Path) -> RegressionData:
    return loaded(str(shared_data / "sgemm" / "sgemm_product.csv.gz"))


def test_the_inputs_are_every_legal_combination_in_order() -> None:
    x = all_inputs()
    assert x.shape == (241_600, 14) and x.dtype == np.float64
    # increasing in lexicographic order: no row twice, the last parameter fastest
    mixed = np.zeros(len(x))
    for column, values in zip(x.T, sgemm.VALUES.values(), strict=True):
        mixed = mixed * len(values) + np.searchsorted(values, column)
        assert set(np.unique(column)) == set(values)
    assert (np.diff(mixed) > 0).all()
    v = dict(zip(sgemm.INPUTS, x.T, strict=True))
    assert not (v["MWG"] % (v["MDIMC"] * v["VWM"])).any() and not (v["NWG"] % (v["NDIMB"] * v["VWN"])).any()
    assert not (v["KWG"] % (v["MDIMC"] * v["NDIMC"] // v["MDIMA"])).any()
    assert x[-1].tolist() == [128, 128, 32, 32, 32, 32, 32, 8, 4, 4, 1, 1, 1, 1]


def test_golden_values_of_the_inputs_alone() -> None:
    """CPAL 2026, first layer of figures 3 and 7: noise and stable rank over the training rows."""
    x = all_inputs()
    train = x[train_test_split(np.arange(len(x)), test_size=0.2, random_state=42)[0]]
    train = (train - train.mean(0)) / train.std(0)
    whole = layer(train, train[:, 0])
    for k, expected in enumerate([0.8982, 0.7998, 0.7043, 0.6102, 0.5333], start=1):
        assert layerwise.noise(whole, k) == pytest.approx(expected, abs=6e-5), k
    assert layerwise.stable_rank_covariance(whole) == pytest.approx(7.511, abs=6e-4)
    first = layer(train[:10_000], train[:10_000, 0])
    assert layerwise.noise(first, 1) == pytest.approx(0.89871, abs=6e-6)
    assert layerwise.stable_rank_covariance(first) == pytest.approx(7.5823, abs=6e-5)


def test_golden_values_of_the_real_set(shared_data: Path) -> None:
    data = real(shared_data)
    assert data.sizes == {"train": 193_280, "test": 48_320, "inputs": 14, "targets": 4}
    assert data.papers_own and data.target_rank == 4
    assert data.eigenvalues[0] / data.lambda_min == pytest.approx(2.2e5, rel=0.1)
    whole = layer(data.x_train, data.y_train)
    assert layerwise.linear_mse(whole) == pytest.approx(0.59130, abs=6e-6)
    assert layerwise.cka(whole) == pytest.approx(0.0973, abs=6e-5)
    assert layerwise.noise(whole) == pytest.approx(0.6102, abs=6e-5)
    first = layer(data.x_train[:20_000], data.y_train[:20_000])
    assert layerwise.cka(first) == pytest.approx(0.09811, abs=6e-6)


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: Columns) -> Sgemm:
    """Settings whose file reads as these columns."""
    file = tmp_path / "sgemm.csv"
    file.write_text("stands for a large file\n")
    monkeypatch.setattr(sgemm, "read", lambda path: columns)
    return Sgemm(str(file))


def as_columns(x: np.ndarray, y: np.ndarray) -> Columns:
    return Columns(np.hstack([x, y]), (*sgemm.INPUTS, *sgemm.TARGETS), named=True)


def test_split_and_scaling_are_the_published_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = np.arange(4 * len(all_inputs()), dtype=float).reshape(-1, 4)
    data = pretend(monkeypatch, tmp_path, as_columns(all_inputs(), times)).load()
    train, test = train_test_split(times, test_size=0.2, random_state=42)
    mean, scale = train.mean(0), train.std(0)
    np.testing.assert_allclose(data.y_train, (train - mean) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.y_test, (test - mean) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(0, dtype=float), 1, rtol=1e-6)
    settings = pretend(monkeypatch, tmp_path, as_columns(all_inputs(), times))
    few = Sgemm(settings.path, limit=100, standardize="none").load()
    assert few.sizes["train"] == few.sizes["test"] == 100
    np.testing.assert_array_equal(few.y_train, train[:100].astype(np.float32))


def test_files_that_are_not_the_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = all_inputs(), np.ones((len(all_inputs()), 4))
    swapped = x.copy()
    swapped[[7, 8]] = swapped[[8, 7]]
    cases = [
        (as_columns(swapped, y), "data row 8, STRM is 1, expected 0"),
        (as_columns(x[:-5], y[:-5]), "has 241595 rows, the SGEMM set has 241600"),
        (
            Columns(np.hstack([x, y[:, :3]]), (*sgemm.INPUTS, *sgemm.TARGETS[:3]), named=True),
            "no column 'Run4",
        ),
    ]
    for columns, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            pretend(monkeypatch, tmp_path, columns).load()
        assert "UCI" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_file_the_error_says_where_to_get_it() -> None:
    with pytest.raises(UserError, match=r"data\.path is missing: .*SGEMM GPU kernel performance"):
        Sgemm().load()
    with pytest.raises(UserError, match=r"data\.standardize is 'y'"):
        Sgemm(standardize="y")


def test_the_accelerated_recipe_reaches_the_published_tau_in_a_quarter_of_the_steps() -> None:
    clocks = {}
    for protocol in ("paper", "accelerated", "quick"):
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            cfg = compose("train", ["experiment=sgemm", f"protocol={protocol}"])
        settings = config.run_settings(cfg)
        assert (settings.optim.batch_size, settings.optim.weight_decay) == (128, 1e-3)
        clocks[protocol] = Clock.of(settings.optim, settings.protocol, 193_280)
    paper, accelerated = clocks["paper"], clocks["accelerated"]
    assert (paper.lr, paper.total_steps, accelerated.total_steps) == (0.005, 302_000, 75_500)
    taus = {name: clock.tau_at(clock.total_steps) for name, clock in clocks.items()}
    assert taus["accelerated"] == pytest.approx(taus["paper"], rel=1e-4)
    assert taus["quick"] < taus["paper"] / 2
