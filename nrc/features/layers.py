"""Which layers of a network are measured, by name, and the weights that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nrc.errors import UserError
from nrc.features.tensors import plain

SCRIPTED = torch.jit.ScriptModule  # takes no hooks
OUT = ":out"  # suffix of a layer name: measure the module's output instead of its input
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
RUN_AS_THEY_ARE = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # wrappers that do work of their own
# their weights read more than one vector, or none
NO_LINEAR_MAP = (
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Bilinear,
    nn.MultiheadAttention,
    nn.LayerNorm,
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, WRAPPERS):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = inner
        else:
            return model


def _inside(module: nn.Module) -> nn.Module:
    """The module that a sharding or checkpointing wrapper runs, too, for its name; the wrapper is what is called."""
    while True:
        module = unwrapped(module)
        for name in RUN_AS_THEY_ARE:
            if isinstance(inner := getattr(module, name, None), nn.Module):
                module = inner
                break
        else:
            return module


def _paths(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module as `named_modules()`: a shared module under each of its names, wrappers left out."""
    found: dict[str, nn.Module] = {}

    def walk(path: str, module: nn.Module) -> None:
        found[path] = module = _inside(module)
        if isinstance(module, SCRIPTED):
            return
        for name, child in module._modules.items():
            if child is not None:
                walk(f"{path}.{name}" if path else name, child)

    walk("", model)
    return found


