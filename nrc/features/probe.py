"""What a few samples, run once and once in another order, show of a network.

Two small passes before the first measurement tell which axis of each layer holds the samples, whether a layer sees
them in the order of the targets, whether the output is random, and which of the modules that may be one linear layer
are one. What cannot be told so is left unknown, and `nrc.features.rows` then refuses what sizes do not decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nrc.features import positions
from nrc.features.layers import OUT
from nrc.features.passes import Pass, run
from nrc.features.plan import Plan, Taking
from nrc.features.rows import MIXED, MOVED, Arrangement, Fold, Seen, feature_axis, same_size
from nrc.features.samples import (
    Change,
    axes_of,
    cut,
    edges,
    parts,
    samples_in,
)
from nrc.features.spot import Spot, compare, limits
from nrc.features.tensors import Path

AXES = 4  # of a tensor that are looked at
SPOT = 8  # samples that are run alone in later batches


def _moved(a: Tensor, b: Tensor, axis: int, order: Tensor) -> bool | None:
    """Whether b is a with the entries of an axis in this order; None: they are too much alike to tell."""
    turned = a.index_select(axis, order.to(a.device))
    if not a.is_floating_point():
        if torch.equal(a, turned):
            return None
        return torch.equal(b, turned)
    a, b, turned = a.float(), b.float(), turned.float()
    if not a.isfinite().all():
        return None
    apart, tolerance = limits(a, turned)
    return float((b - turned).abs().amax()) <= tolerance if apart else None


def _seen(a: Tensor, b: Tensor, order: Tensor) -> tuple[Seen, bool]:
    """What moved with the samples, and whether that could be told."""
    k = len(order)
    if a.shape != b.shape or not a.numel():
        return Seen(), True
    axes, told = set(), True
    for axis in range(min(a.ndim, AXES)):
        if a.shape[axis] == k:
            moved = _moved(a, b, axis, order)
            told &= moved is not None
            if moved is not False:
                axes.add(axis)
    if a.ndim and a.shape[0] > k and a.shape[0] % k == 0:
        for name, shape, axis in (("outer", (k, -1), 0), ("inner", (-1, k), 1)):
            if _moved(a.unflatten(0, shape), b.unflatten(0, shape), axis, order):
                return Seen(frozenset(axes), name), told
    return Seen(frozenset(axes)), told


def _unknown(label: str, module: nn.Module, seen: Pass, channels: Mapping[str, int]) -> Arrangement:
    """The axis of the features, as far as types and neighbours tell."""
    if label in channels:
        return Arrangement(channels[label], named_axis=True)
    axis, x = feature_axis(module), seen.tensors.get(label)
    if axis is None and x is not None and seen.linear.get(label) and _reads_last(module, x):
        axis = -1
    if axis is None:
        axis = seen.axes.get(seen.ids.get(label, -1))
    if axis is None and x is not None:
        known = seen.shapes.get(tuple(x.shape), set())
        # another tensor of this shape has them there; three equal axes would say nothing
        if len(known) == 1 and len(set(x.shape[1:])) > 1:
            (axis,) = known
            axis = -1 if axis == x.ndim - 1 else axis
    return Arrangement(axis)


def _reads_last(module: nn.Module, x: Tensor) -> bool:
    """Whether a module holds a matrix as wide as the last axis."""
    held = [*module.parameters(), *module.buffers()]
    sizes = {size for p in held if p.ndim == 2 for size in p.shape}
    return x.shape[-1] in sizes | {getattr(module, "in_features", None)}


def by_type(layers: Mapping[str, nn.Module], channels: Mapping[str, int]) -> Plan:
    """A plan without looking: axes as the modules' types tell them."""
    return Plan({label: _unknown(label, module, Pass(), channels) for label, module in layers.items()})


