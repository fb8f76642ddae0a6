"""Compare finished runs with the committed expectations in `nrc/reference/expected.yaml`.

Each expectation is one sentence with its source, the runs it speaks of, one number per run and a
bound. It must hold for every seed. A run that is missing fails: absence is not success.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from nrc.errors import UserError
from nrc.record import read_run

EXPECTED = Path(__file__).with_name("reference") / "expected.yaml"
BOUNDS = ("below", "above")


@dataclass(frozen=True)
class Expectation:
    """One line of the contract.

    Attributes:
        id, claim: short name; what it says, with the source.
        experiment: run folder without the protocol.
        data: data set, i.e. the folder below it.
        weight_decay: a number, or "headline" for the one of the recipe.
        quantity: `metric` (final value), `fall:metric` (first / final) or `agree:metric`
            (|log10 of accelerated over paper|, for the tau clock), each with `@layer` appended at will.
            Without a layer: the output layer, or the model for mse and r2.
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


@dataclass(frozen=True)
class Verdict:
    """An expectation, where its runs lie, one value per seed, and whether all are within the bound."""

    expectation: Expectation
    directory: Path
    values: list[float]
    holds: bool


def read_expectations(file: Path = EXPECTED) -> list[Expectation]:
    """The committed expectations; lists of experiments, data sets or quantities become one each.

    Raises:
        UserError: an entry without exactly one bound, or with a missing or unknown key.
    """
    found = []
    for entry in yaml.safe_load(file.read_text()):
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
    return found


def curve(rows: pd.DataFrame, name: str) -> pd.Series:
    """The train values over the steps of `metric` or `metric@layer`; empty if never measured."""
    metric, _, layer = name.partition("@")
    rows = rows[(rows.split == "train") & (rows.metric == metric)]
    if not layer:
        last = rows.layer.iloc[-1] if len(rows) else ""  # layers are written in forward order
        layer = last
    return rows[rows.layer == layer].sort_values("step").value


def quantity(run: Path, name: str) -> float:
    """The number that an expectation names, from one run directory; NaN when it is not there."""
    kind, _, metric = name.rpartition(":")
    info, rows = read_run(run)
    values = curve(rows, metric)
    if info["status"] != "finished" or values.empty:
        return math.nan
    first, last = float(values.iloc[0]), float(values.iloc[-1])
    if kind == "agree":
        other = Path(str(run).replace("protocol=accelerated", "protocol=paper"))
        return abs(math.log10(last / quantity(other, metric))) if other.exists() else math.nan
    if kind == "fall":
        return first / last if last else math.inf
    return last


def check(
    outputs: Path,
    protocol: str,
    headline: dict[str, dict[str, float]],
    expectations: list[Expectation] | None = None,
) -> list[Verdict]:
    """Hold every expectation against the run directories below `outputs`.

    Args:
        outputs: the folder of experiments.
        protocol: suffix of the run folders.
        headline: experiment -> data -> headline weight decay.
        expectations: None takes the committed ones.
    """
    verdicts = []
    for e in expectations if expectations is not None else read_expectations():
        wd = headline[e.experiment][e.data] if e.weight_decay == "headline" else float(e.weight_decay)
        if e.quantity.startswith("agree:"):
            place = outputs / e.experiment / e.data / "protocol=accelerated" / f"wd={wd:g}"
        else:
            place = outputs / f"{e.experiment}-{protocol}" / e.data / f"wd={wd:g}"
        values = [quantity(run.parent, e.quantity) for run in sorted(place.glob("seed=*/metrics.csv"))]
        # NaN compares false: an undefined number never counts as a success
        good = [v < e.value if e.bound == "below" else v > e.value for v in values]
        verdicts.append(Verdict(e, place, values, bool(good) and all(good)))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as text, one line each."""
    lines = [f"{'':5} {'expectation':32} {'data':9} {'quantity':30} {'measured (seeds)':28} bound"]
    for v in verdicts:
        e = v.expectation
        measured = "no run" if not v.values else " ".join(f"{x:.3g}" for x in v.values)
        bound = f"{'<' if e.bound == 'below' else '>'} {e.value:g}"
        word = "ok" if v.holds else "FAIL"
        lines.append(f"{word:5} {e.id:32} {e.data:9} {e.quantity:30} {measured:28} {bound}")
    return "\n".join(lines)
