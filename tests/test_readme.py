"""README.md: short, with the scorecard's own lines and the output that its code prints."""

import contextlib
import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from command_line import in_process

from nrc.errors import UserError
from nrc.report.gallery import between
from nrc.report.readme import LINES, PROTOCOL, block, write_readme
from nrc.report.registry import HOLDS, NOT_YET, claims
from nrc.report.scorecard import COLUMNS, planned, read_committed

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130 and len(README.split()) <= 1000


# --- the scorecard


def test_it_has_ten_lines_on_claims_that_are_judged() -> None:
    known = {claim.id: claim for claim in claims()}
    assert len({(line.claim, line.experiment) for line in LINES}) == len(LINES) == 10
    for line in LINES:
        assert line.experiment in known[line.claim].on, line
        assert line.shown in planned(PROTOCOL)[line.experiment], line


def known(*rows: tuple[str, str, str, str, float]) -> pd.DataFrame:
    keys = ("claim", "experiment", "data", "verdict", "measured")
    lines = [{"protocol": PROTOCOL, **dict(zip(keys, row, strict=True))} for row in rows]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_a_line_has_the_verdict_on_every_set_and_one_number() -> None:
    sets = planned(PROTOCOL)["prevalence"]
    agree = [("nrc3", "prevalence", data, HOLDS, 0.0123456) for data in sets]
    mixed = [("nrc1", "prevalence", "swimmer", NOT_YET, 0.11), ("nrc1", "prevalence", "hopper", HOLDS, 4e-4)]
    lines = block(known(*agree, *mixed)).splitlines()
    assert len(lines) == 2 + len(LINES)
    assert lines[2] == (
        "| ReLU features collapse onto n directions | not run: Reacher; not yet: Swimmer; holds: Hopper | NRC1 0.11 (Swimmer) |"
    )
    assert lines[3].endswith("| holds on all 3 | NRC3 0.0123 (Swimmer) |")
    assert lines[4].endswith("| not run on all 3 | least / largest singular value of W – (Swimmer) |")


def test_it_is_written_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("A\n<!-- scorecard -->\nold\n<!-- /scorecard -->\nB\n")
    write_readme(tmp_path, known())
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text == f"A\n<!-- scorecard -->\n{block(known())}\n<!-- /scorecard -->\nB\n"
    (tmp_path / "README.md").write_text("A\n")
    with pytest.raises(UserError, match="must stand in the text once each"):
        write_readme(tmp_path, known())


def test_without_a_committed_scorecard_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nrc.report.readme.read_committed", lambda: read_committed(tmp_path / "scorecard.csv")
    )
    result = in_process("report.py", ["--readme"], tmp_path)
    assert result.status == 2 and "scorecard.csv is missing; python scripts/report.py" in result.err
    assert (REPO / "README.md").read_text(encoding="utf-8") == README


def test_its_lines_are_those_of_the_committed_scorecard() -> None:
    assert between(README, "scorecard", block(read_committed())) == README, (
        "python scripts/report.py --readme"
    )


# --- the four lines, and the program that they are from

BLOCK = re.compile(r"```python\n(.*?)```\n+```\n(.*?)```", re.S)


def numbers(text: str) -> list[list[float]]:
    """The rows of a printed table; NaN for "-"."""
    rows = [line.split() for line in text.strip().splitlines()[2:]]
    return [[math.nan if cell == "-" else float(cell) for cell in row] for row in rows]


def test_the_program_prints_what_is_shown() -> None:
    program, shown = BLOCK.search((REPO / "docs" / "your_own_model.md").read_text(encoding="utf-8")).groups()  # type: ignore[union-attr]
    lines, shown_here = BLOCK.search(README).groups()  # type: ignore[union-attr]
    assert shown == shown_here
    space: dict[str, object] = {}
    for code in (program, lines):  # the README's lines measure the program's model once more
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, space)
        assert out.getvalue().splitlines()[0] == shown.splitlines()[0]
        assert out.getvalue().split()[6:14] == shown.split()[6:14]
        for row, expected in zip(numbers(out.getvalue()), numbers(shown), strict=True):
            # processors round differently, and 1000 steps make 2 % of it; collapse makes small numbers smaller
            assert row == [
                pytest.approx(value, rel=0.05 if value > 1e-3 else 0.5, nan_ok=True) for value in expected
            ]
