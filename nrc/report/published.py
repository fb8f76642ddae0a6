"""What the papers publish of a quantity, put beside ours: layer values of CPAL 2026, gammas, lengths of the runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nrc.figures.reference import base, curve, published, recipe
from nrc.figures.sgemm import AT_LEAST, WITHIN, tolerance
from nrc.figures.style import pretty
from nrc.report.registry import Values, number
from nrc.runs.read import Run, Runs, runs_of

PAPERS = {"prevalence": "prevalence", "prevalence_linear": "prevalence", "images": "prevalence",
          "deep": "deep", "sgemm": "deep", "sgemm_decay": "deep"}  # experiment -> whose recipe it takes  # fmt: skip
UFM_TAU = 39100.0  # 100,000 rows in batches of 256 for 10,000 epochs at a rate of 0.01
DIRECTIONS = {"low_rank": 3}  # measured by the paper with so many, where the targets have fewer
UNIT_VARIANCE = ("reacher", "swimmer", "hopper", "sgemm")  # published with standardised targets
OWN_ROWS = ("sgemm",)  # the paper's own rows: only here is a deviation an error
FURTHER, AS_FAR, LESS = "further than published", "as far as published", "less far than published"


def published_tau(experiment: str, data: str) -> float:
    """tau of the published run of this experiment, NaN if it is not known."""
    if experiment == "ufm":
        return UFM_TAU
    paper = PAPERS.get(experiment)
    found = recipe(paper, data).get("tau") if paper else None
    return math.nan if found is None else float(found)


def published_gamma(data: str) -> float:
    """The printed minimum gamma / lambda_min of NeurIPS 2024, figure 4; NaN if there is none."""
    table = published("gamma_minima").set_index("dataset").gamma_over_lambda_min
    return float(table.get(base(data), math.nan))


def by_layer(run: Run, metric: str) -> Values:
    """Published values of a metric, one for each layer of this run's network; [] if there are none."""
    rows = curve("deep_published", run.data, metric)
    found = rows[rows.layer > 0].drop_duplicates("layer").sort_values("layer").value.tolist()
    return found if len(found) == len(run.layers) else []


def line(run: Run, name: str) -> float:
    """A published number that belongs to no layer: model_mse, first_collapsed_layer; NaN if there is none."""
    rows = curve("deep_published", run.data, name)
    found = rows[rows.layer == 0].value
    return float(found.iloc[0]) if len(found) else math.nan


def deep_value(run: Run, metric: str) -> float:
    """Mean of the published values over the second half of the layers; NaN if there are none."""
    found = by_layer(run, metric)
    return float(np.mean(found[len(found) // 2 :])) if found else math.nan


def as_published(run: Run, metric: str) -> str:
    """Our metric that counts the directions as the paper does, if this run has it."""
    name = f"{metric}_r{DIRECTIONS.get(run.dataset, 0)}"
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


@dataclass(frozen=True)
class Comparison:
    """One data set: layer names, and (metric, ours, published, within tolerance) for each.

    `own`: whether the rows are the paper's own; only then can a value be within tolerance.
    """

    title: str
    note: str
    own: bool
    layers: list[str]
    rows: list[tuple[str, list[str], list[str], list[bool]]]


def comparisons(runs: Runs) -> list[Comparison]:
    """One table per data set that has both published layer values and finished runs."""
    found = []
    for known in sorted(set(published("deep_published").dataset), key=lambda d: (d not in OWN_ROWS, d)):
        experiment = known if known in ("low_rank", "sgemm") else "deep"
        home = runs_of(runs, experiment)
        for data in home.of(experiment):
            main = home.headline(experiment, data) if base(data) == known else []
            found += [_compare(known, main)] if main else []
    return [c for c in found if c.rows]


def within_tolerance(metric: str, ours: float, theirs: float) -> bool:
    """Whether a value counts as reproduced; an error so small that any would pass does not."""
    return abs(ours - theirs) <= tolerance(theirs) and not (metric == "linear_mse" and theirs < AT_LEAST)


def _compare(data: str, runs: list[Run]) -> Comparison:
    run, own = runs[0], data in OWN_ROWS
    table = published("deep_published")
    table = table[(table.dataset == data) & (table.layer > 0)]
    rows = []
    for metric in dict.fromkeys(table.metric):
        theirs = table[table.metric == metric].drop_duplicates("layer").set_index("layer").value
        name = as_published(run, metric)
        ours = [float(np.mean([r.last(name, layer=layer) for r in runs])) for layer in run.layers]
        pairs = [(value, theirs.get(k, math.nan)) for k, value in enumerate(ours, start=1)]
        if any(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
            good = [own and within_tolerance(metric, a, b) for a, b in pairs]
            rows.append((metric, [number(a) for a, _ in pairs], [number(b) for _, b in pairs], good))
    note = "The same kind of data and recipe, but not the same rows: only the shape carries over."
    if own:
        note = f"The paper's own rows: within {WITHIN:.0%} or {AT_LEAST:g}, whichever is wider, is reproduced (✓)."
    if data in DIRECTIONS:
        note += f" The paper's noise and alignment are of {DIRECTIONS[data]} directions."
    title = f"{pretty(run.data, runs)}, λ = {run.weight_decay:g}, {run.protocol} protocol"
    return Comparison(title, note, own, run.layers, rows)
