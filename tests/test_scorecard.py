"""The scorecard against the committed one: silent on runs that say the same, red on a fault planted in any of the metrics."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import train

import nrc.cli.check as script
from nrc.data import LowRank
from nrc.errors import UserError
from nrc.experiments import experiments
from nrc.figures import figures
from nrc.metrics import last_layer, layerwise
from nrc.models import MLP
from nrc.places import PROTOCOLS
from nrc.report import scorecard as module
from nrc.report.registry import FAILS, HOLDS, NOT_RUN, NOT_YET, claims
from nrc.report.scorecard import (
    COLUMNS,
    KEY,
    as_text,
    committed,
    compare,
    planned,
    read_committed,
    scorecard,
    table,
    write_committed,
)
from nrc.runs.read import Run, Runs
from nrc.theory import ufm
from nrc.training import Measure, Optim, Protocol, RunSettings

DEEP = RunSettings(
    LowRank(t=2, r=2, d=5, n=300), MLP(num_layers=6, width=32, bias=False),
    Optim(lr=0.05, momentum=0.9, weight_decay=0.005, loss_scale=1.0), Protocol(tau=1250.0), Measure(log_spaced=0, evenly=1),
)  # fmt: skip
UFM = RunSettings(
    LowRank(t=2, r=2, d=5, n=300), MLP(num_layers=3, width=32, feature_activation="none"),
    Optim(lr=0.1, momentum=0.9, weight_decay=0.02, penalty="ufm"), Protocol(tau=1500.0),
    Measure(log_spaced=0, evenly=1, layers="last"),
)  # fmt: skip


def both(outputs: Path) -> None:
    train(outputs, "deep", 0.005, settings=DEEP)
    train(outputs, "ufm", 0.02, settings=UFM)


def judged(outputs: Path) -> pd.DataFrame:
    return table(scorecard(Runs(outputs)))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    both(outputs)
    return outputs


@pytest.fixture(scope="module")
def now(outputs: Path) -> pd.DataFrame:
    return judged(outputs)


def problems(now: pd.DataFrame, known: pd.DataFrame, sets: list[str] | None = None) -> dict[str, str]:
    """claim -> what is wrong with it."""
    compared = compare(now, known, "quick", sets)
    return {row.claim: row.problem for row in compared.itertuples() if row.problem}


def test_silent_on_the_runs_that_wrote_it(outputs: Path, now: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "scorecard.csv"
    write_committed(committed(now), file)
    known = read_committed(file)
    assert len(known) == (now.verdict != NOT_RUN).sum() > 10
    compared = compare(judged(outputs), known, "quick")
    assert len(compared) == len(known) and not any(compared.problem) and "FAIL" not in as_text(compared)
    verdicts = known.set_index("claim").verdict
    for claim in (
        "noise",
        "alignment",
        "target_alignment",
        "ufm_gram",
        "ufm_balance",
        "ufm_loss",
    ):
        assert verdicts[claim] == HOLDS, claim
    assert len(compare(now, known, "quick", ["swimmer"])) == 0  # another set is not asked about
    text = file.read_text()
    write_committed(committed(now), file)
    assert file.read_text() == text
    write_committed(committed(now.assign(protocol="paper")), file)
    assert len(read_committed(file)) == 2 * len(known)  # rows of other protocols stay


def one_direction_less(layer: layerwise.Layer, k: int | None = None) -> float:
    return real_noise_abs(layer, (layer.directions if k is None else k) - 1)


real_noise_abs = layerwise.noise_abs
real_optimum = ufm.optimum
real_cosine = layerwise.mean_cosine
real_principal = last_layer._principal

FAULTS: dict[str, tuple[str, Callable]] = {
    "noise": ("nrc.metrics.layerwise.noise_abs", one_direction_less),
    # of the weight's directions against the last of the features', not the first
    "alignment": ("nrc.metrics.layerwise.mean_cosine", lambda a, b: real_cosine(a, b.flip(0))),
    "target_alignment": (
        "nrc.metrics.layerwise._cka",
        lambda layer, h, hy: float((hy.square().sum() / (h.norm() * layer.moments.sigma_y.norm())) ** 2),
    ),
    # one principal component too few
    "ufm_collapse": ("nrc.metrics.last_layer._principal", lambda layer: real_principal(layer)[:, :-1]),
}


@pytest.mark.parametrize("claim", FAULTS)
def test_red_when_a_metric_is_broken(
    claim: str, now: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*FAULTS[claim])
    if claim.startswith("ufm"):
        train(tmp_path, "ufm", 0.02, settings=UFM)
    else:
        train(tmp_path, "deep", 0.005, settings=DEEP)
    assert claim in problems(judged(tmp_path), committed(now))


@pytest.mark.parametrize("where", ["theory", "weight"])
def test_red_when_the_ufms_gram_is_broken(
    where: str, outputs: Path, now: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The theory's K as Sigma, not its root; the measured K of a weight read at twice its size."""
    runs = Runs(outputs)
    if where == "theory":

        def no_root(*args: Any, **more: Any) -> ufm.Optimum:
            best = real_optimum(*args, **more)
            return replace(best, gram=best.sigma)

        monkeypatch.setattr(ufm, "optimum", no_root)
    else:
        ((run,),) = runs.of("ufm").values()
        vars(run)["snapshots"] = dict(run.snapshots) | {"weight_end": 2 * run.snapshots["weight_end"]}
    assert "ufm_gram" in problems(table(scorecard(runs)), committed(now))


