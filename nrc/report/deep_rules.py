"""The rules of the scorecard for all layers (CPAL 2026): what the deep layers' features and weights are like.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

from dataclasses import replace

import numpy as np

from nrc.figures.layers import target_stable_rank
from nrc.metrics.depth import ALIGNMENT_MIN, NOISE_MAX
from nrc.report.findings import HOLDS, UNTESTABLE, Case, Finding, View, number, word
from nrc.report.layers import (
    deep_layers,
    deep_mean,
    deep_start,
    directions_views,
    from_one,
    judge_layers,
    measured,
)
from nrc.report.literature import deep_value
from nrc.report.rules import CORRECTED, PAPER, RELEASED, START
from nrc.runs.read import Run

CKA_MIN = 0.9
STABLE_RANK_BAND = 1.5  # factor within which two stable ranks count as equal
POSTER = "as on the poster"
TRUE_RANK = "for nearly collinear targets"


def noise(case: Case) -> Finding:
    """The share of variance outside the first r directions is at most 0.05 over the deep layers, and half that at the start."""
    found = judge_layers(case, "noise", "noise", NOISE_MAX, views=directions_views(case, "noise", "fraction"))
    views = list(found.views)
    if measured(case.main[0], "noise_abs"):
        absolute = [deep_mean(run, "noise_abs") for run in case.main]
        views.append(
            View(POSTER, "absolute, in units of h^2", absolute, "", "has a unit: no bound fits all networks")
        )
    return replace(found, views=views)


def alignment(case: Case) -> Finding:
    """The mean cosine between the weight's and the features' main directions is at least 0.9 over the deep layers."""
    metric = "feature_weight_alignment"
    views = directions_views(case, metric, "cosine")
    if measured(case.main[0], f"{metric}_r1"):
        views.append((TRUE_RANK, "r = 1", f"{metric}_r1"))
    found = judge_layers(case, metric, "alignment", 1 - ALIGNMENT_MIN, from_one, f"{metric}_null", views)
    fewer = [
        run
        for run in case.main
        if any(_directions(run, name) < case.target_rank for name in deep_layers(run))
    ]
    if not fewer or not found.views:
        return found
    # the paper takes t directions even where features or weight have fewer; there they are arbitrary
    note = "fewer where features or weight have a lower rank"
    return replace(found, views=[replace(found.views[0], note=note), *found.views[1:]])


def _directions(run: Run, layer: str) -> float:
    return run.last("feature_weight_alignment_k", layer=layer)


def low_rank_weights(case: Case) -> Finding:
    """The stable rank of the deep layers' weights is at most 2r on average (ReLU without biases needs up to 2r)."""
    bound = 2 * case.target_rank
    found = judge_layers(case, "stable_rank_weights", "stable rank of W", bound)
    target = target_stable_rank(case.main[0])
    near = word(all(v <= STABLE_RANK_BAND * target for v in found.measured))
    strict = case.word(near == HOLDS)
    views = [
        View(
            PAPER,
            f"that of the targets, {number(target)}, within a factor {STABLE_RANK_BAND:g}",
            found.measured,
            strict,
        ),
        View(CORRECTED, f"at most 2r = {bound}", found.measured, found.verdict),
    ]
    why = f"r = {case.target_rank} of t = {case.n} target directions; {found.why}"
    return replace(found, why=why, views=views)


def target_alignment(case: Case) -> Finding:
    """Linear CKA between features and targets is at least 0.9 on average over the deep layers."""
    views = [
        (PAPER, "CKA of all features", "cka"),
        (RELEASED, "CKA of the first t features alone", "cka_first_columns"),
        (CORRECTED, "feature-side covariance alignment", "feature_target_alignment_features"),
    ]
    found = judge_layers(case, "cka", "CKA", 1 - CKA_MIN, from_one, "cka_null", views)
    if not measured(case.main[0], "feature_target_alignment"):
        return found
    side = [deep_mean(run, "feature_target_alignment") for run in case.main]
    null = float(np.mean([deep_mean(run, "feature_target_alignment_null") for run in case.main]))
    vacuous = null >= CKA_MIN
    note = f"its permutation null is {number(null)}" + (": it is high for any features" if vacuous else "")
    verdict = "" if vacuous else case.word(min(side) >= CKA_MIN)
    poster = View(POSTER, "target-side covariance alignment", side, verdict, note)
    return replace(found, views=[*found.views, poster])


def intrinsic_rank(case: Case) -> Finding:
    """Noise outside the r true directions is at most 0.05 over the deep layers, and the stable rank near the targets'."""
    run = case.main[0]
    lower = "noise_r1" if measured(run, "noise_r1") else ""
    metric = "noise" if case.target_rank < case.n else lower
    if not metric:
        why = f"the targets have all {case.n} directions"
        return Finding("noise", [], {}, UNTESTABLE, why)
    target = target_stable_rank(run)
    r = 1 if metric == "noise_r1" else case.target_rank
    found = judge_layers(case, metric, f"noise beyond r = {r}", NOISE_MAX)

    def verdict(of_rank: str) -> str:
        ranks = [deep_mean(run, of_rank) for run in case.main]
        near = all(1 / STABLE_RANK_BAND <= rank / target <= STABLE_RANK_BAND for rank in ranks)
        return found.verdict if near else case.word(False)

    kinds = {
        "stable_rank_covariance": (PAPER, "stable rank of the covariance"),
        "stable_rank_features": (POSTER, "stable rank of the features"),
    }
    views = [
        View(name, words, [deep_mean(run, key) for run in case.main], verdict(key))
        for key, (name, words) in kinds.items()
    ]
    ranks = [deep_start(run, "stable_rank_covariance") for run in case.main]
    beside = {"stable rank of the targets": [target], f"stable rank of the features {START}": ranks}
    theirs = deep_value(run, "stable_rank_covariance")
    beside |= {"published stable rank of the features": [theirs]} if np.isfinite(theirs) else {}
    why = f"r = {r} in t = {case.n} dimensions; {found.why}"
    return replace(
        found, beside=beside | found.beside, verdict=verdict("stable_rank_covariance"), why=why, views=views
    )
