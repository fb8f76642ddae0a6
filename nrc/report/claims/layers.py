"""Layer by layer: what the deep layers' features and weights are like, and where collapse begins (CPAL 2026).

"Deep layers" are the second half of the measured layers, down to the output. Beside every value stand its nulls ("at
the start", random directions), which must be twice as far from what is claimed, and what was published, judged by the
same bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nrc.figures.layers import first_collapsed
from nrc.metrics.depth import ALIGNMENT_MIN, NOISE_MAX, R2_GAP_MAX, depth_of_collapse, first_collapsed_layer
from nrc.metrics.linalg import stable_rank
from nrc.report.published import DIRECTIONS, UNIT_VARIANCE, as_published, by_layer, deep_value, line, reach
from nrc.report.registry import (
    CORRECTED,
    FAILS,
    HOLDS,
    PAPER,
    RELEASED,
    START,
    UNTESTABLE,
    Case,
    Finding,
    Values,
    View,
    above,
    beats,
    below,
    claim,
    mean,
    number,
    within,
    word,
)
from nrc.runs.read import Run

CKA_MIN = 0.9
STABLE_RANK_BAND = 1.5  # factor within which two stable ranks count as equal
POSTER = "as on the poster"
TRUE_RANK = "for nearly collinear targets"
SEEN = (
    0.05  # share of the targets' variance of a direction that must stay alive: SGEMM's are nearly collinear
)
DEAD = "a target direction is dead"
MANY = 12  # layers; more are not listed one by one
ALIGNMENT = "feature_weight_alignment"
EXPERIMENTS = ["deep", "low_rank", "sgemm", "images"]
WHERE: dict[str, Any] = {"on": EXPERIMENTS, "figure": "deep", "also": {"sgemm": "sgemm_decay"}}
Distance = Callable[[float], float]


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
    found = [run.first(metric, split, name) for name in deep_layers(run)]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def measured(run: Run, metric: str, split: str = "train") -> bool:
    return any(len(run.series(metric, split, name)) for name in run.layers)


def span(case: Case) -> str:
    names = deep_layers(case.main[0])
    return f"{names[0]} to {names[-1]}"


def dead(case: Case) -> bool:
    """Whether a run has lost a target direction with more than 5 % of the variance: it is then collapsed by having
    forgotten it."""
    for run in case.main:
        if len(run.series("nrc1")) and {"sigma", "weight_end"} <= run.snapshots.keys():
            values = np.linalg.eigvalsh(run.snapshots["sigma"])
            if run.alive < (values > SEEN * values.sum()).sum():
                return True
    return False


def target_stable_rank(case: Case) -> float:
    return stable_rank(case.main[0].snapshots["sigma"])


def _by_layer(case: Case, metric: str, split: str = "train") -> str:
    """The values of the first seed, or of many layers the range of the deep ones."""
    run = case.main[0]
    if len(run.layers) <= MANY:
        return "by layer: " + ", ".join(number(run.last(metric, split, name)) for name in run.layers)
    deep = [run.last(metric, split, name) for name in deep_layers(run)]
    return f"deep layers from {number(float(np.nanmin(deep)))} to {number(float(np.nanmax(deep)))}"


def _published(case: Case, value: float, good: bool, how: str = "") -> dict[str, Values]:
    """The published value, how it was measured, and what the bound says of it; {} when nothing was published."""
    if not np.isfinite(value):
        return {}
    run = case.main[0]
    directions = DIRECTIONS.get(run.dataset)
    details = ["other data" * (run.kind != "paper"), f"{directions} directions" if directions else "", how]
    where = f" ({', '.join(filter(None, details))})" if any(details) else ""
    return {f"published{where}, by this bound: {word(good)}": [value]}


def _verdict(case: Case, found: Values, nulls: Sequence[Sequence[float]], limit: float) -> tuple[str, str]:
    """The verdict on distances from what is claimed, and why if it is not that they hold."""
    if dead(case):
        return FAILS, f"{DEAD}; {case.clock}"
    if not all(v <= limit for v in found):  # written so that NaN fails
        return case.word(False), case.clock
    if beats(found, *nulls):
        return HOLDS, ""
    return FAILS, "a null is within the bound as well"  # time does not help where an untrained network does


def _deep(
    case: Case,
    metric: str,
    words: str,
    limit: float,
    distance: Distance = float,
    null: str = "",
    ways: Sequence[tuple[str, str, str]] = (),
) -> Finding:
    """Judge the deep mean of one metric by its distance from what is claimed.

    Args:
        words: the metric in words.
        limit: of the distance.
        null: the metric of its random null, if it has one.
        ways: name, quantity and metric of other ways of measuring.
    """
    main = case.main

    def judge(key: str, nulls: Sequence[Values]) -> tuple[Values, str, str]:
        found = [deep_mean(run, key) for run in main]
        rivals = [[distance(v) for v in each] for each in nulls]
        return found, *_verdict(case, [distance(v) for v in found], rivals, limit)

    nulls = {START: [deep_start(run, metric) for run in main]}
    nulls |= {"random null": [deep_mean(run, null) for run in main]} if null else {}
    found, verdict, why = judge(metric, list(nulls.values()))
    theirs = deep_value(main[0], metric)
    beside = nulls | _published(case, theirs, distance(theirs) <= limit)
    first = main[0].layers[0]
    beside |= {f"first layer, {first}": [run.last(metric, layer=first) for run in main]}
    beside |= case.controls(lambda run: deep_mean(run, metric))
    views = []
    for name, quantity, key in ways:
        if not all(measured(run, key) for run in main):
            views.append(View(name, quantity, [], "", "not measured"))
            continue
        these, theirs_verdict, theirs_why = judge(key, [[deep_start(run, key) for run in main]])
        note = theirs_why if theirs_verdict == FAILS and theirs_why != case.clock else ""
        note = note if np.isfinite(these).all() else "undefined in one of the layers"
        views.append(View(name, quantity, these, theirs_verdict, note))
    return Finding(
        f"{words}, mean of {span(case)}",
        found,
        verdict,
        "; ".join(filter(None, (why, _by_layer(case, metric)))),
        beside,
        views,
        bound=distance(limit) if distance is from_one else limit,
        reach=reach([deep_mean(run, as_published(run, metric)) for run in main], theirs, distance),
    )


def _directions(case: Case, metric: str, words: str) -> list[tuple[str, str, str]]:
    """The paper's view of a metric that counts directions, and ours where they differ."""
    theirs = DIRECTIONS.get(case.main[0].dataset)
    if theirs is None:
        return [(PAPER, f"{words}, {case.n} directions", metric)]
    return [
        (PAPER, f"{words}, {theirs} directions", f"{metric}_r{theirs}"),
        (CORRECTED, f"{words}, r = {case.target_rank}", metric),
    ]


