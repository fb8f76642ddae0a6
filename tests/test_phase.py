"""The phase diagram: its grid, its cells, its borders, and the thresholds of a deep linear network."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from run_tools import record
from test_figures import STEPS, drawings, drawn, write_run

from nrc.cli import config
from nrc.errors import UserError
from nrc.figures import Drawing
from nrc.runs.directory import read_info
from nrc.theory.deep_linear import thresholds

REPO = Path(__file__).resolve().parents[1]

GRID = (0.05, 0.2, 0.8, 3.2)  # at tau 100: budgets 5 (not ripe), 20, 80, 320


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four weight decays, the last of which kills the features, and a run without from `prevalence`."""
    tmp_path = tmp_path_factory.mktemp("outputs")
    for folder in ("prevalence-quick", "prevalence_linear-quick"):
        write_run(tmp_path, folder, "swimmer", 0.0)
    for folder in ("phase-quick", "phase_linear-quick"):
        for wd in GRID:
            path = write_run(tmp_path, folder, "swimmer", wd, vanish_after=30 if wd == GRID[-1] else None)
            shots = dict(np.load(path / "snapshots.npz"))
            second = 0.9 if wd < 0.5 else 0.01  # the second direction of W dies between 0.2 and 0.8
            shots["weight_end"] = np.diag([1.0, second])
            np.savez(path / "snapshots.npz", **shots)
            record(path, data=read_info(path)["data"] | {"vanishing": [1.5, 0.25]})
    return tmp_path


@pytest.fixture(scope="module")
def drawing(outputs: Path) -> Drawing:
    return drawn("phase", outputs)


def test_cells_are_the_rows_of_the_runs_against_the_budget(outputs: Path, drawing: Drawing) -> None:
    table = drawing.table
    rows = pd.read_csv(
        outputs / "phase-quick/swimmer/wd=0.2/seed=0/metrics.csv", float_precision="round_trip"
    )
    for metric, split in (("nrc1", "train"), ("feature_rank", "train"), ("r2", "test")):
        here = rows[(rows["metric"] == metric) & (rows["split"] == split) & (rows["tau"] > 0)]
        kept = (table["metric"] == metric) & (table["series"] == "relu") & (table["weight_decay"] == 0.2)
        np.testing.assert_allclose(table[kept]["budget"], 0.2 * here["tau"])
        np.testing.assert_allclose(table[kept]["value"], here["value"], rtol=1e-12)


def test_test_error_is_drawn_over_that_without_weight_decay(drawing: Drawing) -> None:
    table = drawing.table
    kept = (table["metric"] == "mse") & (table["series"] == "linear") & (table["weight_decay"] == 0.05)
    taus = np.array([s for s in STEPS if s > 0])
    # the tiny runs have mse = 0.1 + 0.7 exp(-wd tau): 0.8 at wd = 0
    np.testing.assert_allclose(table[kept]["value"], (0.1 + 0.7 * np.exp(-0.05 * taus)) / 0.8, rtol=1e-12)
    nothing = table[(table["metric"] == "mse") & (table["series"] == "linear") & (table["weight_decay"] == 0)]
    assert nothing["value"].tolist() == [1.0] and nothing["budget"].tolist() == [0.0]


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], **facts: float) -> None:
    """Change the rows of a run that is written, and its record."""
    rows = change(pd.read_csv(path / "metrics.csv"))
    rows.to_csv(path / "metrics.csv", index=False)
    record(path, steps=int(rows["step"].max()), **facts)


def test_a_short_run_is_compared_at_its_own_tau(tmp_path: Path) -> None:
    """Without decay the error falls as 1/tau. A run stopped at tau 10 with twice that error reads 2, and not 20."""

    def falling(times: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
        def change(rows: pd.DataFrame) -> pd.DataFrame:
            here = (rows["metric"] == "mse") & (rows["split"] == "test") & (rows["tau"] > 0)
            rows.loc[here, "value"] = times / rows.loc[here, "tau"]
            return (
                rows[rows["tau"] <= 10] if times > 1 else rows[rows["tau"] != 3]
            )  # measured at other moments

        return change

    edit(write_run(tmp_path, "prevalence-quick", "reacher", 0.0), falling(1.0))
    edit(write_run(tmp_path, "phase-quick", "reacher", 2.0), falling(2.0), tau=10.0)
    drawing = drawn("phase", tmp_path)
    kept = (drawing.table["metric"] == "mse") & (drawing.table["weight_decay"] == 2.0)
    np.testing.assert_allclose(drawing.table[kept]["value"], [2.0, 2.0, 2.0])


def test_without_runs_at_no_decay_the_error_is_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "phase-quick", "reacher", 0.2)
    drawing = drawn("phase", tmp_path)
    assert "mse" not in set(drawing.table["metric"])
    assert "no runs without\nweight decay" in [text.get_text() for text in drawing.grid[-1, 0].texts]


