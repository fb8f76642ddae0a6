"""The rules of the scorecard for the last layer (NeurIPS 2024).

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints
it. The others are in `ufm_rules` and `deep_rules`.
"""

import numpy as np

from nrc.figures._load import Run
from nrc.metrics import nrc3_curve
from nrc.report.findings import HOLDS, UNTESTABLE, Case, Finding, View, number, word

COLLAPSED = 0.05  # NRC1, NRC2 and NRC3 below this count as collapsed
FALL = 10.0  # and at least this much below the start
EVR_MIN = 0.95
GAMMA_EDGE = 0.01  # of lambda_min
BUDGET_DONE = 20.0  # below this decay budget lambda*tau "no collapse" may be "not yet"
GRID = 1000  # points of gamma in the released code
PAPER, EARLIER, CORRECTED = "as in the paper", "as in the authors' earlier runs", "corrected"
RELEASED = "as in the released code"


def start_of(run: Run, metric: str) -> float:
    """The first measured value; NaN if there is none."""
    series = run.series(metric)
    return float(series.iloc[0]) if len(series) else float("nan")


def _relative(run: Run, metric: str, when: str = "end") -> float:
    """Mean squared distance of raw features over their mean squared length."""
    pick = run.last if when == "end" else (lambda name: start_of(run, name))
    return float(pick(metric) / pick("feature_rms") ** 2)


def collapsed(ends: list[float], starts: list[float], runs: list[Run]) -> bool:
    """Whether every seed ends small, has fallen, and keeps its target directions; NaN counts as not collapsed."""
    fell = all(e < COLLAPSED and e * FALL < s for e, s in zip(ends, starts, strict=True))
    return fell and not any(run.lost_direction for run in runs)


def _falls(case: Case, metric: str, quantity: str, views: list[tuple[str, str, str]]) -> Finding:
    runs = list(case.main)
    ends, starts = [run.last(metric) for run in runs], [start_of(run, metric) for run in runs]
    ok = collapsed(ends, starts, runs)
    judged = []
    for name, words, key in views:
        raw = key.endswith("_raw")
        these = [_relative(run, key) if raw else run.last(key) for run in runs]
        before = [_relative(run, key, "start") if raw else start_of(run, key) for run in runs]
        fell = float(np.mean(before)) / max(float(np.mean(these)), 1e-300)
        note = f"fell {fell:.2g}-fold only" if max(these) < COLLAPSED and fell < FALL else ""
        judged.append(View(name, words, these, word(collapsed(these, before, runs)), note))
    undefined = [run.why(metric) for run in runs if run.why(metric) and not np.isfinite(run.last(metric))]
    share = float(np.mean([run.last("mean_share") for run in runs]))
    if undefined:
        why = f"undefined: {undefined[0]}"
    elif any(run.lost_direction for run in runs):
        why = "the weight decay has removed a target direction"
    elif ok:
        why = f"falls from {number(float(np.mean(starts)))}, with all {case.n} target directions alive"
    elif share > 0.3 and max(run.last("nrc1_centred") for run in runs) < COLLAPSED:
        why = f"centred features do collapse, but their mean ({share:.0%} of the mean square) lies outside the plane"
    else:
        why = f"ends above {COLLAPSED:g} or has not fallen tenfold (decay budget {runs[0].budget:.3g})"
    beside = {"at the start": starts} | case.controls(lambda run: run.last(metric))
    return Finding(quantity, ends, beside, word(ok), why, judged)


