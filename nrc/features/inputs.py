"""Batches as users have them: what the network is called with, its targets and which of them count."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nrc.arrays import as_tensor
from nrc.errors import UserError
from nrc.features.tensors import tensors_in


@dataclass(frozen=True)
class Placing:
    """Where inputs go: the device, the type of floating ones (None: their own), and whether they are copied."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    copy: bool = True  # a network may write into its input, which is the user's

    @staticmethod
    def on(like: Tensor | None, *, cast: bool, copy: bool) -> Placing:
        """On the device, and if cast in the type, of a parameter."""
        if like is None:
            return Placing(copy=copy)
        return Placing(like.device, like.dtype if cast else None, copy)

    def place(self, x: Tensor) -> Tensor:
        dtype = self.dtype if self.dtype is not None and x.is_floating_point() else x.dtype
        moved = x if self.device is None else x.to(self.device, dtype)
        return moved.clone() if self.copy and moved is x else moved


def _several(values: list[Any], rows: int) -> bool:
    """Whether a list holds several inputs, as `default_collate` gives them, and not the rows of one."""
    nested = [isinstance(v, Mapping | tuple) or (isinstance(v, list) and _several(v, rows)) for v in values]
    arrays = [hasattr(v, "__array__") and len(v.shape) >= 2 and len(v) == rows for v in values]
    return bool(values) and all(a or b for a, b in zip(nested, arrays, strict=True))


def unpack(batch: Any, to: Placing) -> tuple[tuple[Any, ...], dict[str, Any], Tensor, Tensor | None]:
    """A batch (inputs, targets) or (inputs, targets, mask) as call arguments, targets (B, ..., n) and mask.

    Inputs that are a dict are passed by keyword, those in a tuple one by one, as are those in a list of arrays
    (B, ...). Their arrays, at any depth, are placed.
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
    done: dict[int, Any] = {}  # keeps the identity of objects: attention tests `query is key`

    def placed(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {name: placed(value) for name, value in values.items()}
        several = type(values) is list and _several(values, rows)
        if type(values) is tuple or several:  # a packed sequence is a named tuple, but one input
            return type(values)(map(placed, values))
        if not isinstance(values, list) and not hasattr(values, "__array__"):
            return values  # a graph, a packed sequence, a flag: the model knows what it is
        if id(values) not in done:
            x = values.detach() if isinstance(values, Tensor) else as_tensor(values, "inputs")
            done[id(values)] = to.place(x)
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
    y = y if to.device is None else y.to(to.device)
    mask = None if mask is None else mask.to(y.device)
    inputs = placed(batch[0])
    if isinstance(inputs, dict):
        return (), inputs, y, mask
    return tuple(inputs) if type(inputs) in (tuple, list) else (inputs,), {}, y, mask


def called(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs, with a dict as one argument where the network has no such keywords but takes one dict.

    Raises:
        UserError: the network takes them in neither way.
    """
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return args, kwargs
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        if kwargs and not args:
            try:
                signature.bind(kwargs)
            except TypeError:
                pass
            else:
                return (kwargs,), {}
        raise UserError(
            f"{type(network).__name__}.forward{signature} does not take these inputs ({error}); give one input as x, "
            "several as a tuple, by keyword as a dict, and one dict as ({...},): batches are (inputs, targets)"
        ) from None
    return args, kwargs


def other_types(args: Any, kwargs: Any, like: Tensor | None) -> bool:
    """Whether a floating input has another type than the network's parameters."""
    return like is not None and any(
        x.is_floating_point() and x.dtype != like.dtype for _, x in tensors_in((args, kwargs))
    )
