"""The rules of the scorecard for the unconstrained feature model (NeurIPS 2024, section 4): theory against practice.

Each takes a `Case` and returns a `Finding`; the first line of its docstring is the rule as the report prints it.
"""

from collections.abc import Callable

import numpy as np

from nrc.figures.ufm import predicted, residuals
from nrc.report.findings import HOLDS, UNTESTABLE, Case, Finding, View, mean, number
from nrc.report.rules import PAPER, RELEASED, START, lost
from nrc.runs.read import Run, collapsed

UFM_TOLERANCE = 0.1
LOSSES = (  # the same theory for two losses, of which the runs minimise the second
    (PAPER, "paper", "c = lambda_H lambda_W"),
    (RELEASED, "coded", "the loss that is coded: c = n^2 lambda_H lambda_W"),
)


def ufm_collapse(case: Case) -> Finding:
    """Every seed ends with NRC1 and NRC2 below 0.05 and a tenth of the start (the larger of the two is shown)."""
    best = predicted(case.main[0])
    if best.regime != "collapse":
        return Finding("NRC1, NRC2", [], {}, UNTESTABLE, f"c = {best.c:.2g}: the regime is {best.regime}")

    def larger(run: Run) -> float:
        return max(run.last("nrc1"), run.last("nrc2"))

    ends = [larger(run) for run in case.main]
    starts = [max(run.first("nrc1"), run.first("nrc2")) for run in case.main]
    ok = collapsed(case.main, "nrc1", "nrc2")
    why = f"c = {best.c:.2g} below lambda_min; {case.clock}" + (
        "; a target direction is lost" * lost(case.main)
    )
    beside = {START: starts} | case.controls(larger)
    return Finding("larger of NRC1 and NRC2", ends, beside, case.word(ok), why)


def _judged(
    case: Case, quantity: str, error: Callable[[Run, str], float], beside: dict[str, list[float]], why: str
) -> Finding:
    """Relative error against the theory, of at most UFM_TOLERANCE, for both losses."""

    def verdict(values: list[float]) -> str:
        return case.word(all(v <= UFM_TOLERANCE for v in values))  # written so that NaN fails

    views = []
    for name, loss, words in LOSSES:
        values = [error(run, loss) for run in case.main]
        views.append(View(name, words, values, verdict(values)))
    coded = views[-1]
    return Finding(quantity, coded.values, beside, coded.verdict, f"{why}; {case.clock}", views)


def _gram_error(run: Run, loss: str = "coded", when: str = "end") -> float:
    weight = run.snapshots[f"weight_{when}"].astype(float)
    return _relative(weight @ weight.T, predicted(run, loss).gram.numpy())


def _relative(measured: np.ndarray, theory: np.ndarray) -> float:
    return float(np.linalg.norm(measured - theory) / np.linalg.norm(theory))


def ufm_gram(case: Case) -> Finding:
    """In every seed |K - K*| is at most 10 % of |K*|, for K = W W' and the theory's K*; the null is a multiple of I."""

    def null(run: Run) -> float:
        best = predicted(run).gram.numpy()
        return _relative(np.eye(len(best)) * np.trace(best) / len(best), best)

    beside = {"best multiple of the identity": [null(run) for run in case.main]}
    if all("weight_start" in run.snapshots for run in case.main):
        beside[START] = [_gram_error(run, when="start") for run in case.main]
    why = f"relative error against the theory; regime {predicted(case.main[0]).regime}"
    return _judged(case, "|W W' - K*| / |K*|", _gram_error, beside, why)


def _covariance(run: Run) -> np.ndarray:
    """Covariance (n, n) of the residuals of the snapshot's samples."""
    found = residuals(run, "end")
    return found.T @ found / len(found)


def unevenness(covariance: np.ndarray) -> float:
    """|C - m I| / |m I|, m the mean variance: 0 for a multiple of the identity."""
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return _relative(covariance, even)


