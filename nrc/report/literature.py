"""What the papers publish of a quantity, put beside ours: layer values of CPAL 2026, gammas, lengths of the runs."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from nrc.figures._load import Run
from nrc.figures._reference import published
from nrc.figures.sgemm_table import tolerance

RECIPES = {  # experiment -> whose recipe it takes; low_rank's is not published
    "prevalence": "prevalence", "prevalence_linear": "prevalence", "images": "prevalence",
    "deep": "deep", "sgemm": "deep",
}  # fmt: skip
UFM_TAU = 39100.0  # 100,000 rows in batches of 256 for 10,000 epochs at a rate of 0.01
DIRECTIONS = {"low_rank": 3}  # measured by the paper with so many, where the targets have fewer
UNIT_VARIANCE = ("reacher", "swimmer", "hopper", "sgemm")  # published with standardised targets
FURTHER, AS_FAR, LESS = "further than published", "as far as published", "less far than published"


def environment(data: str) -> str:
    """Name of a data set without where it was read from, which follows a dash."""
    return data.partition("-")[0]


@cache
def _recipes() -> dict[str, Any]:
    return yaml.safe_load((files("nrc") / "reference" / "published_recipes.yaml").read_text())


def published_tau(experiment: str, data: str) -> float:
    """tau of the published run of this experiment, NaN if it is not known."""
    if experiment == "ufm":
        return UFM_TAU
    found = _recipes().get(RECIPES.get(experiment, ""), {}).get(environment(data), {}).get("tau")
    return math.nan if found is None else float(found)


def by_layer(run: Run, metric: str) -> list[float]:
    """Published values of a metric, one for each layer of this run's network; [] if there are none."""
    table = published("deep_published")
    rows = table[(table.dataset == environment(run.data)) & (table.metric == metric) & (table.layer > 0)]
    values = rows.drop_duplicates("layer").sort_values("layer").value.tolist()
    return values if len(values) == len(run.layers) else []


def line(run: Run, name: str) -> float:
    """A published number that belongs to no layer: model_mse, first_collapsed_layer; NaN if there is none."""
    table = published("deep_published")
    rows = table[(table.dataset == environment(run.data)) & (table.metric == name) & (table.layer == 0)]
    return float(rows.value.iloc[0]) if len(rows) else math.nan


def deep_value(run: Run, metric: str) -> float:
    """Mean of the published values over the second half of the layers; NaN if there are none."""
    values = by_layer(run, metric)
    return float(np.mean(values[len(values) // 2 :])) if values else math.nan


def as_published(run: Run, metric: str) -> str:
    """Our metric that counts the directions as the paper does, if this run has it."""
    name = f"{metric}_r{DIRECTIONS.get(environment(run.data), 0)}"
    return name if any(len(run.series(name, layer=layer)) for layer in run.layers) else metric


def reach(ours: Sequence[float], theirs: float, distance: Callable[[float], float] = float) -> str:
    """How far ours goes beside theirs; within 15 % or 0.05, whichever is wider, is as far. "" without theirs.

    Args:
        ours: one value per seed.
        theirs: the published value.
        distance: of a value from what is claimed.

    Example:
        >>> reach([0.01, 0.02], 0.3), reach([0.28], 0.3), reach([0.6], 0.3)
        ('further than published', 'as far as published', 'less far than published')
    """
    if math.isnan(theirs):
        return ""
    gain = distance(theirs) - distance(float(np.mean(ours)))
    return AS_FAR if abs(gain) <= tolerance(theirs) else (FURTHER if gain > 0 else LESS)


def published_gamma(data: str) -> float:
    """The printed minimum gamma / lambda_min of NeurIPS 2024, figure 4; NaN if there is none."""
    table = published("gamma_minima").set_index("dataset").gamma_over_lambda_min
    return float(table.get(environment(data), math.nan))
