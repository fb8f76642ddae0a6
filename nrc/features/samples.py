"""A few samples out of a batch, in another order, and a network that is afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nrc.features.layers import SCRIPTED
from nrc.features.tensors import mapped, tensors_in

SAMPLES = 16  # in a pass
HELD = 1000  # entries of a list that may be a network's state; longer ones are data
Change = Callable[[Tensor, int], Tensor]


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """The random numbers that come after are those that would have come without."""
    devices = (
        [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def left_alone(network: nn.Module) -> Iterator[None]:
    """Buffers, and tensors that modules keep in attributes, are afterwards what they were: a state, a running mean.

    Not where parameters are sharded: the wrappers keep their own accounts in attributes.
    """
    if any(hasattr(module, "_fsdp_wrapped_module") for module in network.modules()):
        yield
        return
    stores: list[tuple[Any, dict[Any, Any]]] = []
    saved: dict[int, tuple[Tensor, int, Tensor]] = {}
    for module in network.modules():
        if isinstance(module, SCRIPTED):
            saved |= {id(x): (x, x._version, x.detach().clone()) for x in module.buffers(recurse=False)}
            continue
        stores += [(module._buffers, dict(module._buffers)), (vars(module), dict(vars(module)))]
        stores += [
            (value, dict(value) if isinstance(value, dict) else dict(enumerate(value)))
            for name, value in vars(module).items()
            if isinstance(value, list | dict) and not name.startswith("_") and len(value) <= HELD
        ]
        for name, value in (*vars(module).items(), *module._buffers.items()):
            if name in ("_parameters", "_buffers", "_modules") or (
                isinstance(value, list | tuple | dict) and len(value) > HELD
            ):
                continue
            for _, x in tensors_in(value):
                if not isinstance(x, nn.Parameter) and not x.is_inference() and not nn.parameter.is_lazy(x):
                    saved[id(x)] = x, x._version, x.detach().clone()
    try:
        yield
    finally:
        for store, before in stores:
            now = dict(store) if isinstance(store, dict) else dict(enumerate(store))
            changed = [name for name in {**before, **now} if now.get(name) is not before.get(name)]
            if not any(_holds(now.get(name)) or _holds(before.get(name)) for name in changed):
                continue
            if isinstance(store, list):
                store[:] = before.values()
                continue
            for name in changed:
                if name not in before:
                    if _holds(now[name]):
                        del store[name]
                elif _holds(now.get(name)) or _holds(before[name]):
                    store[name] = before[name]
        with torch.no_grad():
            for x, version, values in saved.values():
                if x._version != version and x.shape == values.shape:
                    x.detach().copy_(values)


def _holds(value: Any) -> bool:
    return any(not isinstance(x, nn.Parameter) for _, x in tensors_in(value))


def parts(values: Any) -> list[Any]:
    """The tensors, in an order that depends on the structure alone, and the packed sequences of inputs (args, kwargs)."""
    args, kwargs = values
    packed = [value for value in (*args, *kwargs.values()) if isinstance(value, PackedSequence)]
    found: list[Any] = []
    seen: set[int] = set()

    def note(x: Tensor) -> Tensor:
        if id(x) not in seen:
            seen.add(id(x))
            found.append(x)
        return x

    rest = (
        [None if isinstance(value, PackedSequence) else value for value in args],
        {name: value for name, value in kwargs.items() if not isinstance(value, PackedSequence)},
    )
    try:
        mapped(rest, note)
    except Exception:  # an object that cannot be copied
        found, seen = [], set()
        for _, x in tensors_in(rest):
            note(x)
    return found + packed


def samples_in(inputs: Any) -> int:
    """How many samples the first input holds."""
    return next((len(x) for x in parts(inputs) if isinstance(x, Tensor) and x.ndim), 0)


def _many(packed: PackedSequence) -> int:
    return int(packed.batch_sizes[0])


def cut(values: Any, axes: Mapping[int, int], index: Tensor, change: Change | None = None) -> Any:
    """These samples of inputs (args, kwargs), each tensor along its axis; a tensor given twice stays one.

    change: made of each tensor then, beside the axis of its samples.
    """
    args, kwargs = values

    def whole(value: Any) -> Any:
        if not isinstance(value, PackedSequence) or id(value) not in axes:
            return value
        x, lengths = pad_packed_sequence(value, batch_first=True)
        at = index.to(x.device)
        return pack_padded_sequence(x[at], lengths[index.cpu()], batch_first=True, enforce_sorted=False)

    def some(x: Tensor) -> Tensor:
        axis = axes.get(id(x))
        if axis is None:
            return x.clone()
        x = x.index_select(axis, index.to(x.device))
        return x if change is None else change(x, axis)

    return mapped((tuple(map(whole, args)), {name: whole(value) for name, value in kwargs.items()}), some)


def axes_of(values: Any, size: int, prefer: int = 0, square: bool = True) -> dict[int, int]:
    """Tensor -> the axis of that size: the one preferred, else the other of the first two.

    square: a matrix (size, size) has one, too.
    """
    found = {}
    for x in parts(values):
        if isinstance(x, PackedSequence):
            if _many(x) == size:
                found[id(x)] = 0
            continue
        fits = [axis for axis in (prefer, 1 - prefer) if x.ndim > axis and x.shape[axis] == size]
        if fits and not (not square and x.ndim == 2 and x.shape == (size, size)):
            found[id(x)] = fits[0]
    return found


def choose(values: Any, axes: Mapping[int, int], size: int) -> Tensor:
    """Up to SAMPLES samples that differ in what networks sort by: small inputs, and how much of each is zero."""
    keys = []
    for x in parts(values):
        axis = axes.get(id(x))
        if axis is None or isinstance(x, PackedSequence) or x.is_complex() or x.layout != torch.strided:
            continue
        rows = x.detach().movedim(axis, 0).reshape(size, -1)
        keys.append((rows if rows.shape[1] == 1 else (rows != 0).sum(1, keepdim=True)).double().cpu()[:, 0])
    count = min(size, SAMPLES)
    chosen: dict[int, None] = {}
    for key in keys:
        share = max(4, count // len(keys))
        chosen |= dict.fromkeys(key.argsort()[spread(size, share)].tolist())
    rest = [*spread(size, count).tolist(), *range(size)]
    return torch.tensor(sorted(list(dict.fromkeys([*chosen, *rest]))[:count]), dtype=torch.long, device="cpu")


def spread(size: int, count: int) -> Tensor:
    """So many of the first `size` numbers, both ends among them."""
    return torch.linspace(0, size - 1, min(size, count), dtype=torch.float64, device="cpu").long()


def order_of(count: int, movable: Tensor | None = None) -> Tensor:
    """An order in which every sample has another place; no rotation and no reversal, where there are enough.

    movable: the numbers that may change places; None: all.
    """
    identity = torch.arange(count, device="cpu")
    free = identity if movable is None else movable
    generator = torch.Generator("cpu").manual_seed(0)
    order = identity.clone()
    for _ in range(100):
        mixed = free[torch.randperm(len(free), generator=generator, device="cpu")]
        if not (mixed == free).any():
            break
    else:
        mixed = free.roll(1)
    order[free] = mixed
    return order


def edges(values: Any, size: int) -> dict[int, Tensor]:
    """Tensors (2, E), (E, 2) or (E,) of whole numbers that name rows of another input: the edges of a graph with `size`
    nodes."""
    found = {
        id(x): x
        for x in parts(values)
        if isinstance(x, Tensor)
        and x.numel()
        and (
            (x.ndim == 2 and len(x) == 2)
            or (x.ndim in (1, 2) and len(x) != size and x.shape[1:].numel() in (1, 2))
        )
        and x.dtype in (torch.int64, torch.int32)
        and int(x.min()) >= 0
        and size // 2 <= int(x.max()) < size
    }
    return found if size > 2 else {}


def renamed(values: Any, axes: Mapping[int, int], named: Mapping[int, Tensor], order: Tensor) -> Any:
    """Inputs whose nodes stand in this order, and edges that name them by their new places."""
    places = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device="cpu"))

    def change(x: Tensor) -> Tensor:
        if id(x) in named:
            return places.to(x.device, x.dtype)[x.long()]
        axis = axes.get(id(x))
        return x.clone() if axis is None else x.index_select(axis, order.to(x.device))

    return mapped(values, change)
