"""Tables of text (csv) and of columns (parquet), through pandas."""

import csv
import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data._columns import Columns, distinct, one_line
from nrc.errors import UserError


def read_csv(file: Path, limit: int | None) -> Columns:
    import pandas as pd

    opener = gzip.open if file.name.lower().endswith(".gz") else open
    with one_line(file, "csv"):
        with file.open("rb") as stream:
            if stream.read(2) == b"\x1f\x8b" and opener is open:
                raise UserError(f"{file} is compressed by gzip; rename it to {file.name}.gz")
        with opener(file, "rt", encoding="utf-8-sig", newline="") as stream:
            first = next((line for line in stream if line.strip()), "")
        separator = next((s for s in (";", "\t", ",") if s in first), r"\s+")
        cells = next(csv.reader([first], delimiter=separator)) if len(separator) == 1 else first.split()
        header = any(cell.strip() and not _is_number(cell) for cell in cells)
        if header:
            distinct(file, cells)
        with warnings.catch_warnings():
            # pandas 2 needs float_precision for exact decimals, later ones call it deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            # rows longer than the header would lose their last columns with no more than a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                frame = pd.read_csv(
                    file, sep=separator, header=0 if header else None, nrows=limit, encoding="utf-8-sig",
                    float_precision="round_trip", index_col=False, on_bad_lines="error", low_memory=False,
                )  # fmt: skip
            except pd.errors.ParserWarning as error:
                raise ValueError("rows are longer than the header") from error
    return _from_frame(file, frame, header)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _from_frame(file: Path, frame: Any, named: bool) -> Columns:
    # a quoted name may hold line ends, which would break every message that names it
    names = tuple(
        " ".join(str(name).split()) if named else f"column {i}" for i, name in enumerate(frame.columns)
    )
    values = np.empty(frame.shape, np.float64)
    for i, name in enumerate(names):
        column = frame.iloc[:, i]
        try:
            if column.dtype.kind in "mM":  # a date would silently become nanoseconds
                raise TypeError("dates")
            values[:, i] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError, OverflowError) as error:
            bad = ((r, c) for r, c in enumerate(column) if not _plain_number(c))
            row, cell = next(bad, (0, column.iloc[0]))
            raise UserError(
                f"{file}: column {name!r} is not numeric (data row {row + 1} is {str(cell)[:40]!r}); "
                "drop the column or encode it as numbers"
            ) from error
    return Columns(values, names, named)


def _plain_number(cell: Any) -> bool:
    return isinstance(cell, (int, float, np.number)) or (isinstance(cell, str) and _is_number(cell))


def read_parquet(file: Path, limit: int | None) -> Columns:
    import pandas as pd

    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow to be read: pip install pyarrow") from error
    with one_line(file, "parquet"):
        frame = pd.read_parquet(file, engine="pyarrow").reset_index(drop=True)
        distinct(file, [str(name) for name in frame.columns])
    return _from_frame(file, frame if limit is None else frame.iloc[:limit], named=True)
