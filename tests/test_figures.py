"""The figures, drawn from tiny run directories that the tests write themselves."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from run_tools import data_facts, purpose

from nrc import measure
from nrc.figures import (
    FIGURES,
    Drawing,
    Runs,
    deep,
    draw_all,
    evr,
    gamma,
    prevalence,
    published,
    sweep,
    target_mean,
    tau_clock,
)
from nrc.figures._curves import TauAxis
from nrc.figures._style import power, scientific, style
from nrc.metrics import ALIVE
from nrc.metrics.depth import ALIGNMENT_MIN, NOISE_MAX, R2_GAP_MAX, depth_of_collapse, first_collapsed_layer
from nrc.runs.directory import RunDirectory

STEPS = (0, 1, 3, 10, 30, 100)
HEAD_METRICS = ("nrc1", "nrc2", "nrc3", "nrc1_raw", "nrc2_raw", "nrc1_centred")
LAYER_METRICS = (
    "noise",
    "cka",
    "cka_null",
    "feature_weight_alignment",
    "feature_weight_alignment_k",
    "feature_weight_alignment_null",
    "feature_target_alignment",
    "feature_target_alignment_null",
    "feature_target_alignment_features",
    "noise_alignment",
    "stable_rank_features",
    "stable_rank_covariance",
    "stable_rank_weights",
    "linear_mse",
    "feature_rank",
    "weight_rank",
)


def write_run(
    outputs: Path,
    folder: str,
    data: str,
    wd: float,
    seed: int = 0,
    *,
    protocol: str = "quick",
    layers: int = 1,
    n: int = 2,
    vanish_after: int | None = None,
    place: str = "",
    exact_zero: bool = False,
    kind: str = "own experts",
    names: list[str] | None = None,
    model: dict | None = None,
    weakest: float = 1.0,
    config: dict | None = None,
    role: str = "",
) -> Path:
    """A finished run whose NRCs decay as exp(-wd tau) and, if asked, vanish after a step; `weakest`: singular value of W."""
    path = outputs / folder / data / place / f"wd={wd:g}" / f"seed={seed}"
    model = model or {
        "kind": "MLP",
        "num_layers": layers,
        "width": 8,
        "bias": True,
        "feature_activation": "relu",
    }
    identity = {
        "data": {"name": data, "sha256": "0" * 64},
        "model": model,
        "optim": {"lr": 0.1, "momentum": 0.9, "weight_decay": wd},
        "protocol": {"name": protocol},
        "measure": {},
        "seed": seed,
    }
    run = RunDirectory.open(path, identity)
    run.start(config or {}, {}, data_facts(data, kind, n), purpose(folder, data, wd, protocol, seed, role))
    names = names or [f"fc{k}" for k in range(1, layers + 1)]
    rows = []
    for step in STEPS:
        when = (step / 4, step, float(step))
        gone = vanish_after is not None and step > vanish_after
        decay = 0.0 if exact_zero and step == STEPS[-1] else 0.7 * math.exp(-wd * step) * (1 + 0.1 * seed)
        for split in ("train", "test"):
            rows += [(*when, split, "model", "mse", 0.1 + decay), (*when, split, "model", "r2", 0.5)]
        for depth, name in enumerate(names):
            for k, metric in enumerate(LAYER_METRICS):
                rows.append((*when, "train", name, metric, (k + 1) / (20.0 * (depth + 1))))
            rows.append((*when, "test", name, "linear_mse", 0.3))
        rows += [(*when, "train", names[-1], m, math.nan if gone else decay) for m in HEAD_METRICS]
        rows += [(*when, "train", names[-1], f"evr_{k}", 0.5**k) for k in range(1, 6)]
    run.append(rows)
    rng = np.random.default_rng(seed)
    run.save_snapshots(
        {
            "features_start": rng.random((20, 8)),
            "features_end": rng.random((20, 8)),
            "weight_start": rng.normal(size=(n, 8)),
            "weight_end": np.diag([*[1.0] * (n - 1), weakest]) @ np.eye(n, 8) if n > 1 else np.eye(1, 8),
            "targets": rng.normal(size=(20, n)),
            "sigma": np.diag(np.arange(1.0, n + 1)),
        }
    )
    undefined = (
        {f"{names[-1]}/nrc1": "step 100: features vanished: rms 1e-20"} if vanish_after is not None else {}
    )
    run.end("finished", "done", steps=STEPS[-1], tau=float(STEPS[-1]), seconds=1.0, undefined=undefined)
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two data sets, three weight decays (the largest kills the features), two seeds."""
    for data in ("reacher", "swimmer"):
        for seed in (0, 1):
            write_run(tmp_path, "prevalence-quick", data, 0.0, seed)
            write_run(tmp_path, "prevalence-quick", data, 0.05, seed)
            write_run(tmp_path, "prevalence-quick", data, 0.5, seed, vanish_after=10, role="sweep")
    return tmp_path