# --- the rules of the comparison


def row(**changes: Any) -> pd.DataFrame:
    """One row of a scorecard."""
    values = {
        "protocol": "quick", "claim": "nrc1", "experiment": "prevalence", "data": "reacher", "runs": 6, "verdict": HOLDS,
        "measured": 0.03, "spread": 0.01, "bound": 0.05, "grain": 0.0, "stand_in": False, "why": "why",
    }  # fmt: skip
    return pd.DataFrame([values | changes])


def told(now: pd.DataFrame, *known: pd.DataFrame) -> str:
    (found,) = compare(now, committed(*known), "quick").problem
    return found


@pytest.mark.parametrize(
    ("known", "now", "problem"),
    [
        ({}, {"measured": 0.0399}, ""),
        ({}, {"measured": 0.0401}, "moved"),
        ({}, {"measured": math.nan}, "moved"),
        ({}, {"verdict": FAILS}, "'does not hold', committed 'holds'; why"),
        ({"measured": 0.045}, {"measured": 0.051, "verdict": FAILS}, ""),  # carried over the bound by rounding
        ({"measured": 0.045}, {"measured": 0.051, "verdict": FAILS, "bound": math.nan}, ""),  # of the committed row
        ({"bound": math.nan}, {"measured": 0.031, "verdict": FAILS}, "committed"),
        ({"verdict": NOT_YET, "measured": 0.6}, {"verdict": NOT_YET, "measured": 0.1}, ""),  # never by number
        ({"verdict": NOT_YET, "measured": 0.6}, {"verdict": HOLDS, "measured": 0.01}, "committed"),
        ({}, {"runs": 5}, "1 of 6 runs missing"),
        ({}, {"verdict": NOT_RUN, "runs": 0, "measured": math.nan}, "not run"),
        ({}, {"data": "hopper"}, "not run"),
        ({"stand_in": True}, {"measured": 7.0}, ""),  # by its verdict alone
        ({"stand_in": True}, {"verdict": FAILS}, "committed"),
        ({"measured": math.nan}, {"measured": math.nan}, ""),
        ({"measured": 0.001, "spread": 0.0}, {"measured": 0.009}, ""),  # far below the bound
        ({"measured": 0.001, "spread": 0.0}, {"measured": 0.011}, "moved"),  # by more than ten times
        ({"measured": 0.02, "spread": 0.0}, {"measured": 0.03}, "moved"),  # near the bound
        ({"measured": 0.2, "verdict": FAILS, "spread": 0.0}, {"measured": 0.4, "verdict": FAILS}, "moved"),
        ({"grain": 1.0, "measured": 5.0}, {"measured": 4.0}, ""),
        ({"grain": 1.0, "measured": 5.0}, {"measured": 3.0}, "moved"),
    ],
)  # fmt: skip
def test_what_counts_as_a_change(known: dict, now: dict, problem: str) -> None:
    found = told(row(**now), row(**known))
    assert problem in found and bool(problem) == bool(found)


def test_tolerances_come_from_seeds_processors_or_a_floor() -> None:
    def tolerance(*measured: float, **changes: float) -> tuple[float, str]:
        (found,) = committed(*(row(measured=v, **changes) for v in measured)).to_dict("records")
        return found["tolerance"], found["why_tolerance"]

    assert tolerance(0.03) == (0.01, "seeds")
    assert tolerance(0.03, 0.05) == (pytest.approx(0.04), "processors")
    assert tolerance(0.6) == (pytest.approx(0.04), "floor")
    assert tolerance(3.0) == (pytest.approx(0.06), "floor")
    assert tolerance(1e-13, spread=0.0) == (1e-6, "floor")
    assert math.isnan(tolerance(0.03, stand_in=True)[0])
    # a number that another kind of processor does not have is not compared
    assert (
        told(row(measured=math.nan, verdict=FAILS), row(verdict=FAILS), row(measured=math.nan, verdict=FAILS))
        == ""
    )
    # verdicts that processors decide differently: either will do, a third will not
    two = [row(stand_in=True), row(stand_in=True, verdict=NOT_YET)]
    assert told(row(verdict=NOT_YET), *two) == told(row(), *two) == ""
    assert "committed 'holds or not yet'" in told(row(verdict=FAILS), *two)


