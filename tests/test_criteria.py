"""The rules that figures, report and checks share, against values worked out by hand; the tidy frame of runs."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_figures import STEPS, write_run

from nrc import criteria
from nrc.runs import Runs, frame


def test_geometric_mean() -> None:
    assert criteria.geometric_mean([1e-2, 1e-4, 1e-6]) == pytest.approx(1e-4)
    assert criteria.geometric_mean([0.0, 1e-13]) == pytest.approx(
        math.sqrt(1e-17 * 1e-13)
    )  # 0 is taken for the floor
    assert math.isnan(criteria.geometric_mean([1.0, math.nan])) and math.isnan(criteria.geometric_mean([]))
    table = np.array([[4.0, math.nan], [9.0, 2.0], [math.nan, math.nan]])
    found = criteria.geometric_mean(table, axis=1, skip_undefined=True)
    assert found[:2] == pytest.approx([4.0, math.sqrt(18)]) and math.isnan(found[2])


@pytest.mark.parametrize(
    ("starts", "ends", "expected"),
    [
        ([0.8], [0.04], True),
        ([0.8], [0.05], False),
        ([0.3], [0.031], False),  # small, but not a tenth of the start
        ([0.8, 0.8], [0.01, 0.2], False),
        ([0.8], [math.nan], False),
        ([], [], False),
    ],
)
def test_collapsed(starts: list[float], ends: list[float], expected: bool) -> None:
    assert criteria.collapsed(starts, ends) is expected


def test_not_yet_has_one_threshold() -> None:
    assert criteria.not_yet(np.nextafter(criteria.ENOUGH_BUDGET, 0)) and not criteria.not_yet(
        criteria.ENOUGH_BUDGET
    )
    assert math.exp(-criteria.ENOUGH_BUDGET) < 1e-8


class Falling:
    def __init__(self, values: object, taus: object) -> None:
        self.values = pd.Series(values, taus, dtype=float)

    def series(self, metric: str) -> pd.Series:
        return self.values


def test_still_falling() -> None:
    taus = np.linspace(0, 10, 11)
    assert criteria.still_falling(Falling(1 / (1 + taus), taus), "nrc1")
    assert not criteria.still_falling(Falling(np.exp(-10 * taus).clip(1e-9), taus), "nrc1")
    assert not criteria.still_falling(Falling([], []), "nrc1")
    assert not criteria.still_falling(Falling([1.0, 0.1], [0.0, 10.0]), "nrc1")  # nothing up to the half


def test_directions_alive() -> None:
    assert criteria.directions_alive([3.0, 0.31, 0.29], r2=0.5) == 2
    assert criteria.directions_alive([3.0, 3.0], r2=1e-4) == 0


def test_frame_has_one_row_for_each_measurement_with_the_facts_of_its_run(tmp_path: Path) -> None:
    write_run(tmp_path, "prevalence-quick", "reacher", 0.05, seed=1)
    write_run(tmp_path, "prevalence-quick", "utkface-faces", 0.0, kind="real")
    write_run(tmp_path, "prevalence-paper", "reacher", 0.05, protocol="paper")
    write_run(tmp_path, "sweep-quick", "reacher", 0.1, role="sweep")
    rows = frame(tmp_path)
    assert set(rows.experiment) == {"prevalence", "sweep"} and set(rows.protocol) == {"quick", "paper"}
    rows = frame(tmp_path, "quick", "prevalence")
    nrc1 = rows[(rows.metric == "nrc1") & (rows.data == "reacher")]
    assert nrc1.tau.tolist() == list(STEPS) and set(nrc1.role) == {"headline"} and set(nrc1.seed) == {1}
    (run,) = Runs(tmp_path).headline("prevalence", "reacher")
    assert nrc1.value.tolist() == run.series("nrc1").tolist()
    faces = rows[rows.data == "utkface-faces"]
    assert (
        set(faces.dataset) == {"utkface"} and set(faces.role) == {"control"} and set(faces.kind) == {"real"}
    )
    assert frame(tmp_path / "none").empty