def test_seeds_are_averaged_at_the_same_moments(tmp_path: Path) -> None:
    """Three seeds of the grid count, and not the shorter one of the sweep; of unequal seeds the common part."""
    short = write_run(tmp_path, "prevalence-quick", "hopper", 0.2)
    edit(short, lambda rows: rows[rows["tau"] <= 10], tau=10.0)
    grid = [write_run(tmp_path, "phase-quick", "hopper", 0.2, seed) for seed in range(3)]
    edit(grid[1], lambda rows: rows[rows["tau"] <= 30], tau=30.0)
    drawing = drawn("phase", tmp_path)
    assert [run.path for run in drawing.runs] == grid
    assert {run.tau for run in drawing.runs} == {30.0}
    cells = drawing.table[drawing.table["metric"] == "nrc1"]
    np.testing.assert_allclose(cells["budget"], [0.2 * tau for tau in STEPS if 0 < tau <= 30])


def test_cells_and_directions_go_by_most_seeds(tmp_path: Path) -> None:
    for wd, gone in ((0.4, 1), (0.8, 2)):
        for seed in range(3):
            vanish = 30 if seed < gone else None
            path = write_run(tmp_path, "phase-quick", "swimmer", wd, seed, vanish_after=vanish)
            shots = dict(np.load(path / "snapshots.npz"))
            np.savez(path / "snapshots.npz", **shots | {"weight_end": np.diag([1.0, 0.9])})
    drawing = drawn("phase", tmp_path)
    for wd, vanished in ((0.4, False), (0.8, True)):
        cells = drawing.table[(drawing.table["metric"] == "nrc1") & (drawing.table["weight_decay"] == wd)]
        assert math.isnan(cells["value"].iloc[-1]) == vanished
    marks = drawing.table[drawing.table["metric"].str.startswith("direction 2, ")].set_index("metric")[
        "value"
    ]
    assert (marks["direction 2, last alive"], marks["direction 2, first dead"]) == (0.4, 0.8)


def test_a_direction_is_dead_in_runs_that_had_their_budget_alone(tmp_path: Path) -> None:
    for wd, weakest in ((0.1, 0.01), (0.15, 0.9), (0.3, 0.9), (0.4, 0.01)):  # budgets 10, 15, 30, 40
        write_run(tmp_path, "phase-quick", "swimmer", wd, weakest=weakest)
    table = drawn("phase", tmp_path).table.set_index("metric")["value"]
    assert (table["direction 2, last alive"], table["direction 2, first dead"]) == (0.3, 0.4)


def test_each_direction_has_its_border(drawing: Drawing) -> None:
    table = drawing.table
    marks = table[table["metric"].str.startswith("direction 2") & (table["series"] == "relu")]
    assert marks["value"].tolist() == [0.25, 0.2, 0.8]
    marks = table[table["metric"].str.startswith("direction 1") & (table["series"] == "relu")]
    assert marks["value"].tolist() == [1.5, 0.8, 3.2]


def test_features_that_vanished_have_no_rank(drawing: Drawing) -> None:
    table = drawing.table
    rank = table[
        (table["metric"] == "feature_rank") & (table["weight_decay"] == 3.2) & (table["series"] == "relu")
    ]
    assert rank["value"].isna().tolist() == [tau > 30 for tau in STEPS if tau > 0]


def test_the_longest_run_of_a_seed_counts_and_a_grid_is_needed(tmp_path: Path) -> None:
    shorter = write_run(tmp_path, "prevalence-quick", "reacher", 0.2)
    assert drawings("phase", tmp_path) == []
    info = json.loads((shorter / "run.json").read_text())
    (shorter / "run.json").write_text(json.dumps(info | {"tau": 50.0}))
    longer = write_run(tmp_path, "phase-quick", "reacher", 0.2)
    drawing = drawn("phase", tmp_path)  # one layer, one weight decay, no run without, no estimate
    assert [run.path for run in drawing.runs] == [longer]
    estimates = drawing.table[drawing.table["metric"].str.endswith("estimated")]["value"]
    assert drawing.name == "phase_reacher" and len(estimates) and estimates.isna().all()


@pytest.mark.parametrize("data", ["reacher", "swimmer", "hopper"])
def test_the_grids(data: str) -> None:
    """Issue: 24 weight decays, 0 among them, with 3 seeds; none longer than needed, and few when quick."""
    recipe = yaml.safe_load((REPO / "conf/recipe" / data / "accelerated.yaml").read_text())
    values = [float(v) for v in recipe["phase"]["relu"].split(",")]
    # `prevalence` has the headline weight decay and 0 in 3 seeds: they are not trained again
    assert (
        float(recipe["weight_decay"]) not in values
        and len({*values, float(recipe["weight_decay"]), 0.0}) >= 24
    )
    assert values == sorted(values) and recipe["phase"]["seeds"] == "0,1,2"
    for experiment in ("phase", "phase_linear"):
        for member in config.sweep_members(experiment, data, "accelerated", Path("outputs")):
            assert member.settings.optim.weight_decay * (member.settings.protocol.tau or 0) <= 200.001
        members = config.sweep_members(experiment, data, "quick", Path("outputs"))
        for found in (member.settings for member in members):
            assert found.protocol.tau is not None and found.optim.weight_decay * found.protocol.tau <= 25.001
            assert (found.model.feature_activation == "none") == ("linear" in experiment)  # type: ignore[attr-defined]
            assert found.optim.weight_decay not in (found.headline, 0)
        assert 1 <= len(members) <= 8


