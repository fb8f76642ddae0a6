"""Tables of text (csv) and of columns (parquet), through pandas: what the first rows mean, and a saved index."""

import csv
import gzip
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array, beyond_float64
from nrc.data.reading import is_number, one_line, require_pyarrow
from nrc.data.tables.files import Columns
from nrc.errors import UserError

LOOK = 40  # lines, besides comments, in which the layout shows
COMMENTS = ("#", "%")
QUOTED, OPEN = r'"[^"]*"', r'(^|[;,\t|])\s*"'  # a whole quoted cell, and the beginning of one
WHOLE = re.compile(r"[+-]?\d{1,300}")  # as float64 holds
SEPARATORS = (";", "\t", ",", "|")
BLANKS = r"\s+"
EXCEL = re.compile(r'^"?sep=(.)"?\s*$', re.IGNORECASE | re.DOTALL)  # its first line may name the separator
# what stands for a missing number, here and there
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "nil", "?", "-", "--", ".", "*", "missing"}
INDEX = re.compile(
    r"Unnamed: 0(\.\d+)*|__index_level_\d+__|level_0"
)  # names under which pandas saves its row labels


@dataclass(frozen=True)
class Layout:
    """How a text table is laid out.

    Attributes:
        separator: a character, or a pattern of blanks.
        skip: lines before the first row.
        first: the cells of that row.
        header: whether it names the columns.
        names: names that a comment above the rows gives; None: it gives none.
        comment: the character that begins comments; "" if there are none.
        notes: what was decided, for the user.
    """

    separator: str
    skip: int
    first: tuple[str, ...]
    header: bool
    names: tuple[str, ...] | None
    comment: str
    notes: tuple[str, ...]


def layout_of(lines: Sequence[str], header: bool | None = None) -> Layout:
    """The layout of a table with these first lines; header: whether the first row names the columns, if known.

    Example:
        >>> layout_of(["# a b", "1 2", "3 4"]).names
        ('a', 'b')
        >>> layout_of(["0,1,2", "0.3,0.1,0.2"]).header, layout_of(["0,1,2", "3,4,5"]).header
        (True, False)
    """
    separator, skip, comment, comments = "", 0, "", list[str]()
    for number, line in enumerate(lines):
        excel = EXCEL.match(line)
        if excel and number == 0:
            separator, skip = excel[1], 1
        elif line.lstrip().startswith(COMMENTS):
            comment = line.lstrip()[0]
            comments.append(line.strip().lstrip(f"{comment} "))
            skip = number + 1
        elif line.strip():
            break
    rows = [line for line in lines[skip:] if not (comment and line.lstrip().startswith(comment))]
    rows = [row for row in _records(rows) if row.strip()]
    separator = separator or _separator(rows)
    table = [_cells(row, separator) for row in rows]
    names, notes = None, list[str]()
    if comments and table and not any(map(_is_name, table[0])):  # else the first row has names itself
        guesses = (_cells(comments[-1], s) for s in (separator, *SEPARATORS, BLANKS))
        names = next((tuple(cells) for cells in guesses if len(cells) == len(table[0])), None)
    if names is not None and header:
        above = "it is data, named by the comment above it"
        names, notes = None, [_said(table[0], "the header", "null", above)]
    if names is None and table and header is None:
        header, notes = _is_header(table[0], table[1:])
        if not header and '"' in rows[0] and len(rows) > 1 and not any('"' in row for row in rows[1:]):
            header, notes = True, [_said(table[0], "the header", "false", "it is data")]
    first = tuple(table[0]) if table else ()
    return Layout(separator, skip, first, bool(header) and names is None, names, comment, tuple(notes))


def _first_lines(stream: Iterable[str]) -> list[str]:
    """The lines that show the layout: LOOK of them that are no comments, and the comments among them."""
    lines, found = list[str](), 0
    for line in stream:
        lines.append(line.rstrip("\r\n"))
        found += not line.lstrip().startswith(COMMENTS)
        if found == LOOK:
            break
    return lines


def _records(lines: Sequence[str]) -> list[str]:
    """The rows that these lines are: a quoted cell may hold line ends."""
    records = list[str]()
    for line in lines:
        if records and re.search(OPEN, re.sub(QUOTED, "", records[-1])):
            records[-1] += f"\n{line}"
        else:
            records.append(line)
    if records and re.search(
        OPEN, re.sub(QUOTED, "", records[-1])
    ):  # it never ends: no quote but, say, inches
        records[-1:] = records[-1].split("\n")
    return records


def _separator(rows: list[str]) -> str:
    """The first of the usual ones that cuts the first two rows into as many cells; quoted text may hold any."""
    first, second = (re.sub(QUOTED, "", row) for row in (rows * 2)[:2]) if rows else ("", "")
    there = [s for s in SEPARATORS if s in first]
    return next((s for s in there if first.count(s) == second.count(s)), there[0] if there else BLANKS)