def probe(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    args: Any,
    kwargs: Any,
    y: Tensor,
    channels: Mapping[str, int],
    *,
    sharded: bool = False,
) -> Plan:
    """Run a few of these samples, in two orders.

    Args:
        y: targets (B, ..., n).
        channels: label -> axis of its features, as the user said.
        sharded: the passes are made together with other ranks, so their number is fixed.
    """
    inputs, size = (args, kwargs), len(y)

    def look(taking: Taking) -> _Look | None:
        try:
            return _look(network, layers, inputs, taking, channels, sharded)
        except Exception:  # a mask (T, T) was cut, say
            if sharded:
                raise
            return None

    def used(look: _Look) -> bool:
        """Whether the network takes what was put in another order: it makes fewer rows of fewer samples."""
        try:
            fewer = run(network, layers, *look.taking.take(inputs, look.chosen[1:]))
        except Exception:
            return True

        def shapes(seen: Pass) -> dict[Any, torch.Size]:
            return {name: x.shape for name, x in (*seen.tensors.items(), *seen.outs.items())}

        return shapes(fewer) != shapes(look.first)

    folded = False
    if y.ndim == 2 and not axes_of(inputs, size):
        first = samples_in(inputs)
        if 1 < first < size and size % first == 0:
            size, folded = first, True
    tries = _tries(inputs, size, y)
    best: _Look | None = None
    if not sharded and (named := edges(inputs, size)):
        axes = {key: axis for key, axis in axes_of(inputs, size).items() if key not in named}
        graph = look(Taking(size, axes, how="graph")) if axes else None
        best = graph if graph is not None and graph.ordered else None
    if best is None:
        for taking in tries[: 1 if sharded else None]:
            found = look(taking)
            if found is not None and (best is None or found.share > best.share):
                best = found
            if found is not None and found.share == 1:
                break
        for taking in tries if best is None and not sharded else ():  # as many samples as there are, or none
            best = best or look(replace(taking, how="all"))
    if best is not None and not sharded and not best.ordered and best.taking.how == "few":
        for key in best.taking.axes:  # an input may have as many rows as there are samples, and hold none
            rest = {other: axis for other, axis in best.taking.axes.items() if other != key}
            found = look(replace(best.taking, axes=rest, how="all")) if rest else None
            if found is not None and found.ordered:
                best = found
                break
    lost = best is None or not (best.share or best.plan.random or (not sharded and used(best)))
    if best is None or lost:
        return _once(network, layers, inputs, channels, few=size < 3, sharded=sharded)
    plan = best.plan
    plan.complete &= best.taking.size > 2 and (y.ndim == 2 or y.shape[1:-1].numel() > 1)
    layout = tuple(best.taking.axes.get(id(x)) for x in parts(inputs))
    plan.taking = replace(best.taking, axes={}, layout=layout)
    if not sharded:
        plan.disordered = frozenset(
            path
            for path, seen in best.outputs.items()
            if not best.has(seen) and not seen.doubt and path not in plan.random
        )
    if folded:
        order = next((seen.folded for seen in best.outputs.values() if seen.folded), "")
        plan.fold = Fold(order) if order else None
    if y.ndim > 2:
        _positions(network, layers, inputs, y, best, sharded)
    return plan


def _tries(inputs: Any, size: int, y: Tensor) -> list[Taking]:
    """In which ways the inputs may hold the samples, the likely ones first."""
    tries = [Taking(size, axes_of(inputs, size))]
    for square, prefer in ((True, 1), (False, 0)):
        other = axes_of(inputs, size, prefer, square)
        if other and other not in [taking.axes for taking in tries]:
            tries.append(Taking(size, other))
    if y.ndim > 2:
        many = y.shape[1]
        second = {key: axis for key, axis in axes_of(inputs, many, 1).items() if axis == 1}
        if second:
            tries.append(Taking(many, second, sample_axis=1))
    # of one sample the positions may still be told
    return [taking for taking in tries if taking.axes and (taking.size > 1 or y.ndim > 2)]


def spot(
    network: nn.Module, layers: Mapping[str, nn.Module], plan: Plan, args: Any, kwargs: Any, y: Tensor
) -> Spot | None:
    """A few samples of another batch alone, to be compared with the whole; None: that cannot be done."""
    if plan.taking is None:
        return None
    inputs = args, kwargs
    size = samples_in(inputs) if plan.fold else y.shape[plan.taking.sample_axis]
    taking = plan.taking.again(inputs, size)
    if taking is None or size < 2:
        return None
    try:
        chosen = taking.chosen(inputs)
        order = taking.order(inputs, len(chosen))
        index = chosen[order][: min(SPOT, size - 1) if taking.how == "few" else None]
        args, kwargs = taking.take(inputs, index)
        seen = run(network, layers, args, kwargs)
    except Exception:  # a state of the batch before, say, which was larger
        return None
    return Spot(index, seen.tensors, seen.outs, plan.arrangements, taking.sample_axis)


