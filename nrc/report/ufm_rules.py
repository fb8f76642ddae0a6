"""The rules of the scorecard for the unconstrained feature model (NeurIPS 2024, section 4): theory against practice.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

import numpy as np

from nrc.figures._load import Run
from nrc.report.findings import UNTESTABLE, Case, Finding, View, word
from nrc.report.rules import PAPER, RELEASED, collapsed, start_of
from nrc.theory import ufm

UFM_TOLERANCE = 0.1


def _optimum(run: Run, loss: str = "coded") -> ufm.Optimum:
    return ufm.optimum(run.snapshots["sigma"].astype(float), run.weight_decay, run.weight_decay, loss=loss)


def ufm_collapse(case: Case) -> Finding:
    """Every seed ends with NRC1 and NRC2 below 0.05 and a tenth of the start (the larger of the two is shown)."""
    best = _optimum(case.main[0])
    if best.regime != "collapse":
        return Finding("NRC1, NRC2", [], {}, UNTESTABLE, f"c = {best.c:.2g}: the regime is {best.regime}")

    def larger(run: Run) -> float:
        return max(run.last("nrc1"), run.last("nrc2"))

    ends = [larger(run) for run in case.main]
    starts = [max(start_of(run, "nrc1"), start_of(run, "nrc2")) for run in case.main]
    ok = collapsed(ends, starts, list(case.main))
    why = f"c = {best.c:.2g} below lambda_min; lambda*tau = {case.main[0].budget:.3g}"
    beside = {"at the start": starts} | case.controls(larger)
    return Finding("larger of NRC1 and NRC2", ends, beside, word(ok), why)


def ufm_gram(case: Case) -> Finding:
    """In every seed |K - K*| is at most 10 % of |K*|, for K = W W' and the theory's K*; the null is a multiple of I."""

    def error(run: Run, loss: str) -> float:
        weight = run.snapshots["weight_end"].astype(float)
        best = _optimum(run, loss).gram.numpy()
        return float(np.linalg.norm(weight @ weight.T - best) / np.linalg.norm(best))

    def null(run: Run) -> float:
        best = _optimum(run).gram.numpy()
        even = np.eye(len(best)) * np.trace(best) / len(best)
        return float(np.linalg.norm(even - best) / np.linalg.norm(best))

    coded, written = ([error(run, loss) for run in case.main] for loss in ("coded", "paper"))
    verdict = word(all(e <= UFM_TOLERANCE for e in coded))
    views = [
        View(PAPER, "c = lambda_H lambda_W", written, word(all(e <= UFM_TOLERANCE for e in written))),
        View(RELEASED, "the loss that is coded: c = n^2 lambda_H lambda_W", coded, verdict),
    ]
    why = f"relative error against the theory; regime {_optimum(case.main[0]).regime}"
    beside = {"best multiple of the identity": [null(run) for run in case.main]}
    return Finding("|W W' - K*| / |K*|", coded, beside, verdict, why, views)


def ufm_residual(case: Case) -> Finding:
    """In every seed the train MSE is within 10 % of the variance of the targets from the theory's."""
    scale = case.target_variance
    errors = [abs(run.last("mse") - _optimum(run).mse) / scale for run in case.main]
    beside = {"train MSE": [run.last("mse") for run in case.main]}
    beside |= {"theory's MSE": [_optimum(run).mse for run in case.main]}
    ok = all(e <= UFM_TOLERANCE for e in errors)
    why = (
        "a network cannot place its features freely where inputs nearly coincide"
        if not ok
        else "as predicted"
    )
    return Finding("|MSE - theory's| / target variance", errors, beside, word(ok), why)
