"""`make check`: green on runs that show what is expected, red when a metric, a number or a run is broken."""

import importlib.util
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from nrc.check import EXPECTED, KINDS, Expectation, Verdict, check, quantity, read_expectations, table
from nrc.data import LowRank
from nrc.errors import UserError
from nrc.metrics import METRICS, last_layer
from nrc.models import MLP
from nrc.runs.directory import RunDirectory
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

REPO = Path(__file__).resolve().parents[1]
EXPERIMENTS = (
    "prevalence",
    "prevalence_linear",
    "phase",
    "deep",
    "low_rank",
    "target_mean",
    "tau_clock",
    "ufm",
    "images",
    "sgemm",
    "sgemm_decay",
)
PAPER = "/paper"


def expectation(**changes: object) -> Expectation:
    values = dict(
        id="collapses", claim="NRC1 goes to 0", experiment="prevalence_linear", data="low_rank",
        weight_decay="headline", quantity="nrc1", bound="below", value=1e-6,
    )  # fmt: skip
    return Expectation(**(values | changes))  # type: ignore[arg-type]


def write(
    path: Path, series: dict[str, list[float]], status: str = "finished", wd: float = 0.01, tau: float = 2500
) -> None:
    """A run directory with these curves; `metric@layer` or the output layer fc9, mse and r2 of the model."""
    run = RunDirectory.open(path, {"seed": 0, "optim": {"weight_decay": wd}})
    run.start({}, {}, {"kind": "own experts"})
    for step in range(max(map(len, series.values()))):
        rows = []
        for name, values in series.items():
            metric, _, layer = name.partition("@")
            layer = layer or ("model" if metric in ("mse", "r2") else "fc9")
            rows.append((float(step), step, float(step), "train", layer, metric, values[step]))
        run.append(rows)
    run.end(status, "written by a test", tau=tau)


def place(outputs: Path, e: Expectation) -> Path:
    """The run directories of an expectation, without the seed; 5e-4 stands for all weight decays, 0.01 is the headline's."""
    decay = "wd=0.01" if e.weight_decay == "headline" else "wd=0.0005"
    return outputs / e.place().replace("wd=*", decay).removesuffix("/seed=*")


def as_headline(runs: list[Path]) -> dict[Path, str | None]:
    return {run: "headline" if run.parent.name == "wd=0.01" else "sweep" for run in runs}


def seeds(outputs: Path, expectations: list[Expectation], count: int = 2) -> list[Path]:
    """What the reproduction would make for these expectations."""
    return [place(outputs, e) / f"seed={seed}" for e in expectations for seed in range(count)]


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
        series: dict[str, list[float]] = {"weight_rcond": [0.9, 0.5], "signal_share": [0.1, 0.4]}
        # final values first: falls and ratios are set beside them
        for name, bounds in sorted(quantities.items(), key=lambda item: ":" in item[0]):
            kind, _, metric = name.rpartition(":")
            if name == "budget":
                continue
            last = within(bounds) if kind in ("", "least") else series.get(metric, [1.0, 0.01])[1]
            first = last * within(bounds) if kind.endswith("fall") else series.get(metric, [1.0])[0]
            series[metric] = [first, last]
        for seed in (0, 1):
            write(folder / f"seed={seed}", series)
            for protocol in ("accelerated", "quick"):
                if f"protocol={protocol}" in str(folder):
                    other = {
                        k: [v[0], v[1] * 10 ** (min(b for _, b in quantities[f"{protocol}{PAPER}:{k}"]) / 2)]
                        for k, v in series.items()
                        if f"{protocol}{PAPER}:{k}" in quantities
                    }
                    paper = Path(str(folder).replace(f"={protocol}", "=paper")) / f"seed={seed}"
                    if not paper.exists():
                        write(paper, other)
    return tmp_path


def committed(outputs: Path) -> list[Verdict]:
    return check(as_headline(seeds(outputs, read_expectations())))


def test_green_when_every_expectation_holds(perfect: Path) -> None:
    verdicts = committed(perfect)
    assert len(verdicts) == len(read_expectations()) > 20
    assert [v for v in verdicts if not v.holds] == []
    assert all(len(v.values) >= 2 and v.kind == "own experts" for v in verdicts)
    assert "FAIL" not in table(verdicts) and "/reacher (own experts)" in table(verdicts)