@dataclass
class _Look:
    """A plan, the share of layers in which samples were found, and what was seen of the outputs."""

    plan: Plan
    taking: Taking
    share: float
    outputs: dict[Path, Seen]
    first: Pass
    chosen: Tensor

    def has(self, seen: Seen) -> bool:
        """Whether samples were found where they are in the targets."""
        return self.taking.sample_axis in seen.samples or bool(seen.folded)

    @property
    def ordered(self) -> bool:
        """Whether that is so of an output, or none is looked for."""
        return bool(self.plan.random) or not self.outputs or any(map(self.has, self.outputs.values()))


def _once(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    inputs: Any,
    channels: Mapping[str, int],
    *,
    few: bool,
    sharded: bool,
) -> Plan:
    """A plan from the whole batch, whose samples cannot be told apart."""
    try:
        none = torch.empty(0, dtype=torch.long, device="cpu")
        passes = []
        for whole in (True,) if sharded else (True, False):
            args, kwargs = cut(inputs, {}, none)
            passes.append(run(network, layers, args, kwargs, whole))
    except Exception:
        return by_type(layers, channels)  # the measurement itself raises what is wrong
    seen = passes[0]
    arrangements = {label: _unknown(label, module, seen, channels) for label, module in layers.items()}
    random = frozenset(
        path for path, x in passes[-1].outs.items() if path in seen.outs and _differ(x, seen.outs[path])
    )
    return Plan(arrangements, _not_linear(layers, seen), random, complete=not few)


def _not_linear(layers: Mapping[str, nn.Module], seen: Pass) -> dict[str, str]:
    """Which of the modules that may be one linear layer are none, and the parts of those that are."""
    left_out = {label: "" for label in layers if label in seen.linear and not seen.linear[label]}
    whole = [label for label, linear in seen.linear.items() if linear]
    for label in layers:
        for outer in whole:
            if label != outer and label.removesuffix(OUT).startswith(f"{outer}." if outer else ""):
                left_out[label] = (
                    f"is a part of '{outer}', which acts as one linear layer and is measured as such"
                )
    return left_out


def _look(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    inputs: Any,
    taking: Taking,
    channels: Mapping[str, int],
    sharded: bool,
) -> _Look:
    """Two orders of the samples beside each other."""
    chosen = taking.chosen(inputs)
    order = taking.order(inputs, len(chosen))

    def passed(index: Tensor, whole: bool = False) -> Pass:
        args, kwargs = taking.take(inputs, index)
        return run(network, layers, args, kwargs, whole)

    def elsewhere(a: Tensor, b: Tensor) -> bool:
        """Whether what the samples were before is found at other places now."""
        at = taking.sample_axis if min(a.ndim, b.ndim) > 1 else 0
        a, b = a.movedim(at, 0), b.movedim(at, 0)
        return len(a) != len(order) or compare(a, b, order) == "displaced"

    first, again = passed(chosen, whole=True), passed(chosen[order])
    plan = Plan(left_out=_not_linear(layers, first), taking=taking)
    outs, others = first.outs, again.outs
    moved = {}
    for path in outs.keys() & others.keys():
        moved[path], told = _seen(outs[path], others[path], order)
        plan.complete &= told
    seen = {}
    for label in first.tensors.keys() & again.tensors.keys():
        seen[label], told = _seen(first.tensors[label], again.tensors[label], order)
        plan.complete &= told
    lost = [label for label, found in seen.items() if not found.found]
    if not sharded and (lost or any(not found.found for found in moved.values())):
        # out of order, or random?
        third = passed(chosen)
        plan.random = frozenset(p for p, out in third.outs.items() if p in outs and _differ(out, outs[p]))
        for label in lost:
            a, b = first.tensors[label], again.tensors[label]
            random = label in third.tensors and _differ(third.tensors[label], a)
            mixed = not random and not elsewhere(a, b)
            # a graph that the network keeps: nodes at other places have other neighbours
            if random or (mixed and taking.how == "all"):
                del seen[label]
            elif mixed:
                seen[label] = Seen(doubt=MIXED)
        for path, was in moved.items():
            if not was.found and not elsewhere(outs[path], others[path]):
                moved[path] = Seen(doubt=MIXED)
    for label, module in layers.items():
        how = _unknown(label, module, first, channels)
        plan.arrangements[label] = replace(how, seen=seen.get(label), sample_axis=taking.sample_axis)
    if not sharded:
        plan.spot = Spot(chosen[order], again.tensors, again.outs, plan.arrangements, taking.sample_axis)
    found = [s.found for s in (*seen.values(), *moved.values())]
    share = sum(found) / len(found) if found else 0.0
    return _Look(plan, taking, share, moved, first, chosen)