@claim(
    "noise", title="Noise suppression", source="CPAL 2026, figures 1, 2, 3, 6 and 7", **WHERE,
    says="In the deep layers the features' variance lies in as many directions as the targets have.",
)  # fmt: skip
def noise(case: Case) -> Finding:
    """The share of variance outside the first r directions is at most 0.05 over the deep layers, and half that at the
    start."""
    found = _deep(case, "noise", "noise", NOISE_MAX, ways=_directions(case, "noise", "fraction"))
    if not measured(case.main[0], "noise_abs"):
        return found
    absolute = [deep_mean(run, "noise_abs") for run in case.main]
    note = "has a unit: no bound fits all networks"
    poster = View(POSTER, "absolute, in units of h^2", absolute, "", note)
    return replace(found, views=[*found.views, poster])


@claim(
    "alignment", title="Feature-weight alignment", **WHERE,
    source="CPAL 2026, figures 1, 2, 6 and 7; figure 3 (signal directions)",
    says="In the deep layers the weights read exactly the features' main directions.",
)  # fmt: skip
def alignment(case: Case) -> Finding:
    """The mean cosine between the weight's and the features' main directions is at least 0.9 over the deep layers."""
    ways = _directions(case, ALIGNMENT, "cosine")
    if measured(case.main[0], f"{ALIGNMENT}_r1"):
        ways.append((TRUE_RANK, "r = 1", f"{ALIGNMENT}_r1"))
    return _deep(case, ALIGNMENT, "alignment", 1 - ALIGNMENT_MIN, from_one, f"{ALIGNMENT}_null", ways)


