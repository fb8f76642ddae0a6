"""What the papers publish of a quantity, put beside ours: layer values of CPAL 2026, gammas, lengths of the runs."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from nrc.figures.reference import base, curve, published, recipe
from nrc.figures.sgemm import tolerance
from nrc.runs.read import Run

RECIPES = {  # experiment -> whose recipe it takes; low_rank's is not published
    "prevalence": "prevalence", "prevalence_linear": "prevalence", "images": "prevalence",
    "deep": "deep", "sgemm": "deep",
}  # fmt: skip
UFM_TAU = 39100.0  # 100,000 rows in batches of 256 for 10,000 epochs at a rate of 0.01
DIRECTIONS = {"low_rank": 3}  # measured by the paper with so many, where the targets have fewer
UNIT_VARIANCE = ("reacher", "swimmer", "hopper", "sgemm")  # published with standardised targets
FURTHER, AS_FAR, LESS = "further than published", "as far as published", "less far than published"


def published_tau(experiment: str, data: str) -> float:
    """tau of the published run of this experiment, NaN if it is not known."""
    if experiment == "ufm":
        return UFM_TAU
    paper = RECIPES.get(experiment)
    found = recipe(paper, data).get("tau") if paper else None
    return math.nan if found is None else float(found)


def by_layer(run: Run, metric: str) -> list[float]:
    """Published values of a metric, one for each layer of this run's network; [] if there are none."""
    rows = curve("deep_published", run.data, metric)
    values = rows[rows.layer > 0].drop_duplicates("layer").sort_values("layer").value.tolist()
    return values if len(values) == len(run.layers) else []


def line(run: Run, name: str) -> float:
    """A published number that belongs to no layer: model_mse, first_collapsed_layer; NaN if there is none."""
    rows = curve("deep_published", run.data, name)
    values = rows[rows.layer == 0].value
    return float(values.iloc[0]) if len(values) else math.nan


def deep_value(run: Run, metric: str) -> float:
    """Mean of the published values over the second half of the layers; NaN if there are none."""
    values = by_layer(run, metric)
    return float(np.mean(values[len(values) // 2 :])) if values else math.nan


def as_published(run: Run, metric: str) -> str:
    """Our metric that counts the directions as the paper does, if this run has it."""
    name = f"{metric}_r{DIRECTIONS.get(base(run.data), 0)}"
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
    return float(table.get(base(data), math.nan))
