"""The scorecard's rules, and the page: one file, no network, every link alive, no error in a real browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.figures._load import Run, Runs
from nrc.models import MLP
from nrc.record import COLUMNS
from nrc.report import animation, deep_rules, explorer, rules, ufm_rules
from nrc.report.findings import FAILS, HOLDS, NOT_RUN, UNTESTABLE, Case, summary
from nrc.report.html import embedded_json, write_report
from nrc.report.scorecard import Claim, as_table, as_text, read_claims, scorecard
from nrc.theory import ufm
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SIGMA = np.diag([1.0, 4.0])


def run_of(
    end: dict[str, float] | None = None,
    start: dict[str, float] | None = None,
    *,
    wd: float = 0.01,
    tau: float = 3000.0,
    sigma: np.ndarray = SIGMA,
    weight: np.ndarray | None = None,
    layers: dict[str, list[float]] | None = None,
) -> Run:
    """A run with these last-layer values at its ends, and, layer by layer, these at its end."""
    depth = len(next(iter(layers.values()))) if layers else 1
    last = f"fc{depth}"
    rows = []
    for when, values in ((0.0, start or {}), (tau, end or {})):
        step = int(when > 0)
        for metric, value in values.items():
            place = "model" if metric == "mse" else last
            rows.append((when, step, when, "train", place, metric, value))
    for metric, values in (layers or {}).items():
        rows += [(tau, 1, tau, "train", f"fc{k}", metric, v) for k, v in enumerate(values, start=1)]
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values(["layer", "step"])
    identity = {
        "data": {"name": "toy"}, "optim": {"weight_decay": wd}, "protocol": {"name": "quick"}, "seed": 0,
        "model": {"num_layers": depth, "width": 8, "feature_activation": "relu"},
    }  # fmt: skip
    run = Run(Path("toy"), {"identity": identity, "tau": tau, "data": {"kind": "synthetic"}}, table)
    weight = np.eye(2, 8) if weight is None else weight
    vars(run)["snapshots"] = {"sigma": sigma, "weight_end": weight, "features_end": np.zeros((4, 8))}
    return run


def case(main: Run, control: Run | None = None, *others: Run) -> Case:
    found = [main, *([control] if control else []), *others]
    by_decay = {run.weight_decay: [run] for run in sorted(found, key=lambda r: -r.weight_decay)}
    return Case([main], [control] if control else [], by_decay)


NRC = {"nrc1": 0.5, "nrc1_raw": 0.5, "nrc1_centred": 0.5, "feature_rms": 1.0, "mean_share": 0.1}


@pytest.mark.parametrize(
    ("end", "start", "weight", "verdict"),
    [
        (1e-4, 0.5, None, HOLDS),
        (0.2, 0.5, None, FAILS),  # not small
        (0.04, 0.1, None, FAILS),  # small, but it started small
        (float("nan"), 0.5, None, FAILS),
        (1e-4, 0.5, np.diag([1.0, 1e-4]) @ np.eye(2, 8), FAILS),  # bought with a target direction
    ],
)
def test_nrc1_must_be_small_must_have_fallen_and_keep_the_targets(
    end: float, start: float, weight: np.ndarray | None, verdict: str
) -> None:
    found = rules.nrc1(case(run_of(NRC | {"nrc1": end}, NRC | {"nrc1": start}, weight=weight)))
    assert found.verdict == verdict and found.why
    assert found.beside["at the start"] == [start]


def test_a_verdict_that_depends_on_the_view_says_so() -> None:
    same = rules.nrc1(case(run_of(NRC, NRC)))
    assert not same.depends_on_view
    centred = rules.nrc1(case(run_of(NRC | {"nrc1_centred": 1e-3}, NRC)))
    assert centred.verdict == FAILS and centred.depends_on_view
    assert {v.name: v.verdict for v in centred.views}["corrected"] == HOLDS


def test_raw_features_are_judged_relative_to_their_size() -> None:
    """NRC1 of raw features has the unit of h^2: features ten times as long must not change the verdict."""
    verdicts = []
    for size in (1.0, 100.0):
        end = NRC | {"nrc1_raw": 1e-3 * size**2, "feature_rms": size}
        found = rules.nrc1(case(run_of(end, NRC)))
        verdicts.append(next(v.values[0] for v in found.views if "raw" in v.quantity))
    assert verdicts == pytest.approx([1e-3, 1e-3])


def test_nrc3_must_beat_a_random_weight() -> None:
    small, control = {"nrc3": 0.004}, run_of({"nrc3": 0.4}, wd=0.0)
    weight = np.diag([0.9**0.5, 1.9**0.5]) @ np.eye(2, 8)  # K = S - 0.1 I: NRC3 is 0 at gamma 0.01
    beaten = rules.nrc3(case(run_of(small, {"nrc3": 0.3}, weight=weight), control))
    assert beaten.verdict == HOLDS
    grid = next(v for v in beaten.views if "grid" in v.quantity)
    assert grid.values[0] < 1e-4
    level = rules.nrc3(case(run_of(small, {"nrc3": 0.005}, weight=weight), control))
    assert level.verdict == FAILS and "null" in level.why


@pytest.mark.parametrize(("end", "verdict"), [(0.5, HOLDS), (0.0, FAILS), (1.0, FAILS)])
def test_gamma_must_lie_inside(end: float, verdict: str) -> None:
    assert rules.gamma_inside(case(run_of({"nrc3_gamma": end}))).verdict == verdict


def test_the_need_for_decay_is_open_when_nothing_collapses() -> None:
    high, low = NRC, NRC | {"nrc1": 1e-6}
    assert rules.needs_decay(case(run_of(low), run_of(high, wd=0.0))).verdict == HOLDS
    assert rules.needs_decay(case(run_of(low), run_of(low, wd=0.0))).verdict == FAILS
    assert rules.needs_decay(case(run_of(high), run_of(high, wd=0.0))).verdict == UNTESTABLE
    assert rules.needs_decay(case(run_of(low))).verdict == UNTESTABLE


def test_a_phase_change_needs_a_long_enough_run() -> None:
    low, zero = NRC | {"nrc1": 1e-6, "nrc1_centred": 1e-6}, run_of(NRC, wd=0.0)
    assert rules.phase_change(case(run_of(low), zero)).verdict == HOLDS
    not_yet = rules.phase_change(case(run_of(low), zero, run_of(NRC, wd=1e-4)))  # budget 0.3
    assert not_yet.verdict == UNTESTABLE and "0.3" in not_yet.why
    never = rules.phase_change(case(run_of(low), zero, run_of(NRC, wd=1e-2 / 1.2)))  # budget 25
    assert never.verdict == FAILS


def test_the_ufm_is_held_against_its_closed_form() -> None:
    best = ufm.optimum(SIGMA, 0.01, 0.01, loss="coded")
    weight = best.weights(8, seed=0).numpy()
    good = ufm_rules.ufm_gram(case(run_of(weight=weight)))
    assert good.verdict == HOLDS and good.measured[0] < 1e-9
    bad = ufm_rules.ufm_gram(case(run_of(weight=1.2 * weight)))
    assert bad.verdict == FAILS and bad.measured[0] == pytest.approx(0.44)
    assert ufm_rules.ufm_residual(case(run_of({"mse": best.mse}))).verdict == HOLDS
    assert ufm_rules.ufm_residual(case(run_of({"mse": best.mse + 0.5}))).verdict == FAILS


DEEP = {
    "noise": [0.8, 0.5, 0.01, 0.01],
    "noise_abs": [8.0, 5.0, 0.1, 0.1],
    "feature_weight_alignment": [0.2, 0.3, 0.97, 0.98],
    "feature_weight_alignment_null": [0.1] * 4,
    "linear_mse": [1.0, 0.5, 0.1, 0.1],
    "linear_mse_uncentred": [1.0, 0.5, 0.9, 0.9],
    "stable_rank_weights": [9.0, 8.0, 2.0, 2.0],
    "cka": [0.1, 0.4, 0.95, 0.99],
    "cka_null": [0.001] * 4,
    "cka_first_columns": [0.1, 0.2, 0.5, 0.6],
    "feature_target_alignment": [1.0] * 4,
    "feature_target_alignment_null": [1.0] * 4,
    "feature_target_alignment_features": [0.2, 0.5, 0.99, 0.99],
    "stable_rank_covariance": [5.0, 4.0, 1.1, 1.0],
    "stable_rank_features": [6.0, 5.0, 1.2, 1.1],
}


def deep(layers: dict | None = None, **more: object) -> Case:
    main = run_of({"mse": 0.1}, layers=DEEP | (layers or {}), **more)  # type: ignore[arg-type]
    flat = DEEP | {"noise": [0.8] * 4, "feature_weight_alignment": [0.3] * 4}
    return case(main, run_of({"mse": 0.1}, layers=flat, wd=0.0))


DEEP_RULES = (
    "noise",
    "alignment",
    "low_rank_weights",
    "target_alignment",
    "predictability",
    "depth",
    "depth_needs_decay",
)


@pytest.mark.parametrize("name", DEEP_RULES)
def test_layerwise_rules_hold_on_a_collapsed_network_and_fail_on_a_flat_one(name: str) -> None:
    rule = getattr(deep_rules, name)
    assert rule(deep()).verdict == HOLDS
    flat = {metric: [values[0]] * 4 for metric, values in DEEP.items()}
    assert rule(deep(flat)).verdict in (FAILS, UNTESTABLE)
    if name != "depth_needs_decay":  # with nothing collapsed there is nothing to compare
        assert rule(deep(flat)).verdict == FAILS


def test_views_of_the_layerwise_rules() -> None:
    aligned = deep_rules.target_alignment(deep())
    verdicts = {v.name: v.verdict for v in aligned.views}
    assert aligned.depends_on_view and verdicts["as in the released code"] == FAILS
    assert verdicts["as on the poster"] == "" and "any features" in aligned.views[-1].note
    assert deep_rules.predictability(deep()).depends_on_view  # without an intercept the map fails


def test_intrinsic_rank_needs_targets_of_lower_rank() -> None:
    assert deep_rules.intrinsic_rank(deep()).verdict == UNTESTABLE
    sigma = np.diag([1.0, 0.2, 0.0])
    assert deep_rules.intrinsic_rank(deep(sigma=sigma)).verdict == HOLDS
    assert deep_rules.intrinsic_rank(deep({"noise": [0.8] * 4}, sigma=sigma)).verdict == FAILS


# --- claims and scorecard


def test_claims_are_complete() -> None:
    claims = read_claims()
    assert {c.part for c in claims} == {"last layer", "unconstrained feature model", "layer by layer"}
    for claim in claims:
        assert (
            claim.rule_text.endswith(".")
            and claim.claim.endswith(".")
            and "figure" in claim.source + "figure"
        )
        assert claim.data and claim.experiments
    assert len({c.id for c in claims}) == len(claims) >= 17


@pytest.mark.parametrize(
    ("change", "message"), [({"rule": "no_such_rule"}, "no rule"), ({"colour": "red"}, "unexpected keyword")]
)
def test_claims_with_mistakes_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    entry = dict(
        id="x", part="p", title="t", claim="c.", source="s", rule="nrc1", data=["toy"], experiments={"e": "f"}
    )
    file = tmp_path / "claims.yaml"
    file.write_text(json.dumps([entry | change]))
    with pytest.raises(UserError, match=message):
        read_claims(file)


def test_absent_runs_are_called_not_run(tmp_path: Path) -> None:
    rows = scorecard(Runs(tmp_path, say=lambda line: None))
    assert rows and {row.verdict for row in rows} == {NOT_RUN}
    assert len(as_table(rows)) == len(rows) and "not run" in as_text(rows)


def test_numbers_are_mean_and_range() -> None:
    assert summary([0.1, 0.3]) == "0.2 [0.1, 0.3]"
    assert summary([0.5, 0.5]) == "0.5" and summary([]) == "–" and summary([float("nan")]) == "–"


# --- the page


def toy(wd: float, seed: int = 0, frames: int = 0) -> RunSettings:
    return RunSettings(
        LowRank(t=2, r=2, d=5, n=100),
        MLP(num_layers=3, width=8, feature_activation="none"),
        Optim(lr=0.1, momentum=0.9, weight_decay=wd),
        Protocol(tau=60.0),
        Measure(log_spaced=4, evenly=4, frames=frames),
        seed=seed,
    )


def home(outputs: Path, experiment: str, wd: float, seed: int = 0) -> Path:
    return outputs / f"{experiment}-quick" / "toy" / f"wd={wd:g}" / f"seed={seed}"


def train(outputs: Path, experiment: str, wd: float, seed: int = 0, frames: int = 0) -> None:
    """A run of a second's hundredth, with everything a real one writes."""
    settings = toy(wd, seed, frames)
    assert fit(settings, home(outputs, experiment, wd, seed), say=lambda line: None) == "finished"


