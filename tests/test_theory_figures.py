"""Figures of the UFM and of the theory, and the comparison of a measured K with it."""

from pathlib import Path

import numpy as np
import pytest
from test_figures import drawings, drawn, write_run

from nrc.metrics import Undefined
from nrc.theory import ufm as closed_form
from nrc.theory.compare import elements, fit_theory, gram

SIGMA = np.array([[1.0, 0.2], [0.2, 2.0]])


def theory_run(outputs: Path, folder: str, wd: float, n: int = 2, seed: int = 0) -> Path:
    """A run whose snapshot is the coded UFM's minimum for lambda_H = lambda_W = wd, and a start that is not."""
    path = write_run(outputs, folder, "reacher", wd, seed, n=n)
    rng = np.random.default_rng(seed)
    shots = dict(np.load(path / "snapshots.npz"))
    y = rng.normal(size=(256, n))
    sigma = np.cov(y.T, bias=True).reshape(n, n)
    shots["features_end"] = rng.random((256, 8))
    if wd:
        best = closed_form.optimum(sigma, wd, wd, loss="coded")
        shots["weight_end"], shots["features_end"] = best.weights(8).numpy(), best.features(y, 8).numpy()
        outputs_end = shots["features_end"] @ shots["weight_end"].T
        shots["prediction_moment"] = outputs_end.T @ outputs_end / len(y)
    np.savez(
        path / "snapshots.npz",
        **(shots | {"sigma": sigma, "targets": y, "features_start": rng.random((256, 8))}),
    )
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for wd in (0.1, 0.01, 0.0):
        theory_run(tmp_path, "ufm-quick", wd)
    theory_run(tmp_path, "prevalence-quick", 0.1)
    return tmp_path


def test_points_of_a_network_at_the_minimum_lie_on_the_diagonal(outputs: Path) -> None:
    drawing = drawn("theory", outputs)
    table = drawing.table
    assert set(table["series"]) == {
        *("UFM networks, from Sigma", "UFM networks, from the predictions", "weight decay, relu"),
    }
    assert len(table) == 2 * 2 * 3 + 3  # two lambdas, two theories, three elements; one run with weight decay
    np.testing.assert_allclose(table["theory"], table["value"], atol=1e-8)
    assert set(table[table["series"] == "UFM networks, from Sigma"]["weight_decay"]) == {0.1, 0.01}


def test_residuals_after_training_have_the_predicted_covariance(outputs: Path) -> None:
    drawing = drawn("ufm_residuals", outputs)
    end = drawing.table[drawing.table["series"] == "end"]
    # the coded loss: residual covariance n^2 lambda^2 I, for the headline, the largest lambda
    np.testing.assert_allclose(np.cov(end["eps1"], end["value"], bias=True), 0.2**2 * np.eye(2), atol=1e-9)
    start = drawing.table[drawing.table["series"] == "start"]
    assert np.cov(start["eps1"], start["value"], bias=True)[0, 0] > 0.5


def test_norms_meet_the_theory_and_the_sweep_names_the_lambdas(outputs: Path) -> None:
    curves, norms = drawn("ufm_sweep", outputs), drawn("ufm_norms", outputs)
    table = norms.table[norms.table["metric"] == "row norm"]
    for j in (1, 2):
        line = table[table["series"] == f"w{j} theory"].sort_values("tau")["value"]
        dots = table[
            (table["series"] == f"w{j} end") & (table["weight_decay"].isin([0.1, 0.01]))
        ].sort_values("weight_decay")
        np.testing.assert_allclose(line, dots["value"], rtol=1e-6)
    assert set(curves.table["weight_decay"]) == {0.1, 0.01, 0.0}


def test_one_target_and_missing_runs_are_no_crash(tmp_path: Path) -> None:
    names = ("ufm_sweep", "ufm_norms", "ufm_residuals", "theory")
    assert [drawings(name, tmp_path) for name in names] == [[]] * 4
    for wd in (0.1, 0.0):
        theory_run(tmp_path, "ufm-quick", wd, n=1)
    # of one target K has no shape, and there is no scatter
    assert [len(drawings(name, tmp_path)) for name in names] == [1, 1, 0, 0]


def test_a_run_that_the_theory_cannot_be_asked_of_is_left_out_with_its_k(outputs: Path) -> None:
    """W vanished although the features have not: the other seed is compared with its own K, not with this one's."""
    for seed, size in ((1, 0.0), (2, 1.0)):
        path = theory_run(outputs, "prevalence-quick", 0.1, seed=seed)
        shots = dict(np.load(path / "snapshots.npz"))
        np.savez(path / "snapshots.npz", **(shots | {"weight_end": size * shots["weight_end"]}))
    drawing = drawn("theory", outputs)
    below = drawing.table[drawing.table["series"] == "weight decay, relu"]
    assert sorted(set(below["seed"])) == [0, 2]
    np.testing.assert_allclose(below["value"], below["theory"], atol=1e-8)


def test_fit_finds_gamma() -> None:
    """A K that is the coded optimum: gamma is n^2 lambda_H lambda_W."""
    lh, lw = 0.3, 0.05
    best = closed_form.optimum(SIGMA, lh, lw, loss="coded")
    fit = fit_theory(best.weights(6, seed=1).numpy(), SIGMA)
    np.testing.assert_allclose(fit.gram, best.gram, atol=1e-9)
    assert fit.gamma == pytest.approx(4 * lh * lw, rel=1e-6)
    assert fit.lambda_min == pytest.approx(np.linalg.eigvalsh(SIGMA)[0])


def test_one_target_has_no_shape_to_fit() -> None:
    with pytest.raises(Undefined, match="n = 1"):
        fit_theory(np.ones((1, 5)), np.eye(1))


def test_elements_and_gram_by_hand() -> None:
    assert elements(np.array([[2.0, 0.5], [0.5, 4.0]])).tolist() == [2.0, 4.0, 0.5]
    assert gram(np.array([[1, 2], [0, 1]], np.float32)).tolist() == [[5.0, 2.0], [2.0, 1.0]]
