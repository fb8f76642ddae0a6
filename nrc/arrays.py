"""Arrays, tensors and lists from users, checked and made into tensors."""

from __future__ import annotations

import warnings
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nrc.errors import UserError


def as_tensor(values: Any, what: str) -> Tensor:
    """`values` (tensor, array or nested list of real numbers) as a tensor, without copying where possible."""
    refuse_mask(values, what)
    if isinstance(values, nn.Module):
        raise UserError(f"{what}: got the module {type(values).__name__}, not numbers; give its .weight, say")
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(v, Tensor) for v in values):
            values = torch.stack([v.detach() for v in values])
        tensor = values.detach() if isinstance(values, Tensor) else _of_numpy(np.asarray(values), what)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} must be an array of numbers, got {type(values).__name__}: {error}") from None
    if tensor.is_complex():
        raise UserError(f"{what} are complex ({tensor.dtype}); give real numbers")
    if tensor.is_meta:
        raise UserError(f"{what}: a tensor on torch's meta device has a shape but no numbers; load it first")
    return tensor


def refuse_mask(values: Any, what: str) -> None:
    """A masked array would lose its mask."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(
            f"{what}: a masked array with {np.ma.count_masked(values)} masked entries, whose mask would be "
            "lost; leave these rows out, or fill them by .filled(...)"
        )


def _of_numpy(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind in "OUS":
        for place, entry in np.ndenumerate(array):
            if isinstance(entry, bool | str | bytes) or not isinstance(entry, Number):
                at = ", ".join(map(str, place))
                raise UserError(
                    f"{what}: entry [{at}] is {entry!r}, not a number; leave such rows or columns out"
                )
        array = array.astype(np.float64)
    # torch takes neither negative strides nor the other byte order
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not writable: nothing here writes
        return torch.from_numpy(array)  # on the CPU, whatever torch's default device


def dense(tensor: Tensor) -> Tensor:
    """The same numbers in torch's ordinary layout."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def as_rows(features: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Features as (N, d) and targets as (N, n); targets (N,) become one column. Errors name both shapes."""
    h, y = dense(as_tensor(features, "features")), dense(as_tensor(targets, "targets"))
    if y.ndim == 1:
        y = y[:, None]
    if h.ndim != 2 or y.ndim != 2 or len(h) != len(y):
        raise UserError(
            f"features have shape {tuple(h.shape)} and targets {tuple(y.shape)}; "
            "expected (N, d) and (N, n) or (N,) with the same number of rows N"
        )
    if 0 in h.shape or 0 in y.shape:
        raise UserError(f"features {tuple(h.shape)} or targets {tuple(y.shape)} are empty; give N, d, n >= 1")
    return h, y


def precision(dtype: torch.dtype) -> float:
    """Relative rounding of a type: 1.2e-7 for float32, 0 for integers."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def double(rows: Tensor) -> Tensor:
    """Rows as float64, on their own device where that has the type."""
    # Apple's GPUs have no float64.
    return (rows.cpu() if rows.device.type == "mps" else rows).double()
