"""What a rule is given (`Case`) and what it returns (`Finding`), and the words of a verdict."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nrc.criteria import not_yet
from nrc.runs.read import Run

HOLDS, FAILS, UNTESTABLE, NOT_RUN = "holds", "does not hold", "not testable here", "not run"
NOT_YET = "not yet"  # does not hold, after a decay budget that is too small to tell this from "not yet"


@dataclass(frozen=True)
class View:
    """One way of measuring the same thing: as in the paper, as in the released code, corrected.

    Attributes:
        name: which way.
        quantity: what is measured, in words.
        values: one per seed.
        verdict: by the claim's own rule; "" when the rule cannot be asked of it (`note` says why).
    """

    name: str
    quantity: str
    values: list[float]
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one rule on one data set.

    Attributes:
        quantity: what is measured, in words.
        measured: one value per seed.
        beside: name of a null, a control or a published value -> its values.
        verdict, why: one of HOLDS, FAILS, NOT_YET, UNTESTABLE; the reason in one sentence.
        views: the same judged by other ways of measuring.
        reach: how far this goes beside the published value ("further than published"); "" without one.
        runs: runs judged that are neither headline nor control.
    """

    quantity: str
    measured: list[float]
    beside: dict[str, list[float]]
    verdict: str
    why: str
    views: list[View] = field(default_factory=list)
    reach: str = ""
    runs: Sequence[Run] = ()

    @property
    def depends_on_view(self) -> bool:
        """Whether another way of measuring gives another verdict."""
        return len({self.verdict, *(v.verdict for v in self.views if v.verdict)}) > 1


@dataclass(frozen=True)
class Case:
    """The runs that a rule judges: one experiment on one data set.

    Attributes:
        main: the runs at the headline weight decay, one per seed (at least one).
        control: those without weight decay.
        groups: all runs by weight decay, largest first.
        published_tau: how long the published run of this recipe was; NaN if nothing is known of it.
    """

    main: Sequence[Run]
    control: Sequence[Run]
    groups: dict[float, list[Run]]
    published_tau: float = math.nan

    @property
    def n(self) -> int:
        """Number of targets."""
        return len(self.main[0].snapshots["sigma"])

    @property
    def target_rank(self) -> int:
        """Number of directions in which the targets vary."""
        return self.main[0].target_rank

    @property
    def target_variance(self) -> float:
        """tr(Sigma)/n, the MSE of predicting the mean."""
        return float(np.trace(self.main[0].snapshots["sigma"])) / self.n

    @property
    def clock(self) -> str:
        """How long was trained, in words: "decay budget 0.065 after 50 % of the published tau"."""
        run = self.main[0]
        share = run.tau / self.published_tau
        part = f" after {100 * share:.3g} % of the published tau" if math.isfinite(share) else ""
        return f"decay budget {run.budget:.3g}{part}"

    def word(self, ok: bool) -> str:
        """The verdict on what weight decay brings about: below a budget of 20, failing may mean "not yet"."""
        return HOLDS if ok else (NOT_YET if not_yet(self.main[0].budget) else FAILS)

    def controls(self, quantity: Callable[[Run], float]) -> dict[str, list[float]]:
        """The same quantity of the runs without weight decay, if there are any."""
        return {"without weight decay": [quantity(run) for run in self.control]} if self.control else {}


def word(ok: bool) -> str:
    return HOLDS if ok else FAILS


def beats(values: Sequence[float], *nulls: Sequence[float]) -> bool:
    """Whether the mean distance from what is claimed is at most half of every null's; NaN nulls are left out.

    A null at a distance of 0 (or below) is as good as can be: nothing beats it.
    """
    rivals = [np.nanmean(null) for null in nulls if np.isfinite(null).any()]
    return all(rival > 0 and float(np.mean(values)) <= rival / 2 for rival in rivals)


def number(value: float) -> str:
    """Three digits, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def plural(count: int, word: str) -> str:
    """`1 direction`, `2 directions`."""
    return f"{count} {word}{'s' * (count != 1)}"


def mean(values: Sequence[float]) -> str:
    """Mean over the seeds, three digits; a dash without values."""
    return number(float(np.mean(values))) if values else "–"


def value_range(values: Sequence[float]) -> str:
    """`[0.639, 0.644]`, or "" when all seeds agree to three digits."""
    return f"[{number(min(values))}, {number(max(values))}]" if len({number(v) for v in values}) > 1 else ""


def summary(values: Sequence[float]) -> str:
    """Mean and range over the seeds: `0.64 [0.639, 0.644]`."""
    return f"{mean(values)} {value_range(values)}".strip()
