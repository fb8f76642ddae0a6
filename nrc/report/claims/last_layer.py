"""Last layer: NRC1 to NRC3, explained variance, gamma, and the need of weight decay (NeurIPS 2024)."""

import numpy as np

from nrc import criteria
from nrc.criteria import COLLAPSED, ENOUGH_BUDGET, not_yet
from nrc.metrics import ALIVE, nrc3_curve
from nrc.metrics.last_layer import nrc2_centred
from nrc.report.published import published_gamma
from nrc.report.registry import (
    CORRECTED,
    FAILS,
    NOT_YET,
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
    values,
    within,
    word,
)
from nrc.runs.read import Run, collapsed, falling

EVR_MIN = 0.95
GAMMA_EDGE = 0.01  # of lambda_min
GRID = 1000  # points of gamma in the released code
EARLIER = "as in the authors' earlier runs"
EXPERIMENTS = ["prevalence", "prevalence_linear", "images"]
MLPS = EXPERIMENTS[:2]
FIGURE_2 = "figure 2 of NeurIPS 2024"
Pair = tuple[Values, Values]  # at the start and at the end


def _pair(case: Case, metric: str) -> Pair:
    return case.starts(metric), case.ends(metric)


def _raw(case: Case, metric: str) -> Pair:
    """Mean squared distance of raw features over their mean squared length: their unit must not matter."""
    return (
        [run.first(metric) / run.first("feature_norm") ** 2 for run in case.main],
        [run.last(metric) / run.last("feature_norm") ** 2 for run in case.main],
    )


def _collapse(case: Case, metric: str, centred: Pair, words: str) -> Finding:
    """NRC1 or NRC2 by the rule of `criteria.collapsed`, with every target direction alive."""
    late = falling(case.main, metric)

    def verdict(pair: Pair) -> str:
        if case.lost:
            return FAILS  # more time brings no direction back
        ok = criteria.collapsed(*pair)
        return NOT_YET if late and not ok else case.word(ok)

    starts, ends = _pair(case, metric)
    ways = [
        (PAPER, "features scaled to length 1, not centred", (starts, ends)),
        (EARLIER, "raw features; here over their mean square", _raw(case, f"{metric}_raw")),
        (CORRECTED, words, centred),
    ]
    undefined = next((run.why(metric) for run in case.main if not np.isfinite(run.last(metric))), "")
    if undefined:
        why = f"undefined: {undefined}; "
    elif case.lost:
        why = "a target direction is dead; "
    else:
        why = "still falling in the second half of the run; " if late and max(ends) >= COLLAPSED else ""
    return Finding(
        metric.upper(),
        ends,
        FAILS if undefined else verdict((starts, ends)),
        why + case.clock,
        {START: starts} | case.controls(metric),
        [View(name, text, pair[1], verdict(pair)) for name, text, pair in ways if np.isfinite(pair).all()],
        bound=COLLAPSED,
    )


