"""Read a file of numbers, of whatever format, into one fp64 matrix with column names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array
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
    """

    values: Array
    names: tuple[str, ...]
    named: bool
    n_targets: int | None = None
    notes: tuple[str, ...] = ()


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
    columns = _joined(f"{x_file}, {y_file.name}", _load_npy(x_file, limit), _load_npy(y_file, limit))
    return _checked(Path(f"{x_file},{y_file.name}"), columns)


def _checked(file: Path, columns: Columns) -> Columns:
    if not len(columns.values):
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
            return _choose(file, list(archive.files), lambda key: _numbers(file, archive[key], key)[:limit])


def _npy(file: Path, limit: int | None) -> Columns:
    return _plain(_two_dimensional(file, _load_npy(file, limit), "the array"))


def _load_npy(file: Path, limit: int | None) -> Array:
    with one_line(file, "npy"):
        # mapped, because a damaged header may state a size that the file does not have
        array = np.load(file, allow_pickle=False, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise UserError(f"{file} is an npz archive; rename it to .npz")
        return _numbers(file, array, "the array")[:limit]


def _hdf5(file: Path, limit: int | None) -> Columns:
    import h5py

    with open_hdf5(file) as archive:
        keys = [key for key in archive if isinstance(archive[key], h5py.Dataset) and archive[key].ndim]
        inner: list[str] = []
        archive.visititems(
            lambda name, item: inner.append(name) if "/" in name and isinstance(item, h5py.Dataset) else None
        )
        if inner and not keys:
            raise UserError(
                f"{file} holds {len(inner)} array{'s' * (len(inner) > 1)} in groups ({', '.join(inner[:3])}"
                f"{', ...' if len(inner) > 3 else ''}), which are not read; write two arrays named x and y at its top"
            )
        return _choose(file, keys, lambda key: _numbers(file, array_of(file, archive, key, limit), key))


def _choose(file: Path, keys: list[str], get: Callable[[str], Array]) -> Columns:
    """The pair of arrays that a file holds under a known pair of names, or its only matrix."""
    for x_key, y_key in PAIRS:
        if x_key in keys and y_key in keys:
            return _joined(f"{file} ({x_key}, {y_key})", get(x_key), get(y_key))
    if len(keys) == 1:
        return _plain(_two_dimensional(file, get(keys[0]), keys[0]))
    raise UserError(
        f"{file} holds {', '.join(keys[:12]) or 'no arrays'}; expected two arrays named x and y "
        "(or observations and actions), or one single matrix"
    )


def _numbers(file: Path, array: Array, key: str) -> Array:
    if array.dtype.names:
        raise UserError(
            f"{file}: {key} has named fields ({', '.join(array.dtype.names[:6])}); save it as a plain matrix "
            "(numpy.lib.recfunctions.structured_to_unstructured), or as csv"
        )
    if array.dtype.kind not in "fiub":
        raise UserError(f"{file}: {key} holds {array.dtype}, not numbers; save it as floats")
    if array.ndim == 0:
        raise UserError(f"{file}: {key} is a single number; expected a matrix (rows, columns)")
    return array.astype(np.float64)


def _two_dimensional(where: Any, array: Array, key: str) -> Array:
    if array.ndim != 2:
        raise UserError(f"{where}: {key} has shape {array.shape}; expected a matrix (rows, columns)")
    return array


def _plain(array: Array) -> Columns:
    return Columns(array, tuple(f"column {i}" for i in range(array.shape[1])), named=False)


def _joined(where: str, x: Array, y: Array) -> Columns:
    x = _two_dimensional(where, x, "the inputs")
    y = _two_dimensional(where, y[:, None] if y.ndim == 1 else y, "the targets")
    if len(x) != len(y):
        raise UserError(
            f"{where}: {len(x)} rows of inputs but {len(y)} of targets; give one target row per input row"
        )
    names = tuple(f"x{i}" for i in range(x.shape[1])) + tuple(f"y{i}" for i in range(y.shape[1]))
    return Columns(np.hstack([x, y]), names, named=True, n_targets=y.shape[1])
