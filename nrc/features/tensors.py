"""Tensors inside what networks take and put out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from nrc.arrays import dense

Path = tuple[str | int, ...]


def plain(x: Tensor) -> Tensor:
    """The numbers of a tensor without gradient, whole where it is sharded, in torch's ordinary layout.

    Of a sharded tensor (DTensor) every rank gets the whole: all of them must ask.
    """
    x = x.detach()
    if hasattr(x, "full_tensor"):
        x = x.full_tensor()
    return dense(x)


def tensors_in(values: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in nested tuples, lists, dicts and dataclasses, with the keys that lead to it.

    Example:
        >>> import torch
        >>> [path for path, _ in tensors_in({"loss": torch.ones(()), "parts": (torch.ones(2), None)})]
        [('loss',), ('parts', 0)]
    """
    parts: Any = ()
    if isinstance(values, Tensor):
        yield path, values
    elif isinstance(values, Mapping):
        parts = values.items()
    elif isinstance(values, tuple | list):
        names = getattr(values, "_fields", None)  # a named tuple
        parts = zip(names, values, strict=True) if names else enumerate(values)
    elif is_dataclass(values) and not isinstance(values, type):
        parts = [(field.name, getattr(values, field.name)) for field in fields(values)]
    for key, value in parts:
        yield from tensors_in(value, (*path, key))


def shown(path: Path) -> str:
    """A path as it is written after the output: ['logits'] or [0]."""
    return "".join(f"[{key!r}]" for key in path) or "the output itself"
