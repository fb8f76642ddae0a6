"""Unconstrained feature model: the closed forms against networks with its penalties (NeurIPS 2024, section 4)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nrc.criteria import COLLAPSED
from nrc.figures.ufm import predicted, residuals
from nrc.metrics.linalg import unevenness
from nrc.report.registry import (
    PAPER,
    RELEASED,
    START,
    UNTESTABLE,
    Case,
    Finding,
    Values,
    View,
    beats,
    claim,
    mean,
)
from nrc.runs.read import Run, collapsed

TOLERANCE = 0.1
ON = ["ufm"]
LOSSES = (  # the same theory for two losses, of which the runs minimise the second
    (PAPER, "paper", "c = lambda_H lambda_W"),
    (RELEASED, "coded", "the loss that is coded: c = n^2 lambda_H lambda_W"),
)


def _apart(measured: np.ndarray, theory: np.ndarray) -> float:
    return float(np.linalg.norm(measured - theory) / np.linalg.norm(theory))


def _squares(run: Run, when: str) -> float:
    return float((run.snapshots[f"weight_{when}"].astype(float) ** 2).sum())


def _at(run: Run, metric: str, when: str) -> float:
    return run.last(metric) if when == "end" else run.first(metric)


def _started(case: Case, quantity: Callable[[Run, str], float]) -> dict[str, Values]:
    """The quantity before training, where the runs kept their first weights."""
    kept = all("weight_start" in run.snapshots for run in case.main)
    return {START: [quantity(run, "start") for run in case.main]} if kept else {}


def _judged(
    case: Case, quantity: str, error: Callable[[Run, str], float], beside: dict[str, Values], why: str
) -> Finding:
    """Relative error against the theory, of at most TOLERANCE, for both losses; the coded one decides."""
    views = []
    for name, loss, words in LOSSES:
        found = case.ends(lambda run, loss=loss: error(run, loss))  # type: ignore[misc]
        views.append(View(name, words, found, case.word(all(v <= TOLERANCE for v in found))))
    coded = views[-1]
    return Finding(
        quantity, coded.values, coded.verdict, f"{why}; {case.clock}", beside, views, bound=TOLERANCE
    )


@claim(
    "ufm_collapse", title="UFM: NRC1 and NRC2", source="NeurIPS 2024, corollary 4.2 (i) and figure 6", on=ON,
    figure="ufm_sweep", says="With penalties on features and last weights alone, NRC1 and NRC2 go to 0 (c below lambda_min).",
)  # fmt: skip
def ufm_collapse(case: Case) -> Finding:
    """Every seed ends with NRC1 and NRC2 below 0.05 and a tenth of the start (the larger of the two is shown)."""
    best = predicted(case.main[0])
    if best.regime != "collapse":
        return Finding("NRC1, NRC2", [], UNTESTABLE, f"c = {best.c:.2g}: the regime is {best.regime}")

    def larger(run: Run, when: str = "end") -> float:
        return max(_at(run, "nrc1", when), _at(run, "nrc2", when))

    why = f"c = {best.c:.2g} below lambda_min; {case.clock}" + "; a target direction is dead" * case.lost
    beside = {START: case.ends(lambda run: larger(run, "start"))} | case.controls(larger)
    ok = collapsed(case.main, "nrc1", "nrc2")
    return Finding("larger of NRC1 and NRC2", case.ends(larger), case.word(ok), why, beside, bound=COLLAPSED)


@claim(
    "ufm_gram", title="UFM: W W' in closed form", source="NeurIPS 2024, theorem 4.1 and corollary 4.2 (ii)", on=ON,
    figure="theory", says="W W' equals sqrt(lambda_H / lambda_W) (Sigma^(1/2) - sqrt(c) I), element by element.",
)  # fmt: skip
def ufm_gram(case: Case) -> Finding:
    """In every seed |K - K*| is at most 10 % of |K*|, for K = W W' and the theory's K*; the null is a multiple of I."""

    def error(run: Run, loss: str = "coded", when: str = "end") -> float:
        weight = run.snapshots[f"weight_{when}"].astype(float)
        return _apart(weight @ weight.T, predicted(run, loss).gram.numpy())

    def null(run: Run) -> float:
        best = predicted(run).gram.numpy()
        return _apart(np.eye(len(best)) * np.trace(best) / len(best), best)

    beside = {"best multiple of the identity": case.ends(null)}
    beside |= _started(case, lambda run, when: error(run, when=when))
    return _judged(case, "|W W' - K*| / |K*|", error, beside, f"regime {predicted(case.main[0]).regime}")


@claim(
    "ufm_residual", title="UFM: residual", source="NeurIPS 2024, corollary 4.2 (v) and figure 11", on=ON,
    figure="ufm_residuals", says="The residuals have covariance c I: uncorrelated, of equal variance, and of this size.",
)  # fmt: skip
def ufm_residual(case: Case) -> Finding:
    """In every seed the residuals' covariance C obeys |C - c I| <= 10 % of |c I|, c the theory's variance."""

    def covariance(run: Run) -> np.ndarray:
        found = residuals(run, "end")
        return found.T @ found / len(found)

    def times(run: Run) -> float:
        return float(np.trace(covariance(run))) / case.n / predicted(run).c

    def error(run: Run, loss: str) -> float:
        return _apart(covariance(run), predicted(run, loss).residual_covariance.numpy())

    def uneven(run: Run) -> float:
        return unevenness(covariance(run))

    beside = {"mean variance over c": case.ends(times)}
    why = f"c = {predicted(case.main[0]).c:.2g}; residuals of the snapshot's 256 train rows"
    found = _judged(case, "|C - c I| / |c I|", error, beside, why)
    if case.n == 1 or not case.control:
        return found
    # the shape alone: a network that no penalty drives to c can still have residuals as round as the theory's
    shape, rival = case.ends(uneven), [uneven(run) for run in case.control]
    clear = beats(shape, rival)
    ok = clear and all(v <= TOLERANCE for v in shape)
    note = "" if clear else f"without penalty it is {mean(rival)}: the penalties do not make it round"
    alone = View("shape alone", "unevenness of C", shape, case.word(ok), note)
    beside |= {"unevenness |C - m I| / |m I|, m its mean variance": shape, "the same without penalty": rival}
    return replace(found, beside=beside, views=[*found.views, alone])


@claim(
    "ufm_balance", title="UFM: features and weights in balance", on=ON, figure="ufm_norms",
    source="NeurIPS 2024, corollary 4.2 (iii) and figure 10",
    says="The two penalties are equal at the optimum: lambda_H |H|^2 = M lambda_W |W|^2.",
)  # fmt: skip
def ufm_balance(case: Case) -> Finding:
    """In every seed lambda_H mean |h|^2 and lambda_W |W|^2 differ by at most 10 %; here lambda_H = lambda_W."""

    def ratio(run: Run, when: str = "end") -> float:
        return _at(run, "feature_norm", when) ** 2 / _squares(run, when)

    ratios = case.ends(ratio)
    ok = all(abs(r - 1) <= TOLERANCE for r in ratios)
    edge = 1 + (TOLERANCE if np.mean(ratios) > 1 else -TOLERANCE)
    beside = _started(case, ratio) | case.controls(ratio)
    return Finding("mean |h|^2 / |W|^2", ratios, case.word(ok), case.clock, beside, bound=edge)


@claim(
    "ufm_loss", title="UFM: least loss", source="NeurIPS 2024, corollary 4.2 (iv)", on=ON, figure="ufm_sweep",
    says="The regularised loss reaches its closed form, n c/2 + sqrt(c) tr(Sigma^(1/2) - sqrt(c) I).",
)  # fmt: skip
def ufm_loss(case: Case) -> Finding:
    """In every seed the regularised loss is within 10 % of the theory's least value, n c/2 + sqrt(c) tr A."""

    def loss(run: Run, when: str = "end") -> float:
        # as `predicted` has it: 0.5 * mean of the squares, and penalties of that scale
        penalty = _at(run, "feature_norm", when) ** 2 + _squares(run, when)
        return 0.5 * _at(run, "mse", when) + predicted(run).lambda_h / 2 * penalty

    least, ends = case.ends(lambda run: predicted(run).loss), case.ends(loss)
    found = [abs(end / best - 1) for end, best in zip(ends, least, strict=True)]
    beside = {
        "the theory's loss": least,
        "this loss": ends,
        "of it 0.5 MSE": [v / 2 for v in case.ends("mse")],
    }
    ok = all(v <= TOLERANCE for v in found)
    return Finding(
        "|L - L*| / L*", found, case.word(ok), case.clock, beside | _started(case, loss), bound=TOLERANCE
    )
