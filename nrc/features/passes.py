"""A pass that looks: what every layer sees of a batch, and for the modules in between which tensors go in and out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nrc.features.layers import OUT, SCRIPTED, may_be_linear
from nrc.features.rows import feature_axis
from nrc.features.samples import left_alone
from nrc.features.tensors import Path, plain, tensors_in
from nrc.features.weights import applied_weight, sample

ELEMENTWISE = (nn.Dropout, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh,
               nn.Sigmoid, nn.Mish, nn.Hardswish, nn.Softplus, nn.Hardtanh, nn.PReLU, nn.SELU, nn.CELU)  # fmt: skip


def input_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first input of a module; of attention its query, where that is key and value, too, else the three."""
    if not isinstance(module, nn.MultiheadAttention):
        if not args:  # the first of its parameters, in whatever order they are named
            with suppress(TypeError, ValueError):
                given = inspect.signature(module.forward).bind(**kwargs).arguments
                kwargs = {**{name: given[name] for name in given if name in kwargs}, **kwargs}
        return next(iter((*args, *kwargs.values())), None)
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    same = given["query"] is given["key"] is given["value"]
    return given["query"] if same else given


def output_of(out: Any) -> Any:
    """What recurrent and attention layers put out first."""
    return out[0] if isinstance(out, tuple | list) and out else out


def outputs(out: Any) -> dict[Path, Tensor]:
    """The floating tensors in what a network put out."""
    return {path: plain(x).clone() for path, x in tensors_in(out) if x.is_floating_point() and x.ndim}


@dataclass
class Pass:
    """One pass: what each layer saw, and for the modules in between which tensors went in and out."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    outs: dict[Path, Tensor] = field(default_factory=dict)
    axes: dict[int, int] = field(default_factory=dict)  # id of a tensor -> axis of its features
    shapes: dict[tuple[int, ...], set[int]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    links: list[tuple[int, int]] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)  # so that no id is used twice
    linear: dict[str, bool] = field(default_factory=dict)


def run(
    network: nn.Module, layers: Mapping[str, nn.Module], args: Any, kwargs: Any, whole: bool = False
) -> Pass:
    """One pass that looks. With `whole` the types of all modules are noted, and what is one linear layer."""
    seen = Pass()
    busy = False
    handles = []

    def before(label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if busy or label in seen.tensors:
                return
            with suppress(Exception):  # the layer's own hook says what is wrong with it
                x = input_of(module, args, kwargs)
                if isinstance(x, Tensor):
                    seen.tensors[label], seen.ids[label] = plain(x).clone(), id(x)

        return hook

    def after(label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if busy or label in seen.tensors:
                return
            with suppress(Exception):
                x = output_of(out)
                if isinstance(x, Tensor):
                    seen.tensors[label], seen.ids[label] = plain(x).clone(), id(x)

        return hook

    def judge(label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            nonlocal busy
            if busy or label in seen.linear:
                return
            x = seen.tensors.get(label)
            busy = True
            try:
                seen.linear[label] = (
                    x is not None
                    and x.ndim > 1
                    and x.is_floating_point()
                    and applied_weight(module, x, sample(module, x), out).weight is not None
                )
            except Exception:
                seen.linear[label] = False
            finally:
                busy = False

        return hook

    def types(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if busy:
            return
        axis = feature_axis(module)
        ins, outs = input_of(module, args, kwargs), output_of(out)
        if not (isinstance(ins, Tensor) and isinstance(outs, Tensor)):
            ins, outs = (t if isinstance(t, Tensor) else None for t in (ins, outs))
        seen.alive += [ins, outs]
        for x in (ins, outs):
            if x is not None and axis is not None and x.ndim > 2 and x.is_floating_point():
                seen.axes[id(x)] = axis
                seen.shapes.setdefault(tuple(x.shape), set()).add(axis % x.ndim)
        if isinstance(module, ELEMENTWISE) and ins is not None and outs is not None:
            seen.links.append((id(ins), id(outs)))

    try:
        for label, module in layers.items():
            if label.endswith(OUT):
                handles.append(module.register_forward_hook(after(label)))
                continue
            handles.append(module.register_forward_pre_hook(before(label), with_kwargs=True))
            if whole and may_be_linear(module):
                handles.append(module.register_forward_hook(judge(label), with_kwargs=True))
        if whole:
            modules = [m for m in network.modules() if not isinstance(m, SCRIPTED)]
            handles += [m.register_forward_hook(types, with_kwargs=True) for m in modules]
        with left_alone(network):
            out = network(*args, **kwargs)
            seen.outs = outputs(out)
    finally:
        for handle in handles:
            handle.remove()
    for _ in range(3 if whole else 0):
        for a, b in (*seen.links, *((b, a) for a, b in seen.links)):
            if a in seen.axes:
                seen.axes.setdefault(b, seen.axes[a])
    return seen
