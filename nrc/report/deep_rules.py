"""The rules of the scorecard for all layers (CPAL 2026); "deep layers" are the second half, down to the output.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

from collections.abc import Callable

import numpy as np

from nrc.figures._layers import target_stable_rank
from nrc.figures._load import Run
from nrc.metrics.depth import ALIGNMENT_MIN, NOISE_MAX, R2_GAP_MAX, first_collapsed_layer
from nrc.report.findings import UNTESTABLE, Case, Finding, View, number, word
from nrc.report.rules import CORRECTED, PAPER, RELEASED

CKA_MIN = 0.9
STABLE_RANK_BAND = 1.5  # factor within which two stable ranks count as equal
POSTER = "as on the poster"
TRUE_RANK = "for nearly collinear targets"


def deep_layers(run: Run) -> list[str]:
    """The second half of the measured layers."""
    return run.layers[len(run.layers) // 2 :]


def deep_mean(run: Run, metric: str) -> float:
    """Mean of a metric over the deep layers; NaN if it is undefined in one."""
    return float(np.mean([run.last(metric, layer=name) for name in deep_layers(run)]))


def _measured(run: Run, metric: str) -> bool:
    return any(len(run.series(metric, layer=name)) for name in run.layers)


def _span(case: Case) -> str:
    names = deep_layers(case.main[0])
    return f"{names[0]} to {names[-1]}"


def _one(
    case: Case,
    metric: str,
    words: str,
    good: Callable[[float], bool],
    null: str | None = None,
    views: list[tuple[str, str, str]] | None = None,
    why: str = "",
) -> Finding:
    values = [deep_mean(run, metric) for run in case.main]
    beside = {"random null": [deep_mean(run, null) for run in case.main]} if null else {}
    beside |= {f"first layer, {case.main[0].layers[0]}": [_first(run, metric) for run in case.main]}
    beside |= case.controls(lambda run: deep_mean(run, metric))
    judged = []
    for name, quantity, key in views or []:
        these = [deep_mean(run, key) for run in case.main]
        if not any(_measured(run, key) for run in case.main):
            judged.append(View(name, quantity, [], "", "not measured"))
            continue
        note = "" if np.isfinite(these).all() else "undefined in one of the layers"
        judged.append(View(name, quantity, these, word(all(good(v) for v in these)), note))
    verdict = word(all(good(v) for v in values))
    return Finding(
        f"{words}, mean of {_span(case)}", values, beside, verdict, why or _by_layer(case, metric), judged
    )


def _first(run: Run, metric: str) -> float:
    return run.last(metric, layer=run.layers[0])


def _by_layer(case: Case, metric: str) -> str:
    run = case.main[0]
    return "by layer: " + ", ".join(number(run.last(metric, layer=name)) for name in run.layers)


def noise(case: Case) -> Finding:
    """The share of variance outside the first r directions is at most 0.05 on average over the deep layers."""
    found = _one(case, "noise", "noise", lambda v: v <= NOISE_MAX)
    absolute = [deep_mean(run, "noise_abs") for run in case.main if _measured(run, "noise_abs")]
    views = [
        View(PAPER, "fraction of the variance", found.measured, found.verdict),
        View(POSTER, "absolute, in units of h^2", absolute, "", "has a unit: no bound fits all networks"),
    ]
    return Finding(found.quantity, found.measured, found.beside, found.verdict, found.why, views)


def alignment(case: Case) -> Finding:
    """The mean cosine between the weight's and the features' main directions is at least 0.9 over the deep layers."""
    views = [
        (PAPER, "as many directions as targets vary in", "feature_weight_alignment"),
        (TRUE_RANK, "r = 1", "feature_weight_alignment_r1"),
    ]
    return _one(
        case,
        "feature_weight_alignment",
        "alignment",
        lambda v: v >= ALIGNMENT_MIN,
        "feature_weight_alignment_null",
        views if _measured(case.main[0], "feature_weight_alignment_r1") else None,
    )


def low_rank_weights(case: Case) -> Finding:
    """The stable rank of the deep layers' weights is at most 2r on average (ReLU without biases needs up to 2r)."""
    bound = 2 * case.target_rank
    found = _one(case, "stable_rank_weights", "stable rank of W", lambda v: v <= bound)
    why = f"r = {case.target_rank} of t = {case.n} target directions; {found.why}"
    return Finding(found.quantity, found.measured, found.beside, found.verdict, why)


def target_alignment(case: Case) -> Finding:
    """Linear CKA between features and targets is at least 0.9 on average over the deep layers."""
    views = [
        (PAPER, "CKA of all features", "cka"),
        (RELEASED, "CKA of the first t features alone", "cka_first_columns"),
        (CORRECTED, "feature-side covariance alignment", "feature_target_alignment_features"),
    ]
    found = _one(case, "cka", "CKA", lambda v: v >= CKA_MIN, "cka_null", views)
    if not _measured(case.main[0], "feature_target_alignment"):
        return found
    side = [deep_mean(run, "feature_target_alignment") for run in case.main]
    null = float(np.mean([deep_mean(run, "feature_target_alignment_null") for run in case.main]))
    vacuous = null >= CKA_MIN
    note = f"its permutation null is {number(null)}" + (": it is high for any features" if vacuous else "")
    poster = View(
        POSTER, "target-side covariance alignment", side, "" if vacuous else word(min(side) >= CKA_MIN), note
    )
    judged = [*found.views, poster]
    return Finding(found.quantity, found.measured, found.beside, found.verdict, found.why, judged)