def default_layers(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """What is measured unless told otherwise, and why other layers with weights are not.

    The model's own `measured_layers()` if it has them; else by path every Linear, convolution and
    nn.MultiheadAttention (at its fused in-projection), and what may act as one linear layer (`may_be_linear`): that
    is seen when it runs, and until then it stands among the reasons, too.

    Returns:
        label -> module, and label -> reason.
    """
    own = getattr(unwrapped(model), "measured_layers", None)
    if callable(own):
        return dict(own()), {}
    found: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    inside: set[int] = set()  # modules already named, or part of one that is
    for path, module in _paths(model).items():
        if id(module) in inside:
            continue
        inside.add(id(module))
        if isinstance(module, SCRIPTED):
            if any(True for _ in module.parameters()):
                skipped[path] = (
                    "is scripted or traced, so its layers are not seen; give it as the nn.Module that it was"
                )
        elif is_layer(module):
            found[path] = module
            inside.update(id(part) for part in module.modules())
        elif own := _own_weight(module):
            skipped[path] = (
                f"is a {type(module).__name__}, whose '{own}' is not known to read one feature vector; "
                f"measure what it puts out: layers=['{path}{OUT}']"
            )
            if may_be_linear(module):
                found[path] = module
        elif may_be_linear(module):
            found[path] = module
        if isinstance(module, nn.MultiheadAttention):
            inside.update(id(part) for part in module.modules())
            skipped[f"{path}.out_proj"] = (
                f"is used by nn.MultiheadAttention as a function, so its input is not seen; "
                f"measure what it puts out: layers=['{path}{OUT}']"
            )
    return found, skipped


def is_layer(module: nn.Module) -> bool:
    """A Linear, a convolution, or attention with a fused in-projection."""
    fused = isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    return fused or isinstance(module, (nn.Linear, *CONVOLUTIONS))


def may_be_linear(module: nn.Module) -> bool:
    """A module that may act as one linear layer: an adapter around one, a quantised one, PyG's, transformers' Conv1D.

    By what such modules have in common: a matrix, or `in_features` and `out_features`, or a `base_layer`. Whether
    it does act so is seen when it runs.
    """
    if is_layer(module) or isinstance(module, NO_LINEAR_MAP):
        return False
    sizes = all(isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features"))
    matrix = any(p.ndim == 2 for _, p in module.named_parameters(recurse=False))
    return (
        sizes
        or isinstance(getattr(module, "base_layer", None), nn.Module)
        or (matrix and not module._modules)
    )


CODES = (torch.int8, torch.uint8, torch.int32)  # what quantised weights are kept in


def _own_weight(module: nn.Module) -> str | None:
    """Name of a weight that a module has beside its children; in a container only a matrix counts as one."""
    for name, p in module.named_parameters(recurse=False):
        if p.ndim > 1 and (not module._modules or (p.ndim == 2 and min(p.shape) > 1)):
            return name
    if callable(getattr(module, "weight", None)):  # torch's own quantised layers
        return "weight"
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.ndim > 1 and buffer.dtype in CODES and not module._modules:
            return name
    return None


def measured_layers(
    model: nn.Module, layers: Sequence[str] | None = None, head: str | None = None
) -> dict[str, nn.Module]:
    """Label -> module of the layers to measure: `default_layers`, or those named in `layers`; `head` is one of them.

    `layers` picks labels or paths as in `named_modules()`; the suffix ':out' stays in the label.

    Raises:
        UserError: a name that the model does not have, or nothing to measure.
    """
    if not isinstance(model, nn.Module) or isinstance(model, SCRIPTED):
        raise UserError(
            f"the model is a {type(model).__name__}; give the nn.Module itself, which takes hooks, and nothing "
            "scripted or traced"
        )
    chosen = _chosen(model, layers)
    head_among(model, chosen, head)
    return chosen


def head_among(model: nn.Module, chosen: Mapping[str, nn.Module], head: str | None) -> str | None:
    """The label of the head among the measured layers; the user may have named it by another of its names.

    Raises:
        UserError: it is not measured.
    """
    if head is None or head in chosen:
        return head
    module = dict(model.named_modules(remove_duplicate=False)).get(head)
    for label, other in chosen.items():
        if module is not None and _inside(module) is other and not label.endswith(OUT):
            return label
    raise UserError(f"head is {head!r}, which is not measured; choose from: {', '.join(chosen)}")


def _chosen(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    named, skipped = default_layers(model)
    if layers is None:
        if not named:
            why = [f": '{label}' {reason}" for label, reason in skipped.items()]
            raise UserError(
                f"{type(model).__name__} has no Linear, convolution or attention layer"
                + (why[0] if why else "; name what to measure in layers=[...]")
            )
        return named
    labels = (
        [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else [layers]
    )
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong or not labels:
        what = f"holds {wrong[0]!r}, which is no name" if wrong else "is empty"
        raise UserError(f"layers {what}; choose from: {', '.join(named)}; or leave layers away for all")
    known = {**dict(model.named_modules(remove_duplicate=False)), **_paths(model), **named}
    chosen = {}
    for label in labels:
        path = label.removesuffix(OUT)
        if path not in known:
            raise UserError(
                f"layer '{label}' is not in {type(model).__name__}; choose from: {', '.join(named)}"
            )
        chosen[label] = _inside(known[path])
        if isinstance(chosen[label], SCRIPTED):
            raise UserError(
                f"layer '{label}' is scripted or traced and takes no hooks; give the nn.Module that it was"
            )
    return chosen


def reading_weight(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The stored weight and bias of a layer that maps its input linearly (no bias: zeros), else None twice.

    A grouped convolution's weight is written out with the zeros between its groups.

    Example:
        >>> reading_weight(nn.Conv2d(4, 6, 3, groups=2))[0].shape
        torch.Size([6, 4, 3, 3])
    """
    weight: Tensor
    bias: Tensor | None
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        weight, bias = module.in_proj_weight, module.in_proj_bias
    elif isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        weight, bias = module.weight, module.bias
    else:
        return None, None
    weight = plain(weight)
    if isinstance(module, CONVOLUTIONS) and module.groups > 1:
        dense = weight.new_zeros(len(weight), module.in_channels, *weight.shape[2:])
        for rows, part, columns in zip(
            dense.chunk(module.groups),
            weight.chunk(module.groups),
            torch.arange(module.in_channels, device=weight.device).chunk(module.groups),
            strict=True,
        ):
            rows[:, columns] = part
        weight = dense
    return weight, weight.new_zeros(len(weight)) if bias is None else plain(bias)