def draw_something(folder: Path) -> None:
    """A figure with a caption that a page must escape."""
    folder.mkdir(parents=True)
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    figure.savefig(folder / "gamma.png")
    (folder / "gamma.csv").write_text("a\n1\n")
    entry = {
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


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("out puts & more")  # a path that must be quoted in links
    for wd, seed in ((0.05, 0), (0.05, 1), (0.0, 0)):
        train(outputs, "prevalence", wd, seed)
    train(outputs, "deep", 0.05)
    train(outputs, "animation", 0.05, frames=4)
    draw_something(outputs / "figures")
    write_report(outputs, say=lambda line: None)
    return outputs


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


def test_nothing_is_fetched(read: Reader, page: str) -> None:
    for tag, attributes in read.tags:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:")
        assert not re.match(r"(?i)\s*(https?:)?//", attributes.get("href") or "")
    policy = next(a["content"] for t, a in read.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert len(page.encode()) < 15e6


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


def test_readable_without_scripts_and_by_keyboard(read: Reader) -> None:
    assert "Low-rank, ReLU" in read.words and "Rule:" in read.words and "without weight decay" in read.words
    assert any(tag == "noscript" for tag, _ in read.tags)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    assert any(a.get("class") == "skip" and a.get("href") == "#main" for tag, a in read.tags)
    assert not any("onclick" in a or int(a.get("tabindex") or 0) > 0 for _, a in read.tags)
    assert sum(tag == "select" for tag, _ in read.tags) == 6


def test_explorer_holds_the_runs_own_numbers(outputs: Path) -> None:
    found = explorer.data(Runs(outputs, say=lambda line: None))
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
    write_report(tmp_path / "empty", say=lambda line: None)
    read = Reader((tmp_path / "empty" / "report" / "index.html").read_text())
    assert read.open == [] and "No figures yet" in read.words and "not run" in read.words


def test_the_same_runs_give_the_same_page(outputs: Path, page: str, tmp_path: Path) -> None:
    write_report(outputs, say=lambda line: None)
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
        fit(settings, tmp_path, say=lambda line: None, checkpoint_seconds=0)
    monkeypatch.setattr(module, "train_steps", real)
    assert fit(settings, tmp_path, say=lambda line: None) == "finished"
    with (
        np.load(tmp_path / "snapshots.npz") as ours,
        np.load(home(outputs, "animation", 0.05) / "snapshots.npz") as whole,
    ):
        assert sorted(ours) == sorted(whole) and "frame_weight" in ours
        assert all(np.array_equal(ours[name], whole[name]) for name in ours)


def test_runs_without_frames_are_known_by_the_same_identity_as_before() -> None:
    assert "frames" not in toy(0.0).as_dict()["measure"]
    assert toy(0.0, frames=4).as_dict()["measure"]["frames"] == 4
    with pytest.raises(UserError, match=r"measure\.frames is 1"):
        Measure(frames=1)


def test_animation_ends_on_the_plane(outputs: Path) -> None:
    run = animation.find(Runs(outputs, say=lambda line: None))
    assert run is not None and run.snapshots["frame_features"].shape == (4, 80, 8)
    features, weights = animation._project(run.snapshots["frame_features"], run.snapshots["frame_weight"])
    np.testing.assert_allclose(
        np.linalg.norm(features[-1][:, :2], axis=1) ** 2 + features[-1][:, 2] ** 2, 1, atol=0.35
    )
    mean_square = float((1 - (features[-1][:, :2] ** 2).sum(1)).mean())
    assert mean_square == pytest.approx(run.last("nrc1"), abs=0.05)  # seen on the run's own rows
    gif = (outputs / "report" / "collapse.gif").read_bytes()
    assert gif[:6] == b"GIF89a" and len(gif) < 2e6
    assert weights.shape == (4, 2, 3)


def test_a_claim_on_unknown_data_is_added_when_its_runs_exist(outputs: Path) -> None:
    claim = Claim("x", "p", "t", "c.", "s", "nrc1", ["reacher"], {"prevalence": "gamma"})
    rows = scorecard(Runs(outputs, say=lambda line: None), [claim])
    assert [(row.data, row.verdict == NOT_RUN) for row in rows] == [("reacher", True), ("low_rank", False)]
    assert len(rows[1].finding.measured) == 2 and len(rows[1].runs) == 3


# --- a real browser


def browse(file: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The page as the browser has it after its scripts, and the lines on its console."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=5000", *more, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium) to open the page")
def test_a_browser_draws_the_chart_and_has_nothing_to_complain_about(outputs: Path, tmp_path: Path) -> None:
    dom, console = browse(outputs / "report" / "index.html", tmp_path / "profile")
    assert console == []
    assert 'class="main-svg"' in dom
    assert len(re.findall(r'class="trace scatter trace', dom)) == 4  # two seeds, their mean, and no decay
    assert re.search(r"nrc1: NRC1 = mean_i", dom)
    # the same eyes do see an error, so that silence above means something
    bad = tmp_path / "bad.html"
    bad.write_text("<!DOCTYPE html><script>undefined_function()</script>")
    assert browse(bad, tmp_path / "profile")[1]
