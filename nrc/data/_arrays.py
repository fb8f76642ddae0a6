"""The two kinds of arrays in a RegressionData, checked: numbers in columns, and images."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nrc.errors import UserError

Array = NDArray[Any]


def matrix(values: Any, names: Sequence[str], what: str) -> Array:
    """`values` as float32 (N, columns), C-contiguous and finite."""
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != len(names) or not len(names):
        raise UserError(f"{what} has shape {array.shape}; expected (N, {len(names)}), one column per name")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(single))
    if len(bad):
        row, column = bad[0]
        raise UserError(
            f"{what} row {row + 1}, column {names[column]!r} is {array[row, column]}, not finite as float32; "
            "drop or rescale such values"
        )
    return single


def images(values: Any, names: Sequence[str], what: str) -> Array:
    """The array itself, if it is images (N, H, W, 3) of uint8."""
    array = np.asanyarray(values)
    if array.dtype != np.uint8 or array.shape[3] != 3 or tuple(names) != ("image",):
        raise UserError(
            f"{what} has shape {array.shape}, {array.dtype} and names {tuple(names)}; expected images "
            "(N, H, W, 3) of uint8 with the single name 'image'"
        )
    return array


def pixels_sha256(*arrays: Array) -> str:
    """sha256 of the pixels of image arrays (N, H, W, 3) uint8, one after the other, in bounded memory."""
    digest = hashlib.sha256()
    for array in arrays:
        for start in range(0, len(array), 256):
            digest.update(array[start : start + 256].tobytes())
    return digest.hexdigest()
