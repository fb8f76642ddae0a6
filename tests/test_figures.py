"""The figures, drawn from tiny run directories that the tests write themselves."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from run_tools import data_facts, purpose, record

import nrc.figures
from nrc import measure
from nrc.errors import UserError
from nrc.figures import Drawing, Runs, draw, draw_all, figures, reference, registry
from nrc.figures.curves import TauAxis
from nrc.figures.gamma import POINTS
from nrc.figures.output import save
from nrc.figures.style import GREY, power, scientific
from nrc.metrics import ALIVE
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
    facts: dict | None = None,
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
        "optim": {"lr": 0.1, "momentum": 0.9, "weight_decay": wd, "decay_biases": True},
        "protocol": {"name": protocol},
        "measure": {},
        "seed": seed,
    }
    run = RunDirectory.open(path, identity)
    about = data_facts(data, kind, n) | (facts or {})
    run.start(config or {}, {}, about, purpose(folder, data, wd, protocol, seed, role))
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


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def drawings(name: str, outputs: Path) -> list[Drawing]:
    """Laid out but not saved: much faster than drawing."""
    return figures()[name].drawings(Runs(outputs))


def drawn(name: str, outputs: Path) -> Drawing:
    """The first drawing of a figure."""
    return drawings(name, outputs)[0]


def words(drawing: Drawing) -> list[str]:
    """Titles of the panels and entries of their keys."""
    axes = drawing.figure.axes
    keys = [text.get_text() for panel in axes if (key := panel.get_legend()) for text in key.get_texts()]
    return [panel.get_title() for panel in axes] + keys


# in the order of the papers
FIGURE_NAMES = [
    *("geometry", "prevalence_relu", "prevalence_linear", "published", "evr_relu", "evr_linear", "gamma"),
    *("sweep_relu", "deep_reacher", "low_rank", "cone", "phase_reacher", "tau_clock", "theory"),
]


def shifted(outputs: Path, data: str, mean: float, wd: float, role: str = "", **variant: float) -> Path:
    """A run on targets whose mean was moved."""
    facts = {"name": data, "variant": {"target_mean": mean, **variant}, "mean_in_deviations": mean}
    facts |= {"one_sided": mean > 1, "predicted": {"nrc1": 0.5 - mean / 100}}
    return write_run(outputs, "cone-quick", f"{data}-mean{mean:g}", wd, facts=facts, role=role)


@pytest.fixture
def all_experiments(tmp_path: Path) -> Path:
    for folder in ("prevalence-quick", "prevalence_linear-quick"):
        for wd in (0.05, 0.0):
            write_run(tmp_path, folder, "reacher", wd)
    write_run(tmp_path, "phase-quick", "reacher", 0.1)
    for mean in (0, 2):
        shifted(tmp_path, "reacher", mean, 0.05 + 0.01 * mean)
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=3)
    write_run(tmp_path, "low_rank-quick", "low_rank", 0.05, layers=3, n=3)
    for protocol in ("paper", "accelerated"):
        write_run(tmp_path, "tau_clock", "reacher", 0.05, protocol=protocol, place=f"protocol={protocol}")
    return tmp_path


def test_every_figure_has_a_title_a_fixed_caption_and_numbers(all_experiments: Path) -> None:
    runs = Runs(all_experiments)
    found = [drawing for figure in figures().values() for drawing in figure.drawings(runs)]
    assert [drawing.name for drawing in found] == FIGURE_NAMES
    for drawing in found:
        assert drawing.title and len(drawing.table) and drawing.runs
        small_print = drawing.figure.texts[-1].get_text()
        assert all(
            word in small_print for word in ("protocol", "τ up to 100", "own experts", "MLP of ", "width 8")
        )
    for figure in figures().values():
        sentences = figure.caption.split(". ")
        assert 1 < len(sentences) <= 6 and figure.caption.endswith("."), figure.name


def test_papers_first_and_figures_by_their_number() -> None:
    names = list(figures())
    assert names[0] == "geometry" and figures()["geometry"].numbers == (1,)
    papers = [figure.paper for figure in figures().values()]
    assert papers == sorted(papers, key=["NeurIPS 2024", "CPAL 2026", ""].index)
    with pytest.raises(UserError, match="there is no figure 'phases'; choose from geometry, prevalence"):
        draw("phases", Runs(Path("outputs")))


@pytest.mark.slow
def test_every_figure_is_written_by_worker_processes_as_by_one(
    all_experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(cores: int) -> dict[str, str]:
        monkeypatch.setattr("nrc.figures.output.cores", lambda: cores)
        folder = all_experiments / str(cores)
        paths = [path.name for path, unchanged in draw_all(all_experiments, folder=folder) if not unchanged]
        expected = [f"{name}.{end}" for name in FIGURE_NAMES for end in ("png", "pdf", "csv")]
        assert paths == [*expected, "captions.md", "captions.json"]
        return digests(folder)

    assert written(1) == written(2)


def test_files_and_captions_agree(outputs: Path) -> None:
    written = draw_all(outputs, only=["gamma"])
    assert [path.name for path, _ in written] == [
        *("gamma.png", "gamma.pdf", "gamma.csv", "captions.md", "captions.json"),
    ]
    entry = json.loads((outputs / "figures" / "captions.json").read_text())["gamma"]
    assert entry["files"] == ["gamma.png", "gamma.pdf", "gamma.csv"] and entry["csv"] == "gamma.csv"
    assert len(entry["runs"]) == 4 and all((outputs / run / "run.json").exists() for run in entry["runs"])
    assert entry["commands"][0] == (
        "python scripts/train.py -m experiment=prevalence data=reacher,swimmer protocol=quick "
        "optim.weight_decay=0.05 seed=0,1"
    )
    assert entry["caption"] == figures()["gamma"].caption and entry["paper"] == "NeurIPS 2024, figure 4"
    text = (outputs / "figures" / "captions.md").read_text()
    assert "## gamma:" in text and entry["caption"] in text


def test_what_is_unchanged_is_not_drawn_again(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed() -> bool:
        """Whether the figure was drawn."""
        states = {unchanged for _, unchanged in draw("gamma", Runs(outputs))}
        assert len(states) == 1
        return not states.pop()

    assert changed() and not changed()
    (outputs / "figures" / "gamma.pdf").unlink()
    assert changed() and not changed()
    (outputs / "figures" / "gamma.json").write_text("{")  # of an interrupted copy
    assert changed() and not changed()
    write_run(outputs, "prevalence-quick", "reacher", 0.05, seed=2)
    assert changed() and not changed()
    write_run(outputs, "deep-quick", "reacher", 0.05, layers=3)  # not read by this figure
    assert not changed()
    run = outputs / "prevalence-quick/reacher/wd=0.05/seed=0"
    record(run, seconds=2.0)
    assert changed() and not changed()
    monkeypatch.setattr("nrc.figures.output.code", lambda: "another version")
    assert changed() and not changed()


def test_a_figure_whose_runs_are_gone_leaves_the_captions(outputs: Path) -> None:
    draw("gamma", Runs(outputs))
    shutil.rmtree(outputs / "prevalence-quick")
    assert draw("gamma", Runs(outputs)) == []
    assert not (outputs / "figures" / "gamma.json").exists()


def test_a_new_module_is_a_new_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, "mine-quick", "reacher", 0.05)
    home = tmp_path / "more"
    home.mkdir()
    (home / "mine.py").write_text(
        "from nrc.figures import Drawing, figure\n"
        "@figure('mine', reads=['mine'], caption='NRC1 at the end. One bar per data set.')\n"
        "def mine(runs):\n"
        "    for data, found in runs.of('mine').items():\n"
        "        drawing = Drawing(f'mine_{data}', 'Mine', 1, 1, 2.0, x='bar')\n"
        "        drawing.line(drawing.grid[0, 0], [1], [found[0].last('nrc1')], {'data': data})\n"
        "        drawing.runs += found\n"
        "        yield drawing\n"
    )
    figures()  # else the others would register in what is taken back, and never again
    monkeypatch.setattr("nrc.figures.__path__", [*nrc.figures.__path__, str(home)])
    monkeypatch.setattr("nrc.figures.registry._registered", dict(registry._registered))
    names = [path.name for path, _ in draw("mine", Runs(tmp_path))]
    assert names == ["mine_reacher.png", "mine_reacher.pdf", "mine_reacher.csv"]
    assert list(figures())[-1] == "theory" and "mine" in figures()


def test_csv_holds_the_rows_of_the_runs(outputs: Path) -> None:
    table = drawn("sweep", outputs).table
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


def test_the_same_runs_give_the_same_bytes(outputs: Path) -> None:
    runs = Runs(outputs)
    draw("gamma", runs, outputs / "first")
    draw("gamma", runs, outputs / "second")
    first = digests(outputs / "first")
    assert len(first) == 6  # PNG, PDF, csv, what it was made from, two files of captions
    assert first == digests(outputs / "second")
    assert b"CreationDate" not in (outputs / "first" / "gamma.pdf").read_bytes()
    text = (outputs / "first" / "gamma.csv").read_text()
    assert text == drawn("gamma", outputs).table.to_csv(index=False, lineterminator="\n")


def test_one_data_set_alone_gives_one_column(tmp_path: Path) -> None:
    for data, columns in (("reacher", ["Reacher"]), ("swimmer", ["Reacher", "Swimmer"])):
        write_run(tmp_path, "prevalence-quick", data, 0.05)
        for name in ("prevalence", "evr"):
            drawing = drawn(name, tmp_path)
            assert [title.split(" ")[0] for title in words(drawing) if title] == columns
            assert len(set(drawing.table["data"])) == len(columns)


def test_vanished_features_are_named_and_their_curve_stops(outputs: Path) -> None:
    drawing = drawn("sweep", outputs)
    table = drawing.table
    marks = table[(table["series"] == "features vanished") & (table["metric"] == "nrc1")]
    assert set(marks["weight_decay"]) == {0.5} and set(marks["tau"]) == {10}
    assert words(drawing).count("× features vanished") == 2  # one for each data set


@pytest.mark.parametrize(("weakest", "alive"), [(1.0, 2), (0.101, 2), (0.099, 1)])
def test_a_collapse_bought_with_a_target_direction_is_named(
    tmp_path: Path, weakest: float, alive: int
) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.0)
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05, weakest=weakest)
    (run, _) = Runs(tmp_path).of("prevalence")["reacher"]
    weight = torch.as_tensor(np.load(path / "snapshots.npz")["weight_end"])
    metric = measure(torch.randn(20, 8), torch.randn(20, 2), weight)["weight_rcond"]
    assert run.alive == alive and run.lost_direction == (alive < 2) == (metric < ALIVE)
    for name in ("prevalence", "evr", "gamma", "sweep"):
        named = any("1 of 2 alive" in text for text in words(drawn(name, tmp_path)))
        assert named == (alive < 2), name


def test_what_has_not_had_its_decay_budget_is_called_not_yet(tmp_path: Path) -> None:
    for wd, words_expected in ((0.1, True), (0.3, False)):  # at tau 100: budgets 10 and 30
        outputs = tmp_path / f"{wd}"
        write_run(outputs, "prevalence-quick", "reacher", wd)
        assert any("not yet" in text for text in words(drawn("prevalence", outputs))) == words_expected


def test_headline_and_control_are_what_the_runs_say_they_are(
    outputs: Path, said: Callable[[], list[str]]
) -> None:
    runs = Runs(outputs)
    assert {run.weight_decay for run in runs.headline("prevalence", "reacher")} == {0.05}
    assert {run.weight_decay for run in runs.control("prevalence", "reacher")} == {0.0}
    write_run(outputs, "prevalence-quick", "hopper", 0.3, role="sweep")
    assert Runs(outputs).headline("prevalence", "hopper") == []
    assert "no finished run at the headline weight decay" in said()[0] and "experiment.headline=" in said()[0]


def test_a_run_that_belongs_to_no_experiment_is_not_drawn(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"experiment": None, "role": None}))
    assert Runs(tmp_path).of("prevalence") == {}
    assert said() == [f"{path}: belongs to no experiment, not drawn"]


def test_missing_experiments_and_unfinished_runs_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert list(draw_all(tmp_path)) == []
    assert "nothing to draw" in caplog.text
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    assert list(draw_all(tmp_path)) == []


@pytest.mark.parametrize(("n", "vanish_after"), [(1, None), (2, 0)])
def test_one_target_and_features_that_vanish_at_once_are_drawn_without_a_crash(
    tmp_path: Path, n: int, vanish_after: int | None
) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, n=n, vanish_after=vanish_after)
    write_run(tmp_path, "prevalence-quick", "reacher", 0.0, n=n)
    runs = Runs(tmp_path)
    found = {d.name: d for figure in figures().values() for d in figure.drawings(runs)}
    assert ("gamma" in found) == (n > 1)  # NRC3 is 0 for a single target
    (title,) = (text for text in words(found["prevalence_relu"]) if text)
    assert title.startswith("Reacher (vanished)" if vanish_after is not None else "Reacher (not yet)")
    found["sweep_relu"].figure.draw_without_rendering()


def test_exact_zeros_are_drawn_on_a_floor(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, exact_zero=True)
    table = drawn("prevalence", tmp_path).table
    nrc1 = table[(table["metric"] == "nrc1") & (table["series"] == "headline")]
    assert nrc1["value"].iloc[-1] == pytest.approx(1e-17)


@pytest.mark.parametrize(("floor", "in_view"), [(0.03, True), (1e-16, False)])
def test_where_rounding_hides_nrc_a_line_says_so_and_stretches_no_axis(
    tmp_path: Path, floor: float, in_view: bool
) -> None:
    path = write_run(tmp_path, "prevalence-quick", "reacher", 0.05)
    before = drawn("prevalence", tmp_path).grid[0, 0].get_ylim()
    run = RunDirectory.open(path, json.loads((path / "run.json").read_text())["identity"])
    run.append([(s / 4, s, float(s), "train", "fc1", f"nrc{k}_floor", floor) for s in STEPS for k in (1, 2)])
    drawing = drawn("prevalence", tmp_path)
    axes, table = drawing.grid[0, 0], drawing.table
    for metric in ("nrc1_floor", "nrc2_floor"):
        values = table[table["metric"] == metric]["value"]
        assert values.tolist() == ([pytest.approx(floor)] * len(STEPS) if in_view else [])
    assert axes.get_ylim() == before
    dotted = [c for c in axes.get_children() if isinstance(c, Line2D) and c.get_color() == GREY]
    assert [list(line.get_ydata()) for line in dotted] == [[pytest.approx(floor)] * len(STEPS)] * 2 * in_view


def test_names_of_somebody_elses_runs_stay_in_the_folder_and_make_no_formula(tmp_path: Path) -> None:
    drawing = Drawing("deep_x/../../../pwned", "title", 1, 1, 2.0)
    drawing.note([0.0, 1.0], [-1.0, 2.0], data="=cmd|' /C calc'!A0", series="@SUM(A1)")
    folder = tmp_path / "a" / "b" / "figures"
    names = save(drawing, folder)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(names)
    table = pd.read_csv(folder / names[-1])
    assert set(table["data"]) == {"'=cmd|' /C calc'!A0"} and set(table["series"]) == {"'@SUM(A1)"}
    assert table["value"].tolist() == [-1.0, 2.0]


def test_gamma_marks_the_minimum_of_its_own_curve(outputs: Path) -> None:
    table = drawn("gamma", outputs).table
    for (_, seed), one in table[table["series"] == "relu"].groupby(["data", "seed"]):
        mark = table[(table["series"] == "relu minimum") & (table["seed"] == seed)].iloc[0]
        assert mark["value"] <= one["value"].min() * (1 + 1e-9)
        best = one.loc[one["value"].idxmin(), "gamma_over_lambda_min"]
        assert abs(mark["gamma_over_lambda_min"] - best) <= 1 / POINTS + 1e-9


def test_deep_figure_states_the_target_and_the_first_collapsed_layer(tmp_path: Path) -> None:
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=8)
    table = drawn("deep", tmp_path).table
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


def test_cone_joins_the_variants_of_a_set_in_the_order_of_their_means(tmp_path: Path) -> None:
    shifted(tmp_path, "hopper", 10, 0.09)
    assert drawings("cone", tmp_path) == []  # one mean is no comparison
    shifted(tmp_path, "hopper", 2, 0.05)
    drawing = drawn("cone", tmp_path)
    ends = drawing.table.query("metric == 'nrc1' and series == 'ReLU, biases decayed'")
    assert list(ends["mean"]) == [2.0, 10.0] and set(ends.data) == {"hopper"}
    assert list(ends.value) == pytest.approx([0.7 * math.exp(-5), 0.7 * math.exp(-9)])
    told = drawing.table.query("series == 'convex model'")
    assert list(told.value) == pytest.approx([0.48, 0.4])


def test_cone_has_a_panel_of_scales_where_they_were_run(tmp_path: Path) -> None:
    shifted(tmp_path, "swimmer", 0, 0.05)
    shifted(tmp_path, "swimmer", 2, 0.05)
    shifted(tmp_path, "swimmer", 0, 0.002, role="sweep", target_scale=0.2)
    drawing = drawn("cone", tmp_path)
    assert drawing.grid.shape == (1, 2)
    scaled = drawing.table.query("metric == 'nrc1' and series == 'ReLU, biases decayed, scaled'")
    assert list(scaled["mean"]) == [0.2] and list(scaled.value) == pytest.approx([0.7 * math.exp(-0.2)])


def test_published_layers_are_drawn_beside_a_network_of_their_depth_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "deep-quick", "reacher", 0.05, layers=3)
    drawing = drawn("deep", tmp_path)
    assert "published" not in set(drawing.table["series"])
    assert not any(text.startswith("published") for text in words(drawing))


def test_tau_clock_needs_both_protocols_and_gives_their_gaps(tmp_path: Path) -> None:
    write_run(tmp_path, "tau_clock", "reacher", 0.05, protocol="paper", place="protocol=paper")
    assert drawings("tau_clock", tmp_path) == []
    write_run(tmp_path, "tau_clock", "reacher", 0.04, protocol="accelerated", place="protocol=accelerated")
    write_run(tmp_path, "tau_clock", "reacher", 0.02, protocol="quick", place="protocol=quick")
    drawing = drawn("tau_clock", tmp_path)
    table = drawing.table[drawing.table["metric"] == "nrc1"].set_index("series")["value"]
    # nrc1 = 0.7 exp(-wd tau): 0.04 against 0.05 at tau 100 is 1/ln(10) decades
    for protocol, slower in (("accelerated", 0.01), ("quick", 0.03)):
        assert table[f"log10({protocol}/paper) at the end"] == pytest.approx(slower * 100 / math.log(10))
    titles = [panel.get_title(loc="right") for panel in drawing.figure.axes]
    assert titles[1] == f"end: {1 / math.log(10):+.3f}, {3 / math.log(10):+.3f} decades"
    assert titles[0].endswith(f"{100 * (0.1 + 0.7 * math.exp(-2)) / (0.1 + 0.7 * math.exp(-5)) - 100:+.1f} %")


def test_published_is_drawn_for_the_paper_sets_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "my_table", 0.05)
    assert drawings("published", tmp_path) == []
    assert "published" not in set(drawn("prevalence", tmp_path).table["series"])
    write_run(tmp_path, "prevalence-quick", "hopper", 0.05, n=3)
    assert set(drawn("published", tmp_path).table["data"]) == {"hopper"}


def test_published_curves_stand_beside_ours_up_to_our_tau_and_their_ends_at_the_edge(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 1e-3)
    drawing = drawn("prevalence", tmp_path)
    theirs = reference.curve("prevalence_published", "reacher", "nrc1_raw")
    table = drawing.table[drawing.table["metric"] == "nrc1_raw"]
    grey = table[table["series"] == "published"]
    assert grey["value"].tolist() == theirs[theirs["tau"] <= 100]["value"].tolist() and len(grey)
    assert table[table["series"] == "published end"]["value"].tolist() == [theirs["value"].iloc[-1]]
    assert set(table["weight_decay"]) == {0.0015}
    assert any("published λ = 1.5×10⁻³,  λτ = 72" in text for text in words(drawing))
    drawn_metrics = set(drawing.table[drawing.table["series"] == "published"]["metric"])
    assert drawn_metrics == {"nrc1_raw", "nrc2_raw", "nrc3", "mse_train", "mse_test"}


def test_published_errors_are_drawn_in_the_same_units_alone(tmp_path: Path) -> None:
    config = {"data": {"standardize": "xy"}}  # the paper's targets are as recorded
    write_run(tmp_path, "prevalence-quick", "reacher", 1e-3, config=config)
    table = drawn("prevalence", tmp_path).table
    metrics = set(table[table["series"] == "published"]["metric"])
    assert "nrc1_raw" in metrics and not metrics & {"mse_train", "mse_test"}


def test_published_numbers_stand_beside_the_same_set_from_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "swimmer-jat", 1e-2, kind="real")
    for name in ("prevalence", "published", "gamma"):
        table = drawn(name, tmp_path).table
        assert set(table[table["series"].str.startswith("published")]["data"]) == {"swimmer-jat"}, name
    write_run(tmp_path / "other", "prevalence-quick", "table-swimmer", 1e-2, kind="real")
    assert "published" not in set(drawn("prevalence", tmp_path / "other").table["series"])


def test_titles_say_where_the_targets_lie_if_the_record_does(tmp_path: Path) -> None:
    facts = {"one_sided": True, "mean_in_deviations": 4.04}
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, facts=facts)
    write_run(tmp_path, "prevalence-quick", "swimmer", 0.05)
    titles = [text for text in words(drawn("prevalence", tmp_path)) if text]
    assert "\none-sided targets, mean 4 dev.\n" in titles[0]
    assert "targets" not in titles[1]


def test_numbers_on_labels() -> None:
    assert scientific(1.5e-3) == "1.5×10⁻³"
    assert scientific(1e-2) == "10⁻²"
    assert scientific(0) == "0"
    assert power(-14) == "10⁻¹⁴"