def quiet(_: str) -> None:
    pass


def only(monkeypatch: pytest.MonkeyPatch, *figures: object) -> None:
    monkeypatch.setattr("nrc.figures.FIGURES", list(figures))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def drawn(draw: Callable[[Runs], list[Drawing]], outputs: Path, datasets: list[str] | None = None) -> Drawing:
    """The first figure of a module, laid out but not saved: much faster than drawing it."""
    with style():
        return draw(Runs(outputs, datasets=datasets, say=quiet))[0]


FIGURE_NAMES = [
    *("prevalence_relu", "prevalence_linear", "evr_relu", "evr_linear", "gamma", "sweep_relu"),
    *(
        "target_mean",
        "phase_reacher",
        "geometry",
        "published",
        "deep_reacher",
        "low_rank",
        "tau_clock",
        "theory",
    ),
]


@pytest.fixture
def all_experiments(tmp_path: Path) -> Path:
    for folder in ("prevalence-quick", "prevalence_linear-quick"):
        for wd in (0.05, 0.0):
            write_run(tmp_path, folder, "reacher", wd)
    write_run(tmp_path, "phase-quick", "reacher", 0.1)
    for mean in (0, 2):
        write_run(tmp_path, "target_mean-quick", f"reacher-mean{mean}", 0.05 + 0.01 * mean)
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=3)
    write_run(tmp_path, "low_rank-quick", "low_rank", 0.05, layers=3, n=3)
    for protocol in ("paper", "accelerated"):
        write_run(tmp_path, "tau_clock", "reacher", 0.05, protocol=protocol, place=f"protocol={protocol}")
    return tmp_path


def test_every_figure_has_a_title_a_caption_numbers_and_commands(all_experiments: Path) -> None:
    runs = Runs(all_experiments, say=quiet)
    with style():
        drawings = [drawing for draw in FIGURES for drawing in draw(runs)]
    assert [drawing.name for drawing in drawings] == FIGURE_NAMES
    for drawing in drawings:
        assert drawing.title and len(drawing.caption) > 40 and len(drawing.table) and drawing.runs
        assert all("-m experiment=" in command for command in drawing.commands)
        small_print = drawing.figure.texts[-1].get_text()
        assert all(word in small_print for word in ("protocol", "τ up to 100", "own experts", "MLP, width 8"))


@pytest.mark.slow
def test_every_figure_is_written(all_experiments: Path) -> None:
    written = draw_all(all_experiments, say=quiet)
    expected = {f"{name}.{end}" for name in FIGURE_NAMES for end in ("png", "pdf", "csv")}
    assert {path.name for path in written} == expected | {"captions.md", "captions.json"}
    assert all(path.stat().st_size > 100 for path in written)


