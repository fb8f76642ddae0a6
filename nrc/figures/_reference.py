"""Published curves, kept as small files in `nrc/reference`: facts to draw beside our own, thin and grey."""

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from nrc.figures._style import describe_model, number, whole
from nrc.runs.read import Run

SCALES = {"none": "as recorded", "minmax": "in [0, 1]", "standard": "of deviation 1"}


@cache
def published(name: str) -> pd.DataFrame:
    """One of prevalence_published, deep_published, gamma_minima; its first comment lines name the source."""
    with (files("nrc") / "reference" / f"{name}.csv").open() as handle:
        return pd.read_csv(handle, comment="#")


def base(data: str) -> str:
    """The set's own name; one that was read from a file has the file's name after a dash."""
    return data.partition("-")[0]


def curve(name: str, data: str, metric: str) -> pd.DataFrame:
    """Rows of one published curve; empty when there is none."""
    table = published(name)
    return table[(table["dataset"] == base(data)) & (table["metric"] == metric)]


def on_which_data(runs: Sequence[Run]) -> str:
    """Whether published numbers are of the data of these runs, in words that follow "on" or "for"."""
    same = {run.kind == "paper" for run in runs}
    if same == {False}:
        return "the paper's data, not ours"
    return "the same data" if same == {True} else "the paper's data, which only some of ours are"


def published_sets(name: str = "deep_published") -> set[str]:
    """Data sets that have published curves in this file."""
    return set(published(name)["dataset"])


def recipe(paper: str, data: str) -> dict[str, Any]:
    """How a paper, "deep" or "prevalence", made the curves of a data set; {} when it has none."""
    return _recipes()[paper].get(base(data), {})


@cache
def _recipes() -> dict[str, Any]:
    return yaml.safe_load((files("nrc") / "reference" / "published_recipes.yaml").read_text())


def same_units(run: Run, paper: str) -> bool:
    """Whether the errors of a run can be drawn beside the published ones: equally scaled targets."""
    ours, theirs = _scale(run), recipe(paper, run.data).get("targets")
    return ours is None or ours == theirs


def same_layers(run: Run) -> bool:
    """Whether the layers of a run are those of the published layer-wise curves: equal depth."""
    there = recipe("deep", run.data).get("network", "")
    return there.split(",")[0] == describe_model(run, features=False).split(",")[0]


def _scale(run: Run) -> str | None:
    """How the targets of a run were scaled; None when that was not recorded."""
    data = run.config.get("data")
    if not data:
        return None
    # the tables' setting for both sides
    return data.get("scale_targets") or ("standard" if data.get("standardize") == "xy" else "none")


def differences(run: Run, paper: str) -> str:
    """What is not as published, there / here: "tau 1,297 / 650, other rows". A longer tau is a later moment.

    Args:
        run: one of those drawn.
        paper: "deep" or "prevalence".
    """
    there = recipe(paper, run.data)
    parts = [
        _pair("", there.get("network"), describe_model(run, features=False)),
        _pair("weight decay ", there.get("weight_decay"), run.weight_decay),
        _pair("tau ", there.get("tau"), run.tau),
        _pair("train rows ", there.get("rows"), run.rows),
        _pair("images ", _size(there.get("size")), _size(run.image_size)),
        _pair("targets ", SCALES.get(there.get("targets", "")), SCALES.get(_scale(run) or "")),
    ]
    own = "drawn images instead of real ones" if run.kind == "stand-in" else "other rows"
    return ", ".join([*(part for part in parts if part), *([] if run.kind == "paper" else [own])])


def _pair(name: str, there: Any, here: Any) -> str:
    if there is None or here is None:
        return ""
    if isinstance(there, str):
        return f"{name}{there} / {here}" if there != here else ""
    if math.isclose(there, here, rel_tol=0.05):
        return ""
    shown = (whole if name != "weight decay " else number)  # fmt: skip
    return f"{name}{shown(there)} / {shown(here)}"


def _size(sides: Sequence[int] | None) -> str | None:
    return " x ".join(map(str, sides)) if sides else None