@claim(
    "low_rank_weights", title="Low-rank weights", source="CPAL 2026, figure 9; poster", **WHERE,
    says="The weights of the deep layers have a stable rank near that of the targets.",
)  # fmt: skip
def low_rank_weights(case: Case) -> Finding:
    """The stable rank of the deep layers' weights is at most 2r on average (ReLU without biases needs up to 2r)."""
    bound = 2 * case.target_rank
    found = _deep(case, "stable_rank_weights", "stable rank of W", bound)
    target = target_stable_rank(case)
    near = case.word(all(v <= STABLE_RANK_BAND * target for v in found.measured))
    strict = f"that of the targets, {number(target)}, within a factor {STABLE_RANK_BAND:g}"
    views = [
        View(PAPER, strict, found.measured, near),
        View(CORRECTED, f"at most 2r = {bound}", found.measured, found.verdict),
    ]
    why = f"r = {case.target_rank} of t = {case.n} target directions; {found.why}"
    return replace(found, why=why, views=views)


@claim(
    "target_alignment", title="Feature-target alignment", **WHERE,
    source="CPAL 2026, figures 1, 2, 4, 6 and 7 (CKA); poster (covariance alignment)",
    says="The deep layers' features align with the targets.",
)  # fmt: skip
def target_alignment(case: Case) -> Finding:
    """Linear CKA between features and targets is at least 0.9 on average over the deep layers."""
    ways = [
        (PAPER, "CKA of all features", "cka"),
        (RELEASED, "CKA of the first t features alone", "cka_first_columns"),
        (CORRECTED, "feature-side covariance alignment", "feature_target_alignment_features"),
    ]
    found = _deep(case, "cka", "CKA", 1 - CKA_MIN, from_one, "cka_null", ways)
    if not measured(case.main[0], "feature_target_alignment"):
        return found
    side = [deep_mean(run, "feature_target_alignment") for run in case.main]
    null = float(np.mean([deep_mean(run, "feature_target_alignment_null") for run in case.main]))
    vacuous = null >= CKA_MIN
    note = f"its permutation null is {number(null)}" + ": it is high for any features" * vacuous
    verdict = "" if vacuous else case.word(min(side) >= CKA_MIN)
    return replace(
        found, views=[*found.views, View(POSTER, "target-side covariance alignment", side, verdict, note)]
    )