def test_files_and_captions_agree(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, gamma.draw)
    written = draw_all(outputs, say=quiet)
    assert [path.name for path in written] == [
        *("gamma.png", "gamma.pdf", "gamma.csv", "captions.md", "captions.json"),
    ]
    entry = json.loads((outputs / "figures" / "captions.json").read_text())["gamma"]
    assert entry["files"] == ["gamma.png", "gamma.pdf", "gamma.csv"] and entry["csv"] == "gamma.csv"
    assert len(entry["runs"]) == 4 and all((outputs / run / "run.json").exists() for run in entry["runs"])
    assert (
        entry["commands"][0] == "python scripts/train.py -m experiment=prevalence data=reacher protocol=quick"
    )
    text = (outputs / "figures" / "captions.md").read_text()
    assert "## gamma:" in text and entry["caption"] in text


def test_csv_holds_the_rows_of_the_runs(outputs: Path) -> None:
    table = drawn(sweep.draw, outputs).table
    path = outputs / "prevalence-quick" / "swimmer" / "wd=0.05" / "seed=1" / "metrics.csv"
    rows = pd.read_csv(path, float_precision="round_trip")
    for metric, split in (("nrc1", "train"), ("mse", "test"), ("r2", "test")):
        here = rows[(rows["metric"] == metric) & (rows["split"] == split)]
        seen = table[
            (table["data"] == "swimmer")
            & (table["metric"] == metric)
            & (table["series"] == split)
            & (table["weight_decay"] == 0.05)
            & (table["seed"] == 1)
        ]
        assert seen["tau"].tolist() == here["tau"].tolist()
        np.testing.assert_allclose(seen["value"], here["value"], rtol=1e-12)
    mean = table[(table["metric"] == "nrc1") & (table["seed"] == "mean") & (table["weight_decay"] == 0.05)]
    mean = mean[mean["data"] == "swimmer"]
    # the two seeds differ by a factor 1.1: the geometric mean lies sqrt(1.1) above the first
    first = 0.7 * np.exp(-0.05 * np.array(STEPS))
    np.testing.assert_allclose(mean["value"], first * 1.1**0.5, rtol=1e-12)


def test_the_same_runs_give_the_same_bytes(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, gamma.draw)
    draw_all(outputs, say=quiet, folder=outputs / "first", datasets=["reacher"])
    draw_all(outputs, say=quiet, folder=outputs / "second", datasets=["reacher"])
    first = digests(outputs / "first")
    assert len(first) == 5
    assert first == digests(outputs / "second")
    assert b"CreationDate" not in (outputs / "first" / "gamma.pdf").read_bytes()
    text = (outputs / "first" / "gamma.csv").read_text()
    assert text == drawn(gamma.draw, outputs, ["reacher"]).table.to_csv(index=False, lineterminator="\n")


def test_one_data_set_alone_gives_one_column(outputs: Path) -> None:
    for draw in (prevalence.draw, evr.draw):
        one, two = drawn(draw, outputs, ["reacher"]), drawn(draw, outputs)
        assert set(one.table["data"]) == {"reacher"} and set(two.table["data"]) == {"reacher", "swimmer"}
        titles = [axes.get_title() for axes in one.figure.axes if axes.get_title()]
        assert len(titles) == 1 and titles[0].startswith("Reacher")


def test_vanished_features_are_named_and_their_curve_stops(outputs: Path) -> None:
    drawing = drawn(sweep.draw, outputs)
    table = drawing.table
    marks = table[(table["series"] == "features vanished") & (table["metric"] == "nrc1")]
    assert set(marks["weight_decay"]) == {0.5} and set(marks["tau"]) == {10}
    assert "0.5: features vanished" in drawing.caption
    words = [
        text.get_text()
        for axes in drawing.figure.axes
        if (key := axes.get_legend())
        for text in key.get_texts()
    ]
    assert words.count("× features vanished") == 2  # one for each data set