def test_red_when_a_number_is_edited(perfect: Path) -> None:
    """One seed of one run, one value: the other seed does not save it."""
    file = perfect / "prevalence_linear-quick" / "reacher" / "wd=0.01" / "seed=1" / "metrics.csv"
    text = file.read_text()
    edited = re.sub(r"(,1,1.0,train,fc9,nrc1),.*", r"\1,0.5", text)
    assert edited != text
    file.write_text(edited)
    failed = [v for v in committed(perfect) if not v.holds]
    assert {(v.expectation.experiment, v.expectation.data, v.expectation.quantity) for v in failed} == {
        ("prevalence_linear", "reacher", "nrc1")
    }
    assert re.search(
        r"FAIL +linear collapses +prevalence_linear/reacher \(own experts\) +nrc1 .* 0\.5 ", table(failed)
    )


def test_red_when_runs_are_missing(perfect: Path, tmp_path: Path) -> None:
    nothing = committed(tmp_path / "nothing")
    assert all(not v.holds and v.values == [] and v.missing >= 2 for v in nothing)
    assert "2 of 2 runs missing" in table(nothing)
    assert all(not v.holds for v in check({})) and "no such run" in table(check({}))


def test_one_seed_of_three_is_not_enough(tmp_path: Path) -> None:
    e = expectation()
    for seed in range(3):
        (verdict,) = check(as_headline(seeds(tmp_path, [e], count=3)), [e])
        assert not verdict.holds and verdict.missing == 3 - seed
        write(place(tmp_path, e) / f"seed={seed}", {"nrc1": [0.5, 1e-9]})
    assert check(as_headline(seeds(tmp_path, [e], count=3)), [e])[0].holds


@pytest.mark.parametrize("status", ["running", "interrupted", "diverged"])
def test_red_when_a_run_is_not_finished(tmp_path: Path, status: str) -> None:
    e = expectation()
    write(place(tmp_path, e) / "seed=0", {"nrc1": [0.5, 1e-9]})
    assert check(as_headline(seeds(tmp_path, [e], count=1)), [e])[0].holds
    write(place(tmp_path, e) / "seed=1", {"nrc1": [0.5, 1e-9]}, status=status)
    assert not check(as_headline(seeds(tmp_path, [e])), [e])[0].holds


def test_red_when_undefined(tmp_path: Path) -> None:
    write(place(tmp_path, expectation()) / "seed=0", {"nrc1": [0.5, math.nan]})
    for bound in ("below", "above"):
        e = expectation(bound=bound)
        assert not check(as_headline(seeds(tmp_path, [e], count=1)), [e])[0].holds


def test_all_weight_decays_means_every_one_that_is_run(tmp_path: Path) -> None:
    """The claim that none collapses with all directions alive: a fall counts only where they are."""
    e = expectation(weight_decay="all", quantity="alive fall:nrc1", bound="below", value=20)
    folder = tmp_path / "prevalence_linear-quick/low_rank"
    ends = {0.0: (0.4, 0.9), 1e-3: (0.03, 0.9), 1e-2: (1e-5, 0.05), 2e-2: (math.nan, 0.3)}
    planned = [folder / f"wd={wd:g}" / "seed=0" for wd in ends]
    for run, (wd, (nrc1, rcond)) in zip(planned, ends.items(), strict=True):
        signal = 0.5 if math.isfinite(nrc1) else 1e-12  # the last one's features vanished
        series = {"nrc1": [0.5, nrc1], "weight_rcond": [0.9, rcond], "signal_share": [0.5, signal]}
        assert not check(as_headline(planned), [e])[0].holds, "a weight decay is missing"
        write(run, series, wd=wd)
    (verdict,) = check(as_headline(planned), [e])
    assert verdict.holds and verdict.values == pytest.approx([1.25, 0.5 / 0.03, 0, 0])
    assert "0 to 16.7 in 4 runs" in table([verdict])
    write(
        folder / "wd=0.005/seed=0", {"nrc1": [0.5, 0.02], "weight_rcond": [0.9, 0.2], "signal_share": [1, 1]}
    )
    assert not check(as_headline([*planned, folder / "wd=0.005/seed=0"]), [e])[0].holds
    write(
        folder / "wd=0.006/seed=0", {"nrc1": [0.5, 0.02]}
    )  # of an older version: not known to be dead or alive
    assert math.isnan(quantity(folder / "wd=0.006/seed=0", e.quantity))


