"""The claims of the two papers, judged on the runs at hand.

`nrc/reference/claims.yaml` says what is claimed and where it should be tested; the rules are the functions of
`rules`, `ufm_rules` and `deep_rules`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from nrc.errors import UserError
from nrc.figures._load import Run, Runs, lambda_groups
from nrc.figures._style import describe_model, pretty
from nrc.places import PROTOCOLS
from nrc.report import deep_rules, rules, ufm_rules
from nrc.report.findings import NOT_RUN, Case, Finding, summary

CLAIMS = Path(__file__).parents[1] / "reference" / "claims.yaml"
CONTROLS = {"sgemm": "sgemm_decay"}  # experiments whose runs without weight decay lie elsewhere
LONG = ("sgemm", "sgemm_decay")  # too long for the quick protocol: any protocol will do, and is named
ACRONYMS = ("sgemm",)
RULES = (rules, ufm_rules, deep_rules)
MODELS = {"prevalence": "ReLU", "prevalence_linear": "linear"}


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
        facts: the same with protocol, kind of data and network.
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


def title(data: str) -> str:
    """Name of a data set; acronyms stay capital."""
    return data.upper() if data in ACRONYMS else pretty(data)


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
    for entry in yaml.safe_load(file.read_text()):
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
            expected = [d for d in claim.data if _belongs(d, experiment)]
            if runs.datasets is not None:
                expected = [d for d in expected if d in runs.datasets]
            for data in [*expected, *(d for d in found if d not in claim.data)]:
                rows.append(_judge(claim, experiment, data, home))
    return rows


def _belongs(data: str, experiment: str) -> bool:
    """Whether an expected data set is one of this experiment's: `low_rank` and `sgemm` have their own."""
    own = ("low_rank", "sgemm")
    return data == experiment if experiment in own else data not in own


def runs_of(runs: Runs, experiment: str) -> Runs:
    """The runs in the protocol asked for; for long experiments in whichever there is."""
    if experiment not in LONG or runs.of(experiment):
        return runs
    for protocol in PROTOCOLS:
        other = replace(runs, protocol=protocol, _read={})
        if other.of(experiment):
            return other
    return runs


def _judge(claim: Claim, experiment: str, data: str, home: Runs) -> Row:
    label = MODELS.get(experiment)
    setting = title(data) + (f", {label}" if label else "")
    figure = claim.experiments[experiment].format(data=data)
    main = [run for run in home.headline(experiment, data) if run.snapshots]
    if not main:
        finding = Finding("", [], {}, NOT_RUN, f"no finished run of experiment {experiment} on {data}")
        return Row(claim, experiment, data, setting, finding, [], figure, "", "")
    control = home.control(experiment, data)
    if not control and experiment in CONTROLS:
        control = runs_of(home, CONTROLS[experiment]).control(CONTROLS[experiment], data)
    case = Case(main, control, lambda_groups(home.of(experiment)[data]))
    run = main[0]
    scale = f"λ = {run.weight_decay:g}, λτ = {run.budget:.3g}, {len(main)} seed{'s' if len(main) > 1 else ''}"
    facts = f"{scale}; {run.protocol} protocol; data: {run.kind}; {describe_model(run)}"
    finding = _rule(claim.rule)(case)
    return Row(claim, experiment, data, setting, finding, [*main, *control], figure, scale, facts)


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
    lines = [f"{'claim':18} {'data':18} {'measured (mean [range])':34} {'verdict':20} depends"]
    for row in rows:
        measured = summary(row.finding.measured)
        depends = "on the view" if row.finding.depends_on_view else ""
        lines.append(f"{row.claim.id:18} {row.setting:18} {measured:34} {row.verdict:20} {depends}".rstrip())
    return "\n".join(lines)
