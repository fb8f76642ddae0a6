"""Arrays, tensors and lists from users, checked and made into tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc.errors import UserError


def as_tensor(values: Any, what: str) -> Tensor:
    """`values` (tensor, array or nested list of real numbers) as a tensor, without copying where possible."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(
            f"{what} are a masked array with {np.ma.count_masked(values)} masked entries, whose mask would be "
            "lost; leave these rows out, or fill them by .filled(...)"
        )
    try:
        tensor = values.detach() if isinstance(values, Tensor) else _of_numpy(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} must be an array of numbers, got {type(values).__name__}: {error}") from None
    if tensor.is_complex():
        raise UserError(f"{what} are complex ({tensor.dtype}); give real numbers")
    return tensor


def _of_numpy(array: np.ndarray) -> Tensor:
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


def _several(values: list[Any], rows: int) -> bool:
    """Whether a list holds several inputs, as `default_collate` gives them, and not the rows of one."""
    nested = [isinstance(v, Mapping | tuple) or (isinstance(v, list) and _several(v, rows)) for v in values]
    arrays = [hasattr(v, "__array__") and len(v.shape) >= 2 and len(v) == rows for v in values]
    return bool(values) and all(a or b for a, b in zip(nested, arrays, strict=True))


def unpack(batch: Any, like: Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any], Tensor, Tensor | None]:
    """A batch (inputs, targets) or (inputs, targets, mask) as call arguments, targets (B, ..., n) and mask.

    Inputs that are a dict are passed by keyword, those in a tuple one by one, as are those in a list of arrays
    (B, ...). Their arrays, at any depth, are copied and go to the device, and floating ones to the type, of the
    parameter `like`.
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise UserError(
            f"a batch must be a pair (inputs, targets), or (inputs, targets, mask), got "
            f"{type(batch).__name__}; wrap it: [(x, y)]"
        )
    y = as_tensor(batch[1], "targets")
    if not y.ndim:
        raise UserError("the targets of a batch are one number without a batch axis; give (B,) or (B, n)")
    rows = len(y)
    done: dict[int, Any] = {}  # one tensor given twice stays one: self-attention knows itself by that

    def placed(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {name: placed(value) for name, value in values.items()}
        several = type(values) is list and _several(values, rows)
        if type(values) is tuple or several:  # a packed sequence is a named tuple, but one input
            return type(values)(map(placed, values))
        if not isinstance(values, list) and not hasattr(values, "__array__"):
            return values  # a graph, a packed sequence, a flag: the model knows what it is
        if id(values) not in done:
            x = as_tensor(values, "inputs")
            dtype = like.dtype if like is not None and x.is_floating_point() else x.dtype
            moved = x if like is None else x.to(like.device, dtype)
            # a copy: a network may begin in place, and what the user holds (perhaps a read-only map) stays as it is
            done[id(values)] = moved.clone() if moved is x else moved
        return done[id(values)]

    mask = None if len(batch) == 2 or batch[2] is None else as_tensor(batch[2], "the mask")
    if y.ndim == 1 or (mask is not None and mask.shape == y.shape):
        y = y[..., None]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != y.shape[:-1]):
        raise UserError(
            f"the third part of a batch is {mask.dtype} of shape {tuple(mask.shape)} beside targets "
            f"{tuple(y.shape)}; it must be a mask, True for every row that counts: (B, T) for targets (B, T, n), "
            "(B,) for (B, n); write mask.bool() for one of 0 and 1, and leave out indices and weights"
        )
    y = y if like is None else y.to(like.device)
    mask = None if mask is None else mask.to(y.device)
    inputs = placed(batch[0])
    if isinstance(inputs, dict):
        return (), inputs, y, mask
    return tuple(inputs) if type(inputs) in (tuple, list) else (inputs,), {}, y, mask
