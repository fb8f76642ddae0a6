"""The report: two pages that open from disk, no network, every link alive; and what is put beside ours in it."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_runs import home, toy, train

from nrc.errors import UserError
from nrc.figures import Runs, animation, geometry
from nrc.report import explorer, published
from nrc.report.html import answers, embedded_json, write_report
from nrc.report.published import published_tau
from nrc.report.registry import FAILS, HOLDS, NOT_RUN, NOT_YET, claims, summary
from nrc.report.scorecard import Row, scorecard
from nrc.training import Clock, Measure, fit

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# --- rows, and what was published


def test_a_row_names_a_stand_in_one_run_and_the_share_of_the_published_length(tmp_path: Path) -> None:
    train(tmp_path, "images", 0.05, name="carla_2d", kind="stand-in")
    rows = [r for r in scorecard(Runs(tmp_path)) if r.data == "carla_2d"]
    assert {r.setting for r in rows if r.runs} == {"CARLA 2D (stand-in), images"}
    row = next(r for r in rows if r.claim.id == "nrc1")
    assert row.scale.endswith("1 run") and "after 9.71 % of the published tau" in row.facts  # 60 of 618
    write_report(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "CARLA 2D (stand\u2011in), images" in page
    assert explorer.data(Runs(tmp_path))["labels"]["images-quick"] == {"carla_2d": "CARLA 2D (stand-in)"}


def test_published_tables_mark_no_error_that_any_network_would_reproduce() -> None:
    assert published.within_tolerance("cka", 0.9, 0.9) and not published.within_tolerance("cka", 0.5, 0.9)
    assert published.within_tolerance("linear_mse", 0.60, 0.591) and not published.within_tolerance(
        "linear_mse", 0.005, 0.0054
    )


def test_published_lengths_are_those_of_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference against conf: where the published number of rows is ours, by the clock itself."""
    from nrc.cli import config

    rows = {"prevalence": {"reacher": 1000, "swimmer": 1000, "hopper": 10000}, "ufm": {"hopper": 10000}}
    rows["deep"] = {"reacher": 800, "swimmer": 800, "hopper": 4000}
    rows["sgemm"] = {"sgemm": 193280}
    for experiment, sets in rows.items():
        for data, count in sets.items():
            file = f"deep_{data}" if experiment == "deep" else experiment
            extra = ["data.path=x"] if data == "sgemm" else []
            settings = config.sweep_members(file, data, "paper", Path("outputs"), extra)[0].settings
            clock = Clock.of(settings.optim, settings.protocol, count)
            tau = clock.tau_at(clock.total_steps)
            assert tau == pytest.approx(published_tau(experiment, data), rel=0.01), (experiment, data)


def test_numbers_are_mean_and_range() -> None:
    assert summary([0.1, 0.3]) == "0.2 [0.1, 0.3]"
    assert summary([0.5, 0.5]) == "0.5" and summary([]) == "–" and summary([float("nan")]) == "–"


# --- the page


def draw_something(folder: Path) -> None:
    """A figure with a caption that a page must escape."""
    folder.mkdir(parents=True)
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    figure.savefig(folder / "gamma.png")
    (folder / "gamma.csv").write_text("a\n1\n")
    entry = {
        "figure": "gamma",
        "title": "A <b>title</b> & more",
        "caption": '</script><script>alert(1)</script> "quoted"',
        "files": ["gamma.png", "gamma.csv"],
        "csv": "gamma.csv",
        "runs": ["prevalence-quick/low_rank/wd=0.05/seed=0"],
        "commands": ["python scripts/train.py -m experiment=x 'data.name=<i>'"],
    }
    (folder / "captions.json").write_text(
        json.dumps({"gamma": entry, "gone": entry | {"title": "no picture"}})
    )


