"""SGEMM: run times of a GPU matrix product under every legal tuning (CPAL 2026, the set whose rows can be had)."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from nrc.data.base import Array, RegressionData, Standardize, standardised, train_test_split_indices
from nrc.data.reading import existing, sha256
from nrc.data.settings import INF, SEEDS, DataSource
from nrc.data.tables import read
from nrc.errors import UserError

ROWS = 241_600
TARGETS = tuple(f"Run{k} (ms)" for k in range(1, 5))
# in the nesting order of the file: the last varies fastest
VALUES: dict[str, tuple[int, ...]] = {
    "MWG": (16, 32, 64, 128),  # tile of C per work-group, rows
    "NWG": (16, 32, 64, 128),  # and columns
    "KWG": (16, 32),  # step along the inner dimension
    "MDIMC": (8, 16, 32),  # threads of a work-group, rows
    "NDIMC": (8, 16, 32),  # and columns
    "MDIMA": (8, 16, 32),  # their shape while A is loaded
    "NDIMB": (8, 16, 32),  # and while B is loaded
    "KWI": (2, 8),  # unrolling of the inner loop
    "VWM": (1, 2, 4, 8),  # vector widths
    "VWN": (1, 2, 4, 8),
    "STRM": (0, 1),  # strided access
    "STRN": (0, 1),
    "SA": (0, 1),  # local-memory copies of A and B
    "SB": (0, 1),
}
INPUTS = tuple(VALUES)
GET_IT = (
    "get 'SGEMM GPU kernel performance' from the UCI Machine Learning Repository and give data.path its csv"
)


def inputs() -> Array:
    """The 14 tuning parameters, (241600, 14) fp64: equal in value and order to the UCI file.

    All combinations of VALUES in which KWI | KWG, MDIMC VWM | MWG, NDIMC VWN | NWG, MDIMA VWM | MWG,
    NDIMB VWN | NWG, (MDIMC NDIMC / MDIMA) | KWG and (MDIMC NDIMC / NDIMB) | KWG.

    Example:
        >>> inputs()[0].astype(int).tolist()
        [16, 16, 16, 8, 8, 8, 8, 2, 1, 1, 0, 0, 0, 0]
    """
    tied, flags = INPUTS[:10], INPUTS[10:]  # the four flags are free: filtering can leave them out
    grid = np.array(list(product(*(VALUES[name] for name in tied))))
    v = dict(zip(tied, grid.T, strict=True))
    per_a, per_b = (v["MDIMC"] * v["NDIMC"] // v[name] for name in ("MDIMA", "NDIMB"))
    legal = (
        (v["KWG"] % v["KWI"] == 0)
        & (v["MWG"] % (v["MDIMC"] * v["VWM"]) == 0)
        & (v["NWG"] % (v["NDIMC"] * v["VWN"]) == 0)
        & (v["MWG"] % (v["MDIMA"] * v["VWM"]) == 0)
        & (v["NWG"] % (v["NDIMB"] * v["VWN"]) == 0)
        & (v["KWG"] % np.maximum(per_a, 1) == 0)
        & (v["KWG"] % np.maximum(per_b, 1) == 0)
    )
    free = np.array(list(product(*(VALUES[name] for name in flags))))
    kept = grid[legal]
    return np.hstack([kept.repeat(len(free), axis=0), np.tile(free, (len(kept), 1))]).astype(np.float64)


@dataclass(frozen=True)
class Sgemm(DataSource):
    """241,600 kernel tunings and their four run times in raw milliseconds, split and scaled as published.

    The inputs are computed; the file gives the run times and must hold the same inputs in the same order.
    The split is scikit-learn's train_test_split; the four targets correlate by 0.9999, so their rank is 1 in
    all but name.

    Args:
        path: the UCI file as csv or csv.gz; it is not shipped.
        test_fraction, split_seed: of the random split.
        standardize: "none", "x" or "xy" (as published): zero mean, unit variance, fitted on the train rows.
        limit: at most this many train rows, and as many test rows.

    Raises:
        UserError: on load, when the path is missing or the file is not this set.

    Example:
        >>> Sgemm(path="missing.csv").load()
        Traceback (most recent call last):
        ...
        nrc.errors.UserError: missing.csv does not exist; give data.path an existing file
    """

    path: str | None = None
    name: str = "sgemm"
    test_fraction: float = 0.2
    split_seed: int = 42
    standardize: Standardize = "xy"
    limit: int | None = None

    def __post_init__(self) -> None:
        self.check(test_fraction=(1e-5, 0.99), split_seed=SEEDS, limit=(2, INF))

    @property
    def dataset(self) -> str:
        """sgemm, unless named otherwise."""
        return self.name

    @property
    def expected_rows(self) -> int:
        """The published set's train rows, or `limit`."""
        return self.limit or 4 * ROWS // 5

    def load(self) -> RegressionData:
        """Read the run times, check the inputs against the enumeration, split and standardise."""
        if not self.path:
            raise UserError(f"data.path is missing: the SGEMM run times are not shipped; {GET_IT}")
        file = existing(self.path)
        x = inputs()
        y = _run_times(self.path, x)
        train, test = (
            rows[: self.limit] for rows in train_test_split_indices(ROWS, self.test_fraction, self.split_seed)
        )
        arrays, done = standardised(self.standardize, x[train], y[train], x[test], y[test])
        provenance: dict[str, Any] = {
            "source": "UCI SGEMM GPU kernel performance", "files": {file.name: sha256(file)},
            "split": "random", "split_seed": self.split_seed, "limit": self.limit, **done,
        }  # fmt: skip
        return self.finished(arrays, INPUTS, TARGETS, "paper", provenance)


def _run_times(path: str, x: Array) -> Array:
    """The four run times, (241600, 4) fp64, from a file whose inputs are x."""
    columns = read(path)
    missing = [name for name in (*INPUTS, *TARGETS) if name not in columns.names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: it is not the SGEMM set; {GET_IT}")
    if len(columns.values) != ROWS:
        raise UserError(
            f"{path} has {len(columns.values)} rows, the SGEMM set has {ROWS} (cut short or joined?); {GET_IT}"
        )
    order = [columns.names.index(name) for name in INPUTS]
    wrong = np.argwhere(columns.values[:, order] != x)
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"{path}: data row {row + 1}, {INPUTS[column]} is {columns.values[row, order[column]]:g}, expected "
            f"{x[row, column]:g}: rows or values differ from the original file's; {GET_IT}"
        )
    return columns.values[:, [columns.names.index(name) for name in TARGETS]]
