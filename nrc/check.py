"""Compare finished runs with the committed expectations in `nrc/reference/expected.yaml`.

Each expectation is one sentence with its source, the runs it speaks of, one number per run and a
bound. It must hold for every one of these runs. A run that is missing fails: absence is not success.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nrc.errors import UserError
from nrc.metrics import ALIVE
from nrc.metrics.layer import VANISHED_SIGNAL
from nrc.runs.directory import read_run

EXPECTED = Path(__file__).with_name("reference") / "expected.yaml"
PROTOCOL = "quick"  # the numbers are of its runs; another length of training has other numbers
BOUNDS = ("below", "above")
KINDS = ("", "fall", "alive fall", "least", "accelerated/paper", "quick/paper")
BUDGET = "budget"
Read = Callable[[Path], tuple[dict[str, Any], pd.DataFrame]]


@dataclass(frozen=True)
class Expectation:
    """One line of the contract.

    Attributes:
        id, claim: short name; what it says, with the source.
        experiment: run folder without the protocol.
        data: data set, i.e. the folder below it.
        weight_decay: a number, "headline" for the one of the recipe, or "all" for every one that is run.
        quantity: `budget` (lambda * tau), `metric` (final value) or `kind:metric`, with `@layer` appended to
            the metric at will. Without a layer: the output layer, or the model for mse and r2. Kinds:
            `fall` (first / final), `alive fall` (the same, and 0 where a target direction is dead), `least`
            (smallest value after the start), `accelerated/paper` and `quick/paper` (|log10 of the ratio| of
            the final values of two protocols, for the tau clock).
        bound: "below" or "above".
        value: the bound.
    """

    id: str
    claim: str
    experiment: str
    data: str
    weight_decay: float | str
    quantity: str
    bound: str
    value: float

    @property
    def kind(self) -> str:
        return self.quantity.rpartition(":")[0]

    def place(self) -> str:
        """Where its runs lie below the outputs, as a pattern."""
        folder = f"{self.experiment}-{PROTOCOL}/{self.data}"
        if self.kind.endswith("/paper"):
            folder = f"{self.experiment}/{self.data}/protocol={self.kind.removesuffix('/paper')}"
        if self.weight_decay in ("all", "headline"):
            return f"{folder}/wd=*/seed=*"
        return f"{folder}/wd={float(self.weight_decay):g}/seed=*"


@dataclass(frozen=True)
class Verdict:
    """How an expectation fared.

    Attributes:
        values: one for each run that is there; NaN where it is not finished or the number is undefined.
        missing: how many runs are not there.
        kind: of the data, e.g. "own experts".
        holds: whether no run is missing and all values are within the bound.
    """

    expectation: Expectation
    values: list[float]
    missing: int
    kind: str
    holds: bool


def read_expectations(file: Path = EXPECTED) -> list[Expectation]:
    """The committed expectations; lists of experiments, data sets or quantities become one each.

    Raises:
        UserError: an entry without exactly one bound, with a missing or unknown key, or an unknown kind of quantity.
    """
    found = []
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        bounds = [b for b in BOUNDS if b in entry]
        if len(bounds) != 1:
            raise UserError(
                f"{file}: expectation {entry.get('id')!r} needs exactly one of {', '.join(BOUNDS)}"
            )
        entry |= {"bound": bounds[0], "value": float(entry.pop(bounds[0]))}
        wide = ("experiment", "data", "quantity")
        lists = [entry.pop(key, None) for key in wide]
        for chosen in itertools.product(*(x if isinstance(x, list) else [x] for x in lists)):
            try:
                found.append(Expectation(**entry, **dict(zip(wide, chosen, strict=True))))
            except TypeError as error:
                raise UserError(f"{file}: expectation {entry.get('id')!r}: {error}") from None
            if found[-1].kind not in KINDS:
                raise UserError(
                    f"{file}: expectation {entry.get('id')!r}: quantity {chosen[-1]!r} is none of "
                    f"{BUDGET}, metric, {', '.join(f'{kind}:metric' for kind in KINDS if kind)}"
                )
    return found


def curve(rows: pd.DataFrame, name: str) -> pd.Series:
    """The train values over the steps of `metric` or `metric@layer`; empty if never measured."""
    metric, _, layer = name.partition("@")
    rows = rows[(rows.split == "train") & (rows.metric == metric)]
    if not layer:
        last = rows.layer.iloc[-1] if len(rows) else ""  # layers are written in forward order
        layer = last
    return rows[rows.layer == layer].sort_values("step").value


def quantity(run: Path, name: str, read: Read = read_run) -> float:
    """The number that an expectation names, from one run directory; NaN when it is not there."""
    info, rows = read(run)
    if info["status"] != "finished":
        return math.nan
    if name == BUDGET:
        return float(info["identity"]["optim"]["weight_decay"] * info["tau"])
    kind, _, metric = name.rpartition(":")
    if kind == "fall":
        return _fall(rows, metric)
    if kind == "alive fall":
        return _alive_fall(rows, metric)
    if kind == "least":
        return float(curve(rows, metric).iloc[1:].min(skipna=False))
    if kind:
        other = Path(str(run).replace(f"protocol={kind.removesuffix('/paper')}", "protocol=paper"))
        there = (other / "metrics.csv").exists()
        return abs(math.log10(_last(rows, metric) / quantity(other, metric, read))) if there else math.nan
    return _last(rows, metric)


def _last(rows: pd.DataFrame, name: str) -> float:
    values = curve(rows, name)
    return float(values.iloc[-1]) if len(values) else math.nan


def _fall(rows: pd.DataFrame, name: str) -> float:
    last = _last(rows, name)
    return math.inf if last == 0 else float(curve(rows, name).head(1).sum(min_count=1)) / last


def _alive_fall(rows: pd.DataFrame, name: str) -> float:
    """The fall, 0 where a target direction is dead, NaN where that is not known."""
    if _last(rows, "signal_share") < VANISHED_SIGNAL:
        return 0.0
    rcond = _last(rows, "weight_rcond")
    if rcond < ALIVE:
        return 0.0
    return math.nan if math.isnan(rcond) else _fall(rows, name)


def check(
    planned: Mapping[Path, str | None],
    expectations: list[Expectation] | None = None,
) -> list[Verdict]:
    """Hold every expectation against its runs.

    Args:
        planned: the run directories that the reproduction makes, there or not -> the role of the run.
        expectations: None takes the committed ones.
    """
    read = cache(read_run)  # a run serves many expectations
    verdicts = []
    for e in expectations if expectations is not None else read_expectations():
        wanted = [
            run
            for run, role in sorted(planned.items())
            if run.match(e.place()) and (e.weight_decay != "headline" or role == "headline")
        ]
        there = [run for run in wanted if (run / "metrics.csv").exists()]
        values = [quantity(run, e.quantity, read) for run in there]
        kinds = dict.fromkeys(str(read(run)[0]["data"].get("kind", "?")) for run in there)
        # NaN compares false: an undefined number never counts as a success
        good = [v < e.value if e.bound == "below" else v > e.value for v in values]
        missing = len(wanted) - len(there)
        holds = bool(good) and all(good) and not missing
        verdicts.append(Verdict(e, values, missing, ", ".join(kinds), holds))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as text, one line each."""
    head = ("", "expectation", "runs, and kind of data", "quantity", "measured (seeds)", "bound")
    rows = [head, *(_line(v) for v in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _line(v: Verdict) -> tuple[str, ...]:
    e = v.expectation
    data = f"{e.experiment}/{e.data}" + (f" ({v.kind})" if v.kind else "")
    bound = f"{'<' if e.bound == 'below' else '>'} {e.value:g}"
    return "ok" if v.holds else "FAIL", e.id, data, e.quantity, _measured(v), bound


def _measured(v: Verdict) -> str:
    numbers = [f"{x:.3g}" for x in v.values]
    if len(numbers) > 3 and all(math.isfinite(x) for x in v.values):
        numbers = [f"{min(v.values):.3g} to {max(v.values):.3g} in {len(numbers)} runs"]
    absent = [f"{v.missing} of {v.missing + len(v.values)} runs missing"] if v.missing else []
    return ", ".join([" ".join(numbers)] * bool(numbers) + absent) or "no such run"