@pytest.mark.parametrize(("weakest", "alive"), [(1.0, 2), (0.101, 2), (0.099, 1)])
def test_a_collapse_bought_with_a_target_direction_is_named(
    tmp_path: Path, weakest: float, alive: int
) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.0)
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05, weakest=weakest)
    (run, _) = Runs(tmp_path, say=quiet).of("prevalence")["reacher"]
    weight = torch.as_tensor(np.load(path / "snapshots.npz")["weight_end"])
    metric = measure(torch.randn(20, 8), torch.randn(20, 2), weight)["weight_rcond"]
    assert run.alive == alive and run.lost_direction == (alive < 2) == (metric < ALIVE)
    drawing = drawn(sweep.draw, tmp_path)
    keys = [axes.get_legend() for axes in drawing.figure.axes]
    words = [text.get_text() for key in keys if key for text in key.get_texts()]
    assert ("a target direction is lost" in words) == (alive < 2)
    for caption in (drawing.caption, *(drawn(m.draw, tmp_path).caption for m in (prevalence, evr, gamma))):
        assert ("only 1 of 2 target directions left" in caption) == (alive < 2)


def test_headline_and_control_are_what_the_runs_say_they_are(outputs: Path) -> None:
    runs = Runs(outputs, say=quiet)
    assert {run.weight_decay for run in runs.headline("prevalence", "reacher")} == {0.05}
    assert {run.weight_decay for run in runs.control("prevalence", "reacher")} == {0.0}
    write_run(outputs, "prevalence-quick", "hopper", 0.3, role="sweep")
    said: list[str] = []
    assert Runs(outputs, say=said.append).headline("prevalence", "hopper") == []
    assert "no finished run at the headline weight decay" in said[0] and "experiment.headline=" in said[0]


def test_a_run_that_belongs_to_no_experiment_is_not_drawn(tmp_path: Path) -> None:
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"experiment": None, "role": None}))
    said: list[str] = []
    assert Runs(tmp_path, say=said.append).of("prevalence") == {}
    assert said == [f"{path}: belongs to no experiment, not drawn"]


def test_missing_experiments_and_unfinished_runs_are_skipped(tmp_path: Path) -> None:
    said: list[str] = []
    assert draw_all(tmp_path, say=said.append) == []
    assert "nothing to draw" in said[-1]
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    assert draw_all(tmp_path, say=said.append) == []
    assert any("interrupted, not drawn" in line for line in said)


@pytest.mark.parametrize(("n", "vanish_after"), [(1, None), (2, 0)])
def test_one_target_and_features_that_vanish_at_once_are_drawn_without_a_crash(
    tmp_path: Path, n: int, vanish_after: int | None
) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, n=n, vanish_after=vanish_after)
    write_run(tmp_path, "prevalence-quick", "reacher", 0.0, n=n)
    drawings = {d.name: d for draw in FIGURES for d in draw(Runs(tmp_path, say=quiet))}
    assert ("gamma" in drawings) == (n > 1)  # NRC3 is 0 for a single target
    words = "features vanished" if vanish_after is not None else "NRC1 0.7 -> 0.0047"
    assert words in drawings["prevalence_relu"].caption
    drawings["sweep_relu"].figure.draw_without_rendering()


def test_exact_zeros_are_drawn_on_a_floor(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, exact_zero=True)
    table = drawn(prevalence.draw, tmp_path).table
    nrc1 = table[(table["metric"] == "nrc1") & (table["series"] == "headline")]
    assert nrc1["value"].iloc[-1] == pytest.approx(1e-17)


def test_gamma_marks_the_minimum_of_its_own_curve(outputs: Path) -> None:
    table = drawn(gamma.draw, outputs).table
    for (_, seed), one in table[table["series"] == "relu"].groupby(["data", "seed"]):
        mark = table[(table["series"] == "relu minimum") & (table["seed"] == seed)].iloc[0]
        assert mark["value"] <= one["value"].min() * (1 + 1e-9)
        best = one.loc[one["value"].idxmin(), "gamma_over_lambda_min"]
        assert abs(mark["gamma_over_lambda_min"] - best) <= 1 / gamma.POINTS + 1e-9


