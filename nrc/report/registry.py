"""The list of claims: each is a function that judges runs, with its text and its source beside it.

The function's docstring is the rule as the report prints it. A new claim is one more function in `nrc/report/claims`,
which is imported as a whole:

    @claim("my_claim", title="My claim", says="What is claimed, in one sentence.", source="Where it is claimed",
           figure="prevalence", on=["prevalence"])
    def my_claim(case: Case) -> Finding:
        \"\"\"When it holds, in one sentence.\"\"\"
        values = case.ends("nrc1")
        return Finding("NRC1", values, case.word(max(values) < 0.05), beside=case.controls("nrc1"))
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

import numpy as np

from nrc.criteria import not_yet
from nrc.errors import UserError
from nrc.runs.read import Run, lambda_groups

HOLDS, FAILS, UNTESTABLE, NOT_RUN = "holds", "does not hold", "not testable here", "not run"
PENDING = "pending"  # not run yet: the reproduction is under way
NOT_YET = "not yet"  # does not hold, after a decay budget that is too small to tell this from "never"
PAPER, RELEASED, CORRECTED = "as in the paper", "as in the released code", "corrected"
START = "at the start"
Values = list[float]
Quantity = str | Callable[[Run], float]


@dataclass(frozen=True)
class View:
    """One way of measuring the same thing: as in the paper, as in the released code, corrected.

    Attributes:
        name, quantity: which way; what is measured, in words.
        values: one per seed.
        verdict: by the claim's own rule; "" when the rule cannot be asked of it (`note` says why).
    """

    name: str
    quantity: str
    values: Values
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one claim on one data set.

    Attributes:
        quantity: what is measured, in words.
        measured: one value per seed.
        verdict, why: one of HOLDS, FAILS, NOT_YET, UNTESTABLE; what is to be known of it.
        beside: name of a null, a control or a published value -> its values.
        views: the same judged by other ways of measuring.
        bound: the number that `measured` is held against, if it is one.
        grain: numbers closer than this are the same, e.g. 1 for a count.
        reach: how far this goes beside the published value ("further than published"); "" without one.
        runs: runs judged that are neither at the headline weight decay nor without any.
    """

    quantity: str
    measured: Values
    verdict: str
    why: str = ""
    beside: Mapping[str, Values] = field(default_factory=dict)
    views: Sequence[View] = ()
    bound: float = math.nan
    grain: float = 0.0
    reach: str = ""
    runs: Sequence[Run] = ()

    @property
    def depends_on_view(self) -> bool:
        """Whether another way of measuring gives another verdict."""
        return len({self.verdict, *(v.verdict for v in self.views if v.verdict)}) > 1


@dataclass(frozen=True)
class Case:
    """The runs that a claim judges: one experiment on one data set.

    Attributes:
        runs: all of them.
        main: those at the headline weight decay, one per seed (at least one).
        control: those without weight decay.
        published_tau: how long the published run of this recipe was; NaN if nothing is known of it.
    """

    runs: Sequence[Run]
    main: Sequence[Run]
    control: Sequence[Run] = ()
    published_tau: float = math.nan

    @property
    def groups(self) -> dict[float, list[Run]]:
        """All runs by weight decay, largest first; of each seed the longest."""
        by_length = sorted(self.runs, key=lambda run: run.tau)
        return lambda_groups(list({(run.weight_decay, run.seed): run for run in by_length}.values()))

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

    @property
    def lost(self) -> bool:
        """Whether a target direction is dead in a seed, so that a collapse is bought with signal."""
        return any(run.lost_direction for run in self.main)

    def ends(self, quantity: Quantity) -> Values:
        """A metric of the last layer, or a function of a run, at the headline weight decay."""
        return values(self.main, quantity)

    def starts(self, metric: str) -> Values:
        return [run.first(metric) for run in self.main]

    def controls(self, quantity: Quantity) -> dict[str, Values]:
        """The same quantity of the runs without weight decay, if there are any."""
        return {"without weight decay": values(self.control, quantity)} if self.control else {}

    def word(self, ok: bool) -> str:
        """The verdict on what weight decay brings about: below a budget of 20, failing may mean "not yet"."""
        return HOLDS if ok else (NOT_YET if not_yet(self.main[0].budget) else FAILS)