def test_the_members_of_the_grid_share_one_tau_but_for_those_that_collapse_early() -> None:
    members = config.sweep_members("phase_linear", "hopper", "accelerated", Path("outputs"))
    taus = {(m.settings.optim.weight_decay, m.settings.protocol.tau) for m in members}
    assert len(members) == 66 and len(taus) == 22  # the seeds of a decay are of one length
    assert {tau for decay, tau in taus if decay <= 0.01} == {20000.0}
    assert all(decay * (tau or 0) == pytest.approx(200) for decay, tau in taus if decay > 0.01)


def test_threshold_of_a_scalar_network_in_closed_form() -> None:
    # lambda = (2k/n) (m - a p) p^(1/2) for L = 4, largest at p = m/(3a): (4k/n) m^(3/2) / sqrt(27 a)
    x, a, slope, k = np.array([[-2.0], [2.0]]), 4.0, 0.7, 0.5
    expected = 4 * k * (slope * a) ** 1.5 / math.sqrt(27 * a)
    assert thresholds(x + 3, slope * x - 1, layers=4, loss_scale=k) == [pytest.approx(expected, rel=1e-12)]


def test_thresholds_of_more_inputs_than_rows_are_those_in_the_space_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 400)), rng.normal(size=(6, 2))
    axes = np.linalg.svd(x - x.mean(0))[2][:5]  # five axes hold six centred rows
    assert thresholds(x, y, layers=4) == pytest.approx(thresholds(x @ axes.T, y, layers=4), rel=1e-9)


def descend(y: np.ndarray, x: np.ndarray, decay: float, rounds: int = 6000) -> np.ndarray:
    """Singular values of W3 W2 W1 after gradient descent on 1/(2n) mean |W3 W2 W1 x - y|^2 + decay/2 sum |W|^2."""
    n, d, (sx, sxy) = y.shape[1], x.shape[1], (x.T @ x / len(x), x.T @ y / len(x))
    u, s, v = np.linalg.svd(np.linalg.solve(sx, sxy).T)
    w = [np.eye(d), np.eye(d), np.zeros((n, d))]
    root = s ** (1 / 3)  # balanced layers of the unpenalised optimum: the most alive start there is
    w[0], w[1], w[2] = np.diag([*root, 0.0]) @ v, np.diag([*root, 0.0]), u @ np.c_[np.diag(root), np.zeros(n)]
    for _ in range(rounds):
        a, b, c = w
        back = (c @ b @ a @ sx - sxy.T) / n
        slopes = [(c @ b).T @ back, c.T @ back @ a.T, back @ (b @ a).T]
        w = [m - 0.1 * (g + decay * m) for m, g in zip(w, slopes, strict=True)]
    return np.linalg.svd(w[2] @ w[1] @ w[0], compute_uv=False)


def test_directions_of_a_deep_linear_network_die_at_their_thresholds() -> None:
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(60, 4)) - 0.0)[0][:, :3]
    x = np.linalg.qr(x - x.mean(0))[0] * math.sqrt(60)  # white, so that directions do not interact
    y = x @ np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2] * np.array([2.0, 0.8])
    high, low = thresholds(x, y, layers=3)
    for decay, living in ((0.97 * low, 2), (1.03 * low, 1), (0.97 * high, 1), (1.03 * high, 0)):
        assert (descend(y, x, decay) > 1e-3).sum() == living, decay


def test_the_best_input_direction_is_found() -> None:
    """Against a search over directions: the threshold is the largest, not that of the covariance's direction."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 2)) * np.array([1.0, 5.0])
    y = x @ np.array([[1.0], [0.1]])
    x, y = x - x.mean(0), y - y.mean(0)
    best = 0.0
    for angle in np.linspace(0, math.pi, 4001):
        v = np.array([math.cos(angle), math.sin(angle)])
        m, a = abs(float(v @ (x.T @ y)[:, 0])) / 200, float(((x @ v) ** 2).mean())
        best = max(best, 4 * 0.5 * m**1.5 / math.sqrt(27 * a))
    assert thresholds(x, y, layers=4)[0] == pytest.approx(best, rel=1e-5)


def test_one_layer_has_no_threshold() -> None:
    with pytest.raises(UserError, match="layers is 1"):
        thresholds(np.ones((2, 1)), np.ones((2, 1)), layers=1)
