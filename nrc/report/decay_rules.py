"""The rules of the scorecard for the need of weight decay (NeurIPS 2024): with and without it, and however small.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

from nrc.criteria import COLLAPSED, not_yet
from nrc.report.findings import FAILS, NOT_YET, UNTESTABLE, Case, Finding, View, plural, word
from nrc.report.rules import CORRECTED, PAPER, lost
from nrc.runs.read import collapsed, falling


def needs_decay(case: Case) -> Finding:
    """Every run without weight decay ends with NRC1 above 0.05, every one with it collapses by the rule for NRC1."""

    def judge(metric: str) -> tuple[str, list[float]]:
        without = [run.last(metric) for run in case.control]
        if not without or not collapsed(case.main, metric):
            return UNTESTABLE, without
        return word(all(v > COLLAPSED for v in without)), without

    verdict, without = judge("nrc1")
    if not without:
        why = "there are no runs without weight decay"
    elif verdict != UNTESTABLE:
        why = f"equal length of training; {case.clock} against 0"
    elif lost(case.main):
        why = "with weight decay a target direction is lost: no collapse of all of them to compare with"
    else:
        why = f"by NRC1 these features do not collapse with weight decay either ({case.clock}): nothing to compare"
    verdict_c, without_c = judge("nrc1_centred")
    views = [
        View(PAPER, "NRC1", without, verdict),
        View(CORRECTED, "NRC1 of centred features", without_c, verdict_c),
    ]
    beside = {"with weight decay": [run.last("nrc1") for run in case.main]}
    return Finding("NRC1 without weight decay", without, beside, verdict, why, views)


def phase_change(case: Case) -> Finding:
    """The smallest positive decay collapses by the rule for NRC1, 0 does not, and no decay of a budget of 20 stays uncollapsed unless it still falls."""
    groups = case.groups
    positive = sorted(wd for wd in groups if wd > 0)
    if not positive or 0.0 not in groups:
        return Finding("NRC1", [], {}, UNTESTABLE, "needs runs with weight decays and without")
    smallest, zero = positive[0], groups[0.0]
    budget = min(run.budget for run in groups[smallest])
    grown = [
        wd for wd in positive if not not_yet(min(run.budget for run in groups[wd])) and not lost(groups[wd])
    ]

    def judge(metric: str) -> tuple[str, list[float]]:
        values = [run.last(metric) for run in groups[smallest]]
        if stubborn(metric):
            return FAILS, values
        if not collapsed(groups[smallest], metric):
            return NOT_YET if not_yet(budget) else FAILS, values
        return word(all(run.last(metric) > COLLAPSED for run in zero)), values

    def stubborn(metric: str) -> list[float]:
        return [wd for wd in grown if not collapsed(groups[wd], metric) and not falling(groups[wd], metric)]

    verdict, values = judge("nrc1")
    why = f"the smallest of {plural(len(positive), 'decay')}, {smallest:g}, has a budget of {budget:.3g}"
    if stubborn("nrc1"):
        wd = stubborn("nrc1")[0]
        why = f"lambda {wd:g} does not collapse after a budget of {min(r.budget for r in groups[wd]):.3g}; {why}"
    elif verdict == NOT_YET:
        why += " only: no collapse may mean not yet"
    elif lost(groups[smallest]):
        why += " and has lost a target direction"
    beside = {f"lambda = {wd:g}": [r.last("nrc1") for r in g] for wd, g in groups.items() if wd != smallest}
    verdict_c, values_c = judge("nrc1_centred")
    views = [
        View(PAPER, "NRC1", values, verdict),
        View(CORRECTED, "NRC1 of centred features", values_c, verdict_c),
    ]
    runs = [*groups[smallest], *zero]
    return Finding(f"NRC1 at lambda = {smallest:g}", values, beside, verdict, why, views, runs=runs)