@claim(
    "nrc1", title="NRC1", source="NeurIPS 2024, definition of NRC1 and figure 2", on=EXPERIMENTS, figure="prevalence",
    says="The last layer's features collapse onto the span of their first n principal components.",
)  # fmt: skip
def nrc1(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""
    return _collapse(case, "nrc1", _pair(case, "nrc1_centred"), "features centred, then scaled to length 1")


@claim(
    "nrc2", title="NRC2", source="NeurIPS 2024, definition of NRC2 and figure 2", on=EXPERIMENTS, figure="prevalence",
    says="The last layer's features collapse onto the row space of the output weights W.",
)  # fmt: skip
def nrc2(case: Case) -> Finding:
    """Every seed ends below 0.05 and at a tenth of its start or less, with every target direction alive in W."""

    def centred(run: Run, when: str) -> float:
        features, weight = (run.snapshots.get(f"{part}_{when}") for part in ("features", "weight"))
        return float("nan") if features is None or weight is None else nrc2_centred(features, weight)

    pair = tuple([centred(run, when) for run in case.main] for when in ("start", "end"))
    return _collapse(case, "nrc2", (pair[0], pair[1]), "features centred, then scaled; first 256 rows")


@claim(
    "nrc3", title="NRC3", source="NeurIPS 2024, definition of NRC3 and figure 2", on=EXPERIMENTS, figure="prevalence",
    says="W W' becomes proportional to the square root of the targets' covariance, shifted by sqrt(gamma).",
)  # fmt: skip
def nrc3(case: Case) -> Finding:
    """Every seed ends below 0.05, and their mean is at most half of both a random W (the start) and no weight decay."""
    if case.n == 1:
        return Finding("NRC3", [], UNTESTABLE, "NRC3 is identically 0 for a single target")
    ends = case.ends("nrc3")
    beside = {f"random W, {START}": case.starts("nrc3")} | case.controls("nrc3")

    def verdict(found: Values) -> str:
        small = all(v < COLLAPSED for v in found)
        # NRC3 judges W alone: that it is near Sigma's root before it has learnt anything is no matter of time
        return word(beats(found, *beside.values())) if small else case.word(False)

    def on_the_grid(run: Run) -> float:
        sigma = run.snapshots["sigma"]
        gammas = np.linspace(0, max(float(np.linalg.eigvalsh(sigma)[0]), 0.0), GRID)
        return float(nrc3_curve(run.snapshots["weight_end"], sigma, gammas).min())

    small = "small, but a null is as well; " if verdict(ends) == FAILS and max(ends) < COLLAPSED else ""
    grid = case.ends(on_the_grid)
    views = [
        View(RELEASED, f"gamma from a grid of {GRID} points", grid, verdict(grid)),
        View(CORRECTED, "gamma in closed form", ends, verdict(ends)),
    ]
    return Finding(
        "NRC3 at its best gamma", ends, verdict(ends), small + case.clock, beside, views, bound=COLLAPSED
    )


@claim(
    "evr", title="Explained variance", source="NeurIPS 2024, figure 3", on=EXPERIMENTS, figure="evr",
    says="The first n principal components end up with all of the features' variance.",
)  # fmt: skip
def evr(case: Case) -> Finding:
    """In every seed the first n components end with at least 95 % of the variance, missing at most half as much as at
    the start."""
    n = case.n
    if n > 5:
        return Finding("EVR", [], UNTESTABLE, f"only five components are recorded; n is {n}")
    starts, ends = ([float(sum(row)) for row in zip(*columns, strict=True)] for columns in zip(
        *(_pair(case, f"evr_{k}") for k in range(1, n + 1)), strict=True
    ))  # fmt: skip
    whole = tuple([1 - v for v in found] for found in _raw(case, "nrc1_raw"))

    def verdict(before: Values, found: Values) -> str:
        if not all(v >= EVR_MIN for v in found):
            return case.word(False)
        return word(beats([1 - v for v in found], [1 - v for v in before]))

    views = [
        View(PAPER, "of the variance (features centred)", ends, verdict(starts, ends)),
        View("with the mean", "of the mean square, nothing subtracted", whole[1], verdict(*whole)),
    ]
    beside = {START: starts} | case.controls(lambda run: sum(run.last(f"evr_{k}") for k in range(1, n + 1)))
    return Finding(
        f"share of the first {n} components", ends, verdict(starts, ends), case.clock, beside, views, EVR_MIN
    )


@claim(
    "gamma", title="A gamma exists", source="NeurIPS 2024, figure 4", on=EXPERIMENTS, figure="gamma",
    says="NRC3 as a function of gamma has its minimum strictly inside (0, lambda_min).",
)  # fmt: skip
def gamma(case: Case) -> Finding:
    """In every seed the best gamma lies between 1 % and 99 % of lambda_min."""
    if case.n == 1:
        return Finding("gamma", [], UNTESTABLE, "NRC3 is identically 0 for a single target")

    def inside(found: Values) -> bool:
        return all(GAMMA_EDGE < v < 1 - GAMMA_EDGE for v in found)

    starts, ends = _pair(case, "nrc3_gamma")
    little = "a random W has it inside as well, so this alone shows little; " if inside(starts) else ""
    beside = {f"random W, {START}": starts} | case.controls("nrc3_gamma")
    theirs = published_gamma(case.main[0].data)
    beside |= {"published": [theirs]} if np.isfinite(theirs) else {}
    why = (little if inside(ends) else "the minimum lies at the edge; ") + case.clock
    edge = GAMMA_EDGE if np.mean(ends) < 0.5 else 1 - GAMMA_EDGE
    return Finding(
        "best gamma / lambda_min", ends, case.word(inside(ends)), why, beside, bound=edge, grain=0.02
    )


@claim(
    "decay", title="Collapse needs weight decay", source="NeurIPS 2024, figure 5 and theorem 4.3",
    on=[*EXPERIMENTS, "ufm"], figure="sweep", says="Without weight decay there is no collapse; with it there is.",
)  # fmt: skip
def decay(case: Case) -> Finding:
    """Every run without weight decay stays above NRC1 0.05 from its first step on, every one with it collapses by the
    rule for NRC1."""

    def judge(metric: str) -> View:
        least = [float(run.series(metric).iloc[1:].min(skipna=False)) for run in case.control]
        stays = all(v > COLLAPSED for v in least)
        verdict = word(stays) if least and (collapsed(case.main, metric) or not stays) else UNTESTABLE
        return View(PAPER if metric == "nrc1" else CORRECTED, metric, least, verdict)

    plain = judge("nrc1")
    why = "a target direction is dead with weight decay; " if case.lost else ""
    if plain.verdict == UNTESTABLE:
        why += "no collapse with weight decay to compare with; " if case.control else "no run without it; "
    beside = {"with weight decay": case.ends("nrc1")}
    views = [plain, judge("nrc1_centred")]
    return Finding(
        "least NRC1 without weight decay", plain.values, plain.verdict, why + case.clock, beside, views, COLLAPSED
    )  # fmt: skip


@claim(
    "phase", title="Phase change at small decay", source="NeurIPS 2024, figure 5 and section 4", on=EXPERIMENTS,
    also={"prevalence": "phase", "prevalence_linear": "phase_linear"}, figure="phase",
    says="However small, a positive weight decay brings collapse about; the change is at 0.",
)  # fmt: skip
def phase(case: Case) -> Finding:
    """The smallest positive decay collapses by the rule for NRC1, 0 does not, and no decay of a budget of 20 stays
    uncollapsed unless it still falls."""
    groups = case.groups
    positive = sorted(wd for wd in groups if wd > 0)
    if not positive or 0.0 not in groups:
        return Finding("NRC1", [], UNTESTABLE, "needs runs with weight decays and without")
    least, zero = groups[positive[0]], groups[0.0]
    budgets = {wd: min(run.budget for run in groups[wd]) for wd in positive}
    grown = [
        wd for wd in positive
        if not not_yet(budgets[wd]) and not any(run.lost_direction for run in groups[wd])
    ]  # fmt: skip

    def stubborn(metric: str) -> list[float]:
        return [wd for wd in grown if not collapsed(groups[wd], metric) and not falling(groups[wd], metric)]

    def verdict(metric: str) -> str:
        if stubborn(metric):
            return FAILS
        if not collapsed(least, metric):
            return NOT_YET if not_yet(budgets[positive[0]]) else FAILS
        return word(all(run.last(metric) > COLLAPSED for run in zero))

    why = (
        f"the smallest of {len(positive)} decays, {positive[0]:g}, has a budget of {budgets[positive[0]]:.3g}"
    )
    for wd in stubborn("nrc1")[:1]:
        why += f"; lambda {wd:g} does not collapse after a budget of {budgets[wd]:.3g}"
    beside = {f"lambda = {wd:g}": values(g, "nrc1") for wd, g in groups.items() if wd != positive[0]}
    views = [
        View(PAPER, "NRC1", values(least, "nrc1"), verdict("nrc1")),
        View(CORRECTED, "NRC1 of centred features", values(least, "nrc1_centred"), verdict("nrc1_centred")),
    ]
    return Finding(
        f"NRC1 at lambda = {positive[0]:g}", values(least, "nrc1"), verdict("nrc1"), why, beside, views,
        COLLAPSED, runs=[*least, *zero],
    )  # fmt: skip


@claim(
    "budget", title="Long enough to tell", source="this project", on=MLPS,
    says="The runs are long enough to tell 'never' from 'not yet'.",
)  # fmt: skip
def budget(case: Case) -> Finding:
    """The decay budget lambda tau is at least 20 in every seed."""
    found = case.ends(lambda run: run.budget)
    ok = not any(not_yet(v) for v in found)
    return Finding("decay budget", found, word(ok), case.clock, bound=ENOUGH_BUDGET)


@claim(
    "alive", title="All target directions alive", source="this project; assumed by both papers", on=EXPERIMENTS,
    says="Collapse is not bought with a target direction.", figure="phase",
)  # fmt: skip
def alive(case: Case) -> Finding:
    """In every seed the least singular value of W is above a tenth of its largest."""
    return within(case, [above("least / largest singular value of W", case.ends("weight_rcond"), ALIVE)])


@claim(
    "plane", title="The centred features lie in a plane", source=f"this project, beside {FIGURE_2}", on=["prevalence"],
    figure="geometry", says="Whatever their mean does, the centred ReLU features lie in n directions.",
)  # fmt: skip
def plane(case: Case) -> Finding:
    """In every seed the centred NRC1 ends below 0.1 and the noise below 0.05."""
    return within(
        case,
        [
            below("centred NRC1", case.ends("nrc1_centred"), 0.1),
            below("noise", case.ends("noise"), 0.05),
        ],
    )


@claim(
    "linear_exact", title="A linear feature layer collapses exactly", on=["prevalence_linear"], figure="prevalence",
    source="NeurIPS 2024, section 4, theorem 4.1", says="NRC1 and NRC2 go to 0 and the first n components carry all.",
)  # fmt: skip
def linear_exact(case: Case) -> Finding:
    """In every seed NRC1 and NRC2 end below 1e-6 and the noise below 1e-3."""
    return within(
        case,
        [
            below("NRC1", case.ends("nrc1"), 1e-6),
            below("NRC2", case.ends("nrc2"), 1e-6),
            below("noise", case.ends("noise"), 1e-3),
        ],
    )


def _clock(case: Case, protocol: str, percent: float) -> Finding:
    """The last values of a protocol beside those of the published one, at equal tau."""
    theirs = [run for run in case.runs if run.protocol == "paper"]
    ours = [run for run in case.runs if run.protocol == protocol]

    def decades(metric: str) -> Values:
        rest = {(run.weight_decay, run.seed): run.last(metric) for run in theirs}
        return [
            abs(float(np.log10(run.last(metric) / rest.get((run.weight_decay, run.seed), np.nan)))) for run in ours
        ]  # fmt: skip

    limit = float(np.log10(1 + percent / 100))
    return within(
        case,
        [
            below("MSE, decades apart", decades("mse"), limit),
            below("NRC1, decades apart", decades("nrc1"), 0.15),
        ],
    )


@claim(
    "clock_accelerated", title="One clock: accelerated", source="this project", on=["tau_clock"], figure="tau_clock",
    says="The accelerated protocol follows the published one at equal tau.",
)  # fmt: skip
def clock_accelerated(case: Case) -> Finding:
    """At the same tau the MSE differs by less than 3 % and NRC1 by less than 0.15 decades."""
    return _clock(case, "accelerated", 3)


@claim(
    "clock_quick", title="One clock: quick", source="this project", on=["tau_clock"], figure="tau_clock",
    says="The quick protocol stays near the published one at equal tau.",
)  # fmt: skip
def clock_quick(case: Case) -> Finding:
    """At the same tau the MSE differs by less than 10 % and NRC1 by less than 0.15 decades."""
    return _clock(case, "quick", 10)