def nrc1(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""
    views = [
        (PAPER, "features scaled to length 1, not centred", "nrc1"),
        (EARLIER, "raw features; here over their mean square", "nrc1_raw"),
        (CORRECTED, "features centred, then scaled to length 1", "nrc1_centred"),
    ]
    return _falls(case, "nrc1", "NRC1", views)


def nrc2(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""
    views = [
        (PAPER, "features scaled to length 1, not centred", "nrc2"),
        (EARLIER, "raw features; here over their mean square", "nrc2_raw"),
    ]
    return _falls(case, "nrc2", "NRC2", views)


def nrc3(case: Case) -> Finding:
    """Every seed ends below 0.05, and their mean is at most half of both a random W (the start) and no weight decay."""
    if case.n == 1:
        return Finding("NRC3", [], {}, UNTESTABLE, "NRC3 is identically 0 for a single target")
    ends = [run.last("nrc3") for run in case.main]
    starts = [start_of(run, "nrc3") for run in case.main]
    beside = {"random W, at the start": starts} | case.controls(lambda run: run.last("nrc3"))
    rival = min(float(np.mean(values)) for values in beside.values())

    def verdict(values: list[float]) -> str:
        return word(all(v < COLLAPSED for v in values) and float(np.mean(values)) <= rival / 2)

    grid = [_grid_nrc3(run) for run in case.main]
    if verdict(ends) == HOLDS:
        why = "small, and well below both nulls"
    elif all(e < COLLAPSED for e in ends):
        why = f"small, but a null scores {number(rival)}: Sigma is so even here that hardly any W is far from it"
    else:
        why = f"the best gamma leaves {number(float(np.mean(ends)))}; W W' is another matrix than the shifted root"
    views = [
        View(RELEASED, "gamma from a grid of 1000 points", grid, verdict(grid)),
        View(CORRECTED, "gamma in closed form", ends, verdict(ends)),
    ]
    return Finding("NRC3 at its best gamma", ends, beside, verdict(ends), why, views)


def _grid_nrc3(run: Run) -> float:
    sigma = run.snapshots["sigma"]
    lowest = max(float(np.linalg.eigvalsh(sigma)[0]), 0.0)
    return float(nrc3_curve(run.snapshots["weight_end"], sigma, np.linspace(0, lowest, GRID)).min())


def _share_of_first(run: Run, n: int) -> float:
    return float(sum(run.last(f"evr_{k}") for k in range(1, n + 1)))


def evr(case: Case) -> Finding:
    """In every seed the first n components hold at least 95 % of the variance at the end."""
    if case.n > 5:
        return Finding("EVR", [], {}, UNTESTABLE, f"only five components are recorded; n is {case.n}")
    ends = [_share_of_first(run, case.n) for run in case.main]
    beside = case.controls(lambda run: _share_of_first(run, case.n))
    ok = all(e >= EVR_MIN for e in ends)
    why = f"first {case.n} of {case.main[0].snapshots['features_end'].shape[1]} components"
    return Finding(f"share of the first {case.n} components", ends, beside, word(ok), why)


def gamma_inside(case: Case) -> Finding:
    """In every seed the best gamma lies between 1 % and 99 % of lambda_min."""
    if case.n == 1:
        return Finding("gamma", [], {}, UNTESTABLE, "NRC3 is identically 0 for a single target")
    ends = [run.last("nrc3_gamma") for run in case.main]
    ok = all(GAMMA_EDGE < e < 1 - GAMMA_EDGE for e in ends)
    edge = "0" if float(np.mean(ends)) < 0.5 else "lambda_min"
    why = "inside" if ok else f"the minimum lies at the edge, gamma = {edge}"
    beside = case.controls(lambda run: run.last("nrc3_gamma"))
    return Finding("best gamma / lambda_min", ends, beside, word(ok), why)


def needs_decay(case: Case) -> Finding:
    """Every run without weight decay ends with NRC1 above 0.05, every one with it below 0.05."""

    def judge(metric: str) -> tuple[str, list[float], list[float]]:
        without = [run.last(metric) for run in case.control]
        with_it = [run.last(metric) for run in case.main]
        if not without or not all(v < COLLAPSED for v in with_it):
            return UNTESTABLE, without, with_it
        return word(all(v > COLLAPSED for v in without)), without, with_it

    verdict, without, with_it = judge("nrc1")
    if not without:
        why = "there are no runs without weight decay"
    elif verdict == UNTESTABLE:
        why = "by NRC1 these features do not collapse with weight decay either: nothing to compare"
    else:
        why = f"equal length of training; decay budget {case.main[0].budget:.3g} against 0"
    verdict_c, without_c, _ = judge("nrc1_centred")
    views = [
        View(PAPER, "NRC1", without, verdict),
        View(CORRECTED, "NRC1 of centred features", without_c, verdict_c),
    ]
    beside = {"with weight decay": with_it}
    return Finding("NRC1 without weight decay", without, beside, verdict, why, views)


def phase_change(case: Case) -> Finding:
    """The smallest positive decay whose budget lambda*tau is at least 20 collapses (NRC1 < 0.05), and 0 does not."""
    runs = case.groups
    positive = [wd for wd in runs if wd > 0]
    smallest = min(positive, default=0.0)
    done = [wd for wd in positive if min(run.budget for run in runs[wd]) >= BUDGET_DONE]
    if not done or 0.0 not in runs:
        return Finding("NRC1", [], {}, UNTESTABLE, "needs a sweep with 0 and a long enough run")

    def judge(metric: str) -> tuple[str, list[float]]:
        values = [run.last(metric) for run in runs[min(done)]]
        zero = [run.last(metric) for run in runs[0.0]]
        if min(done) > smallest:
            return UNTESTABLE, values
        return word(all(v < COLLAPSED for v in values) and all(v > COLLAPSED for v in zero)), values

    verdict, values = judge("nrc1")
    beside = {f"lambda = {wd:g}": [r.last("nrc1") for r in g] for wd, g in runs.items() if wd != min(done)}
    if verdict == UNTESTABLE:
        budget = min(run.budget for run in runs[smallest])
        why = f"the smallest decay, {smallest:g}, has a budget of {budget:.2g} only: no collapse may mean not yet"
    else:
        why = f"smallest decay {min(done):g}, budget {min(r.budget for r in runs[min(done)]):.3g}"
    views = [
        View(PAPER, "NRC1", values, verdict),
        View(CORRECTED, "NRC1 of centred features", judge("nrc1_centred")[1], judge("nrc1_centred")[0]),
    ]
    return Finding(f"NRC1 at lambda = {min(done):g}", values, beside, verdict, why, views)