def report_on_runs(folder: pytest.TempPathFactory) -> Path:
    """The folder of a few runs, a figure and the report on them."""
    outputs = folder.mktemp("out puts & more")  # a path that must be quoted in links
    for wd, seed in ((0.05, 0), (0.05, 1), (0.0, 0)):
        train(outputs, "prevalence", wd, seed)
    train(outputs, "deep", 0.05)
    train(outputs, "animation", 0.05, frames=4)
    draw_something(outputs / "figures")
    write_report(outputs)
    return outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_on_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def page(outputs: Path) -> str:
    return (outputs / "report" / "index.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Checks the nesting and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in <{tag}>"
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words += data


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_elements_are_nested_and_ids_unique(read: Reader) -> None:
    assert read.open == []
    assert len(set(read.ids)) == len(read.ids) > 50


@pytest.mark.parametrize("name", ["index.html", "explorer.html"])
def test_nothing_is_fetched_from_a_network(name: str, outputs: Path) -> None:
    text = (outputs / "report" / name).read_text(encoding="utf-8")
    read = Reader(text)
    for tag, attributes in read.tags:
        for key in ("src", "srcset", "data", "action", "poster"):
            place = attributes.get(key) or "data:"
            here = tag == "img" and (outputs / "report" / unquote(place)).exists()
            assert place.startswith("data:") or here, (tag, attributes)
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:")
        assert not re.match(r"(?i)\s*(https?:)?//", attributes.get("href") or "")
    policy = next(a["content"] for t, a in read.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert len(text.encode()) < (2e6 if name == "index.html" else 15e6)


def test_every_link_leads_somewhere(read: Reader, outputs: Path) -> None:
    links = [a["href"] for tag, a in read.tags if tag == "a"]
    inside = [link for link in links if link and link.startswith("#")]
    outside = [link for link in links if link and not link.startswith("#")]
    assert {link[1:] for link in inside} <= set(read.ids)
    assert any("wd=0.05/seed=1" in link for link in outside) and "../figures/gamma.csv" in outside
    for link in outside:
        assert (outputs / "report" / unquote(link)).exists(), link


def test_text_is_escaped(page: str, read: Reader) -> None:
    assert "A <b>title</b> & more" in read.words and html.escape("A <b>title</b> & more") in page
    assert "alert(1)" in read.words  # shown, not run
    assert "no picture" not in read.words
    text = embedded_json({"a": "</script><!--\u2028"})
    assert "<" not in text and "\u2028" not in text and json.loads(text) == {"a": "</script><!--\u2028"}
    with pytest.raises(ValueError):
        embedded_json(float("nan"))


def test_readable_without_scripts_and_by_keyboard(read: Reader, outputs: Path) -> None:
    assert (
        "Low-rank, prevalence" in read.words
        and "Rule:" in read.words
        and "without weight decay" in read.words
    )
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    assert any(a.get("class") == "skip" and a.get("href") == "#main" for tag, a in read.tags)
    explorer = Reader((outputs / "report" / "explorer.html").read_text(encoding="utf-8"))
    assert explorer.open == [] and any(tag == "noscript" for tag, _ in explorer.tags)
    assert sum(tag == "select" for tag, _ in explorer.tags) == 6
    for _, a in read.tags + explorer.tags:
        assert "onclick" not in a and int(a.get("tabindex") or 0) <= 0


def test_explorer_holds_the_runs_own_numbers(outputs: Path) -> None:
    found = explorer.data(Runs(outputs))
    assert set(found["experiments"]) == {"prevalence-quick", "deep-quick", "animation-quick"}
    curves = found["experiments"]["prevalence-quick"]["low_rank"]
    assert [(c["wd"], c["seed"]) for c in curves] == [(0.05, 0), (0.05, 1), (0.0, 0)]
    table = pd.read_csv(outputs / "prevalence-quick/toy/wd=0.05/seed=1/metrics.csv")
    rows = table[(table.metric == "nrc1") & (table.layer == "fc3")]
    assert curves[1]["step"] == rows.step.tolist()
    np.testing.assert_allclose(curves[1]["layers"]["fc3"]["nrc1"], rows.value, rtol=1e-3)
    assert "mse (test)" in curves[0]["layers"]["fc3"] and found["about"]["nrc1"].startswith("NRC1 =")


def test_long_runs_are_thinned_with_both_ends_kept() -> None:
    kept = explorer._thin(100_000)
    assert len(kept) <= explorer.POINTS and kept[0] == 0 and kept[-1] == 99_999
    assert explorer._thin(3).tolist() == [0, 1, 2]


def test_a_page_without_any_run(tmp_path: Path) -> None:
    write_report(tmp_path / "empty")
    read = Reader((tmp_path / "empty" / "report" / "index.html").read_text())
    assert read.open == [] and "No figures yet" in read.words and "not run" in read.words


def test_the_same_runs_give_the_same_page(outputs: Path, page: str, tmp_path: Path) -> None:
    write_report(outputs)
    assert (outputs / "report" / "index.html").read_text() == page


@pytest.mark.parametrize("stop_at", [1, 13])
def test_frames_survive_an_interruption(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    import nrc.training.run as module

    real = module.train_steps

    def cut(*args: object) -> int:
        if args[5] >= stop_at:  # type: ignore[operator]
            raise KeyboardInterrupt
        return real(*args[:6], min(args[6], stop_at), *args[7:])  # type: ignore[arg-type,type-var]

    settings = toy(0.05, frames=4)
    monkeypatch.setattr(module, "train_steps", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, tmp_path, checkpoint_seconds=0)
    monkeypatch.setattr(module, "train_steps", real)
    assert fit(settings, tmp_path) == "finished"
    with (
        np.load(tmp_path / "snapshots.npz") as ours,
        np.load(home(outputs, "animation", 0.05) / "snapshots.npz") as whole,
    ):
        assert sorted(ours) == sorted(whole) and "frame_weight" in ours
        assert all(np.array_equal(ours[name], whole[name]) for name in ours)


def test_runs_without_frames_are_known_by_the_same_identity_as_before() -> None:
    assert toy(0.0, frames=4).as_dict()["measure"]["frames"] == 4
    with pytest.raises(UserError, match=r"measure\.frames is 1"):
        Measure(frames=1)


def test_animation_ends_on_the_plane(outputs: Path) -> None:
    run = animation.find(Runs(outputs))
    assert run is not None and run.snapshots["frame_features"].shape == (4, 80, 8)
    seen = geometry.unit(run.snapshots["frame_features"].astype(float))
    axes = geometry.frame(run.snapshots["frame_features"][-1].astype(float), seen[0])
    features, weights = seen @ axes, geometry.unit(run.snapshots["frame_weight"]) @ axes
    np.testing.assert_allclose(
        np.linalg.norm(features[-1][:, :2], axis=1) ** 2 + features[-1][:, 2] ** 2, 1, atol=0.35
    )
    mean_square = float((1 - (features[-1][:, :2] ** 2).sum(1)).mean())
    assert mean_square == pytest.approx(run.last("nrc1"), abs=0.05)  # seen on the run's own rows
    gif = (outputs / "report" / "collapse.gif").read_bytes()
    assert gif[:6] == b"GIF89a" and len(gif) < 2e6
    assert weights.shape == (4, 2, 3)


def test_a_claim_on_unknown_data_is_added_when_its_runs_exist(outputs: Path) -> None:
    nrc1 = next(c for c in claims() if c.id == "nrc1")
    rows = [row for row in scorecard(Runs(outputs), [nrc1]) if row.experiment == "prevalence"]
    assert [row.data for row in rows] == ["reacher", "swimmer", "hopper", "low_rank"]
    assert [row.verdict == NOT_RUN for row in rows] == [True, True, True, False]
    assert len(rows[-1].finding.measured) == 2 and len(rows[-1].runs) == 3


def test_each_figure_of_the_papers_has_one_answer(outputs: Path) -> None:
    rows = [r for r in scorecard(Runs(outputs)) if r.claim.id == "gamma"]
    told = answers(rows, [])
    (figure_4,) = [a for a in told if a["where"] == "NeurIPS 2024, figure 4"]
    assert [title for title, *_ in figure_4["claims"]] == ["A gamma exists"]
    assert all(a["word"] == "no claim" for a in told if a is not figure_4)

    def word(*verdicts: str) -> str:
        made = [
            Row(r.claim, r.experiment, r.data, "", replace(r.finding, verdict=v), [])
            for r, v in zip(rows, verdicts, strict=False)
        ]
        (answer,) = [a["word"] for a in answers(made, []) if a["claims"]]
        return str(answer)

    assert word(HOLDS, HOLDS, NOT_RUN) == "yes"
    assert word(HOLDS, NOT_YET) == "not yet: 1 of 2"
    assert word(HOLDS, NOT_YET, FAILS) == "in part: 1 of 3"
    assert word(FAILS, FAILS) == "no" and word(NOT_RUN) == "not run"


def test_a_report_is_made_again_only_when_something_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wd in (0.05, 0.0):
        train(tmp_path, "prevalence", wd)
    train(tmp_path, "animation", 0.05, frames=4)
    judged: list[Path] = []
    drawn: list[Path] = []
    real = animation.animate
    monkeypatch.setattr(
        "nrc.report.html.scorecard", lambda runs: judged.append(runs.outputs) or scorecard(runs)
    )
    monkeypatch.setattr(animation, "animate", lambda run, file: drawn.append(file) or real(run, file))

    def times() -> tuple[int, int]:
        """How often the claims were judged and the animation drawn."""
        files = write_report(tmp_path)
        assert all(file.is_file() for file in files) and len(files) == 5
        return len(judged), len(drawn)

    assert times() == times() == (1, 1)
    train(tmp_path, "prevalence", 0.05, seed=1)
    assert times() == times() == (2, 1)
    draw_something(tmp_path / "figures")
    assert times() == times() == (3, 1)
    (tmp_path / "report" / "scorecard.csv").unlink()
    assert times() == (4, 1)
    monkeypatch.setattr("nrc.report.html.code", lambda *parts: "another version")
    assert times() == times() == (5, 2)


def test_large_arrays_of_a_snapshot_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    train(tmp_path, "prevalence", 0.05)
    [run] = Runs(tmp_path).headline("prevalence", "low_rank")
    with np.load(run.path / "snapshots.npz") as whole:
        assert list(run.snapshots) == whole.files and len(run.snapshots) == len(whole.files)
        assert run.alive == 2 and set(run.snapshots._read) == {"weight_end"}  # type: ignore[attr-defined]
        assert all(np.array_equal(run.snapshots[name], whole[name]) for name in whole.files)
    assert run.snapshots.get("no such array") is None
