"""`make check`: green on runs that show what is expected, red when a metric, a number or a run is broken."""

import importlib.util
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from run_tools import sealed

from nrc.check import EXPECTED, Expectation, Verdict, check, quantity, read_expectations, table
from nrc.data import LowRank
from nrc.errors import UserError
from nrc.metrics import METRICS, last_layer
from nrc.models import MLP
from nrc.record import RunDirectory
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

REPO = Path(__file__).resolve().parents[1]
EXPERIMENTS = (
    "prevalence",
    "prevalence_linear",
    "deep",
    "low_rank",
    "tau_clock",
    "ufm",
    "images",
    "sgemm",
    "sgemm_decay",
)
HEADLINE = {e: defaultdict(lambda: 0.01) for e in EXPERIMENTS}
KINDS = ("", "fall", "agree")


def expectation(**changes: object) -> Expectation:
    values = dict(
        id="collapses", claim="NRC1 goes to 0", experiment="prevalence_linear", data="low_rank",
        weight_decay="headline", quantity="nrc1", bound="below", value=1e-6,
    )  # fmt: skip
    return Expectation(**(values | changes))  # type: ignore[arg-type]


def write(path: Path, series: dict[str, list[float]], status: str = "finished") -> None:
    """A run directory with these curves; `metric@layer` or the output layer fc9, mse and r2 of the model."""
    run = RunDirectory.open(path, {"seed": 0})
    run.start({}, {}, {})
    for step in range(2):
        rows = []
        for name, values in series.items():
            metric, _, layer = name.partition("@")
            layer = layer or ("model" if metric in ("mse", "r2") else "fc9")
            rows.append((float(step), step, float(step), "train", layer, metric, values[step]))
        run.append(rows)
    run.end(status, "written by a test")


def place(outputs: Path, e: Expectation, protocol: str = "quick") -> Path:
    wd = 0.01 if e.weight_decay == "headline" else float(e.weight_decay)
    if e.quantity.startswith("agree:"):
        return outputs / e.experiment / e.data / "protocol=accelerated" / f"wd={wd:g}"
    return outputs / f"{e.experiment}-{protocol}" / e.data / f"wd={wd:g}"


