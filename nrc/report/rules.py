"""The rules of the scorecard for the last layer (NeurIPS 2024).

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints
it. The others are in `ufm_rules` and `deep_rules`.
"""

from collections.abc import Sequence

import numpy as np

from nrc import criteria
from nrc.criteria import COLLAPSED, FALL
from nrc.metrics import nrc3_curve
from nrc.report.findings import (
    FAILS,
    HOLDS,
    NOT_YET,
    UNTESTABLE,
    Case,
    Finding,
    View,
    beats,
    number,
    plural,
    word,
)
from nrc.report.literature import published_gamma
from nrc.runs.read import Run, falling

EVR_MIN = 0.95
GAMMA_EDGE = 0.01  # of lambda_min
GRID = 1000  # points of gamma in the released code
PAPER, EARLIER, CORRECTED = "as in the paper", "as in the authors' earlier runs", "corrected"
RELEASED = "as in the released code"
START = "at the start"


def _relative(run: Run, metric: str, when: str = "end") -> float:
    """Mean squared distance of raw features over their mean squared length."""
    pick = run.last if when == "end" else (lambda name: run.first(name))
    return float(pick(metric) / pick("feature_norm") ** 2)


def lost(runs: Sequence[Run]) -> bool:
    """Whether a target direction is dead in a seed, so that a collapse is bought with signal."""
    return any(run.lost_direction for run in runs)


def _centred_nrc2(run: Run, when: str) -> float:
    """NRC2 of the snapshot's features, centred and then scaled to length 1; NaN without that snapshot."""
    shots = run.snapshots
    if f"features_{when}" not in shots or f"weight_{when}" not in shots:
        return float("nan")
    h = shots[f"features_{when}"].astype(float)
    h -= h.mean(0)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    values, rows = np.linalg.svd(shots[f"weight_{when}"].astype(float), full_matrices=False)[1:]
    rows = rows[values > max(rows.shape) * np.finfo(np.float32).eps * values[0]]
    if not length.all():
        return float("nan")
    h /= length
    return float(1 - ((h @ rows.T) ** 2).sum(1).mean())


def _falls(
    case: Case, metric: str, quantity: str, views: list[tuple[str, str, list[float], list[float]]]
) -> Finding:
    runs = list(case.main)
    ends, starts = [run.last(metric) for run in runs], [run.first(metric) for run in runs]
    dead = lost(runs)

    late = falling(runs, metric)

    def verdict(fell: bool) -> str:
        if dead:
            return FAILS  # more time brings no direction back
        return NOT_YET if late and not fell else case.word(fell)

    judged = []
    for name, words, these, before in views:
        fell = float(np.mean(before)) / max(float(np.mean(these)), 1e-300)
        note = f"fell {fell:.2g}-fold only" if max(these) < COLLAPSED and fell < FALL else ""
        judged.append(View(name, words, these, verdict(criteria.collapsed(before, these)), note))
    undefined = [run.why(metric) for run in runs if run.why(metric) and not np.isfinite(run.last(metric))]
    share = float(np.mean([run.last("mean_share") for run in runs]))
    if undefined:
        why = f"undefined: {undefined[0]}"
    elif dead:
        why = f"the weight decay has removed a target direction ({case.clock})"
    elif criteria.collapsed(starts, ends):
        why = f"falls from {number(float(np.mean(starts)))}, with all {case.n} target directions alive"
    elif late:
        why = f"still falling in the second half of the run; {case.clock}"
    elif share > 0.3 and max(run.last("nrc1_centred") for run in runs) < COLLAPSED:
        why = (
            f"centred features do collapse, but their mean ({share:.0%} of the mean square) lies outside the plane; "
            + case.clock
        )
    else:
        why = f"ends above {COLLAPSED:g} or has not fallen tenfold; {case.clock}"
    beside = {START: starts} | case.controls(lambda run: run.last(metric))
    return Finding(
        quantity, ends, beside, FAILS if undefined else verdict(criteria.collapsed(starts, ends)), why, judged
    )


def _scaled_and_raw(case: Case, metric: str) -> list[tuple[str, str, list[float], list[float]]]:
    """The views that NRC1 and NRC2 share: name, quantity, values at the end and at the start."""
    raw = f"{metric}_raw"
    return [
        (PAPER, "features scaled to length 1, not centred", *_both(case, metric)),
        (
            EARLIER,
            "raw features; here over their mean square",
            [_relative(run, raw) for run in case.main],
            [_relative(run, raw, "start") for run in case.main],
        ),
    ]


def _both(case: Case, metric: str) -> tuple[list[float], list[float]]:
    return [run.last(metric) for run in case.main], [run.first(metric) for run in case.main]


