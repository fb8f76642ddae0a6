"""Arrays, tensors and lists from users, checked and made into tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc.errors import UserError


def as_tensor(values: Any, what: str) -> Tensor:
    """`values` (tensor, array or nested list of real numbers) as a tensor, without copying where possible."""
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} must be an array of numbers, got {type(values).__name__}: {error}") from None
    if tensor.is_complex():
        raise UserError(f"{what} are complex ({tensor.dtype}); give real numbers")
    return tensor


def as_rows(features: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Features as (N, d) and targets as (N, n); targets (N,) become one column. Errors name both shapes."""
    h, y = as_tensor(features, "features"), as_tensor(targets, "targets")
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


def unpack(batch: Any, like: Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any], Tensor, Tensor | None]:
    """A batch (inputs, targets) or (inputs, targets, mask) as call arguments, targets (B, ..., n) and mask.

    Inputs that are a dict are passed by keyword, those in a tuple one by one. Their arrays go to the device,
    and floating ones to the type, of the parameter `like`.
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise UserError(
            f"a batch must be a pair (inputs, targets), or (inputs, targets, mask), got "
            f"{type(batch).__name__}; wrap it: [(x, y)]"
        )

    def placed(values: Any) -> Any:
        if not isinstance(values, list) and not hasattr(values, "__array__"):
            return values  # a graph, a packed sequence, a flag: the model knows what it is
        x = as_tensor(values, "inputs")
        if like is None:
            return x
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)

    inputs, y = batch[0], as_tensor(batch[1], "targets")
    mask = None if len(batch) == 2 or batch[2] is None else as_tensor(batch[2], "mask")
    if y.ndim == 1 or (mask is not None and mask.shape == y.shape):
        y = y[..., None]
    if mask is not None and (mask.is_floating_point() or mask.shape != y.shape[:-1]):
        raise UserError(
            f"the mask is {mask.dtype} of shape {tuple(mask.shape)} and the targets are {tuple(y.shape)}; give "
            "True for every row that counts: (B, T) for targets (B, T, n), (B,) for (B, n)"
        )
    if like is not None:
        y = y.to(like.device)
    mask = None if mask is None else mask != 0
    if isinstance(inputs, Mapping):
        return (), {name: placed(values) for name, values in inputs.items()}, y, mask
    several = type(inputs) is tuple  # a packed sequence is a named tuple, but one input
    return tuple(map(placed, inputs if several else (inputs,))), {}, y, mask