def within(bounds: list[tuple[str, float]]) -> float:
    """A value inside all the bounds."""
    lower = max((v for b, v in bounds if b == "above"), default=None)
    upper = min((v for b, v in bounds if b == "below"), default=None)
    if lower is None:
        assert upper is not None
        return upper / 2
    return lower * 2 if upper is None else (lower + upper) / 2


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """Run directories, two seeds each, in which every committed expectation holds."""
    wanted: dict[Path, dict[str, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for e in read_expectations():
        wanted[place(tmp_path, e)][e.quantity].append((e.bound, e.value))
    for folder, quantities in wanted.items():
        series: dict[str, list[float]] = {}
        for name, bounds in quantities.items():
            kind, _, metric = name.rpartition(":")
            if kind == "":
                series[metric] = [1.0, within(bounds)]
        for name, bounds in quantities.items():
            kind, _, metric = name.rpartition(":")
            last = series.get(metric, [1.0, 0.01])[1]
            if kind == "fall":
                series[metric] = [last * within(bounds), last]
            elif kind == "agree":
                series[metric] = [1.0, last]
        for seed in (0, 1):
            write(folder / f"seed={seed}", series)
            if "protocol=accelerated" in str(folder):
                other = {
                    k: [v[0], v[1] * 10 ** (min(b for _, b in quantities[f"agree:{k}"]) / 2)]
                    for k, v in series.items()
                }
                write(Path(str(folder).replace("=accelerated", "=paper")) / f"seed={seed}", other)
    return tmp_path


def test_green_when_every_expectation_holds(perfect: Path) -> None:
    verdicts = check(perfect, "quick", HEADLINE)
    assert len(verdicts) == len(read_expectations()) > 20
    assert [v.expectation.id for v in verdicts if not v.holds] == []
    assert all(len(v.values) == 2 for v in verdicts) and "FAIL" not in table(verdicts)


def test_red_when_a_number_is_edited(perfect: Path) -> None:
    """One seed of one run, one value: the other seed does not save it."""
    file = perfect / "prevalence_linear-quick" / "reacher" / "wd=0.01" / "seed=1" / "metrics.csv"
    text = file.read_text()
    edited = re.sub(r"(,1,1.0,train,fc9,nrc1),.*", r"\1,0.5", text)
    assert edited != text
    file.write_text(edited)
    with pytest.raises(UserError, match=r"seed=1/metrics\.csv has changed since the run ended"):
        check(perfect, "quick", HEADLINE)
    sealed(file.parent)
    failed = [v for v in check(perfect, "quick", HEADLINE) if not v.holds]
    assert {(v.expectation.experiment, v.expectation.data, v.expectation.quantity) for v in failed} == {
        ("prevalence_linear", "reacher", "nrc1")
    }
    assert re.search(r"FAIL +linear collapses +reacher +nrc1 .* 0\.5 ", table(failed))


def test_red_when_runs_are_missing(perfect: Path, tmp_path: Path) -> None:
    assert all(not v.holds and v.values == [] for v in check(tmp_path / "nothing", "quick", HEADLINE))
    assert not any(
        v.holds for v in check(perfect, "accelerated", HEADLINE) if "agree" not in v.expectation.quantity
    )


@pytest.mark.parametrize("status", ["running", "interrupted", "diverged"])
def test_red_when_a_run_is_not_finished(tmp_path: Path, status: str) -> None:
    e = expectation()
    write(place(tmp_path, e) / "seed=0", {"nrc1": [0.5, 1e-9]})
    assert check(tmp_path, "quick", HEADLINE, expectations=[e])[0].holds
    write(place(tmp_path, e) / "seed=1", {"nrc1": [0.5, 1e-9]}, status=status)
    assert not check(tmp_path, "quick", HEADLINE, expectations=[e])[0].holds


def test_red_when_undefined(tmp_path: Path) -> None:
    e = expectation()
    write(place(tmp_path, e) / "seed=0", {"nrc1": [0.5, math.nan]})
    for bound in ("below", "above"):
        assert not check(tmp_path, "quick", HEADLINE, expectations=[expectation(bound=bound)])[0].holds


# --- a real run, its metric broken on purpose


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    optim = Optim(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=200)
    model = MLP(num_layers=3, width=8, feature_activation="none")
    measure = Measure(log_spaced=0, evenly=1, layers="last")
    return RunSettings(LowRank(t=2, r=2, d=5, n=250), model, optim, Protocol(tau=2500.0), measure)


def trained(settings: RunSettings, outputs: Path) -> list[Verdict]:
    e = expectation()
    assert fit(settings, place(outputs, e) / "seed=0", say=lambda line: None) == "finished"
    return check(outputs, "quick", HEADLINE, expectations=[e])


def test_green_on_a_real_run_and_red_when_nrc1_is_broken(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(settings, tmp_path / "good")[0].holds
    # the planted fault: one principal component too few
    principal = last_layer._principal
    monkeypatch.setattr(last_layer, "_principal", lambda layer: principal(layer)[:, :-1])
    broken = trained(settings, tmp_path / "broken")[0]
    assert not broken.holds and broken.values[0] > 0.01


# --- the committed file


def test_every_expectation_is_readable() -> None:
    for e in read_expectations():
        kind, _, metric = e.quantity.rpartition(":")
        name = re.sub(r"_r\d+$", "", metric.partition("@")[0])
        assert kind in KINDS and name in METRICS, e
        assert e.claim and e.experiment in EXPERIMENTS and math.isfinite(e.value)
        assert e.weight_decay == "headline" or float(e.weight_decay) >= 0
    sentences = {entry["claim"] for entry in yaml.safe_load(EXPECTED.read_text())}
    assert any("CPAL 2026" in s for s in sentences) and any("NeurIPS 2024" in s for s in sentences)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"belwo": 1.0}, "needs exactly one of below, above"),
        ({"below": 1.0, "above": 0.0}, "needs exactly one of below, above"),
        ({"below": 1.0, "tolerance": 3}, "unexpected keyword argument 'tolerance'"),
        ({"below": 1.0, "claim": None}, "missing"),
    ],
)
def test_unknown_and_missing_keys_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    entry = dict(id="x", claim="c", experiment="prevalence", data="reacher", weight_decay=0, quantity="nrc1")
    entry = {k: v for k, v in (entry | change).items() if v is not None}
    file = tmp_path / "expected.yaml"
    file.write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError, match=message):
        read_expectations(file)


def test_quantities(tmp_path: Path) -> None:
    write(tmp_path, {"nrc1": [0.8, 0.02], "noise@fc2": [0.5, 0.25]})
    assert quantity(tmp_path, "nrc1") == 0.02
    assert quantity(tmp_path, "fall:nrc1") == pytest.approx(40)
    assert quantity(tmp_path, "noise@fc2") == 0.25
    assert math.isnan(quantity(tmp_path, "noise@fc7")) and math.isnan(quantity(tmp_path, "cka"))


# --- the script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPO / "scripts"))
    spec = importlib.util.spec_from_file_location("check_script", REPO / "scripts" / "check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module._compose, "headlines", lambda *a: HEADLINE)
    return module


@pytest.mark.parametrize("runs", ["perfect", "none"])
def test_the_script_says_so_by_its_exit_status(
    script: ModuleType,
    perfect: Path,
    runs: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    outputs = perfect if runs == "perfect" else perfect / "none"
    monkeypatch.setattr(sys, "argv", ["check.py", "--outputs", str(outputs)])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == (0 if runs == "perfect" else 1)
    total = len(read_expectations())
    assert f"{total if runs == 'perfect' else 0} of {total} expectations hold" in capsys.readouterr().out
