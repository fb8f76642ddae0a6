"""The scorecard: every claim on every data set of its experiments, as one table; and that table against the committed one.

rows = scorecard(Runs(Path("outputs"), "quick"))
table(rows)                                    # a pandas frame, one line per claim, experiment and data set
compare(table(rows), read_committed(), "quick")
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nrc.errors import UserError
from nrc.experiments import experiments
from nrc.figures.style import describe_model, pretty
from nrc.report.published import published_tau
from nrc.report.registry import (
    HOLDS,
    NOT_RUN,
    NOT_YET,
    PENDING,
    Case,
    Claim,
    Finding,
    claims,
    number,
    summary,
)
from nrc.runs.directory import atomic
from nrc.runs.read import Run, Runs, runs_of

COMMITTED = Path(__file__).parents[1] / "reference" / "scorecard.csv"
KEY = ["protocol", "claim", "experiment", "data"]
COLUMNS = [*KEY, "runs", "verdict", "measured", "tolerance", "why_tolerance", "bound"]
OR = " or "  # between the verdicts of a claim that kinds of processors decide differently
LEAST, SHARE = 1e-6, 0.02  # floor of a tolerance: absolute, and as a share of the value
# of the distance from 0 or 1: ends of equal runs on two kinds of processors were seen 9 % apart
WITHIN_ONE = 0.1
# numbers that far below the bound of what holds may be that many times apart: collapse amplifies rounding
FAR, UNSTEADY = 2.0, 10.0
MARGIN = 2.0  # other processors than those tried may lie further apart


@dataclass(frozen=True)
class Row:
    """One claim on one data set.

    Attributes:
        setting: data set and experiment in a few words.
        finding: numbers and verdict.
        runs: the runs that were judged; [] when there are none.
        scale: weight decay, decay budget, number of seeds.
        facts: the same with protocol, kind of data and network.
    """

    claim: Claim
    experiment: str
    data: str
    setting: str
    finding: Finding
    runs: list[Run]
    scale: str = ""
    facts: str = ""

    @property
    def verdict(self) -> str:
        return self.finding.verdict


def planned(protocol: str) -> dict[str, dict[str, bool]]:
    """Experiment -> data sets that conf/experiment runs it on in this protocol -> whether they need a user's file."""
    found: dict[str, dict[str, bool]] = {}
    for told in experiments().values():
        if protocol in told["protocols"]:
            own = bool(told.get("needs_path"))
            found.setdefault(told["name"], {}).update(dict.fromkeys(told["datasets"], own))
    return found


def scorecard(runs: Runs, chosen: Sequence[Claim] | None = None) -> list[Row]:
    """Judge every claim on every data set that its experiments are declared on or have runs for.

    Args:
        runs: the finished runs.
        chosen: None takes all claims.
    """
    declared = planned(runs.protocol)
    rows = []
    for claim in claims() if chosen is None else chosen:
        for experiment in claim.on:
            sets: dict[str, list[Run]] = {}
            for run in _all(runs, experiment):
                sets.setdefault(run.dataset if claim.by == "dataset" else run.data, []).append(run)
            here = {run.dataset for found in sets.values() for run in found}
            names = [*(d for d in declared.get(experiment, ()) if d in sets or d not in here), *sets]
            for data in dict.fromkeys(names):
                if (not claim.data or data in claim.data) and data in (runs.datasets or [data]):
                    rows.append(_judge(claim, experiment, data, sets.get(data, []), runs))
    return rows


def _all(runs: Runs, experiment: str) -> list[Run]:
    """Its runs of this protocol; of an experiment that compares protocols, or is too long for this one, all."""
    found = runs_of(runs, experiment).of(experiment) or runs.in_folder(experiment)
    return [run for these in found.values() for run in these if run.snapshots]


