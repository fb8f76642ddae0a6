"""Read a file of numbers, of whatever format, into one fp64 matrix with column names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array, beyond_float64
from nrc.data.reading import array_of, existing, one_line, open_hdf5
from nrc.errors import UserError

PAIRS = (("x", "y"), ("X", "Y"), ("X", "y"), ("inputs", "targets"), ("observations", "actions"))
CSV = (".csv", ".tsv", ".txt", ".dat", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET = (".parquet", ".pq")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


@dataclass(frozen=True)
class Columns:
    """A matrix (N, c) in fp64 with a name per column.

    named: the names come from the file.
    n_targets: the file itself says that its last n_targets columns are the targets.
    notes: what was decided about the file's layout, as lines for the user.
    whole: the columns, by number, of whole numbers that float64 cannot carry, as they are in the file.
    """

    values: Array
    names: tuple[str, ...]
    named: bool
    n_targets: int | None = None
    notes: tuple[str, ...] = ()
    whole: dict[int, Array] = field(default_factory=dict)


def read(path: str | Path, limit: int | None = None, header: bool | None = None) -> Columns:
    """Read csv (also .gz), npz, npy, HDF5 or parquet; at most `limit` rows.

    header: whether the first row of a csv names the columns; None: told by the rows.

    Raises:
        UserError: one line naming the file and the remedy.
    """
    from nrc.data.tables.text import read_csv, read_parquet

    file = existing(path)
    name = file.name.lower()
    if name.endswith(PICKLES):
        raise UserError(
            f"{file} is a pickle, which could run code when opened; save the arrays as csv or npz"
        )
    if name.endswith(CSV):
        return _checked(file, read_csv(file, limit, header))
    readers: dict[tuple[str, ...], Callable[[Path, int | None], Columns]] = {
        (".npz",): _npz,
        (".npy",): _npy,
        (".h5", ".hdf5", ".hdf"): _hdf5,
        PARQUET: read_parquet,
    }
    for suffixes, reader in readers.items():
        if name.endswith(suffixes):
            return _checked(file, reader(file, limit))
    raise UserError(
        f"{file} has an unknown ending; expected .csv, .csv.gz, .npz, .npy, .h5, .hdf5 or .parquet"
    )


def read_pair(x_path: str | Path, y_path: str | Path, limit: int | None = None) -> Columns:
    """Inputs and targets from two .npy files."""
    x_file, y_file = existing(x_path), existing(y_path)
    for file in (x_file, y_file):
        if file.suffix.lower() != ".npy":
            raise UserError(f"{file} is not a .npy file; a pair must be x.npy,y.npy")
    where, keys = Path(f"{x_file},{y_file.name}"), ("the array of inputs", "the array of targets")
    files = dict(zip(keys, (x_file, y_file), strict=True))
    return _checked(where, _joined(where, *keys, lambda key: _load_npy(files[key]), limit))


def _checked(file: Path, columns: Columns) -> Columns:
    if not columns.values.size:
        raise UserError(f"{file} has no rows of numbers; write or download it again")
    bad = np.argwhere(~np.isfinite(columns.values))
    if len(bad):
        row, column = bad[0]
        last = " (the last row: is the file cut short?)" if row == len(columns.values) - 1 else ""
        raise UserError(
            f"{file}: column {columns.names[column]!r}, data row {row + 1}{last} is missing, NaN or infinite "
            f"({len(bad)} such cells); fill in or drop those rows"
        )
    return columns


def _npz(file: Path, limit: int | None) -> Columns:
    with one_line(file, "npz"):
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{file} is a single array, not an npz archive; rename it to .npy")
        with archive:
            return _choose(file, list(archive.files), lambda key: archive[key], limit)


def _npy(file: Path, limit: int | None) -> Columns:
    return _plain(file, "the array", _load_npy(file), limit)


def _load_npy(file: Path) -> Array:
    with one_line(file, "npy"):
        # mapped, because a damaged header may state a size that the file does not have
        array = np.load(file, allow_pickle=False, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise UserError(f"{file} is an npz archive; rename it to .npz")
        return array


def _hdf5(file: Path, limit: int | None) -> Columns:
    import h5py

    with open_hdf5(file) as archive:
        keys = [key for key in archive if isinstance(archive[key], h5py.Dataset) and archive[key].shape != ()]
        inner: list[str] = []
        archive.visititems(
            lambda name, item: inner.append(name) if "/" in name and isinstance(item, h5py.Dataset) else None
        )
        if inner and not keys:
            raise UserError(
                f"{file} holds {len(inner)} array{'s' * (len(inner) > 1)} in groups ({', '.join(inner[:3])}"
                f"{', ...' if len(inner) > 3 else ''}), which are not read; write two arrays named x and y at its top"
            )
        return _choose(file, keys, lambda key: array_of(file, archive, key), limit)


def _choose(file: Path, keys: list[str], get: Callable[[str], Any], limit: int | None) -> Columns:
    """The pair of arrays that a file holds under a known pair of names, or its only matrix."""
    for x_key, y_key in PAIRS:
        if x_key in keys and y_key in keys:
            return _joined(file, x_key, y_key, get, limit)
    if len(keys) == 1:
        return _plain(file, keys[0], get(keys[0]), limit)
    raise UserError(
        f"{file} holds {', '.join(keys[:12]) or 'no arrays'}; expected two arrays named x and y "
        "(or observations and actions), or one single matrix"
    )


def _matrix(file: Path, key: str, array: Any, column: bool = False) -> Any:
    """`array`, of which nothing is read yet, if it is numbers (N, c); or (N,) where one `column` will do."""
    if array.dtype.names:
        raise UserError(
            f"{file}: {key} has named fields ({', '.join(array.dtype.names[:6])}); save it as a plain matrix "
            "(numpy.lib.recfunctions.structured_to_unstructured), or as csv"
        )
    if array.dtype.kind not in "fiub":
        raise UserError(f"{file}: {key} holds {array.dtype}, not numbers; save it as floats")
    if array.ndim == 0:
        raise UserError(f"{file}: {key} is a single number; expected a matrix (rows, columns)")
    if array.ndim != 2 and not (column and array.ndim == 1):
        raise UserError(f"{file}: {key} has shape {array.shape}; expected a matrix (rows, columns)")
    return array


def _plain(file: Path, key: str, array: Any, limit: int | None) -> Columns:
    array = _matrix(file, key, array)[:limit]
    names = tuple(f"column {i}" for i in range(array.shape[1]))
    return Columns(array.astype(np.float64), names, named=False, whole=beyond_float64(array))


def _joined(file: Path, x_key: str, y_key: str, get: Callable[[str], Any], limit: int | None) -> Columns:
    x, y = _matrix(file, x_key, get(x_key)), _matrix(file, y_key, get(y_key), column=True)
    if len(x) != len(y):
        raise UserError(
            f"{file}: {len(x)} rows of inputs but {len(y)} of targets; give one target row per input row"
        )
    x, y = x[:limit], y[:limit]
    y = y[:, None] if y.ndim == 1 else y
    d = x.shape[1]
    names = tuple(f"x{i}" for i in range(d)) + tuple(f"y{i}" for i in range(y.shape[1]))
    whole = beyond_float64(x) | {d + i: column for i, column in beyond_float64(y).items()}
    values = np.hstack([x.astype(np.float64), y.astype(np.float64)])
    return Columns(values, names, True, y.shape[1], whole=whole)
