"""The SGEMM figures and their table, from run directories that the tests write; and `measure.ranks`."""

from pathlib import Path

import pandas as pd
import pytest
from run_tools import data_facts, purpose

from nrc.data import LowRank
from nrc.errors import UserError
from nrc.figures import Drawing, Runs, draw, figures
from nrc.figures.reference import curve
from nrc.figures.sgemm import TABLE, compare, tolerance
from nrc.models import MLP
from nrc.runs.directory import RunDirectory, read_run
from nrc.training import Measure, Optim, Protocol, RunSettings, fit

METRICS = [panel.metric for panel in TABLE]
EXTRA = (
    "cka_null",
    "feature_weight_alignment_null",
    "feature_weight_alignment_null_r1",
    "stable_rank_weights",
)


def write_run(
    outputs: Path,
    experiment: str,
    wd: float,
    changed: dict[tuple[str, int], float] | None = None,
    protocol: str = "quick",
) -> None:
    """A finished run that measures exactly what was published, but for what is `changed`."""
    path = outputs / f"{experiment}-{protocol}" / "sgemm" / f"wd={wd:g}" / "seed=0"
    identity = {
        "data": {"name": "sgemm", "sha256": "0" * 64},
        "model": {"kind": "MLP", "num_layers": 8, "width": 512, "bias": False},
        "optim": {"weight_decay": wd},
        "protocol": {"name": protocol},
        "seed": 0,
    }
    run = RunDirectory.open(path, identity)
    role = "control" if wd == 0 else ("headline" if wd == 1e-3 else "sweep")
    run.start(
        {}, {}, data_facts("sgemm", "paper", 1), purpose(path.parts[-4], "sgemm", wd, protocol, role=role)
    )
    rows = [(1.0, 1, 10.0, "train", "model", "mse", 0.0015)]
    for metric in METRICS:
        for row in curve("deep_published", "sgemm", metric).itertuples():
            value = (changed or {}).get((metric, row.layer), row.value)
            rows.append((1.0, 1, 10.0, "train", f"fc{row.layer}", metric, value))
    rows += [(1.0, 1, 10.0, "train", f"fc{k}", name, 0.5) for name in EXTRA for k in range(1, 9)]
    rows.append((1.0, 1, 10.0, "train", "fc8", "nrc1", 0.1))
    run.append(rows)
    run.end("finished", "done", steps=1, tau=10.0, seconds=1.0, undefined={})


def drawn(name: str, outputs: Path) -> Drawing:
    (drawing,) = figures()[name].drawings(Runs(outputs))
    return drawing


def test_tolerance_is_the_wider_of_the_two() -> None:
    assert tolerance(0.1) == 0.05 and tolerance(1.0) == 0.15 and tolerance(0.0) == 0.05


def test_table_says_within_for_the_published_values_and_not_for_others(tmp_path: Path) -> None:
    write_run(tmp_path, "sgemm", 1e-3, {("cka", 3): 0.417 - 0.063, ("noise", 4): 0.059, ("cka", 7): 0.5})
    run = Runs(tmp_path).of("sgemm")["sgemm"]
    table = compare(run)
    assert len(table) == 8 * len(METRICS) and int(table["asked"].sum()) == 5 * len(METRICS)
    wrong = table[~table["within"]]
    assert set(zip(wrong["metric"], wrong["layer"], strict=True)) == {("cka", 3), ("cka", 7)}


def test_figures_and_table_are_written(tmp_path: Path) -> None:
    write_run(tmp_path, "sgemm", 1e-3, {("linear_mse", 2): 0.3})
    files = {path.name for path, _ in draw("sgemm", Runs(tmp_path))}
    assert files == {"sgemm.png", "sgemm.pdf", "sgemm.csv", "sgemm_table.csv"}
    assert len(pd.read_csv(tmp_path / "figures" / "sgemm_table.csv")) == 8 * len(METRICS)


def test_what_is_drawn_is_what_was_measured(tmp_path: Path) -> None:
    write_run(tmp_path, "sgemm", 1e-3, {("noise_r1", 2): 0.77})
    for wd in (0.0, 1e-4, 1e-3):
        write_run(tmp_path, "sgemm_decay", wd)
    main, decay = drawn("sgemm", tmp_path), drawn("sgemm_decay", tmp_path)
    table = main.table[(main.table["metric"] == "noise_r1") & (main.table["layer"] == 2)]
    assert table.set_index("series")["value"].to_dict() == {"headline": 0.77, "published": 0.8647}
    assert set(decay.table["weight_decay"]) == {0.0, 1e-4, 1e-3}


def test_whatever_protocol_was_run_is_drawn_and_named(tmp_path: Path) -> None:
    """Too long for the quick protocol: without such runs those of another are taken, and the figure says so."""
    for wd in (0.0, 1e-3):
        write_run(tmp_path, "sgemm_decay", wd, protocol="accelerated")
    write_run(tmp_path, "sgemm", 1e-3, protocol="accelerated")
    for name in ("sgemm", "sgemm_decay"):
        assert drawn(name, tmp_path).figure.texts[-1].get_text().startswith("accelerated protocol")
    write_run(tmp_path, "sgemm", 1e-3)
    assert "quick protocol" in drawn("sgemm", tmp_path).figure._suptitle.get_text()  # type: ignore[attr-defined]


def test_nothing_to_draw_without_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert figures()["sgemm"].drawings(runs) == figures()["sgemm_decay"].drawings(runs) == []


def fitted(place: Path, ranks: list[int]) -> RunSettings:
    settings = RunSettings(
        LowRank(t=3, r=3, d=6, n=60, min_ratio=0.01), MLP(num_layers=3, width=8), Optim(lr=0.05), Protocol(epochs=1),
        Measure(log_spaced=0, evenly=0, ranks=ranks),
    )  # fmt: skip
    fit(settings, place)
    return settings


def test_ranks_add_rows_for_other_numbers_of_directions(tmp_path: Path) -> None:
    fitted(tmp_path, [1])
    table = read_run(tmp_path)[1]
    last = table[(table["step"] == table["step"].max()) & (table["split"] == "train")]
    for _, rows in last[last["layer"] != "model"].groupby("layer"):
        value = rows.set_index("metric")["value"]
        assert value["noise_r1"] == pytest.approx(1 - value["evr_1"], abs=1e-12)
        assert value["noise_r1"] > value["noise"] and value["feature_weight_alignment_k_r1"] == 1


def test_ranks_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"measure\.ranks is \[4\], but there are 3 targets"):
        fitted(tmp_path, [4])
    with pytest.raises(UserError, match=r"measure\.ranks is \[0\]"):
        Measure(ranks=[0])
