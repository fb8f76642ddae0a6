"""Tensors inside what networks take and put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

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


def mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested values with every tensor changed: tuples, lists, mappings, dataclasses and other objects, each of
    its own type. What holds a tensor is copied, so that a network may write into it; what stands twice stays one.

    Raises:
        Exception: an object cannot be copied, or takes no such tensor.

    Example:
        >>> import torch
        >>> mapped({"x": torch.ones(2), "flags": [True]}, lambda x: x[:1])
        {'x': tensor([1.]), 'flags': [True]}
    """
    done: dict[int, tuple[Any, Any]] = {}  # with what was there before, so that no id is used twice

    def new(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)][1]
        made = change(value) if isinstance(value, Tensor) else value
        if isinstance(value, np.ndarray):
            made = value.copy()
        elif not isinstance(value, Tensor) and _holds_tensor(value, set()):
            if isinstance(value, tuple):
                make: Any = getattr(value, "_make", type(value))  # a named tuple
                made = make([new(part) for part in value])
            else:
                made = copy.copy(value)
                done[id(value)] = value, made  # before its parts: they may lead back to it
                for put, key, part in _slots(made):
                    put(key, new(part))
        done[id(value)] = value, made
        return made

    return new(values)


def _slots(value: Any) -> Sequence[tuple[Callable[[Any, Any], None], Any, Any]]:
    """Where values stand in a mapping, list or object: how to put another one there, under which key, and the value."""
    store: Any = value
    if isinstance(value, Mapping):
        return [(store.__setitem__, key, part) for key, part in value.items()]
    if isinstance(value, list):
        return [(value.__setitem__, at, part) for at, part in enumerate(value)]
    if isinstance(value, type | ModuleType | FunctionType | nn.Module) or hasattr(type(value), "__array__"):
        return []
    names = {name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))}
    held = [(name, getattr(value, name)) for name in sorted(names) if hasattr(value, name)]

    def put(name: str, part: Any) -> None:
        object.__setattr__(value, name, part)  # of a frozen dataclass, too

    return [(put, name, part) for name, part in (*held, *getattr(value, "__dict__", {}).items())]


def _names(slots: Any) -> tuple[str, ...]:
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def _holds_tensor(value: Any, looked: set[int]) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return True
    if id(value) in looked or isinstance(value, str | bytes | int | float):
        return False
    looked.add(id(value))
    parts = value if isinstance(value, tuple) else [part for _, _, part in _slots(value)]
    return any(_holds_tensor(part, looked) for part in parts)


def shown(path: Path) -> str:
    """A path as it is written after the output: ['logits'] or [0]."""
    return "".join(f"[{key!r}]" for key in path) or "the output itself"