@claim(
    "predictability", title="Linear predictability", source="CPAL 2026, figures 1, 2, 6 and 7", **WHERE,
    says="From the deep layers a linear map predicts the targets as well as the whole network.",
)  # fmt: skip
def predictability(case: Case) -> Finding:
    """Held-out, the best affine map's MSE exceeds the model's by at most 0.05 of the targets' variance, and half that
    at the start."""
    held_out = all(measured(run, "linear_mse", "test") for run in case.main)
    split = "test" if held_out else "train"

    def gap(run: Run, metric: str = "linear_mse", part: str = split, of: Any = deep_mean) -> float:
        return float((of(run, metric, part) - run.last("mse", part)) / case.target_variance)

    def judge(metric: str, part: str) -> tuple[Values, Values, str, str]:
        ends = [gap(run, metric, part) for run in case.main]
        starts = [gap(run, metric, part, deep_start) for run in case.main]
        return ends, starts, *_verdict(case, ends, [starts], R2_GAP_MAX)

    ends, starts, verdict, why = judge("linear_mse", split)
    train, before, on_train, _ = judge("linear_mse", "train")
    views = []
    if held_out:
        note = "" if beats(train, before) else f"{START} it is {mean(before)}"
        views.append(View(PAPER, "on the train set", train, on_train, note))
    if measured(case.main[0], "linear_mse_uncentred"):
        bare, _, without, _ = judge("linear_mse_uncentred", "train")
        views.append(View(RELEASED, "train set, no intercept, small directions cut off", bare, without))
    views.append(View(CORRECTED, "held-out, affine" if held_out else "affine", ends, verdict))
    run = case.main[0]
    known = run.dataset in UNIT_VARIANCE
    theirs = deep_value(run, "linear_mse") - line(run, "model_mse") if known else float("nan")
    first = run.layers[0]
    beside = {START: starts} | _published(case, theirs, theirs <= R2_GAP_MAX, "train rows")
    beside |= {
        f"first layer, {first}": case.ends(lambda run: gap(run, of=lambda r, m, s: r.last(m, s, first)))
    }
    beside |= case.controls(gap)
    return Finding(
        f"gap of the linear map, mean of {span(case)}",
        ends,
        verdict,
        "; ".join(filter(None, (why, _by_layer(case, "linear_mse", split)))),
        beside,
        views,
        bound=R2_GAP_MAX,
        grain=0.01,
        reach=reach(train, theirs),  # as theirs was measured
    )


def collapsed_layers(run: Run, end: str = "", when: str = "end") -> float:
    """How many layers are collapsed, down to the output; arguments as for `first_collapsed`."""
    return float(depth_of_collapse(first_collapsed(run, end, when), len(run.layers)))


def _published_depth(run: Run) -> float:
    """The same of the published layer values; NaN where one of them, or the targets' variance, is not known."""
    names = ("noise", ALIGNMENT, "linear_mse")
    columns = [by_layer(run, name) for name in names]
    if not all(columns) or run.dataset not in UNIT_VARIANCE:
        return float("nan")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    first = first_collapsed_layer(rows, line(run, "model_mse"), target_variance=1.0)
    return float(depth_of_collapse(first, len(rows)))


@claim(
    "depth", title="Collapse below the last layer", source="CPAL 2026, figures 1, 2, 3, 6 and 7 (green line)", **WHERE,
    says="All of these set in together at one layer, and hold from there to the output.",
)  # fmt: skip
def depth(case: Case) -> Finding:
    """At least two layers are collapsed (noise at most 0.05, alignment at least 0.9, affine gap at most 0.05), at the
    start none."""
    run = case.main[0]
    found, starts = case.ends(collapsed_layers), case.ends(lambda run: collapsed_layers(run, when="start"))

    def verdict(layers: Values) -> str:
        return FAILS if any(starts) or dead(case) else case.word(all(d >= 2 for d in layers))

    total, theirs, green = len(run.layers), _published_depth(run), line(run, "first_collapsed_layer")
    beside = {START: starts} | _published(case, theirs, theirs >= 2, "train rows")
    beside |= {"published green line (no rule given)": [total - green + 1]} if np.isfinite(green) else {}
    beside |= case.controls(collapsed_layers)
    views = []
    if measured(run, "noise_r1"):
        single = case.ends(lambda run: collapsed_layers(run, "_r1"))
        views = [
            View(PAPER, f"r = {case.target_rank}", found, verdict(found)),
            View(TRUE_RANK, "r = 1", single, verdict(single)),
        ]
    first = ", ".join(run.layers[total - int(d)] for d in found if d) or "none"
    why = f"of {total} layers; first collapsed: {first}; {case.clock}" + f"; {DEAD}" * dead(case)
    further = reach(found, theirs, lambda layers: -layers)
    return Finding(
        "collapsed layers by our rule", found, verdict(found), why, beside, views, 2, grain=1, reach=further
    )


