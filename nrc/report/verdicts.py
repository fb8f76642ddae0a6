"""The committed verdicts: what the scorecard says of the embedded data, so that a change does not go unnoticed.

`nrc/reference/verdicts.yaml` holds protocol -> claim -> `experiment/data` -> [verdict, measured], measured being
the mean over the seeds (left out where it is too unsteady to compare). `python scripts/report.py --write-verdicts` writes it anew.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nrc.errors import UserError
from nrc.figures.reference import base
from nrc.report.findings import FAILS, HOLDS, NOT_RUN, NOT_YET, UNTESTABLE, number
from nrc.report.scorecard import Row, read_claims, scorecard
from nrc.runs.directory import atomic
from nrc.runs.read import LONG, Runs

VERDICTS = Path(__file__).parents[1] / "reference" / "verdicts.yaml"
WORDS = (HOLDS, FAILS, NOT_YET, UNTESTABLE)
CLOSE = 0.03  # absolute and relative: less may carry a verdict over a bound, since other processors round otherwise
# a number that has moved by this factor and by this much is red, whatever the verdict
FAR, AT_LEAST = 3.0, 0.05
HEAD = """\
# What the scorecard says of the embedded data. `make check` is red when a verdict changes (unless the number moved by less
# than 0.03 or 3 %) or a number moves by a factor 3 and 0.05. protocol -> claim -> experiment/data -> [verdict, mean over seeds],
# or the verdict alone where the number is unsteady. Drawn images are left out: other processors round their networks to
# other ends, and expected.yaml bounds those. Written by: python scripts/report.py --write-verdicts
"""
Entry = tuple[str, float]  # verdict, measured; NaN without a number
Table = dict[str, dict[str, dict[str, Entry]]]  # protocol -> claim -> experiment/data -> entry


def read_verdicts(file: Path = VERDICTS) -> Table:
    """The committed verdicts; {} without a file.

    Raises:
        UserError: an unknown claim or verdict.
    """
    found: Table = {}
    known = {claim.id for claim in read_claims()}
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    for protocol, claims in (yaml.safe_load(text) or {}).items():
        for claim, places in claims.items():
            if claim not in known:
                raise UserError(f"{file}: there is no claim {claim!r}; known: {', '.join(sorted(known))}")
            for place, entry in places.items():
                word, *rest = entry if isinstance(entry, list) else [entry]
                if word not in WORDS:
                    raise UserError(f"{file}: {claim}, {place} is {word!r}; choose {', '.join(WORDS)}")
                value = float(rest[0]) if rest else math.nan
                found.setdefault(protocol, {}).setdefault(claim, {})[place] = (word, value)
    return found


def place(row: Row) -> str:
    return f"{row.experiment}/{row.data}"


def _protocol(row: Row, asked: str) -> str:
    return row.runs[0].protocol if row.runs else asked


def _steady(row: Row) -> bool:
    return not any(run.kind == "stand-in" for run in row.runs)


def _measured(row: Row) -> float:
    values = [v for v in row.finding.measured if math.isfinite(v)]
    return float(np.mean(values)) if values else math.nan


def differences(rows: Iterable[Row], committed: Table, protocol: str) -> tuple[list[str], int]:
    """One line for each row that is not what is committed, and how many were compared.

    Args:
        rows: of the scorecard; those without a committed verdict are left out, and so is an experiment that
            needs a file of the user's own as long as it has not been run.
        protocol: of the rows that have no runs.
    """
    said, count = [], 0
    for row in rows:
        entry = committed.get(_protocol(row, protocol), {}).get(row.claim.id, {}).get(place(row))
        if entry is None or not _steady(row) or (row.verdict == NOT_RUN and row.experiment in LONG):
            continue
        count += 1
        change = _change(row, *entry)
        if change:
            said.append(f"{row.claim.id}, {row.setting}: {change}")
    return said, count


def _change(row: Row, word: str, value: float) -> str:
    now = _measured(row)
    moved = abs(now - value) > CLOSE * max(1.0, abs(value))  # NaN: cannot be said to have moved by little
    numbers = f" ({number(now)}, committed {number(value)})" if math.isfinite(value) else ""
    if row.verdict != word and (moved or not math.isfinite(now - value)):
        return f"{row.verdict!r}, committed {word!r}{numbers}: {row.finding.why}"
    if math.isfinite(value) and row.verdict != NOT_RUN:
        low, high = sorted((abs(now), abs(value)))
        if not math.isfinite(now) or (high > FAR * low and abs(now - value) > AT_LEAST):
            return f"the verdict stays {word!r}, but the number has moved{numbers}"
    return ""


def verdict_changes(
    outputs: Path,
    protocol: str = "quick",
    wanted: Callable[[str], bool] = lambda data: True,
    file: Path = VERDICTS,
) -> tuple[list[str], int]:
    """Judge the claims on the runs below `outputs` and compare with the committed verdicts.

    Args:
        outputs: the folder of experiments.
        protocol: which runs.
        wanted: which data sets, by their name in conf/data.

    Returns:
        A line per change, and how many verdicts were compared.
    """
    runs = Runs(Path(outputs), protocol)
    rows = [row for row in scorecard(runs) if wanted(base(row.data))]
    return differences(rows, read_verdicts(file), protocol)


def write_verdicts(rows: Iterable[Row], file: Path = VERDICTS) -> int:
    """Put what the scorecard says now into the file; returns how many verdicts were written.

    Stand-ins are left out. Rows that were not run keep their entry, and an entry without a number stays without.
    """
    found, count = read_verdicts(file), 0
    for row in rows:
        if row.verdict == NOT_RUN or not _steady(row):
            continue
        here = found.setdefault(_protocol(row, ""), {}).setdefault(row.claim.id, {})
        before = here.get(place(row))
        steady = before is None or math.isfinite(before[1])
        here[place(row)] = (row.verdict, _measured(row) if steady else math.nan)
        count += 1
    order = [claim.id for claim in read_claims()]
    text = HEAD
    for protocol, claims in found.items():
        text += f"{protocol}:\n"
        for claim in sorted(claims, key=order.index):
            text += f"  {claim}:\n"
            for where, (word, value) in claims[claim].items():
                text += f"    {where}: {_entry(word, value)}\n"
    with atomic(file) as tmp:
        tmp.write_text(text, encoding="utf-8")
    return count


def _entry(word: str, value: float) -> Any:
    return f"[{word}, {value:.3g}]" if math.isfinite(value) else word
