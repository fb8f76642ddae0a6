"""Published curves, kept as small files in `nrc/reference`: facts to draw beside our own, thin and grey."""

from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from nrc.figures.style import describe_model
from nrc.runs.read import Run


@cache
def published(name: str) -> pd.DataFrame:
    """One of prevalence_published, deep_published, gamma_minima; its first comment lines name the source."""
    with (files("nrc") / "reference" / f"{name}.csv").open(encoding="utf-8") as handle:
        return pd.read_csv(handle, comment="#")


def base(data: str) -> str:
    """The set's own name; one that was read from a file has the file's name after a dash."""
    return data.partition("-")[0]


def curve(name: str, data: str, metric: str) -> pd.DataFrame:
    """Rows of one published curve; empty when there is none."""
    table = published(name)
    return table[(table["dataset"] == base(data)) & (table["metric"] == metric)]


def recipe(paper: str, data: str) -> dict[str, Any]:
    """How a paper, "deep" or "prevalence", made the curves of a data set; {} when it has none."""
    return _recipes()[paper].get(base(data), {})


@cache
def _recipes() -> dict[str, Any]:
    return yaml.safe_load((files("nrc") / "reference" / "published_recipes.yaml").read_text(encoding="utf-8"))


def same_units(run: Run, paper: str) -> bool:
    """Whether the errors of a run can be drawn beside the published ones: equally scaled targets."""
    data = run.config.get("data")
    if not data:
        return True  # how the targets were scaled was not recorded
    # the tables' setting is for both sides
    ours = data.get("scale_targets") or ("standard" if data.get("standardize") == "xy" else "none")
    return ours == recipe(paper, run.data).get("targets")


def same_layers(run: Run) -> bool:
    """Whether the layers of a run are those of the published layer-wise curves: equal depth."""
    there = recipe("deep", run.data).get("network", "")
    return there.split(",")[0] == describe_model(run, features=False).split(",")[0]
