"""What the rules for all layers share: means over the deep layers, and the verdict on one metric of them.

"Deep layers" are the second half of the measured layers, down to the output. Beside every value stand its nulls
("at the start", random directions), which must be twice as far from what is claimed, and what was published,
judged by the same bound.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nrc.figures.reference import base
from nrc.report.findings import FAILS, HOLDS, Case, Finding, View, beats, mean, number, plural, word
from nrc.report.literature import DIRECTIONS, as_published, deep_value, reach
from nrc.report.rules import CORRECTED, PAPER, START
from nrc.runs.read import Run

Distance = Callable[[float], float]
MANY = 12  # layers; more are not listed one by one


def from_one(value: float) -> float:
    return 1 - value


def deep_layers(run: Run) -> list[str]:
    """The second half of the measured layers."""
    return run.layers[len(run.layers) // 2 :]


def deep_mean(run: Run, metric: str, split: str = "train") -> float:
    """Mean of a metric over the deep layers at the end; NaN if it is undefined in one."""
    return float(np.mean([run.last(metric, split, name) for name in deep_layers(run)]))


def deep_start(run: Run, metric: str, split: str = "train") -> float:
    """The same at the start, over the layers where it was defined; NaN if in none."""
    values = [run.first(metric, split, name) for name in deep_layers(run)]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def measured(run: Run, metric: str, split: str = "train") -> bool:
    return any(len(run.series(metric, split, name)) for name in run.layers)


def span(case: Case) -> str:
    names = deep_layers(case.main[0])
    return f"{names[0]} to {names[-1]}"


def first_layer(run: Run, metric: str) -> float:
    return run.last(metric, layer=run.layers[0])


def layer_by_layer(case: Case, metric: str, split: str = "train") -> str:
    """The values of the first seed, or of many layers the span of the deep ones."""
    run = case.main[0]
    if len(run.layers) > MANY:
        deep = [run.last(metric, split, name) for name in deep_layers(run)]
        return f"deep layers from {number(float(np.nanmin(deep)))} to {number(float(np.nanmax(deep)))}"
    return "by layer: " + ", ".join(number(run.last(metric, split, name)) for name in run.layers)


def beside_published(case: Case, value: float, good: bool, how: str = "") -> dict[str, list[float]]:
    """The published value, how it was measured, and what the bound says of it; {} when nothing was published."""
    if not np.isfinite(value):
        return {}
    run = case.main[0]
    directions = DIRECTIONS.get(base(run.data))
    details = [
        "other data" if run.kind != "paper" else "",
        f"{directions} directions" if directions else "",
        how,
    ]
    where = f" ({', '.join(filter(None, details))})" if any(details) else ""
    return {f"published{where}, by this bound: {word(good)}": [value]}


def verdict_on(
    case: Case, values: Sequence[float], nulls: Sequence[Sequence[float]], limit: float
) -> tuple[str, str]:
    """The verdict on distances from what is claimed, and why if it is not that they hold."""
    if not all(v <= limit for v in values):  # written so that NaN fails
        return case.word(False), case.clock
    if beats(values, *nulls):
        return HOLDS, ""
    # time does not help where an untrained network does as well
    rivals = [null for null in nulls if np.isfinite(null).any() and not beats(values, null)]
    return (
        FAILS,
        f"within the bound, but so near it is a null as well: {mean(rivals[0])} from what is claimed",
    )


def judge_layers(
    case: Case,
    metric: str,
    words: str,
    limit: float,
    distance: Distance = float,
    null: str | None = None,
    views: Sequence[tuple[str, str, str]] = (),
) -> Finding:
    """Judge the deep mean of one metric by its distance from what is claimed.

    Args:
        words: the metric in words.
        limit: of the distance.
        null: the metric of its random null, if it has one.
        views: name, quantity and metric of other ways of measuring.
    """
    main = case.main
    values = [deep_mean(run, metric) for run in main]
    starts = [deep_start(run, metric) for run in main]
    nulls = {START: starts} | ({"random null": [deep_mean(run, null) for run in main]} if null else {})
    theirs = deep_value(main[0], metric)
    beside = nulls | beside_published(case, theirs, distance(theirs) <= limit)
    beside |= {f"first layer, {main[0].layers[0]}": [first_layer(run, metric) for run in main]}
    beside |= case.controls(lambda run: deep_mean(run, metric))
    judged = []
    for name, quantity, key in views:
        if not all(measured(run, key) for run in main):
            judged.append(View(name, quantity, [], "", "not measured"))
            continue
        these, before = [deep_mean(run, key) for run in main], [deep_start(run, key) for run in main]
        distances, rivals = [distance(v) for v in these], [distance(v) for v in before]
        found, _ = verdict_on(case, distances, [rivals], limit)
        note = "" if np.isfinite(these).all() else "undefined in one of the layers"
        if all(v <= limit for v in distances) and found != HOLDS:
            note = f"{START} it is {mean(before)}"
        judged.append(View(name, quantity, these, found, note))
    verdict, why = verdict_on(
        case, [distance(v) for v in values], [[distance(v) for v in null] for null in nulls.values()], limit
    )
    like_theirs = [deep_mean(run, as_published(run, metric)) for run in main]
    return Finding(
        f"{words}, mean of {span(case)}",
        values,
        beside,
        verdict,
        "; ".join(part for part in (why, layer_by_layer(case, metric)) if part),
        judged,
        reach(like_theirs, theirs, distance),
    )


def directions_views(case: Case, metric: str, words: str) -> list[tuple[str, str, str]]:
    """The paper's view of a metric that counts directions, and ours where they differ."""
    run = case.main[0]
    theirs = DIRECTIONS.get(base(run.data))
    if theirs is None:
        return [(PAPER, f"{words}, {plural(case.n, 'direction')}", metric)]
    return [
        (PAPER, f"{words}, {theirs} directions", f"{metric}_r{theirs}"),
        (CORRECTED, f"{words}, r = {case.target_rank}", metric),
    ]