def _cells(row: str, separator: str) -> list[str]:
    if separator == BLANKS:
        return row.split()
    return [cell.strip() for cell in next(csv.reader([row], delimiter=separator), [])]


def _is_name(cell: str) -> bool:
    return cell.lower() not in MISSING and not is_number(cell)


def _is_header(first: list[str], below: list[list[str]]) -> tuple[bool, list[str]]:
    """Whether a first row names the columns, and a note where numbers leave a doubt.

    It does if a cell of it is neither a number nor stands for a missing one. Whole numbers alone (column numbers,
    years) do if they rise evenly and no row below does, or if they rise and the numbers below are not whole; others
    (wavelengths) if they rise evenly, no row below does, and each lies beyond its column. Three or more that rise or
    fall do if each lies far from all that is below.
    """
    if any(map(_is_name, first)):
        odd = sum(map(is_number, first)) > len(first) / 2 and not _rises([c for c in first if is_number(c)])
        return True, [_said(first, "the header", "false", "it is data")] if odd else []
    numbers = first[1:] if first and not first[0] else first  # above a saved index stands no name
    columns = [[cell for cell in column if _is_finite(cell)] for column in zip(*below, strict=False)]
    columns = columns[len(first) - len(numbers) :]
    rises, falls = _rises(numbers), _rises(numbers[::-1])
    even = len(numbers) > 2 and rises and _even(numbers) and not any(_rises(r) and _even(r) for r in below)
    whole = all(re.fullmatch(r"[+-]?\d+", cell) for cell in numbers)
    broken = [column for column in columns if any("." in cell for cell in column)]
    other = broken and all("." in cell or "e" in cell.lower() for column in broken for cell in column)
    own = [(float(n), _values(c)) for n, c in zip(numbers, columns, strict=False) if _is_finite(n)]
    beyond = all(_beyond(n, column) for n, column in own)
    enough = len(below) > 2 and all(columns) and len(columns) == len(numbers)
    reach = np.array([_reach(column) for _, column in own if enough]).T  # lows, highs
    clear = enough and len(own) > 2 and (rises or falls) and not any(_within(n, reach) for n, _ in own)
    if clear or (rises and ((even or other) if whole else (even and beyond))):
        return True, [_said(first, "the header", "false", "it is data")]
    strange = enough and sum(not _within(n, _reach(column)) for n, column in own) > len(own) / 2
    if strange or (whole and (rises or falls) and _even(numbers)):
        return False, [_said(first, "data, not for the header", "true", "it names the columns")]
    return False, []


def _said(first: list[str], taken: str, value: str, case: str) -> str:
    shown = ", ".join(first[:6]) + (", ..." if len(first) > 6 else "")
    return f"the first row ({shown}) is taken for {taken}; set data.header={value} if {case}"


def _beyond(value: float, column: Any) -> bool:
    return not len(column) or not column.min() <= value <= column.max()


def _is_finite(cell: str) -> bool:
    return is_number(cell) and math.isfinite(float(cell))


def _reach(column: Any) -> tuple[float, float]:
    """The range of a column, widened by its width on both sides: what lies outside is far from it."""
    low, high = column.min(), column.max()
    return 2 * low - high, 2 * high - low


def _within(value: float, reach: Any) -> bool:
    return bool(((reach[0] <= value) & (value <= reach[1])).any())


def _rises(cells: Sequence[str]) -> bool:
    """Whether these are two or more numbers, each larger than the one before."""
    return len(cells) >= 2 and all(map(is_number, cells)) and bool((np.diff(_values(cells)) > 0).all())


def _even(cells: Sequence[str]) -> bool:
    steps = np.diff(_values(cells))
    return bool(np.allclose(steps, steps[0], rtol=1e-6))


def _values(cells: Sequence[str]) -> Any:
    return np.array([float(cell) for cell in cells])


def read_csv(file: Path, limit: int | None, header: bool | None = None) -> Columns:
    """Text with any of the usual separators; a header, Excel's sep=, comments and a saved index are told apart."""
    import pandas as pd

    opener = gzip.open if file.name.lower().endswith(".gz") else open
    with one_line(file, "csv"):
        with file.open("rb") as stream:
            if stream.read(2) == b"\x1f\x8b" and opener is open:
                raise UserError(f"{file} is compressed by gzip; rename it to {file.name}.gz")
        with opener(file, "rt", encoding="utf-8-sig", newline="") as stream:
            layout = layout_of(_first_lines(stream), header)
        if layout.header:
            _distinct(file, layout.first)
        with warnings.catch_warnings():
            # pandas 2 needs float_precision for exact decimals, later ones call it deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            # rows longer than the header would lose their last columns with no more than a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                frame = pd.read_csv(
                    file, sep=layout.separator, header=0 if layout.header else None, nrows=limit,
                    skiprows=layout.skip, comment=layout.comment or None, encoding="utf-8-sig",
                    float_precision="round_trip", index_col=False, on_bad_lines="error", low_memory=False,
                )  # fmt: skip
            except pd.errors.ParserWarning as error:
                raise ValueError("rows are longer than the header; are there row names?") from error
    if layout.names is not None and len(layout.names) == frame.shape[1]:
        _distinct(file, layout.names)
        frame.columns = list(layout.names)
    named = layout.header or layout.names is not None
    if named and len(frame) and frame.iloc[:, -1].isna().all():
        raise UserError(
            f"{file}: no row has a number in the last of {frame.shape[1]} columns, {frame.columns[-1]!r}; "
            "give the header one name for each column of numbers"
        )
    return _from_frame(file, frame, named, layout.notes)


