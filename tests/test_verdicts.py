"""The committed verdicts: silent on runs that say the same, red on a fault planted in any of the metrics."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import train

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.figures import Runs
from nrc.metrics import layerwise
from nrc.models import MLP
from nrc.report.findings import HOLDS, NOT_RUN, UNTESTABLE
from nrc.report.scorecard import Row, read_claims, scorecard
from nrc.report.verdicts import CLOSE, VERDICTS, differences, read_verdicts, verdict_changes, write_verdicts
from nrc.runs.read import Run
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


def rows_of(outputs: Path) -> list[Row]:
    return scorecard(Runs(outputs))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    both(outputs)
    return outputs


@pytest.fixture(scope="module")
def committed(outputs: Path) -> Path:
    file = outputs / "verdicts.yaml"
    assert write_verdicts(rows_of(outputs), file) > 10
    return file


def test_silent_on_the_runs_that_wrote_them(outputs: Path, committed: Path) -> None:
    said, count = verdict_changes(outputs, file=committed)
    assert said == [] and count == sum(row.verdict != NOT_RUN for row in rows_of(outputs))
    table = read_verdicts(committed)["quick"]
    for claim in (
        "noise",
        "alignment",
        "target_alignment",
        "ufm_gram",
        "ufm_residual",
        "ufm_balance",
        "ufm_loss",
    ):
        place = f"{'ufm' if claim.startswith('ufm') else 'deep'}/low_rank"
        assert table[claim][place][0] == HOLDS, claim
    # another set is not asked about
    assert verdict_changes(outputs, wanted=lambda data: data == "swimmer", file=committed) == ([], 0)


def one_direction_less(layer: layerwise.Layer, k: int | None = None) -> float:
    return real_noise_abs(layer, (layer.directions if k is None else k) - 1)


real_noise_abs = layerwise.noise_abs
real_optimum = ufm.optimum
real_features = layerwise.mean_cosine

FAULTS: dict[str, tuple[str, str, Callable]] = {
    "noise": ("nrc.metrics.layerwise", "noise_abs", one_direction_less),
    # of the weight's directions against the last of the features', not the first
    "alignment": ("nrc.metrics.layerwise", "mean_cosine", lambda a, b: real_features(a, b.flip(0))),
    "target_alignment": (
        "nrc.metrics.layerwise",
        "_cka",
        lambda layer, h, hy: float((hy.square().sum() / (h.norm() * layer.moments.sigma_y.norm())) ** 2),
    ),
}


@pytest.mark.parametrize("claim", FAULTS)
def test_red_when_a_metric_of_the_layers_is_broken(
    claim: str, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, fault = FAULTS[claim]
    monkeypatch.setattr(f"{module}.{name}", fault)
    both(tmp_path)
    said, _ = verdict_changes(tmp_path, file=committed)
    assert any(line.startswith(f"{claim}, Low-rank: ") for line in said), said


@pytest.mark.parametrize("where", ["theory", "weight"])
def test_red_when_the_ufms_gram_is_broken(
    where: str, outputs: Path, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The theory's K as Sigma, not its root; the measured K of a weight read at twice its size."""
    if where == "theory":

        def no_root(*args: Any, **more: Any) -> ufm.Optimum:
            best = real_optimum(*args, **more)
            return replace(best, gram=best.sigma)

        monkeypatch.setattr(ufm, "optimum", no_root)
        rows = rows_of(outputs)
    else:
        rows = rows_of(outputs)
        (run,) = {run for row in rows if row.claim.id == "ufm_gram" for run in row.runs}
        vars(run)["snapshots"] = run.snapshots | {"weight_end": 2 * run.snapshots["weight_end"]}
        runs = Runs(outputs)
        runs._read["ufm-quick"] = {"low_rank": [run]}
        rows = scorecard(runs)
    said, _ = differences(rows, read_verdicts(committed), "quick")
    assert any(line.startswith("ufm_gram, Low-rank: ") for line in said), said


def test_red_when_runs_are_missing(committed: Path, tmp_path: Path) -> None:
    text = "quick: {noise: {deep/reacher: [not yet, 0.4], sgemm/sgemm: [holds, 0.01]}}"
    file = tmp_path / "verdicts.yaml"
    file.write_text(text)
    said, count = verdict_changes(tmp_path, file=file)
    # what needs a file of the user's own may be absent
    assert count == 1 and said[0].startswith("noise, Reacher: 'not run', committed 'not yet'")


def edited(committed: Path, word: str, value: str, file: Path) -> Path:
    before = read_verdicts(committed)["quick"]["target_alignment"]["deep/low_rank"]
    found = committed.read_text().split("  target_alignment:\n    deep/low_rank: ")
    rest = found[1].split("\n", 1)[1]
    number = value.format(before[1])
    file.write_text(f"{found[0]}  target_alignment:\n    deep/low_rank: [{word}, {number}]\n{rest}")
    return file


def test_a_verdict_carried_over_a_bound_by_rounding_is_no_change(
    outputs: Path, committed: Path, tmp_path: Path
) -> None:
    """Other processors end a little elsewhere; a number that has moved far is red, whatever the verdict."""
    file = tmp_path / "verdicts.yaml"
    value = read_verdicts(committed)["quick"]["target_alignment"]["deep/low_rank"][1]
    close, far = value + 0.5 * CLOSE, value + 2 * CLOSE
    assert verdict_changes(outputs, file=edited(committed, "not yet", f"{close:.4g}", file))[0] == []
    said = verdict_changes(outputs, file=edited(committed, "not yet", f"{far:.4g}", file))[0]
    assert len(said) == 1 and "'holds', committed 'not yet'" in said[0]
    said = verdict_changes(outputs, file=edited(committed, "holds", f"{value / 4:.4g}", file))[0]
    assert len(said) == 1 and "the number has moved" in said[0]


def test_writing_keeps_what_was_not_run_and_what_bears_no_number(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.yaml"
    file.write_text("quick: {noise: {deep/reacher: [not yet, 0.4], deep/low_rank: does not hold}}")
    write_verdicts(rows_of(outputs), file)
    table = read_verdicts(file)["quick"]["noise"]
    assert table["deep/reacher"] == ("not yet", 0.4)
    assert table["deep/low_rank"][0] == HOLDS and np.isnan(table["deep/low_rank"][1])
    assert verdict_changes(outputs, wanted=lambda data: data == "low_rank", file=file)[0] == []
    text = file.read_text()
    write_verdicts(rows_of(outputs), file)
    assert file.read_text() == text


def test_stand_ins_are_neither_written_nor_compared(
    outputs: Path, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "kind", "stand-in")
    assert write_verdicts(rows_of(outputs), tmp_path / "verdicts.yaml") == 0
    said, count = verdict_changes(outputs, file=committed)
    assert said == [] and count == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quick: {no_claim: {deep/reacher: holds}}", "no claim 'no_claim'"),
        ("quick: {noise: {deep/reacher: maybe}}", "'maybe'; choose holds"),
    ],
)
def test_mistakes_in_the_file_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_verdicts(file)


def test_the_committed_file_is_readable_and_covers_every_claim() -> None:
    table = read_verdicts(VERDICTS)["quick"]
    assert set(table) == {claim.id for claim in read_claims()}
    words = [word for places in table.values() for word, _ in places.values()]
    assert words.count(UNTESTABLE) < len(words) / 3 < len(words) - words.count(HOLDS) < len(words)
