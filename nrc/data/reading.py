"""What every reader of files shares: paths, one-line errors, and HDF5 that reads nothing but its own file."""

import contextlib
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nrc.errors import UserError


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


def sha256(file: Path) -> str:
    """Digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_number(cell: str) -> bool:
    """Whether a cell of a text table is a number: digits of ASCII, where Python would take 1_1 and other scripts too."""
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell


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
        if isinstance(error, UnicodeDecodeError):
            raise UserError(
                f"{file} cannot be read as {what}: it is not UTF-8 text (UTF-16 or latin-1, as Excel writes it? {text[:80]}); "
                "save it as UTF-8"
            ) from error
        if "pickle" in text.lower() or "Python objects" in text:
            raise UserError(
                f"{file} holds pickled objects, which could run code, or is no {what} file at all; "
                "save plain number arrays"
            ) from error
        raise UserError(
            f"{file} cannot be read as {what} (damaged or cut short? {text[:120]}); get or write it again"
        ) from error


@contextlib.contextmanager
def open_hdf5(file: Path) -> Iterator[Any]:
    """An HDF5 file whose arrays all lie in it.

    Raises:
        UserError: no HDF5, or it refers to other files of this machine: by an external link, by an array with
            external storage, or by a virtual array.
    """
    import h5py

    with one_line(file, "HDF5"), h5py.File(file, "r") as archive:

        def look(name: str, link: Any) -> str | None:
            if isinstance(link, h5py.ExternalLink):
                return f"{name} is a link to another file"
            item = archive[name] if isinstance(link, h5py.HardLink) else None
            outside = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
            return f"{name} keeps its numbers in another file" if outside else None

        elsewhere = archive.visititems_links(look)  # ends at the first that it names
        if elsewhere:
            raise UserError(f"{file}: {elsewhere}, which is not followed; copy the numbers into one file")
        yield archive


def array_of(file: Path, archive: Any, key: str) -> Any:
    """An HDF5 array, not read yet, whose stated size the file can hold and of which all was written.

    A damaged header may state any size, a recording may have ended early, and HDF5 fills what is not there with zeros.
    """
    array = archive[key]
    if array.shape is None:
        raise UserError(f"{file}: {key} is empty (no shape and no numbers); write it again")
    # nothing that the format's own compression makes shrinks more than 1032-fold
    if array.nbytes > 1032 * file.stat().st_size:
        raise UserError(
            f"{file}: {key} states the shape {array.shape}, more than {file.stat().st_size} bytes can hold; "
            "get or write it again"
        )
    chunks = array.chunks and math.prod(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True))
    if array.size and (array.id.get_storage_size() == 0 or (chunks and array.id.get_num_chunks() < chunks)):
        raise UserError(
            f"{file}: {key} states the shape {array.shape}, but not all of it was ever written, and what was not would be "
            "read as zeros; write it whole, or copy the rows that were written"
        )
    return array


def require_pyarrow(file: Path) -> None:
    """One line where parquet cannot be read for want of pyarrow."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow to be read: pip install pyarrow") from error