def _judge(claim: Claim, experiment: str, data: str, found: list[Run], runs: Runs) -> Row:
    setting = f"{pretty(data, found[:1])}, {experiment.replace('_', ' ')}"
    main = [run for run in found if run.role == "headline"]
    if not main:
        waits = runs.waits(experiment, data.partition("-")[0])
        missing = (
            Finding("", [], PENDING, "its runs are under way")
            if waits
            else Finding("", [], NOT_RUN, "no finished run")
        )
        return Row(claim, experiment, data, setting, missing, [])
    control = [run for run in found if run.role == "control"]
    if experiment in claim.also:
        more = [run for run in _all(runs, claim.also[experiment]) if run.data == data]
        control = control or [run for run in more if run.role == "control"]
        found = [*found, *more]
    case = Case(found, main, control, published_tau(experiment, data))
    finding = claim.judge(case)
    run = main[0]
    count = f"{len(main)} seeds" if len({r.seed for r in main}) > 1 else f"{len(main)} runs"
    scale = f"λ = {run.weight_decay:g}, λτ = {run.budget:.3g}, {count if len(main) > 1 else '1 run'}"
    facts = f"{scale}; {run.protocol} protocol, {case.clock}; data: {run.kind}; {describe_model(run)}"
    used = list(dict.fromkeys([*main, *control, *finding.runs]))
    return Row(claim, experiment, data, setting, finding, used, scale, facts)


def table(rows: Iterable[Row], protocol: str = "quick") -> pd.DataFrame:
    """One line per claim, experiment and data set; `measured` is the mean over the seeds."""
    return pd.DataFrame(_line(row, protocol) for row in rows)


def _line(row: Row, protocol: str) -> dict[str, Any]:
    f = row.finding
    finite = [v for v in f.measured if math.isfinite(v)]
    return {
        "protocol": protocol,
        "claim": row.claim.id,
        "experiment": row.experiment,
        "data": row.data,
        "runs": len(row.runs),
        "verdict": f.verdict,
        "measured": float(np.mean(finite)) if finite else math.nan,
        # over the seeds; the variants of a set differ for other reasons
        "spread": max(finite) - min(finite) if finite and row.claim.by == "data" else 0.0,
        "bound": f.bound,
        "grain": f.grain,
        "stand_in": any(run.kind == "stand-in" for run in row.runs),
        "source": row.claim.source,
        "quantity": f.quantity,
        "beside": "; ".join(f"{k}: {summary(v)}" for k, v in f.beside.items()),
        "beside_published": f.reach,
        "depends_on_view": f.depends_on_view,
        "why": f.why,
        "views": "; ".join(f"{v.name} ({v.quantity}): {summary(v.values)}, {v.verdict or v.note}" for v in f.views),
        "facts": row.facts,
    }  # fmt: skip


def committed(*tables: pd.DataFrame) -> pd.DataFrame:
    """What is committed of the scorecards of the same runs made on several kinds of processors.

    The value is the first table's. Its tolerance is the largest of: the spread over the seeds, twice the spread over
    the tables, and a floor: 2 % of it, 10 % of its distance from 0 or 1, 1e-6 and the grain of what is counted.
    Stand-in images get none: processors round networks on images to different ends, so their verdict alone is held,
    and of several verdicts any.
    """
    first, *others = [
        {tuple(row[k] for k in KEY): row for row in _records(t) if row["verdict"] != NOT_RUN} for t in tables
    ]
    lines = []
    for key, row in first.items():
        same = [row, *(other[key] for other in others if key in other)]
        value = row["measured"]
        apart = [abs(r["measured"] - value) for r in same if math.isfinite(r["measured"] - value)]
        ways = {
            "seeds": row["spread"],
            "processors": MARGIN * max(apart, default=0.0),
            "floor": max(LEAST, SHARE * abs(value), WITHIN_ONE * min(abs(value), 1 - value), row["grain"]),
        }
        why = max(ways, key=lambda name: np.nan_to_num(ways[name]))
        if not all(math.isfinite(r["measured"]) for r in same):  # on one of the kinds
            why = "no number"
        elif row["stand_in"]:
            why = "stand-in"
        held = {
            "verdict": OR.join(dict.fromkeys(r["verdict"] for r in same)),
            "tolerance": ways.get(why, math.nan),
            "why_tolerance": why,
        }
        lines.append({**{name: row[name] for name in COLUMNS if name in row}, **held})
    return pd.DataFrame(lines, columns=COLUMNS)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def read_committed(file: Path = COMMITTED) -> pd.DataFrame:
    """The committed scorecard.

    Raises:
        UserError: it is missing, or a column is.
    """
    if not file.exists():
        raise UserError(f"{file} is missing; python scripts/report.py --write-scorecard writes it")
    found = pd.read_csv(file, comment="#")
    if list(found.columns) != COLUMNS:
        raise UserError(f"{file} must have the columns {', '.join(COLUMNS)}")
    return found