def ufm_residual(case: Case) -> Finding:
    """In every seed the residuals' covariance C obeys |C - c I| <= 10 % of |c I|, c the theory's variance."""

    def error(run: Run, loss: str) -> float:
        return _relative(_covariance(run), predicted(run, loss).residual_covariance.numpy())

    def times(run: Run) -> float:
        covariance = _covariance(run)
        return float(np.trace(covariance)) / len(covariance) / predicted(run).c

    round_ = [unevenness(_covariance(run)) for run in case.main]
    beside = {"mean variance over c": [times(run) for run in case.main]}
    why = f"c = {predicted(case.main[0]).c:.2g}; residuals of the snapshot's 256 train rows"
    rival: list[float] = []
    if case.n > 1:
        rival = [unevenness(_covariance(run)) for run in case.control]
        beside |= {"unevenness |C - m I| / |m I|, m its mean variance": round_}
        beside |= {"the same without penalty": rival} if rival else {}
    found = _judged(case, "|C - c I| / |c I|", error, beside, why)
    if not rival:
        return found
    # the shape alone: a network that no penalty drives to c can still have residuals as round as the theory's
    even = all(v <= UFM_TOLERANCE for v in round_)
    clear = float(np.mean(round_)) <= float(np.mean(rival)) / 2
    note = "" if clear else f"without penalty it is {mean(rival)}: the penalties do not make it round"
    shape = View("shape alone", "unevenness of C", round_, case.word(even and clear), note)
    return Finding(
        found.quantity, found.measured, found.beside, found.verdict, found.why, [*found.views, shape]
    )


def ufm_balance(case: Case) -> Finding:
    """In every seed lambda_H mean |h|^2 and lambda_W |W|^2 differ by at most 10 %; here lambda_H = lambda_W."""

    def ratio(run: Run, when: str = "end") -> float:
        rms = run.last("feature_norm") if when == "end" else run.first("feature_norm")
        return rms**2 / float((run.snapshots[f"weight_{when}"].astype(float) ** 2).sum())

    ratios = [ratio(run) for run in case.main]
    beside = case.controls(ratio)
    if all("weight_start" in run.snapshots for run in case.main):
        beside = {START: [ratio(run, "start") for run in case.main]} | beside
    ok = all(abs(r - 1) <= UFM_TOLERANCE for r in ratios)
    why = f"1 at any point where the gradients by W and by a linear feature layer vanish; {case.clock}"
    return Finding("mean |h|^2 / |W|^2", ratios, beside, case.word(ok), why)


def ufm_loss(case: Case) -> Finding:
    """In every seed the regularised loss is within 10 % of the theory's least value, n c/2 + sqrt(c) tr A."""

    def loss(run: Run, when: str = "end") -> float:
        pick = run.last if when == "end" else (lambda name: run.first(name))
        square = float((run.snapshots[f"weight_{when}"].astype(float) ** 2).sum())
        # as `predicted` has it: 0.5 * mean of the squares, and penalties of that scale
        strength = predicted(run).lambda_h
        return 0.5 * pick("mse") + strength / 2 * (pick("feature_norm") ** 2 + square)

    least = [predicted(run).loss for run in case.main]
    ends = [loss(run) for run in case.main]
    values = [abs(end / best - 1) for end, best in zip(ends, least, strict=True)]
    beside = {
        "the theory's loss": least,
        "this loss": ends,
        "of it 0.5 MSE": [0.5 * r.last("mse") for r in case.main],
    }
    if all("weight_start" in run.snapshots for run in case.main):
        beside[f"this loss {START}"] = [loss(run, "start") for run in case.main]
    verdict = case.word(all(v <= UFM_TOLERANCE for v in values))
    gap = number(float(np.mean(ends)) - float(np.mean(least)))
    why = case.clock if verdict == HOLDS else f"{gap} above the least value; {case.clock}"
    return Finding("|L - L*| / L*", values, beside, verdict, why)