@claim(
    "depth_decay", title="Deep collapse needs weight decay", source="CPAL 2026, figures 4 and 9", **WHERE,
    says="Without weight decay no layer collapses.",
)  # fmt: skip
def depth_decay(case: Case) -> Finding:
    """Without weight decay no layer is collapsed, with it at least two are."""
    with_it, without = case.ends(collapsed_layers), [collapsed_layers(run) for run in case.control]
    quantity, beside = "collapsed layers without weight decay", {"with weight decay": with_it}
    if not without:
        return Finding(quantity, [], UNTESTABLE, "there is no run without weight decay", beside)
    bare = [deep_mean(run, "noise") for run in case.control]
    if dead(case):
        verdict, why = UNTESTABLE, f"{DEAD} with weight decay; {case.clock}"
    elif any(without) or min(with_it) >= 2:
        verdict, why = word(not any(without)), f"{case.clock} against 0"
    else:
        verdict, why = UNTESTABLE, f"fewer than two layers collapse with it either: {case.clock}"
    alone = View(
        "noise alone", "noise of the deep layers", bare, "" if verdict == UNTESTABLE else word(min(bare) > NOISE_MAX)
    )  # fmt: skip
    return Finding(quantity, without, verdict, why, beside, [alone], 0, grain=0.5)


@claim(
    "intrinsic_rank", title="Learning the intrinsic rank", source="CPAL 2026, figure 3", on=["low_rank", "sgemm"],
    figure="low_rank", says="When targets of t dimensions lie in r < t directions, the deep features have r, not t.",
)  # fmt: skip
def intrinsic_rank(case: Case) -> Finding:
    """Noise outside the r true directions is at most 0.05 over the deep layers, and the stable rank near the
    targets'."""
    run, r = case.main[0], case.target_rank
    if r == case.n and not measured(run, "noise_r1"):
        return Finding("noise", [], UNTESTABLE, f"the targets have all {case.n} directions")
    metric, r = ("noise", r) if r < case.n else ("noise_r1", 1)
    target = target_stable_rank(case)
    found = _deep(case, metric, f"noise beyond r = {r}", NOISE_MAX)

    def view(name: str, words: str, metric: str) -> View:
        ranks = [deep_mean(run, metric) for run in case.main]
        near = all(1 / STABLE_RANK_BAND <= rank / target <= STABLE_RANK_BAND for rank in ranks)
        return View(name, words, ranks, found.verdict if near else case.word(False))

    views = [
        view(PAPER, "stable rank of the covariance", "stable_rank_covariance"),
        view(POSTER, "stable rank of the features", "stable_rank_features"),
    ]
    beside = {"stable rank of the targets": [target]}
    theirs = deep_value(run, "stable_rank_covariance")
    beside |= {"published stable rank of the features": [theirs]} if np.isfinite(theirs) else {}
    why = f"r = {r} in t = {case.n} dimensions; {found.why}"
    return replace(found, beside={**beside, **found.beside}, verdict=views[0].verdict, why=why, views=views)


@claim(
    "low_rank_each", title="Low-rank targets, layer by layer", source="CPAL 2026, figure 3", on=["low_rank"],
    figure="low_rank", says="Each of the last six layers keeps the targets' rank and is read along its directions.",
)  # fmt: skip
def low_rank_each(case: Case) -> Finding:
    """In each of the last six layers the noise ends below 0.01 and the alignment above 0.95."""
    last = case.main[0].layers[-6:]
    noises = case.ends(
        lambda run: np.max([run.last("noise", layer=layer) for layer in last])
    )  # NaN where one is
    aligned = case.ends(lambda run: np.min([run.last(ALIGNMENT, layer=layer) for layer in last]))
    where = f"{last[0]} to {last[-1]}"
    return within(
        case, [below(f"most noise, {where}", noises, 0.01), above("least alignment", aligned, 0.95)]
    )
