"""Compare finished runs with the committed expectations in `nrc/reference/expected.yaml`.

Each expectation is one sentence with its source, the runs it speaks of, one number per run and a
bound. It must hold for every seed. A run that is missing fails: absence is not success.
"""

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
        quantity: `metric` (final value), `fall:metric` (first / final), or either with `@layer` appended.
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
    expectation: Expectation
    directory: Path
    values: list[float]  # one per seed
    holds: bool


def read_expectations(file: Path = EXPECTED) -> list[Expectation]:
    """The committed expectations, one per data set.

    Raises:
        UserError: an entry without exactly one bound, or with an unknown key.
    """
    found = []
    for entry in yaml.safe_load(file.read_text()):
        bounds = [b for b in BOUNDS if b in entry]
        if len(bounds) != 1:
            raise UserError(
                f"{file}: expectation {entry.get('id')!r} needs exactly one of {', '.join(BOUNDS)}"
            )
        data, value = entry.pop("data"), float(entry.pop(bounds[0]))
        for name in data if isinstance(data, list) else [data]:
            try:
                found.append(Expectation(**entry, data=name, bound=bounds[0], value=value))
            except TypeError as error:
                raise UserError(f"{file}: expectation {entry.get('id')!r}: {error}") from None
    return found


def quantity(rows: pd.DataFrame, name: str) -> float:
    """The number that an expectation names, from the metric rows of one run."""
    metric, _, layer = name.removeprefix("fall:").partition("@")
    rows = rows[(rows.split == "train") & (rows.metric == metric)]
    if not layer:
        layers = [x for x in rows.layer.unique() if x == "model" or ":" not in x]
        layer = max(layers, key=lambda x: int(x.removeprefix("fc")) if x != "model" else 0, default="")
    values = rows[rows.layer == layer].sort_values("step").value
    if values.empty:
        return math.nan
    first, last = float(values.iloc[0]), float(values.iloc[-1])
    return (
        first / last if name.startswith("fall:") and last else math.inf if name.startswith("fall:") else last
    )


def check(
    outputs: Path,
    protocol: str,
    headline: dict[str, dict[str, float]],
    data: str = "all",
    expectations: list[Expectation] | None = None,
) -> list[Verdict]:
    """Hold every expectation against the run directories below `outputs`.

    Args:
        outputs: the folder of experiments.
        protocol: suffix of the run folders.
        headline: run folder -> data -> headline weight decay.
        data: one data set, or "all".
    """
    verdicts = []
    for e in expectations if expectations is not None else read_expectations():
        if data not in ("all", e.data):
            continue
        folder = f"{e.experiment}-{protocol}"
        wd = headline[folder][e.data] if e.weight_decay == "headline" else float(e.weight_decay)
        place = outputs / folder / e.data / f"wd={wd:g}"
        values = []
        for run in sorted(place.glob("seed=*")):
            info, rows = read_run(run)
            values.append(quantity(rows, e.quantity) if info["status"] == "finished" else math.nan)
        # NaN compares false: an undefined number never counts as a success
        good = [v < e.value if e.bound == "below" else v > e.value for v in values]
        verdicts.append(Verdict(e, place, values, bool(good) and all(good)))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as text, one line each."""
    lines = [f"{'':5} {'expectation':34} {'data':9} {'quantity':32} {'measured (seeds)':26} bound"]
    for v in verdicts:
        e = v.expectation
        measured = "no run" if not v.values else " ".join(f"{x:.3g}" for x in v.values)
        sign = "<" if e.bound == "below" else ">"
        lines.append(
            f"{'ok' if v.holds else 'FAIL':5} {e.id:34} {e.data:9} {e.quantity:32} {measured:26} {sign} {e.value:g}"
        )
    return "\n".join(lines)