def read_parquet(file: Path, limit: int | None) -> Columns:
    """Columns of numbers; rows are in the file's order. A named index is a column, as it would be in a csv."""
    import pandas as pd

    require_pyarrow(file)
    with one_line(file, "parquet"):
        frame = pd.read_parquet(file, engine="pyarrow").iloc[:limit]
        index, named = frame.index, [name is not None for name in frame.index.names]
        left_out = not all(named) and not isinstance(index, pd.RangeIndex)
        frame = frame.reset_index(drop=True)
        if any(named):
            frame = pd.concat([index.to_frame(index=False).loc[:, named], frame], axis=1)
        _distinct(file, [str(name) for name in frame.columns])
    notes = ("the index of the rows has no name and is left out",) if left_out else ()
    return _from_frame(file, frame, True, notes)


def _distinct(file: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name: which of them is meant would be a guess."""
    named = [joined for name in names if (joined := _on_one_line(name))]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise UserError(f"{file}: {named.count(twice[0])} columns are named {twice[0]!r}; rename them")


def _on_one_line(name: str) -> str:
    """A quoted name may hold line ends, which would break every message that names it."""
    return " ".join(name.split())


def _from_frame(file: Path, frame: Any, named: bool, notes: tuple[str, ...] = ()) -> Columns:
    while named and frame.shape[1] > 2 and _is_index(frame):
        notes += ("the first column has no name and labels the rows: a saved index, left out",)
        frame = frame.iloc[:, 1:]
    if named and INDEX.fullmatch(str(frame.columns[0])):
        notes += (f"the first column, {frame.columns[0]!r}, has no name in the file and is kept",)
    names = tuple(_on_one_line(str(name)) if named else f"column {i}" for i, name in enumerate(frame.columns))
    values, whole = np.empty(frame.shape, np.float64), dict[int, Array]()
    for i, name in enumerate(names):
        column = _numbers(file, name, frame.iloc[:, i])
        values[:, i] = column
        if beyond_float64(column[:, None]):
            whole[i] = column
        if named and len(values) > 2 and (np.diff(values[:, i]) == 1).all():
            notes += (f"column {name!r} counts the rows; take it out of the file if it is no measurement",)
    return Columns(values, names, named, notes=tuple(dict.fromkeys(notes)), whole=whole)


def _numbers(file: Path, name: str, column: Any) -> Array:
    """A column of a frame as numbers, whole ones with all their digits; what is missing is NaN."""
    missing = column.isna()
    kind = column.dtype.kind
    if kind in "iu" and not missing.any():
        return np.asarray(column.to_numpy(f"{kind}8"))
    if kind in "iufb":
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    # text and objects: what Python or pandas would make numbers of (dates, 1_1) is more than what is meant as one
    cells = [math.nan if gone else cell for cell, gone in zip(column, missing, strict=True)]
    row = next((row for row, cell in enumerate(cells) if not _plain_number(cell)), None)
    if row is None:
        whole = all(isinstance(c, int) or (isinstance(c, str) and WHOLE.fullmatch(c.strip())) for c in cells)
        return np.array([int(c) for c in cells], object) if whole else np.array([float(c) for c in cells])
    shown = str(cells[row])[:40]
    remedy = "drop the column or encode it as numbers"
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", shown):
        remedy = (
            "write it without thousands separators (or, if that is a decimal comma, with a decimal point)"
        )
    elif re.fullmatch(r"[+-]?\d+,\d+", shown):
        remedy = "write decimal points"
    raise UserError(f"{file}: column {name!r} is not numeric (data row {row + 1} is {shown!r}); {remedy}")


def _is_index(frame: Any) -> bool:
    """Whether the first column is one that pandas (or R) wrote to label the rows: no name, all labels distinct."""
    if not INDEX.fullmatch(str(frame.columns[0])):
        return False
    labels = frame.iloc[:, 0]
    return labels.is_unique and (labels.dtype.kind not in "fc" or bool((labels % 1 == 0).all()))


def _plain_number(cell: Any) -> bool:
    if isinstance(cell, str):
        return is_number(cell)
    return isinstance(cell, Real | Decimal | np.bool_)
