"""Batches as users have them: what the network is called with, its targets and which of them count."""

from __future__ import annotations

import copy
import inspect
from collections import UserDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nrc.arrays import as_tensor
from nrc.errors import UserError
from nrc.features.tensors import mapped, tensors_in


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

    def kept(self, x: Tensor) -> Tensor:
        """Where it is, in its own type."""
        return x.clone() if self.copy else x


def _several(values: list[Any], rows: int, wants: int | None = None) -> bool:
    """Whether a list holds several inputs, as `default_collate` gives them, and not the rows of one.

    wants: how many inputs the network must have, for what looks like both.
    """
    arrays = [v for v in values if hasattr(v, "__array__")]
    batches = [
        isinstance(v, Mapping | tuple)
        or (hasattr(v, "__array__") and bool(v.shape) and len(v) == rows)
        or (isinstance(v, list) and (_several(v, rows) or (len(v) == rows and _is_text(v))))
        for v in values
    ]
    if not values or not all(batches):
        return False
    square = len(arrays) == len(values) == rows and all(v.ndim == 1 for v in arrays)
    return not square or wants == rows > 1


def _is_text(values: Any) -> bool:
    """Whether all entries are text."""
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if kind in ("U", "S", "O"):
        return kind != "O" or _is_text(np.asarray(values).ravel().tolist())
    nested = isinstance(values, list | tuple) and len(values) > 0
    return all(map(_is_text, values)) if nested else isinstance(values, str | bytes)


def _one_tensor(values: Any) -> Tensor | None:
    """A list as a tensor; None where it holds no numbers, or arrays of several shapes."""
    if _is_text(values):
        return None
    try:
        return as_tensor(values, "inputs")
    except UserError:
        if not isinstance(values, list) or any(isinstance(v, Number) or v is None for v in values):
            raise
        return None


def unpack(
    batch: Any, to: Placing, wants: int | None = None
) -> tuple[tuple[Any, ...], Mapping[str, Any], Tensor, Tensor | None]:
    """A batch (inputs, targets) or (inputs, targets, mask) as call arguments, targets (B, ..., n) and mask.

    Inputs that are a dict are passed by keyword, those in a tuple one by one, as are those in a list of arrays
    (B, ...). Their arrays, at any depth, are placed; text, and rows of several lengths, stay as they are.

    wants: how many inputs the network must have, where that is known.
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

    def placed(value: Any) -> Any:
        if id(value) not in done:
            done[id(value)] = new(value)
        return done[id(value)]

    def new(value: Any) -> Any:
        if isinstance(value, dict | UserDict):
            made = copy.copy(value)
            made.update({name: placed(part) for name, part in value.items()})
            return made
        if type(value) is tuple or (type(value) is list and _several(value, rows, wants)):
            return type(value)(map(placed, value))
        if isinstance(value, list) or hasattr(value, "__array__"):
            x = value.detach() if isinstance(value, Tensor) else _one_tensor(value)
            if x is not None:
                return to.place(x)
            return [placed(part) for part in value] if isinstance(value, list) else value
        with suppress(
            Exception
        ):  # a graph, packed sequences: the model knows what it is, and may write into it
            return mapped(value, to.place if isinstance(value, Mapping) else to.kept)
        return value

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
    if isinstance(inputs, Mapping):
        return (), inputs, y, mask
    several = type(inputs) is tuple and not (len(inputs) == rows and _is_text(inputs))
    several |= type(batch[0]) is list and _several(batch[0], rows, wants)
    return tuple(inputs) if several else (inputs,), {}, y, mask


def called(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs, with a dict as one argument where the network has no such keywords but takes one dict.

    Raises:
        UserError: the network takes them in neither way.
    """
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return args, dict(kwargs)
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
    return args, dict(kwargs)


def wanted(network: nn.Module) -> int | None:
    """How many inputs a network must have; None: unknown."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters
    )


def other_types(args: Any, kwargs: Any, like: Tensor | None) -> bool:
    """Whether a floating input has another type than the network's parameters."""
    return like is not None and any(
        x.is_floating_point() and x.dtype != like.dtype for _, x in tensors_in((args, kwargs))
    )