def test_deep_figure_states_the_target_and_the_first_collapsed_layer(tmp_path: Path) -> None:
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=8)
    table = drawn(deep.draw, tmp_path).table
    target = table[table["metric"] == "target stable_rank_covariance"]
    assert set(target["value"]) == {(1 + 4) / 4}  # Sigma = diag(1, 2)
    noise = table[(table["metric"] == "noise") & (table["series"] == "headline")]
    assert noise["layer"].tolist() == list(range(1, 9))
    np.testing.assert_allclose(noise["value"], [1 / (20 * k) for k in range(1, 9)])
    assert "published" in set(table["series"])


@pytest.mark.parametrize(("taus", "ticks"), [((1.8, 9.2), ["0", "2", "5"]), ((2, 300), ["0", "10¹", "10²"])])
def test_the_tau_axis_has_numbers_on_a_short_stretch_too(taus: tuple[float, float], ticks: list[str]) -> None:
    class Short:
        def series(self, metric: str) -> pd.Series:
            return pd.Series([1.0, 0.5, 0.2], index=[0.0, *taus])

    axes = Figure().subplots()
    TauAxis([Short()]).dress(axes)  # type: ignore[list-item]
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks


def test_target_mean_joins_the_variants_of_a_set_in_the_order_of_their_means(tmp_path: Path) -> None:
    write_run(tmp_path, "target_mean-quick", "hopper-mean10", 0.09)
    assert target_mean.draw(Runs(tmp_path, say=quiet)) == []  # one mean is no comparison
    write_run(tmp_path, "target_mean-quick", "hopper-mean2", 0.05)
    drawing = drawn(target_mean.draw, tmp_path)
    ends = drawing.table.query("metric == 'nrc1' and series == 'end'")
    assert list(ends.target_mean) == [2.0, 10.0] and set(ends.data) == {"hopper"}
    assert list(ends.value) == pytest.approx([0.7 * math.exp(-5), 0.7 * math.exp(-9)])
    assert "at mean 2, " in drawing.caption and "Hopper" in drawing.caption


def test_published_layers_are_drawn_beside_a_network_of_their_depth_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=3)
    drawing = drawn(deep.draw, tmp_path)
    assert "published" not in set(drawing.table["series"])
    assert "published curves are of another depth (8-layer MLP) and not drawn" in drawing.caption


def test_tau_clock_needs_both_protocols(tmp_path: Path) -> None:
    write_run(tmp_path, "tau_clock", "reacher", 0.05, protocol="paper", place="protocol=paper")
    assert tau_clock.draw(Runs(tmp_path, say=quiet)) == []
    write_run(tmp_path, "tau_clock", "reacher", 0.04, protocol="accelerated", place="protocol=accelerated")
    # nrc1 = 0.7 exp(-wd tau): 0.04 against 0.05 at tau 100 is 1/ln(10) decades
    assert f"NRC1 {1 / math.log(10):+.3f} decades" in drawn(tau_clock.draw, tmp_path).caption
    write_run(tmp_path, "tau_clock", "reacher", 0.02, protocol="quick", place="protocol=quick")
    drawing = drawn(tau_clock.draw, tmp_path)
    assert (
        f"quick: Reacher: train MSE {100 * (0.1 + 0.7 * math.exp(-2)) / 0.1047 - 100:+.0f}" in drawing.caption
    )
    table = drawing.table[drawing.table["metric"] == "nrc1"].set_index("series")["value"]
    for protocol, slower in (("accelerated", 0.01), ("quick", 0.03)):
        assert table[f"log10({protocol}/paper) at the end"] == pytest.approx(slower * 100 / math.log(10))