def test_what_needs_a_file_of_the_users_own_may_be_absent() -> None:
    known = committed(row(experiment="sgemm", data="sgemm", claim="noise"))
    assert len(compare(row(), known, "quick")) == 0


# --- claims and experiments


def test_claims_are_complete_and_speak_of_what_is_declared() -> None:
    declared = {found["name"] for found in experiments().values()}
    drawn = set(figures())
    found = claims()
    assert len({c.id for c in found}) == len(found) >= 30
    for claim in found:
        assert claim.rule.endswith(".") and claim.says.endswith(".") and claim.source and claim.title
        assert claim.figure in drawn | {""}, claim.id
        assert {*claim.on, *claim.also.values()} <= declared, claim.id
    assert next(c.part for c in found) == "last layer" and len({c.part for c in found}) == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_declared_is_planned(protocol: str) -> None:
    declared = [told for told in experiments().values() if protocol in told["protocols"]]
    theirs = {(told["name"], d) for told in declared for d in told["datasets"]}
    assert {(name, d) for name, sets in planned(protocol).items() for d in sets} == theirs


def test_the_data_sets_of_a_claim_are_those_of_the_experiments_files(tmp_path: Path) -> None:
    rows = scorecard(Runs(tmp_path))
    assert {row.verdict for row in rows} == {NOT_RUN}
    for row in rows:
        assert row.data in planned("quick")[row.experiment]
    asked = {(row.claim.id, row.experiment, row.data) for row in rows}
    assert {
        ("nrc1", "images", "utkface"),
        ("noise", "deep", "hopper"),
        ("phase", "prevalence", "swimmer"),
    } <= asked
    assert ("noise", "deep", "carla_2d") not in asked  # not part of the quick protocol
    train(tmp_path, "deep", 0.05, name="reacher-jat")  # from elsewhere: takes the place of the set
    noise = [r.data for r in scorecard(Runs(tmp_path)) if r.claim.id == "noise" and r.experiment == "deep"]
    assert sorted(noise) == ["hopper", "reacher-jat", "swimmer"]


def test_the_committed_file_is_readable_and_covers_every_claim() -> None:
    known = read_committed()
    quick = known[known.protocol == "quick"]
    assert set(quick.claim) >= {c.id for c in claims()}
    assert not known.duplicated(KEY).any()
    assert set(" or ".join(known.verdict).split(" or ")) <= {HOLDS, FAILS, NOT_YET, "not testable here"}


# --- the script


def test_the_script_says_so_by_its_exit_status(
    outputs: Path, now: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "datasets", lambda: {"all": ["low_rank"], "swimmer": ["swimmer"]})
    monkeypatch.setattr(script, "read_committed", lambda: committed(now))

    def status(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
        with pytest.raises(SystemExit) as end:
            script.main()
        return int(str(end.value.code))

    assert status("--outputs", str(outputs)) == 0
    assert f"{len(committed(now))} of {len(committed(now))} verdicts" in capsys.readouterr().out
    assert status("--outputs", str(tmp_path)) == 1
    assert "FAIL" in capsys.readouterr().out
    for arguments, message in (
        (["--protocol", "paper"], "nothing of the paper"),
        (["--dataset", "swimmer"], "no committed"),
    ):
        monkeypatch.setattr(sys, "argv", ["check.py", "--outputs", str(outputs), *arguments])
        with pytest.raises(UserError, match=message):
            script.main()


def test_each_run_is_read_once(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = module.Runs._find
    monkeypatch.setattr(Runs, "_find", lambda self, root: read.append(root) or real(self, root))
    rows = scorecard(Runs(outputs))
    assert len(rows) > 50 and len(read) == len(set(read))


@pytest.mark.parametrize("text", ["", "claim,verdict\nnrc1,holds\n"])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "scorecard.csv"
    if text:
        file.write_text(text)
    with pytest.raises(UserError, match="columns" if text else "missing"):
        read_committed(file)
    assert set(KEY) < set(COLUMNS)


def test_stand_ins_are_told_from_the_runs(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "kind", "stand-in")
    assert committed(judged(outputs)).tolerance.isna().all()
