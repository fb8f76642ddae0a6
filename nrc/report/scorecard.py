"""The claims of the two papers, judged on the runs at hand.

`nrc/reference/claims.yaml` says what is claimed and where it should be tested; the rules are the functions of
the modules RULES.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from nrc.errors import UserError
from nrc.figures.reference import base
from nrc.figures.style import describe_model, pretty
from nrc.report import decay_rules, deep_rules, depth_rules, rules, ufm_rules
from nrc.report.findings import NOT_RUN, Case, Finding, summary
from nrc.report.literature import published_tau
from nrc.runs.read import Run, Runs, lambda_groups, runs_of

CLAIMS = Path(__file__).parents[1] / "reference" / "claims.yaml"
CONTROLS = {"sgemm": "sgemm_decay"}  # experiments whose runs without weight decay lie elsewhere
# experiments with more weight decays of the same
GRIDS = {"prevalence": "phase", "prevalence_linear": "phase_linear"}
ACRONYMS = ("sgemm",)
RULES = (rules, decay_rules, ufm_rules, deep_rules, depth_rules)
MODELS = {"prevalence": "ReLU", "prevalence_linear": "linear", "images": "ResNet"}
HOMES = {  # data sets that have experiments of their own
    "low_rank": ("low_rank",),
    "sgemm": ("sgemm",),
    "images": ("carla_2d", "carla_1d", "utkface"),
}


@dataclass(frozen=True)
class Claim:
    """One claim: `rule` names a function of one of the modules RULES; `experiments`: run folder -> figure."""

    id: str
    part: str
    title: str
    claim: str
    source: str
    rule: str
    data: list[str]
    experiments: dict[str, str]

    @property
    def rule_text(self) -> str:
        """The rule in one sentence: the first line of the function's docstring."""
        return (_rule(self.rule).__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True)
class Row:
    """One claim on one data set.

    Attributes:
        setting: data set and network in a few words, e.g. "Reacher, ReLU".
        finding: numbers and verdict.
        runs: the runs that were judged; [] when there are none.
        figure: name of the figure that shows it.
        scale: weight decay, decay budget, number of seeds.
        facts: the same with protocol, share of the published tau, kind of data and network.
    """

    claim: Claim
    experiment: str
    data: str
    setting: str
    finding: Finding
    runs: list[Run]
    figure: str
    scale: str
    facts: str

    @property
    def verdict(self) -> str:
        return self.finding.verdict


def title(data: str, runs: Sequence[Run] = ()) -> str:
    """Name of a data set, with its runs also that it is a stand-in; acronyms stay capital."""
    return data.upper() if data in ACRONYMS else pretty(data, runs)


def _rule(name: str):  # type: ignore[no-untyped-def]
    for module in RULES:
        if name in vars(module) and not name.startswith("_"):
            return vars(module)[name]
    raise UserError(f"claims.yaml: there is no rule {name!r} in nrc/report/*rules.py")


def read_claims(file: Path = CLAIMS) -> list[Claim]:
    """The committed claims, in the order of the report.

    Raises:
        UserError: an entry with a missing or unknown key, or a rule that does not exist.
    """
    claims = []
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        try:
            claims.append(Claim(**entry))
        except TypeError as error:
            raise UserError(f"{file}: claim {entry.get('id')!r}: {error}") from None
        _rule(claims[-1].rule)
    return claims


def scorecard(runs: Runs, claims: list[Claim] | None = None) -> list[Row]:
    """Judge every claim on every data set it names or has runs for.

    Args:
        runs: the finished runs.
        claims: None takes the committed ones.

    Example:
        rows = scorecard(Runs(Path("outputs"), "quick"))
        print(as_text(rows))
    """
    rows = []
    for claim in claims if claims is not None else read_claims():
        where = {name: runs_of(runs, name) for name in claim.experiments}
        for experiment, home in where.items():
            found = home.of(experiment)
            here = {base(data) for data in found}
            expected = [d for d in claim.data if _belongs(d, experiment) and (d in found or d not in here)]
            if runs.datasets is not None:
                expected = [d for d in expected if d in runs.datasets]
            for data in [*expected, *(d for d in found if d not in expected)]:
                rows.append(_judge(claim, experiment, data, home))
    return rows


