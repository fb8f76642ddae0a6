"""Anybody's own data: one file of numbers, some columns of which are the targets."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nrc.data.base import (
    Kind,
    RegressionData,
    Standardize,
    n_test_rows,
    standardised,
    train_test_split_indices,
    without_offset,
)
from nrc.data.reading import existing, expanded, sha256
from nrc.data.settings import FRACTIONS, INF, ROWS, SEEDS, DataSource
from nrc.data.tables.files import Columns, read, read_pair
from nrc.errors import UserError

NEEDED = "e.g. data.targets=3 (the last 3 columns) or 'data.targets=[steer,speed]' (names)"


@dataclass(frozen=True)
class Table(DataSource):
    """A csv (also gzipped), npz, npy, HDF5 or parquet file, or a pair x.npy,y.npy.

    A csv has a header when its first row is not all numbers, or when its numbers can only be names (0, 1, 2 or years
    above rows that do not count up, wavelengths far from all numbers below); what is in doubt is said and `header`
    decides. Excel's first line sep=; and the comments of numpy.savetxt are understood. An index that pandas saved is left
    out of a csv, and of parquet where it has no name. An npz or HDF5 file holds x and y (or observations and actions), or
    one single matrix. Pickles are refused: they could run code.

    Args:
        path: the file; for a pair "x.npy,y.npy" or a list of two.
        targets: k for the last k columns, or names (a list, or one comma-separated string), or a list of
            column numbers from 0, where no other column is named so. Not needed when the file tells inputs from targets.
        test_path: a second file with the same columns: the test rows; all rows of `path` are then train rows.
        test_fraction: share of the rows for testing, rounded up, when there is no test_path.
        split: "random" (scikit-learn's train_test_split, random_state=split_seed), "order" (last rows test).
        standardize: "none", "x" or "xy": zero mean, unit variance, fitted on the train rows.
        limit: read only the first `limit` rows.
        header: of a csv, whether its first row names the columns; null: told by the rows.
        name: what follows `table-` in the name of the data, which is its folder's; the file's stem if not given.
        kind: where the data come from, as shown on figures.

    Raises:
        UserError: on load, one line naming the file and the remedy.

    Example:
        >>> Table(path="missing.csv", targets=2).load()
        Traceback (most recent call last):
        ...
        nrc.errors.UserError: missing.csv does not exist; give data.path an existing file
    """

    path: Any = None
    targets: Any = None
    test_path: Any = None
    test_fraction: float = 0.2
    split: Literal["order", "random"] = "random"
    split_seed: int = 42
    standardize: Standardize = "none"
    limit: int | None = None
    header: bool | None = None
    name: str | None = None
    kind: Kind = "real"

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("data.path is missing; give a file of numbers, e.g. data.path=measurements.csv")
        if isinstance(self.targets, np.ndarray | np.generic):
            object.__setattr__(self, "targets", self.targets.tolist())
        self.check(test_fraction=FRACTIONS, split_seed=SEEDS, limit=(3, INF))
        if isinstance(self.targets, (bool, float, dict)) or (
            isinstance(self.targets, int) and self.targets < 1
        ):
            raise UserError(
                f"data.targets is {self.targets}; expected a whole number >= 1 or names: {NEEDED}"
            )
        for option in ("path", "test_path"):
            self._files(option)

    @property
    def dataset(self) -> str:
        """Never that of another set: swimmer.csv is not `swimmer`."""
        return "table"

    @property
    def origin(self) -> dict[str, str]:
        """The file, or the name given to it."""
        stem = self.name or self._files("path")[0].name.split(".")[0]
        return {"file": re.sub(r"[^A-Za-z0-9_-]+", "_", stem) or "file"}

    @property
    def expected_rows(self) -> int:
        """At most `limit`."""
        return self.limit or ROWS

    def load(self) -> RegressionData:
        """Read, split and standardise."""
        files = self._files("path")
        columns = self._read("path")
        where = self._where("path")
        chosen = _target_columns(where, columns, self.targets)
        inputs = [i for i in range(len(columns.names)) if i not in set(chosen)]
        if not inputs:
            raise UserError(
                f"{where}: all {len(columns.names)} columns are targets; leave at least one input column"
            )
        notes = list(columns.notes)
        if self.test_path:
            files = files + self._files("test_path")
            other = self._read_test(columns)
            # not said twice where it is said of the first file
            notes += [f"{files[-1].name}: {note}" for note in other.notes if note not in notes]
            rows = np.arange(len(columns.values)), np.arange(len(other.values))
        else:
            other, rows = columns, self._divide(where, len(columns.values))
        train, test = columns.values[rows[0]], other.values[rows[1]]
        offset: dict[str, dict[str, float]] = {"x": {}, "y": {}}
        for i, column in columns.whole.items():
            parts = column[rows[0]], other.whole.get(i, other.values[:, i])[rows[1]]
            train[:, i], test[:, i], taken = without_offset(*parts)
            offset["y" if i in chosen else "x"] |= {columns.names[i]: taken} if taken else {}
        arrays, done = standardised(
            self.standardize, train[:, inputs], train[:, chosen], test[:, inputs], test[:, chosen]
        )
        split = "test file" if self.test_path else self.split
        provenance: dict[str, Any] = {
            "source": "table", "files": _digests(files), "split": split,
            "split_seed": self.split_seed if split == "random" else None, "limit": self.limit,
            "notes": notes, **({"offset": offset} if any(offset.values()) else {}), **done,
        }  # fmt: skip
        names = tuple(columns.names[i] for i in inputs), tuple(columns.names[i] for i in chosen)
        try:
            return self.finished(arrays, *names, self.kind, provenance)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def _files(self, option: str) -> list[Path]:
        """The file, or the pair of files, behind a path setting."""
        value = getattr(self, option)
        if not value:
            return []
        if isinstance(value, str):
            whole = expanded(value)
            parts = (
                [value] if whole.exists() or "," not in value else [part.strip() for part in value.split(",")]
            )
        elif isinstance(value, (list, tuple)):
            parts = [str(part) for part in value]
        else:
            parts = [str(value)]
        if len(parts) > 2 or not all(parts):
            raise UserError(f"data.{option} is {value!r}; expected one file, or the two files x.npy,y.npy")
        return [expanded(part) for part in parts]

    def _where(self, option: str) -> str:
        return ",".join(str(file) for file in self._files(option))

    def _read(self, option: str) -> Columns:
        files = self._files(option)
        if len(files) == 2:
            return read_pair(files[0], files[1], self.limit)
        return read(existing(files[0], f"data.{option}"), self.limit, self.header)

    def _read_test(self, columns: Columns) -> Columns:
        test = self._read("test_path")
        if test.names != columns.names or test.n_targets != columns.n_targets:
            raise UserError(
                f"{self._where('test_path')}: columns {', '.join(test.names[:6])} are "
                f"not those of {self._where('path')} ({', '.join(columns.names[:6])}); "
                "give both files the same columns in the same order"
            )
        return test

    def _divide(self, where: str, n: int) -> tuple[Any, Any]:
        """Numbers of the train and of the test rows."""
        n_test = n_test_rows(n, float(self.test_fraction)) if n >= 3 else n
        if n - n_test < 2:
            raise UserError(
                f"{where}: {n} rows are too few for train and test at data.test_fraction={self.test_fraction:g}; lower "
                "it, give more rows or a data.test_path"
            )
        if self.split == "random":
            return train_test_split_indices(n, float(self.test_fraction), self.split_seed)
        return np.arange(n - n_test), np.arange(n - n_test, n)


def _digests(files: list[Path]) -> dict[str, str]:
    """sha256 by file name; by the whole path where two files have one name."""
    names = [file.name for file in files]
    return {file.name if names.count(file.name) == 1 else str(file): sha256(file) for file in files}


def _target_columns(where: str, columns: Columns, targets: Any) -> list[int]:
    """Column numbers of the targets."""
    count = len(columns.names)
    if count < 2:
        raise UserError(f"{where} has {count} column; at least one input and one target are needed")
    if columns.n_targets is not None and targets in (None, columns.n_targets):
        return list(range(count - columns.n_targets, count))
    if columns.n_targets is not None and isinstance(targets, int):
        raise UserError(
            f"{where} holds {columns.n_targets} targets, but data.targets={targets}; leave data.targets out"
        )
    if targets is None:
        raise UserError(f"{where}: data.targets is missing; say which columns are the targets, {NEEDED}")
    if isinstance(targets, int):
        if targets >= count:
            named = columns.named and str(targets) in columns.names
            hint = f"; for the column named {targets} write 'data.targets=[\"{targets}\"]'" if named else ""
            raise UserError(
                f"{where} has {count} columns, but data.targets={targets}; at most {count - 1} can be targets{hint}"
            )
        return list(range(count - targets, count))
    if isinstance(targets, str):
        targets = [targets] if targets in columns.names else [name.strip() for name in targets.split(",")]
    chosen = [_column(where, columns, target) for target in targets]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"{where}: data.targets={list(targets)} names no column or one twice; name each target once"
        )
    return chosen


def _column(where: str, columns: Columns, target: Any) -> int:
    names = columns.names
    if not columns.named and isinstance(target, str) and re.fullmatch("[0-9]+", target):
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool):
        named = names.index(str(target)) if columns.named and str(target) in names else None
        if 0 <= target < len(names):
            if named in (None, target):
                return target
            raise UserError(
                f"{where}: data.targets={target} may be the column named {target} or column number {target}, named "
                f"{names[target]!r}; write 'data.targets=[\"{target}\"]' or 'data.targets=[\"{names[target]}\"]' for the one that is meant"
            )
        if named is not None:
            return named
        raise UserError(f"{where}: there is no column {target}; columns are numbered 0 to {len(names) - 1}")
    if str(target) in names and columns.named:
        return names.index(str(target))
    if not columns.named:
        raise UserError(
            f"{where} has no column names, so no target {target!r}; use data.targets=2 (the last 2 columns) "
            "or 'data.targets=[0,3]' (column numbers from 0)"
        )
    close = get_close_matches(str(target), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(names[:10])}"
    raise UserError(f"{where} has no column {str(target)!r}; {hint}")
