"""The rules of the scorecard for where collapse begins (CPAL 2026): linear prediction, depth, need of weight decay.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

import numpy as np

from nrc.figures.layers import first_collapsed
from nrc.figures.reference import base
from nrc.metrics.depth import NOISE_MAX, R2_GAP_MAX, first_collapsed_layer
from nrc.report.deep_rules import TRUE_RANK
from nrc.report.findings import FAILS, HOLDS, UNTESTABLE, Case, Finding, View, beats, mean, number, word
from nrc.report.layers import (
    beside_published,
    deep_mean,
    deep_start,
    layer_by_layer,
    measured,
    span,
    verdict_on,
)
from nrc.report.literature import UNIT_VARIANCE, by_layer, deep_value, line, reach
from nrc.report.rules import CORRECTED, PAPER, RELEASED, START
from nrc.runs.read import Run


def _split(case: Case) -> str:
    """The held-out part where its layers were measured."""
    return "test" if all(measured(run, "linear_mse", "test") for run in case.main) else "train"


def predictability(case: Case) -> Finding:
    """Held-out, the best affine map's MSE exceeds the model's by at most 0.05 of the targets' variance, and half that at the start."""
    scale, split = case.target_variance, _split(case)

    def gap(run: Run, metric: str = "linear_mse", part: str = split, when: str = "end") -> float:
        value = deep_mean(run, metric, part) if when == "end" else deep_start(run, metric, part)
        return (value - run.last("mse", part)) / scale

    def judge(metric: str, part: str) -> tuple[list[float], list[float], str, str]:
        values = [gap(run, metric, part) for run in case.main]
        starts = [gap(run, metric, part, START) for run in case.main]
        return values, starts, *verdict_on(case, values, [starts], R2_GAP_MAX)

    values, starts, verdict, why = judge("linear_mse", split)
    train, before, found, _ = judge("linear_mse", "train")
    views = []
    if split == "test":
        note = "" if beats(train, before) else f"{START} it is {mean(before)}"
        views.append(View(PAPER, "on the train set", train, found, note))
    if measured(case.main[0], "linear_mse_uncentred"):
        without, _, bare, _ = judge("linear_mse_uncentred", "train")
        views.append(View(RELEASED, "train set, no intercept, small directions cut off", without, bare))
    views.append(
        View(CORRECTED, "held-out, affine, all directions" if split == "test" else "affine", values, verdict)
    )
    beside = {START: starts}
    theirs = _published_gap(case)
    beside |= beside_published(case, theirs, theirs <= R2_GAP_MAX, "train rows")
    beside |= {f"first layer, {case.main[0].layers[0]}": [_first_gap(case, run, split) for run in case.main]}
    beside |= case.controls(gap)
    model = number(case.main[0].last("mse", split))
    by = f"{layer_by_layer(case, 'linear_mse', split)}; model {model} ({'held-out' if split == 'test' else 'train'})"
    quantity = f"gap of the linear map, mean of {span(case)}"
    return Finding(
        quantity,
        values,
        beside,
        verdict,
        "; ".join(w for w in (why, by) if w),
        views,
        reach(train, theirs),  # as theirs was measured
    )


def _first_gap(case: Case, run: Run, split: str) -> float:
    return (run.last("linear_mse", split, run.layers[0]) - run.last("mse", split)) / case.target_variance


def _published_gap(case: Case) -> float:
    run = case.main[0]
    if base(run.data) not in UNIT_VARIANCE:
        return float("nan")
    return deep_value(run, "linear_mse") - line(run, "model_mse")


def collapsed_layers(run: Run, end: str = "", when: str = "end") -> int:
    """How many layers are collapsed, down to the output; arguments as for `first_collapsed`."""
    first = first_collapsed(run, end, when)
    return 0 if first is None else len(run.layers) - first + 1


def _published_depth(run: Run) -> float:
    """The same of the published layer values; NaN where one of them, or the targets' variance, is not known."""
    names = ("noise", "feature_weight_alignment", "linear_mse")
    columns = [by_layer(run, name) for name in names]
    if not all(columns) or base(run.data) not in UNIT_VARIANCE:
        return float("nan")
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    first = first_collapsed_layer(rows, line(run, "model_mse"), target_variance=1.0)
    return 0.0 if first is None else float(len(rows) - first + 1)


def depth(case: Case) -> Finding:
    """At least two layers are collapsed (noise at most 0.05, alignment at least 0.9, affine gap at most 0.05), at the start none."""
    found = [float(collapsed_layers(run)) for run in case.main]
    starts = [float(collapsed_layers(run, when="start")) for run in case.main]
    run = case.main[0]
    total = len(run.layers)
    beside = {START: starts}
    theirs = _published_depth(run)
    beside |= beside_published(case, theirs, theirs >= 2, "train rows")
    green = line(run, "first_collapsed_layer")
    beside |= {"published green line (no rule given)": [total - green + 1]} if np.isfinite(green) else {}
    beside |= case.controls(lambda other: float(collapsed_layers(other)))
    first = [total - int(d) + 1 for d in found if d]
    names = ", ".join(run.layers[k - 1] for k in first) or "none"
    verdict = case.word(all(d >= 2 for d in found)) if not any(starts) else FAILS
    why = f"of {total} layers; first collapsed: {names}" + ("" if verdict == HOLDS else f"; {case.clock}")
    views = []
    if measured(run, "noise_r1"):
        single = [float(collapsed_layers(other, "_r1")) for other in case.main]
        views = [
            View(PAPER, f"r = {case.target_rank}", found, verdict),
            View(TRUE_RANK, "r = 1", single, case.word(all(d >= 2 for d in single))),
        ]
    further = reach(found, theirs, lambda layers: -layers)
    return Finding("collapsed layers by our rule", found, beside, verdict, why, views, further)


def depth_needs_decay(case: Case) -> Finding:
    """Without weight decay no layer is collapsed, with it at least two are."""
    with_it = [float(collapsed_layers(run)) for run in case.main]
    without = [float(collapsed_layers(run)) for run in case.control]
    beside = {"with weight decay": with_it}
    if not without:
        return Finding("collapsed layers", [], beside, UNTESTABLE, "there is no run without weight decay")
    if min(with_it) < 2:
        why = f"with weight decay fewer than two layers collapse ({case.clock}): nothing to compare"
        return Finding("collapsed layers without weight decay", without, beside, UNTESTABLE, why)
    noise_without = [deep_mean(run, "noise") for run in case.control]
    why = f"{case.clock} against 0; noise without decay {number(max(noise_without))}"
    verdict = word(max(without) == 0)
    views = [
        View("noise, alignment and affine gap", "collapsed layers", without, verdict),
        View("noise alone", "noise of the deep layers", noise_without, word(min(noise_without) > NOISE_MAX)),
    ]
    return Finding("collapsed layers without weight decay", without, beside, verdict, why, views)
