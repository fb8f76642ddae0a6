"""A matrix with column names, and the checks that every file reader shares."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nrc.data.base import Array
from nrc.errors import UserError


@dataclass(frozen=True)
class Columns:
    """A matrix (N, c) in fp64 with a name per column.

    named: the names come from the file.
    n_targets: the file itself says that its last n_targets columns are the targets.
    """

    values: Array
    names: tuple[str, ...]
    named: bool
    n_targets: int | None = None


def existing(path: str | Path, option: str = "data.path") -> Path:
    """The path as an existing, not empty file; else one line saying so."""
    file = expanded(path)
    if file.is_dir():
        raise UserError(f"{file} is a folder; {option} must name a file")
    if not file.is_file():
        raise UserError(f"{file} does not exist; give {option} an existing file")
    if not file.stat().st_size:
        raise UserError(f"{file} is empty; write or download it again")
    return file


def expanded(path: str | Path) -> Path:
    """The path with a leading ~ replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; write the folder out") from error


@contextlib.contextmanager
def one_line(file: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises for a damaged file into one line that names the file."""
    try:
        yield
    except UserError:
        raise
    # the libraries raise whatever their parsers run into, up to RecursionError and MemoryError
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError):
            raise UserError(f"{file} may not be read by you; change its permissions or copy it") from error
        if "pickle" in text.lower() or "Python objects" in text:
            raise UserError(
                f"{file} holds pickled objects, which could run code, or is no {what} file at all; "
                "save plain number arrays"
            ) from error
        raise UserError(
            f"{file} cannot be read as {what} (damaged or cut short? {text[:120]}); get or write it again"
        ) from error


def distinct(file: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name: which of them is meant would be a guess."""
    named = [name.strip() for name in names if name.strip()]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise UserError(f"{file}: {named.count(twice[0])} columns are named {twice[0]!r}; rename them")


def array_of(file: Path, archive: Any, key: str, rows: int | None) -> Any:
    """The first rows of an HDF5 array whose stated size the file can hold.

    A damaged header may state any size, and HDF5 would fill what is not there with zeros.
    """
    array = archive[key]
    # nothing that the format's own compression makes shrinks more than 1032-fold
    if array.nbytes > 1032 * file.stat().st_size:
        raise UserError(
            f"{file}: {key} states the shape {array.shape}, more than {file.stat().st_size} bytes can hold; "
            "get or write it again"
        )
    return array[:rows]
