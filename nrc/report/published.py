"""Ours against published, layer by layer, as tables."""

import math
from dataclasses import dataclass

import numpy as np

from nrc.figures.reference import base, published, published_sets
from nrc.figures.sgemm import AT_LEAST, WITHIN, tolerance
from nrc.report.findings import number
from nrc.report.literature import DIRECTIONS, as_published
from nrc.report.scorecard import title
from nrc.runs.read import Run, Runs, runs_of

EXPERIMENTS = {"low_rank": "low_rank", "sgemm": "sgemm"}  # the rest belong to `deep`
OWN_DATA = ("sgemm",)  # the papers' own rows: only here is a deviation an error


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
    for known in sorted(published_sets(), key=lambda d: (d not in OWN_DATA, d)):
        experiment = EXPERIMENTS.get(known, "deep")
        home = runs_of(runs, experiment)
        for data in home.of(experiment):
            main = home.headline(experiment, data) if base(data) == known else []
            if main:
                found.append(_compare(known, main))
    return [c for c in found if c.rows]


def _within(metric: str, ours: float, theirs: float) -> bool:
    """Whether a value counts as reproduced; an error so small that any would pass does not."""
    return abs(ours - theirs) <= tolerance(theirs) and not (metric == "linear_mse" and theirs < AT_LEAST)


def _compare(data: str, runs: list[Run]) -> Comparison:
    run = runs[0]
    table = published("deep_published")
    table = table[(table.dataset == data) & (table.layer > 0)]
    rows = []
    for metric in dict.fromkeys(table.metric):
        theirs = table[table.metric == metric].set_index("layer").value
        theirs = theirs[~theirs.index.duplicated()]
        name = as_published(run, metric)
        ours = [float(np.mean([r.last(name, layer=layer) for r in runs])) for layer in run.layers]
        pairs = [(value, theirs.get(k, math.nan)) for k, value in enumerate(ours, start=1)]
        if any(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
            within = [data in OWN_DATA and _within(metric, a, b) for a, b in pairs]
            rows.append((metric, [number(a) for a, _ in pairs], [number(b) for _, b in pairs], within))
    if data in OWN_DATA:
        note = (
            f"The same rows as the paper's; within {WITHIN:.0%} or {AT_LEAST:g}, whichever is wider, counts as "
            f"reproduced (✓). Errors below {AT_LEAST:g} bear no mark: any would pass."
        )
    else:
        note = "The same kind of data and recipe, but not the same rows: only the shape carries over."
    if data in DIRECTIONS:
        alike = as_published(run, "noise") != "noise"
        ours_too = "and so are ours" if alike else "ours with as many as the targets have"
        note += f" The paper's noise and alignment are of {DIRECTIONS[data]} directions, {ours_too}."
    return Comparison(
        f"{title(run.data, runs)}, λ = {run.weight_decay:g}, {run.protocol} protocol",
        note,
        data in OWN_DATA,
        run.layers,
        rows,
    )