@dataclass(frozen=True)
class Claim:
    """A registered claim; see `claim` for what each part is."""

    id: str
    part: str
    title: str
    says: str
    source: str
    figure: str
    on: tuple[str, ...]
    judge: Callable[[Case], Finding]
    also: Mapping[str, str]
    data: tuple[str, ...]
    by: Literal["data", "dataset"]

    @property
    def rule(self) -> str:
        """When it holds: the docstring of its function."""
        return " ".join((self.judge.__doc__ or "").split())


_registered: dict[str, Claim] = {}


def claim(
    id: str,
    *,
    title: str,
    says: str,
    source: str,
    on: Iterable[str],
    figure: str = "",
    also: Mapping[str, str] | None = None,
    data: Iterable[str] = (),
    by: Literal["data", "dataset"] = "data",
) -> Callable[[Callable[[Case], Finding]], Callable[[Case], Finding]]:
    """Register a function that judges the runs of one experiment on one data set.

    Args:
        id: short name, as in the scorecard.
        title, says, source: a heading; what is claimed, in one sentence; where it is claimed.
        on: the experiments that it is judged on, each on all its data sets.
        figure: name of the figure that shows it, as in `nrc.figures`.
        also: experiment -> another one whose runs are judged with its own.
        data: of these data sets alone.
        by: "data": a variant of a data set is judged by itself; "dataset": all its variants together.
    """

    def register(judge: Callable[[Case], Finding]) -> Callable[[Case], Finding]:
        if id in _registered and _registered[id].judge.__module__ != judge.__module__:
            raise UserError(f"there are two claims {id!r}; rename one")
        part = (import_module(judge.__module__).__doc__ or "").split(":")[0].lower()
        _registered[id] = Claim(
            id, part, title, says, source, figure, tuple(on), judge, dict(also or {}), tuple(data), by
        )
        return judge

    return register


def claims() -> list[Claim]:
    """All claims, in the order of their files' names and of their lines."""
    package = import_module("nrc.report.claims")
    for module in iter_modules(package.__path__, "nrc.report.claims."):
        import_module(module.name)
    return list(_registered.values())


def values(runs: Iterable[Run], quantity: Quantity) -> Values:
    """One number per run: the end of a metric of the last layer, or a function of the run."""
    return [run.last(quantity) if isinstance(quantity, str) else quantity(run) for run in runs]


def word(ok: bool) -> str:
    return HOLDS if ok else FAILS


def within(case: Case, bounds: Sequence[tuple[str, Values, float, float]], **more: object) -> Finding:
    """Judge several quantities by bounds that all must hold in every run; the first one is the one measured.

    Args:
        bounds: name, values, lower and upper bound of each; NaN and no value at all fail.
        more: further parts of the finding.
    """
    ok = [bool(found) and all(low < v < high for v in found) for _, found, low, high in bounds]
    views = [
        View(
            name, f"{'>' if low > -math.inf else '<'} {low if low > -math.inf else high:g}", found, word(good)
        )
        for (name, found, low, high), good in zip(bounds, ok, strict=True)
    ]
    name, first, low, high = bounds[0]
    bound = low if math.isfinite(low) else high
    return Finding(name, first, word(all(ok)), case.clock, views=views, bound=bound, **more)  # type: ignore[arg-type]


def below(name: str, found: Values, bound: float) -> tuple[str, Values, float, float]:
    return name, found, -math.inf, bound


def above(name: str, found: Values, bound: float) -> tuple[str, Values, float, float]:
    return name, found, bound, math.inf


def beats(found: Sequence[float], *nulls: Sequence[float]) -> bool:
    """Whether the mean distance from what is claimed is at most half of every null's; NaN nulls are left out.

    A null at a distance of 0 (or below) is as good as can be: nothing beats it.
    """
    rivals = [np.nanmean(null) for null in nulls if np.isfinite(null).any()]
    return all(rival > 0 and float(np.mean(found)) <= rival / 2 for rival in rivals)


def number(value: float) -> str:
    """Three digits, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def mean(found: Sequence[float]) -> str:
    """Mean over the seeds, three digits; a dash without values."""
    return number(float(np.mean(found))) if found else "–"


def value_range(found: Sequence[float]) -> str:
    """`[0.639, 0.644]`, or "" when all seeds agree to three digits."""
    return f"[{number(min(found))}, {number(max(found))}]" if len({number(v) for v in found}) > 1 else ""


def summary(found: Sequence[float]) -> str:
    """Mean and range over the seeds: `0.64 [0.639, 0.644]`."""
    return f"{mean(found)} {value_range(found)}".strip()
