"""A matrix with column names, and the checks that every file reader shares."""

import contextlib
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"{file} is a folder; {option} must name a file")
    if not file.is_file():
        raise UserError(f"{file} does not exist; give {option} an existing file")
    if not file.stat().st_size:
        raise UserError(f"{file} is empty; write or download it again")
    return file


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def one_line(file: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises for a damaged file into one line that names the file."""
    try:
        yield
    except UserError:
        raise
    except (
        OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error
    ) as error:  # fmt: skip
        text = " ".join(str(error).split())
        if "pickle" in text.lower():
            raise UserError(
                f"{file} holds pickled objects, which could run code; save plain number arrays"
            ) from error
        raise UserError(
            f"{file} cannot be read as {what} (damaged or cut short? {text[:120]}); get or write it again"
        ) from error