def write_committed(new: pd.DataFrame, file: Path = COMMITTED) -> None:
    """Put these rows into the file. Rows of other protocols, and those that are not among the new ones, stay."""
    old = read_committed(file) if file.exists() else pd.DataFrame(columns=COLUMNS)
    kept = old[~old.set_index(KEY).index.isin(new.set_index(KEY).index)]
    both = pd.concat([f for f in (kept, new) if len(f)], ignore_index=True)
    order = {c.id: k for k, c in enumerate(claims())}
    both = both[both.claim.isin(order)]  # a claim that is gone takes its rows along
    both = both.sort_values(KEY, key=lambda c: c.map(order) if c.name == "claim" else c, kind="stable")
    with atomic(file) as tmp:
        both.to_csv(tmp, index=False, float_format="%.4g", lineterminator="\n")


def compare(
    now: pd.DataFrame, known: pd.DataFrame, protocol: str, sets: Collection[str] | None = None
) -> pd.DataFrame:
    """Every committed row of a protocol beside what the runs say now.

    Args:
        now: `table(scorecard(runs))`.
        known: `read_committed()`.
        protocol: which rows.
        sets: names of data sets in conf/data; None: all.

    Returns:
        The committed rows with the columns `now`, `said` and `problem`, which is "" where they agree.
    """  # fmt: skip
    own_file = {(e, d) for e, found in planned(protocol).items() for d, own in found.items() if own}
    here = {tuple(row[k] for k in KEY): row for row in _records(now)}
    lines = []
    for row in _records(known[known.protocol == protocol]):
        base = row["data"].partition("-")[0]
        if sets is not None and base not in sets:
            continue
        found = here.get(tuple(row[k] for k in KEY))
        if found is None or found["verdict"] == NOT_RUN:
            if (row["experiment"], base) in own_file:
                continue  # needs a file of the user's own
            lines.append({**row, "now": math.nan, "said": NOT_RUN, "problem": "not run"})
        else:
            today = {"now": found["measured"], "said": found["verdict"], "problem": _problem(row, found)}
            lines.append({**row, **today})
    return pd.DataFrame(lines, columns=[*COLUMNS, "now", "said", "problem"])


def _problem(row: dict[str, Any], found: dict[str, Any]) -> str:
    """What differs between a committed row and the same row of today; "" if nothing does."""
    words = row["verdict"].split(OR)
    if found["runs"] < row["runs"]:
        return f"{row['runs'] - found['runs']} of {row['runs']} runs missing"
    # written so that NaN (no number, no bound, no tolerance) excuses nothing
    near_bound = abs(found["measured"] - row["bound"]) <= row["tolerance"]
    near_value = abs(found["measured"] - row["measured"]) <= row["tolerance"]
    if found["verdict"] not in words and not (near_bound and near_value):
        return f"{found['verdict']!r}, committed {row['verdict']!r}; {found['why']}"
    if NOT_YET in (*words, found["verdict"]) or math.isnan(row["tolerance"]) or near_value:
        return ""
    if found["verdict"] == HOLDS and _far(row["bound"], row["measured"], found["measured"]):
        return ""
    return "the number has moved by more than the tolerance"


def _far(bound: float, *values: float) -> bool:
    """Whether all values are at most half of the bound, and within a factor of ten."""
    return all(v * FAR <= bound for v in values) and 0 < max(values) <= UNSTEADY * min(values)


def as_text(compared: pd.DataFrame) -> str:
    """The comparison for a terminal, one line per row."""
    lines = [f"{'':4}  {'claim':18} {'where':34} {'measured':10} {'committed':22} verdict"]
    for row in _records(compared):
        spread = "" if math.isnan(row["tolerance"]) else f" ± {number(row['tolerance'])}"
        lines.append(
            f"{'FAIL' if row['problem'] else 'ok':4}  {row['claim']:18} {row['experiment'] + '/' + row['data']:34} "
            f"{number(row['now']):10} {number(row['measured']) + spread:22} {row['said']}"
            + (f"; {row['problem']}" if row["problem"] else "")
        )
    return "\n".join(lines)