def predictability(case: Case) -> Finding:
    """The best affine map's MSE exceeds the model's by at most 0.05 of the targets' variance over the deep layers."""
    scale = case.target_variance

    def gap(run: Run, metric: str = "linear_mse") -> float:
        return (deep_mean(run, metric) - run.last("mse")) / scale

    def first(run: Run) -> float:
        return (_first(run, "linear_mse") - run.last("mse")) / scale

    values = [gap(run) for run in case.main]
    verdict = word(all(v <= R2_GAP_MAX for v in values))
    views = [View(CORRECTED, "affine, all directions", values, verdict)]
    if _measured(case.main[0], "linear_mse_uncentred"):
        without = [gap(run, "linear_mse_uncentred") for run in case.main]
        released = word(all(v <= R2_GAP_MAX for v in without))
        views.insert(0, View(RELEASED, "no intercept, small directions cut off", without, released))
    beside = {f"first layer, {case.main[0].layers[0]}": [first(run) for run in case.main]} | case.controls(
        gap
    )
    why = _by_layer(case, "linear_mse") + f"; model {number(case.main[0].last('mse'))}"
    return Finding(f"gap of the linear map, mean of {_span(case)}", values, beside, verdict, why, views)


def _depth(run: Run, variance: float, end: str = "") -> int:
    names = {"noise": end, "feature_weight_alignment": end, "linear_mse": ""}
    rows = [{name: run.last(name + e, layer=layer) for name, e in names.items()} for layer in run.layers]
    first = first_collapsed_layer(rows, run.last("mse"), variance)
    return 0 if first is None else len(rows) - first + 1


def depth(case: Case) -> Finding:
    """At least two layers are collapsed: noise at most 0.05, alignment at least 0.9, affine gap at most 0.05."""
    found = [_depth(run, case.target_variance) for run in case.main]
    beside = case.controls(lambda run: float(_depth(run, case.target_variance)))
    total = len(case.main[0].layers)
    first = [total - d + 1 for d in found if d]
    why = f"of {total} layers; first collapsed: " + (
        ", ".join(case.main[0].layers[k - 1] for k in first) or "none"
    )
    verdict = word(all(d >= 2 for d in found))
    views = []
    if _measured(case.main[0], "noise_r1"):
        single = [float(_depth(run, case.target_variance, "_r1")) for run in case.main]
        views = [
            View(PAPER, f"r = {case.target_rank}", [float(d) for d in found], verdict),
            View(TRUE_RANK, "r = 1", single, word(all(d >= 2 for d in single))),
        ]
    return Finding("collapsed layers", [float(d) for d in found], beside, verdict, why, views)


def depth_needs_decay(case: Case) -> Finding:
    """Without weight decay no layer is collapsed, with it at least two are."""
    with_it = [float(_depth(run, case.target_variance)) for run in case.main]
    without = [float(_depth(run, case.target_variance)) for run in case.control]
    beside = {"with weight decay": with_it}
    if not without:
        return Finding("collapsed layers", [], beside, UNTESTABLE, "there is no run without weight decay")
    if min(with_it) < 2:
        why = "with weight decay fewer than two layers collapse: nothing to compare"
        return Finding("collapsed layers without weight decay", without, beside, UNTESTABLE, why)
    noise_without = [deep_mean(run, "noise") for run in case.control]
    why = (
        f"decay budget {case.main[0].budget:.3g} against 0; noise without decay {number(max(noise_without))}"
    )
    verdict = word(max(without) == 0)
    views = [
        View("noise, alignment and affine gap", "collapsed layers", without, verdict),
        View("noise alone", "noise of the deep layers", noise_without, word(min(noise_without) > NOISE_MAX)),
    ]
    return Finding("collapsed layers without weight decay", without, beside, verdict, why, views)


def intrinsic_rank(case: Case) -> Finding:
    """Noise outside the r true directions is at most 0.05 over the deep layers, and the stable rank near the targets'."""
    lower = "noise_r1" if len(case.main[0].series("noise_r1")) else ""
    metric = "noise" if case.target_rank < case.n else lower
    if not metric:
        why = f"the targets have all {case.n} directions"
        return Finding("noise", [], {}, UNTESTABLE, why)
    target = target_stable_rank(case.main[0])
    values = [deep_mean(run, metric) for run in case.main]

    def verdict(of_rank: str) -> str:
        ranks = [deep_mean(run, of_rank) for run in case.main]
        near = all(1 / STABLE_RANK_BAND <= r / target <= STABLE_RANK_BAND for r in ranks)
        return word(near and all(v <= NOISE_MAX for v in values))

    kinds = {
        "stable_rank_covariance": (PAPER, "stable rank of the covariance"),
        "stable_rank_features": (POSTER, "stable rank of the features"),
    }
    views = [
        View(name, words, [deep_mean(run, key) for run in case.main], verdict(key))
        for key, (name, words) in kinds.items()
    ]
    beside = {"stable rank of the targets": [target]}
    beside |= {f"first layer, {case.main[0].layers[0]}": [_first(run, metric) for run in case.main]}
    beside |= case.controls(lambda run: deep_mean(run, metric))
    r = 1 if metric == "noise_r1" else case.target_rank
    why = f"r = {r} in t = {case.n} dimensions; {_by_layer(case, metric)}"
    first = "stable_rank_covariance"
    return Finding(f"noise beyond r = {r}, mean of {_span(case)}", values, beside, verdict(first), why, views)