def nrc1(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""
    centred = (CORRECTED, "features centred, then scaled to length 1", *_both(case, "nrc1_centred"))
    return _falls(case, "nrc1", "NRC1", [*_scaled_and_raw(case, "nrc1"), centred])


def nrc2(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""
    views = _scaled_and_raw(case, "nrc2")
    ends, starts = ([_centred_nrc2(run, when) for run in case.main] for when in ("end", "start"))
    if np.isfinite([*ends, *starts]).all():
        views.append((CORRECTED, "features centred, then scaled; first 256 rows", ends, starts))
    return _falls(case, "nrc2", "NRC2", views)


def nrc3(case: Case) -> Finding:
    """Every seed ends below 0.05, and their mean is at most half of both a random W (the start) and no weight decay."""
    if case.n == 1:
        return Finding("NRC3", [], {}, UNTESTABLE, "NRC3 is identically 0 for a single target")
    ends = [run.last("nrc3") for run in case.main]
    beside = {f"random W, {START}": [run.first("nrc3") for run in case.main]}
    beside |= case.controls(lambda run: run.last("nrc3"))
    rival = min(float(np.mean(values)) for values in beside.values())

    def verdict(values: list[float]) -> str:
        small = all(v < COLLAPSED for v in values)
        # NRC3 judges W alone: that it is near Sigma's root before it has learnt anything is no matter of time
        return case.word(False) if not small else word(beats(values, *beside.values()))

    grid = [_grid_nrc3(run) for run in case.main]
    if verdict(ends) == HOLDS:
        why = "small, and well below both nulls"
    elif all(e < COLLAPSED for e in ends):
        why = f"small, but a null scores {number(rival)}: Sigma is so even here that hardly any W is far from it"
    else:
        why = (
            f"the best gamma leaves {number(float(np.mean(ends)))}; W W' is another matrix than the shifted root "
            f"({case.clock})"
        )
    views = [
        View(RELEASED, "gamma from a grid of 1000 points", grid, verdict(grid)),
        View(CORRECTED, "gamma in closed form", ends, verdict(ends)),
    ]
    return Finding("NRC3 at its best gamma", ends, beside, verdict(ends), why, views)


def _grid_nrc3(run: Run) -> float:
    sigma = run.snapshots["sigma"]
    lowest = max(float(np.linalg.eigvalsh(sigma)[0]), 0.0)
    return float(nrc3_curve(run.snapshots["weight_end"], sigma, np.linspace(0, lowest, GRID)).min())


def evr(case: Case) -> Finding:
    """In every seed the first n components end with at least 95 % of the variance, missing at most half as much as at the start."""
    n = case.n
    if n > 5:
        return Finding("EVR", [], {}, UNTESTABLE, f"only five components are recorded; n is {n}")

    def share(run: Run, when: str = "end") -> float:
        pick = run.last if when == "end" else (lambda name: run.first(name))
        return float(sum(pick(f"evr_{k}") for k in range(1, n + 1)))

    def verdict(values: list[float], starts: list[float]) -> str:
        small = all(v >= EVR_MIN for v in values)
        clear = beats([1 - v for v in values], [1 - s for s in starts])
        return word(clear) if small else case.word(False)

    ends, starts = [share(run) for run in case.main], [share(run, "start") for run in case.main]
    whole, whole_start = (
        [1 - _relative(run, "nrc1_raw", when) for run in case.main] for when in ("end", "start")
    )
    views = [
        View(PAPER, "of the variance (features centred)", ends, verdict(ends, starts)),
        View("with the mean", "of the mean square, nothing subtracted", whole, verdict(whole, whole_start)),
    ]
    beside = {START: starts} | case.controls(share)
    why = f"first {n} of {case.main[0].snapshots['features_end'].shape[1]} components; {case.clock}"
    if verdict(ends, starts) == FAILS and min(ends) >= EVR_MIN:
        why = f"large, but at the start it was {number(float(np.mean(starts)))}"
    return Finding(
        f"share of the first {plural(n, 'component')}", ends, beside, verdict(ends, starts), why, views
    )


def gamma_inside(case: Case) -> Finding:
    """In every seed the best gamma lies between 1 % and 99 % of lambda_min."""
    if case.n == 1:
        return Finding("gamma", [], {}, UNTESTABLE, "NRC3 is identically 0 for a single target")

    def inside(values: list[float]) -> bool:
        return all(GAMMA_EDGE < v < 1 - GAMMA_EDGE for v in values)

    ends = [run.last("nrc3_gamma") for run in case.main]
    starts = [run.first("nrc3_gamma") for run in case.main]
    if inside(ends):
        why = (
            "inside; a random W has it inside as well, so this alone shows little"
            if inside(starts)
            else "inside"
        )
    else:
        edge = "0" if float(np.mean(ends)) < 0.5 else "lambda_min"
        why = f"the minimum lies at the edge, gamma = {edge}; {case.clock}"
    beside = {f"random W, {START}": starts} | case.controls(lambda run: run.last("nrc3_gamma"))
    theirs = published_gamma(case.main[0].data)
    if np.isfinite(theirs):
        beside["published"] = [theirs]
    return Finding("best gamma / lambda_min", ends, beside, case.word(inside(ends)), why)