# --- a real run, its metric broken on purpose


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    optim = Optim(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=200)
    model = MLP(num_layers=3, width=8, feature_activation="none")
    measure = Measure(log_spaced=0, evenly=1, layers="last")
    return RunSettings(LowRank(t=2, r=2, d=5, n=250), model, optim, Protocol(tau=2500.0), measure)


def trained(settings: RunSettings, outputs: Path) -> list[Verdict]:
    e = expectation()
    assert fit(settings, place(outputs, e) / "seed=0") == "finished"
    return check(as_headline(seeds(outputs, [e], count=1)), [e])


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
        assert kind in KINDS and name in [*METRICS, "budget"], e
        assert e.claim and e.experiment in EXPERIMENTS and math.isfinite(e.value)
        assert e.weight_decay in ("headline", "all") or float(e.weight_decay) >= 0
    sentences = {entry["claim"] for entry in yaml.safe_load(EXPECTED.read_text())}
    assert any("CPAL 2026" in s for s in sentences) and any("NeurIPS 2024" in s for s in sentences)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"belwo": 1.0}, "needs exactly one of below, above"),
        ({"below": 1.0, "above": 0.0}, "needs exactly one of below, above"),
        ({"below": 1.0, "tolerance": 3}, "unexpected keyword argument 'tolerance'"),
        ({"below": 1.0, "claim": None}, "missing"),
        (
            {"below": 1.0, "quantity": "fal:nrc1"},
            "quantity 'fal:nrc1' is none of budget, metric, fall:metric",
        ),
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
    clock = tmp_path / "tau_clock/reacher/protocol={}/wd=0.01/seed=0"
    run = Path(str(clock).format("quick"))
    write(run, {"nrc1": [0.8, 0.01, 0.02], "noise@fc2": [0.5, 0.3, 0.25], "nrc2": [0.1, math.nan, 0.2]})
    assert quantity(run, "nrc1") == 0.02
    assert quantity(run, "fall:nrc1") == pytest.approx(40)
    assert quantity(run, "least:nrc1") == 0.01  # the start does not count, what comes after it does
    assert quantity(run, "noise@fc2") == 0.25
    assert quantity(run, "budget") == pytest.approx(25)
    for absent in ("noise@fc7", "cka", "fall:cka", "least:cka", "least:nrc2", "quick/paper:nrc1"):
        assert math.isnan(quantity(run, absent)), absent
    write(Path(str(clock).format("paper")), {"nrc1": [0.8, 0.01, 0.2]})
    assert quantity(run, "quick/paper:nrc1") == pytest.approx(1)


# --- the script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("nrc.cli.check")
    monkeypatch.setattr(module, "verdict_changes", lambda *a: ([], 0))
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
    made = [
        SimpleNamespace(directory=run, settings=SimpleNamespace(role=as_headline([run])[run]))
        for run in seeds(outputs, read_expectations())
    ]
    monkeypatch.setattr(script.config, "sweep_members", lambda *a: made)
    monkeypatch.setattr(sys, "argv", ["check.py", "--outputs", str(outputs)])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == (0 if runs == "perfect" else 1)
    total = len(read_expectations())
    assert f"{total if runs == 'perfect' else 0} of {total} expectations hold" in capsys.readouterr().out


def test_the_script_judges_one_data_set_alone(
    script: ModuleType, perfect: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    made = [
        SimpleNamespace(directory=run, settings=SimpleNamespace(role=as_headline([run])[run]))
        for run in seeds(perfect, read_expectations())
    ]
    monkeypatch.setattr(script.config, "sweep_members", lambda e, data, *a: asked.append(data) or made)
    monkeypatch.setattr(sys, "argv", ["check.py", "--outputs", str(perfect), "--dataset", "swimmer"])
    with pytest.raises(SystemExit) as end:
        script.main()
    out = capsys.readouterr().out
    assert end.value.code == 0 and set(asked) == {"swimmer"} and "swimmer" in out and "hopper" not in out


@pytest.mark.parametrize("protocol", ["paper", "accelerated"])
def test_the_script_knows_the_quick_protocol_alone(
    script: ModuleType, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["check.py", "--protocol", protocol])
    with pytest.raises(UserError, match=f"not of the {protocol} one"):
        script.main()
