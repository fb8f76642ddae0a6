"""The weight and bias that a layer applies, which need not be the ones it stores.

A masked, quantised, adapted or re-parametrised layer multiplies its input by another matrix than `module.weight`.
A stored weight therefore counts only where W h + b gives the layer's own output; otherwise W and b are read off the
layer itself, which is affine or has none: b = f(0), W e_j = f(e_j) - f(0). A layer that does more than torch's own
forward is compared on random rows, too: features of a few directions, or small ones, do not show all that it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from nrc.features.layers import CONVOLUTIONS, reading_weight
from nrc.features.tensors import plain
from nrc.metrics.last_layer import squared_error
from nrc.moments import Moments

ROWS = 16  # of a batch, on which W h + b is compared with the layer's output
UNIT = 256.0  # length of the vectors that W is read off: rounding of b then does not count
MAX_ELEMENTS = 1 << 28  # of the inputs and outputs of such a reading
CHUNK = 1 << 24  # elements of them at a time
HALF = (torch.float16, torch.bfloat16)
CONVOLVE = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
METHODS = ("forward", "_conv_forward")  # what makes a layer's output of its input
ALL_ROWS = 1e-5  # of |W| |h| + |b|: what W h + b may differ by from what the network put out in 32 bits


@dataclass(frozen=True)
class Applied:
    """Weight (out, d) or (out, d, kh, kw) and bias (out,) of a layer as it acts; without a weight the reason."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    reason: str = ""


def sample(module: nn.Module, x: Tensor) -> Tensor:
    """The few rows (m, d) of an input, or the two maps, on which the weight is checked; a copy."""
    if isinstance(module, CONVOLUTIONS):
        return x[:2].clone()
    return _spread(x.flatten(0, -2)).clone()


def _spread(rows: Tensor) -> Tensor:
    if len(rows) <= ROWS:
        return rows
    return rows[
        torch.linspace(0, len(rows) - 1, ROWS, dtype=torch.float64, device="cpu").long().to(rows.device)
    ]


def applied_weight(module: nn.Module, x: Tensor, rows: Tensor, out: Any) -> Applied:
    """What a layer did to these inputs, as a weight and a bias.

    Args:
        module: the layer, in evaluation mode.
        x: its input (..., d), or (B, c, ...) of a convolution; only the shape counts, it may be overwritten by now.
        rows: `sample(module, x)` from before the layer ran.
        out: what it put out.
    """
    if not isinstance(out, Tensor):
        return Applied(reason=f"the layer puts out {type(out).__name__}, so it has no one weight")
    out = plain(out)
    if isinstance(module, CONVOLUTIONS):
        return _convolution(module, rows, out[: len(rows)])
    if out.shape[:-1] != x.shape[:-1] or not x.ndim:
        return Applied(
            reason="the layer does not map each feature row to a row of its own, so it has no one weight"
        )
    made = _spread(out.flatten(0, -2))
    if not _is_plain(module):
        rows, made = _with_random(module, rows, made, (1,) * (x.ndim - 2))
    for weight, bias in _stored(module):
        if _explains(rows, made, weight, bias):
            return Applied(weight, bias)
    return _read(module, rows, made, x.ndim)


def still_applies(module: nn.Module, applied: Applied, rows: Tensor, out: Any) -> bool:
    """Whether a weight found in another batch gives what the layer made of these rows, `sample` of this one."""
    if applied.weight is None or applied.bias is None:
        return True
    out = plain(out)
    if isinstance(module, CONVOLUTIONS):
        return _convolves(module, rows, out[: len(rows)], applied.weight, applied.bias)
    return _explains(rows, _spread(out.flatten(0, -2)), applied.weight, applied.bias, slack=4.0)


