"""The ten lines of the README's scorecard, from the committed one."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nrc.errors import UserError
from nrc.figures.style import pretty
from nrc.places import ROOT
from nrc.report.registry import NOT_RUN, number
from nrc.report.scorecard import planned, read_committed
from nrc.runs.files import atomic, between

PROTOCOL = "quick"


class Line(NamedTuple):
    """A claim on all data sets of an experiment: in a few words, with what is measured and on which set it is shown."""

    claim: str
    experiment: str
    says: str
    quantity: str
    shown: str = "swimmer"


LINES = (  # chosen for what they ask, whatever the answer is
    Line("nrc1", "prevalence", "ReLU features collapse onto n directions", "NRC1"),
    Line("nrc3", "prevalence", "W Wᵀ becomes the shifted root of the targets' covariance", "NRC3"),
    Line("alive", "prevalence", "no target direction dies", "least / largest singular value of W"),
    Line("linear_exact", "prevalence_linear", "a linear feature layer collapses exactly", "NRC1"),
    Line(
        "decay", "prevalence_linear", "without weight decay the linear layer does not collapse", "least NRC1"
    ),
    Line("cone_one_sided", "cone", "ReLU features collapse where the targets lie to one side of 0", "NRC1"),
    Line("cone_biases", "cone", "biases not decayed: the centred features alone collapse", "NRC1"),
    Line("ufm_gram", "ufm", "penalties on features and last weight: W Wᵀ in closed form", "relative error"),
    Line("depth", "deep", "collapse reaches below the last layer", "collapsed layers", "hopper"),
    Line("intrinsic_rank", "low_rank", "features learn the rank of the targets", "noise", "low_rank"),
)


def write_readme(root: Path = ROOT, known: pd.DataFrame | None = None) -> Path:
    """Put the committed scorecard's lines between `<!-- scorecard -->` and `<!-- /scorecard -->` of the README.

    Args:
        root: the source tree.
        known: the scorecard; None: the committed one.

    Raises:
        UserError: there is no README or no committed scorecard.
    """
    file = root / "README.md"
    if not file.exists():
        raise UserError(f"{file} is missing; run this in a clone")
    text = between(
        file.read_text(encoding="utf-8"), "scorecard", block(read_committed() if known is None else known)
    )
    with atomic(file) as tmp:
        tmp.write_text(text, encoding="utf-8")
    return file


def block(known: pd.DataFrame) -> str:
    """The lines as a Markdown table.

    Args:
        known: `read_committed()`.
    """
    lines = ["| claim | verdict | one number |", "|---|---|---|"]
    lines += [f"| {line.says} | {_verdict(known, line)} | {_number(known, line)} |" for line in LINES]
    return "\n".join(lines)


def _rows(known: pd.DataFrame, line: Line) -> pd.DataFrame:
    here = (known.protocol == PROTOCOL) & (known.claim == line.claim) & (known.experiment == line.experiment)
    return known[here].set_index("data")


def _verdict(known: pd.DataFrame, line: Line) -> str:
    """One word if all data sets agree, else one for each."""
    rows = _rows(known, line)
    sets = [data for data, own_file in planned(PROTOCOL)[line.experiment].items() if not own_file]
    found = {data: rows.verdict[data] if data in rows.index else NOT_RUN for data in sets}
    words = list(dict.fromkeys(found.values()))
    if len(words) == 1:
        return words[0] + (f" on all {len(sets)}" if len(sets) > 1 else "")
    return "; ".join(
        f"{word}: {', '.join(pretty(d) for d, w in found.items() if w == word)}" for word in words
    )


def _number(known: pd.DataFrame, line: Line) -> str:
    rows = _rows(known, line)
    value = number(float(rows.measured[line.shown])) if line.shown in rows.index else "–"
    return f"{line.quantity} {value} ({pretty(line.shown)})"