def test_published_is_drawn_for_the_paper_sets_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "my_table", 0.05)
    assert published.draw(Runs(tmp_path, say=quiet)) == []
    write_run(tmp_path, "prevalence-quick", "hopper", 0.05, n=3)
    assert set(drawn(published.draw, tmp_path).table["data"]) == {"hopper"}


def test_published_errors_are_drawn_where_their_weight_decay_is_near_ours(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 1e-3)  # published: 1.5e-3
    write_run(tmp_path, "prevalence-quick", "hopper", 1e-2, n=3)  # published: 9.5e-4
    drawing = drawn(prevalence.draw, tmp_path)
    grey = drawing.table[drawing.table["series"] == "published"]
    assert set(grey["data"]) == {"reacher"} and set(grey["weight_decay"]) == {0.0015}
    assert "(Reacher lambda 0.0015, one seed) on the paper's data, not ours;" in drawing.caption
    assert "That of Hopper is not drawn: its lambda was 0.00095." in drawing.caption


@pytest.mark.parametrize("kind", ["paper", "real"])
def test_published_numbers_stand_beside_the_same_set_from_elsewhere(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, "prevalence-quick", "swimmer-jat", 1e-2, kind=kind)
    words = "the same data" if kind == "paper" else "the paper's data, not ours"
    for draw in (prevalence.draw, published.draw, gamma.draw):
        drawing = drawn(draw, tmp_path)
        series = drawing.table[drawing.table["series"].str.startswith("published")]
        assert set(series["data"]) == {"swimmer-jat"}, drawing.name
        assert words in drawing.caption, drawing.name
    write_run(tmp_path, "prevalence-quick", "table-swimmer", 1e-2, kind="real")
    table = drawn(prevalence.draw, tmp_path, ["table-swimmer"]).table
    assert "published" not in set(table["series"])


@pytest.fixture
def layers() -> Iterator[list[dict[str, float]]]:
    wide = {"noise": 0.5, "feature_weight_alignment": 0.3, "linear_mse": 0.6}
    narrow = {"noise": 0.01, "feature_weight_alignment": 0.97, "linear_mse": 0.12}
    yield [dict(wide), dict(narrow), dict(narrow)]


def test_first_collapsed_layer_and_depth(layers: list[dict[str, float]]) -> None:
    assert first_collapsed_layer(layers, 0.1, 1.0) == 2
    assert depth_of_collapse(layers, 0.1, 1.0) == 2
    assert first_collapsed_layer(layers[:1], 0.1, 1.0) is None
    assert depth_of_collapse(layers[:1], 0.1, 1.0) == 0


@pytest.mark.parametrize(
    ("metric", "inside", "outside"),
    [
        ("noise", NOISE_MAX, NOISE_MAX + 1e-6),
        ("feature_weight_alignment", ALIGNMENT_MIN, ALIGNMENT_MIN - 1e-6),
        ("linear_mse", R2_GAP_MAX, R2_GAP_MAX + 1e-6),
        ("noise", NOISE_MAX, math.nan),
    ],
)
def test_each_threshold_of_the_rule_counts(
    layers: list[dict[str, float]], metric: str, inside: float, outside: float
) -> None:
    layers[1][metric] = inside
    model = 0.0 if metric == "linear_mse" else 0.1
    layers[2]["linear_mse"] = model
    assert first_collapsed_layer(layers, model, 1.0) == 2
    layers[1][metric] = outside
    assert first_collapsed_layer(layers, model, 1.0) == 3


def test_a_later_layer_that_spreads_out_again_undoes_the_collapse_before_it(
    layers: list[dict[str, float]],
) -> None:
    layers[2]["noise"] = 0.4
    assert first_collapsed_layer(layers, 0.1, 1.0) is None


def test_numbers_on_labels() -> None:
    assert scientific(1.5e-3) == "1.5×10⁻³"
    assert scientific(1e-2) == "10⁻²"
    assert scientific(0) == "0"
    assert power(-14) == "10⁻¹⁴"