def contradiction(moments: Moments, weight: Tensor, bias: Tensor, error: float, eps: float) -> str:
    """Why W h + b did not make a prediction of these rows, if its error says so beyond rounding; else nothing.

    The roots of two mean squared errors differ by no more than the root mean square of the predictions' difference.

    Args:
        error: mean |prediction - y|^2.
        eps: the rounding of the prediction's type.
    """
    w, b = (t.to(moments.mean_h.device, torch.float64) for t in (weight, bias))
    size = w.norm() * (moments.sigma_h.trace() + moments.mean_h.square().sum()).sqrt() + b.norm()
    targets = (moments.sigma_y.trace() + moments.mean_y.square().sum()).sqrt()
    of_weight = squared_error(moments, w, b)
    slack = float(size * max(ALL_ROWS, 16 * eps) + targets * 1e-6)  # the sums' own rounding is squared
    if abs(of_weight**0.5 - error**0.5) <= slack:
        return ""
    return (
        f"the layer applies no one weight to all rows: the network's mse is {error / moments.n:.4g}, that of W h + b "
        f"would be {of_weight / moments.n:.4g}"
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer does what torch's own of its kind does, and nothing else."""
    kind = next((kind for kind in (nn.Linear, *CONVOLUTIONS) if isinstance(module, kind)), None)
    if kind is None or not isinstance(module.weight, Tensor) or any(name in vars(module) for name in METHODS):
        return False
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return (
        all(getattr(type(module), name, None) is getattr(kind, name, None) for name in METHODS)
        and all(getattr(hook, "__module__", "").startswith(("nrc.features.", "torch.")) for hook in hooks)
        and type(module.weight) in (Tensor, nn.Parameter)
    )


def _with_random(
    module: nn.Module, rows: Tensor, out: Tensor, between: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Rows (m, d) or maps (m, c, ...) and what a layer made of them, and the same of random ones of their size.

    between: axes between the first and the last that the layer's own input has.
    """
    size = rows.double().square().mean().sqrt().item() if rows.device.type != "mps" else 1.0
    if not rows.numel() or not math.isfinite(size):
        return rows, out
    count = ROWS if rows.ndim == 2 else len(rows)
    generator = torch.Generator("cpu").manual_seed(0)
    random = torch.randn(count, *rows.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
    random *= size or 1.0
    random[::2] *= 4  # what bends large numbers alone shows there
    random = random.to(rows)
    seen: list[Tensor] = []  # by the layer itself: hooks before it may change what it gets
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(plain(args[0]).clone()))
    with suppress(Exception):  # it takes other inputs, too: the rows at hand must do
        made = plain(module(random.reshape(count, *between, *random.shape[1:])))
        made = made.reshape(count, *out.shape[1:]).to(out.dtype)
        rows, out = torch.cat((rows, seen[0].reshape(random.shape))), torch.cat((out, made))
    handle.remove()
    return rows, out


def _stored(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights that a module keeps, as it stands and transposed (the (d, out) of transformers' Conv1D)."""
    with suppress(Exception):  # a property or a packed format that cannot be read: it is then no such weight
        weight, bias = reading_weight(module)
        if weight is None:
            weight, bias = plain(module.weight), getattr(module, "bias", None)  # type: ignore[arg-type]
        if weight.ndim != 2 or not weight.is_floating_point():
            return
        for matrix in (weight, weight.T):
            yield matrix, matrix.new_zeros(len(matrix)) if not isinstance(bias, Tensor) else plain(bias)


def _explains(rows: Tensor, out: Tensor, weight: Tensor, bias: Tensor, slack: float = 1.0) -> bool:
    """Whether W h + b is the output up to the rounding of its own type and of sums in 32 bits."""
    if weight.shape != (out.shape[-1], rows.shape[-1]) or bias.shape != weight.shape[:1]:
        return False
    if out.dtype in HALF:  # as autocast does
        rows, weight, bias = rows.to(out.dtype), weight.to(out.dtype), bias.to(out.dtype)
    h, w, b, y = (
        t.double() if t.device.type != "mps" else t.cpu().double() for t in (rows, weight, bias, out)
    )
    w, b, y = w.to(h.device), b.to(h.device), y.to(h.device)
    if not h.isfinite().all() or not y.isfinite().all():
        return True  # diverged: the metrics say so, with the layer's name
    eps = torch.finfo(out.dtype).eps
    sums = eps if out.dtype == torch.float64 else torch.finfo(torch.float32).eps
    if h.is_cuda and torch.backends.cuda.matmul.allow_tf32 and out.dtype != torch.float64:
        sums = 2.0**-11
    size = h.abs() @ w.abs().T + b.abs()
    return bool(((h @ w.T + b - y).abs() <= slack * (2 * eps * y.abs() + 16 * sums * size)).all())


def _read(module: nn.Module, rows: Tensor, out: Tensor, ndim: int) -> Applied:
    d, k = rows.shape[-1], out.shape[-1]
    name = type(module).__name__
    if (d + 1) * (d + k) > MAX_ELEMENTS:
        return Applied(reason=f"{name} does not apply its stored weight, and is too wide to read it off")

    def made(vectors: Tensor) -> Tensor:
        return plain(module(vectors.reshape(-1, *[1] * (ndim - 2), d))).reshape(-1, k).to(wide)

    wide = torch.float64 if rows.device.type != "mps" else torch.float32
    try:
        bias = made(rows.new_zeros(1, d))[0]
        step = max(1, CHUNK // (d + k))
        columns = []
        for start in range(0, d, step):
            units = rows.new_zeros(min(step, d - start), d)
            units.diagonal(start).fill_(UNIT)
            columns.append(made(units))
    except Exception as error:
        return Applied(
            reason=f"{name} does not apply its stored weight, and could not be run on other rows to read it off "
            f"({type(error).__name__})"
        )
    weight = (torch.cat(columns).T - bias[:, None]) / UNIT
    # once rounded when read off, once more in the comparison
    if weight.isfinite().all() and _explains(rows, out, weight.to(wide), bias, slack=4.0):
        exact = torch.float64 if out.dtype == torch.float64 else torch.float32
        return Applied(weight.to(exact), bias.to(exact))
    return Applied(
        reason=f"{name} does not apply its stored weight, nor any other: it is not affine in its input"
    )


def _convolution(module: Any, maps: Tensor, out: Tensor) -> Applied:
    weight, bias = reading_weight(module)
    if weight is None or bias is None:
        return Applied(reason="its weight could not be read")
    more, made = (maps, out) if _is_plain(module) else _with_random(module, maps, out)
    with suppress(Exception):
        if _convolves(module, more, made, weight, bias):
            return Applied(weight, bias)
    read = _read_convolution(module, more)
    if read is None:
        return Applied(
            reason=f"{type(module).__name__} does not apply its stored weight, and it cannot be read off"
        )
    return read


def _convolves(module: Any, maps: Tensor, out: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether a kernel, written out between its groups, gives these maps."""
    groups, padding = module.groups, module.padding
    if groups > 1:
        parts = zip(
            weight.chunk(groups), torch.arange(weight.shape[1], device="cpu").chunk(groups), strict=True
        )
        blocks = torch.cat([rows[:, columns.to(rows.device)] for rows, columns in parts])
        same = int(blocks.count_nonzero()) == int(weight.count_nonzero())
        weight, groups = (blocks, groups) if same else (weight, 1)
    if module.padding_mode != "zeros":
        maps = nn.functional.pad(maps, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        padding = 0
    convolve = CONVOLVE[len(module.kernel_size) - 1]
    expected = convolve(maps, weight, bias, module.stride, padding, module.dilation, groups)
    tolerance = (64 if out.dtype not in HALF else 4) * torch.finfo(out.dtype).eps
    return bool((expected - out).abs().amax() <= tolerance * out.abs().amax()) or not out.isfinite().all()


def _read_convolution(module: Any, maps: Tensor) -> Applied | None:
    """The kernel of a convolution that acts otherwise than stored: what comes of one pixel at a time."""
    channels, kernel = maps.shape[1], module.kernel_size
    padding = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        return None
    offset = [-p % s for p, s in zip(padding, module.stride, strict=True)]
    size = [d * (k - 1) + 1 + o for d, k, o in zip(module.dilation, kernel, offset, strict=True)]
    at = [(o + p) // s for o, p, s in zip(offset, padding, module.stride, strict=True)]
    where: list[tuple[int, ...]] = list(product(*(range(k) for k in kernel)))
    if (channels * len(where) + 1) * channels * math.prod(size) > MAX_ELEMENTS:
        return None

    def made(z: Tensor) -> Tensor:
        return plain(module(z))[(..., *at)].double()

    try:
        bias = made(maps.new_zeros(1, channels, *size))[0]
        weight = bias.new_zeros(len(bias), channels, *kernel)
        for place in where:
            z = maps.new_zeros(channels, channels, *size)
            pixel = [o + d * i for o, d, i in zip(offset, module.dilation, place, strict=True)]
            z.diagonal()[(*pixel, ...)] = UNIT  # of a channel its own map alone
            at_place: tuple[Any, ...] = (..., *place)
            weight[at_place] = (made(z).T - bias[:, None]) / UNIT
        convolve = CONVOLVE[len(kernel) - 1]
        again = convolve(maps.double(), weight, bias, module.stride, padding, module.dilation)
        real = plain(module(maps)).double()
    except Exception:
        return None
    eps = torch.finfo(maps.dtype).eps
    if (again - real).abs().amax() > 64 * eps * real.abs().amax():
        return None
    return Applied(weight.to(maps.dtype), bias.to(maps.dtype))