def _belongs(data: str, experiment: str) -> bool:
    """Whether an expected data set is one of this experiment's."""
    elsewhere = [d for sets in HOMES.values() for d in sets]
    return data in HOMES[experiment] if experiment in HOMES else data not in elsewhere


def _groups(home: Runs, experiment: str, data: str) -> dict[float, list[Run]]:
    """All runs by weight decay, those of the experiment's grid among them; the longest of each seed."""
    longest: dict[tuple[float, int], Run] = {}
    for name in (experiment, GRIDS.get(experiment, experiment)):
        for run in home.of(name).get(data, []):
            place = (run.weight_decay, run.seed)
            if run.snapshots and (place not in longest or run.tau > longest[place].tau):
                longest[place] = run
    return lambda_groups(list(longest.values()))


def _judge(claim: Claim, experiment: str, data: str, home: Runs) -> Row:
    label = MODELS.get(experiment)
    main = [run for run in home.headline(experiment, data) if run.snapshots]
    setting = title(data, main) + (f", {label}" if label else "")
    figure = claim.experiments[experiment].format(data=data)
    if not main:
        finding = Finding("", [], {}, NOT_RUN, f"no finished run of experiment {experiment} on {data}")
        return Row(claim, experiment, data, setting, finding, [], figure, "", "")
    control = home.control(experiment, data)
    if not control and experiment in CONTROLS:
        control = home.control(CONTROLS[experiment], data)  # of the same protocol, or the lengths differ
    case = Case(main, control, _groups(home, experiment, data), published_tau(experiment, data))
    run = main[0]
    scale = f"λ = {run.weight_decay:g}, λτ = {run.budget:.3g}, {_count(main)}"
    facts = f"{scale}; {run.protocol} protocol, {case.clock}; data: {run.kind}; {describe_model(run)}"
    finding = _rule(claim.rule)(case)
    used = list(dict.fromkeys([*main, *control, *finding.runs]))
    return Row(claim, experiment, data, setting, finding, used, figure, scale, facts)


def _count(runs: Sequence[Run]) -> str:
    """Over how many runs: one is no seed range, and says so."""
    return f"{len(runs)} seeds" if len(runs) > 1 else "1 run"


def as_table(rows: list[Row]) -> pd.DataFrame:
    """One line per claim and data set, for a csv."""
    return pd.DataFrame(
        {
            "claim": row.claim.id,
            "source": row.claim.source,
            "data": row.data,
            "experiment": row.experiment,
            "quantity": row.finding.quantity,
            "measured": summary(row.finding.measured),
            "beside": "; ".join(f"{k}: {summary(v)}" for k, v in row.finding.beside.items()),
            "verdict": row.verdict,
            "beside_published": row.finding.reach,
            "depends_on_view": row.finding.depends_on_view,
            "why": row.finding.why,
            "views": "; ".join(
                f"{v.name} ({v.quantity}): {summary(v.values)}, {v.verdict or v.note}"
                for v in row.finding.views
            ),
            "facts": row.facts,
        }
        for row in rows
    )


def as_text(rows: list[Row]) -> str:
    """The scorecard for a terminal."""
    lines = [
        f"{'claim':18} {'data':28} {'measured (mean [range])':34} {'verdict':20} {'published':23} depends"
    ]
    for row in rows:
        measured = summary(row.finding.measured)
        depends = "on the view" if row.finding.depends_on_view else ""
        reach = row.finding.reach.removesuffix(" than published").removesuffix(" as published")
        lines.append(
            f"{row.claim.id:18} {row.setting:28} {measured:34} {row.verdict:20} {reach:23} {depends}".rstrip()
        )
    return "\n".join(lines)