def _differ(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return True
    if not a.is_floating_point():
        return not torch.equal(a, b)
    return float((a - b).abs().amax()) > 1e-3 * float(a.abs().amax()) if a.numel() else False


def _told_by_size(y: Tensor, look: _Look, inputs: Any) -> bool:
    """Whether no other axis in sight is as long as that of the targets' positions."""
    many = y.shape[1 - look.taking.sample_axis]
    sizes = {y.shape[-1]}
    for x in (*look.first.tensors.values(), *(x for x in parts(inputs) if isinstance(x, Tensor))):
        sizes |= set(x.shape[2:] if x.ndim > 2 else ())
    return many not in sizes


def _positions(
    network: nn.Module, layers: Mapping[str, nn.Module], inputs: Any, y: Tensor, look: _Look, sharded: bool
) -> None:
    """Which layers have the targets' positions where they are read, and in their order."""
    taking, arrangements = look.taking, look.plan.arrangements
    found: dict[str, str] = {}

    def changed(change: Change) -> tuple[Mapping[str, Tensor], Mapping[Path, Tensor]]:
        args, kwargs = taking.take(inputs, look.chosen, change)
        seen = run(network, layers, args, kwargs)
        return seen.tensors, seen.outs

    if not sharded and taking.how != "graph":
        with suppress(Exception):
            found = positions.judge(
                changed, look.first.tensors, look.first.outs, arrangements, tuple(y.shape),
                taking.sample_axis, len(look.chosen),
            )  # fmt: skip
    told = set(arrangements)
    if y.ndim == 3 and not _told_by_size(y, look, inputs):
        told = {label for label, what in found.items() if what == "here"}
        told |= _shorter(network, layers, inputs, y, look, sharded)
        at, many = taking.sample_axis, y.shape[1 - taking.sample_axis]
        given = [x for x in parts(inputs) if isinstance(x, Tensor) and x.ndim > 1]
        if not any(x.shape[1 - at] == many for x in given):
            # only the inputs' last axis is as long: positions for convolutions, else features
            told = {label for label in told if arrangements[label].axis == 1}
    many = y.shape[1 - taking.sample_axis] if y.ndim == 3 else y.shape[1:-1].numel()
    for label, how in arrangements.items():
        if how.seen is None or label not in look.first.tensors:
            continue
        doubt = how.seen.doubt or ("" if label in told else same_size(many))
        if found.get(label) == "moved":
            doubt = MOVED
        elif y.ndim > 3 and how.seen.folded and label not in found:
            doubt = same_size(many)
        arrangements[label] = replace(how, seen=replace(how.seen, doubt=doubt))


def _shorter(
    network: nn.Module, layers: Mapping[str, nn.Module], inputs: Any, y: Tensor, look: _Look, sharded: bool
) -> set[str]:
    """Layers whose positions get fewer with shorter sequences."""
    at = look.taking.sample_axis
    many, size = y.shape[1 - at], y.shape[at]
    shapes: dict[str, torch.Size] = {}
    fits: dict[int, int] = {}
    for x in parts(inputs):
        if isinstance(x, Tensor) and x.ndim > 1 and x.shape[at] == size:
            axes = [axis for axis in (1 - at, 2) if x.ndim > axis and x.shape[axis] == many]
            fits |= {id(x): axes[0]} if axes else {}
    if fits and many > 2 and not sharded:
        with suppress(Exception):
            args, kwargs = cut(inputs, fits, torch.arange(many - 1, device="cpu"))
            shapes = {label: x.shape for label, x in run(network, layers, args, kwargs).tensors.items()}
    told = set()
    for label, how in look.plan.arrangements.items():
        shape = shapes.get(label, torch.Size())
        if how.seen is not None and how.seen.folded:
            fewer = len(shape) == 2 and shape[0] == size * (many - 1)
        else:
            axis = 2 if how.axis == 1 and at == 0 else 1 - at
            fewer = len(shape) > 2 and shape[axis] == many - 1
        if fewer:
            told.add(label)
    return told
