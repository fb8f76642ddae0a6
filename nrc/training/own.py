"""What a run asks of classes from elsewhere (`data._target_`, `model._target_`) before it begins.

A network whose output is broadcast against the targets, or is not that of its last measured layer, would train
without an error, and its numbers would be wrong. A forward pass of a few rows tells.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

import nrc
from nrc.data import RegressionData
from nrc.errors import UserError, out_of_memory
from nrc.features.layers import OUT, reading_weight
from nrc.features.modes import evaluating
from nrc.features.samples import same_random_numbers
from nrc.training.measuring import in_float64, unlike, unlike_head
from nrc.training.placement import Placed
from nrc.training.settings import DataSettings, ModelSettings, kind_of

ROWS = 16  # of the train part, for the pass that shows what a network does


@contextmanager
def calling(settings: object, what: str, remedy: str = "") -> Iterator[None]:
    """An error of code from elsewhere becomes one line with the class and the place; those of this package pass."""
    try:
        yield
    except Exception as error:
        foreseen = isinstance(error, UserError | OSError | MemoryError) or out_of_memory(error)
        if foreseen or type(settings).__module__.startswith("nrc."):
            raise
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"{kind_of(settings)}: {what} fails with {type(error).__name__}: {text} ({where(error)}){remedy}"
        ) from error


def where(error: BaseException) -> str:
    """File and line of an error: the last ones that are neither this package's nor of a library."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    others = ("<string>", "site-packages", "importlib", str(Path(nrc.__file__).parent))
    place = [f for f in frames if not any(other in f.filename for other in others)] or frames
    return f"{place[-1].filename}:{place[-1].lineno}"


def load(settings: DataSettings) -> RegressionData:
    """The data set, if it is one."""
    with calling(settings, "load()"):
        data = settings.load()
    if not isinstance(data, RegressionData):
        raise UserError(
            f"{kind_of(settings)}: load() returned {_a(data)}; it must return a nrc.data.RegressionData"
        )
    return data


def build(settings: ModelSettings, data: RegressionData, seed: int) -> nn.Module:
    """The network for these data, if it is one that can be trained."""
    name, sizes = kind_of(settings), (data.sizes["inputs"], data.sizes["targets"], seed)
    try:
        inspect.signature(settings.build).bind(*sizes)
    except TypeError as error:
        raise UserError(f"{name}: build() must take n_in, n_out, seed ({error})") from None
    with calling(settings, "build()"):
        model = settings.build(*sizes)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name}: build() returned {_a(model)}; it must return an nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"{name}: the network has no parameter that trains; give one requires_grad=True")
    return model


def check(model: nn.Module, settings: ModelSettings, data: Placed) -> None:
    """Refuse a network that does not map the train rows to predictions of its last measured layer.

    Neither the network nor torch's random numbers are another afterwards.

    Raises:
        UserError: one line with the class, what it does and what is expected.
    """
    name, layers = kind_of(settings), _layers(model, kind_of(settings))
    y = data.y_train[:ROWS]
    x = data.x_train[:ROWS].to(y.device)
    # copies, as a network may count passes in a buffer in evaluation mode, too
    kept = {label: buffer.clone() for label, buffer in model.named_buffers()}
    told = f"; it must take them and return predictions {tuple(y.shape)}"
    _check_pass(model, layers, name, kept, x, y, lambda what: calling(settings, what, told))
    if x.ndim == 2:
        told = "; tables are measured in float64: let forward work in the type of its input"
        _check_pass(
            model, layers, name, in_float64(model), x.double(), y, lambda what: calling(settings, what, told)
        )


def _check_pass(
    model: nn.Module,
    layers: dict[str, nn.Module],
    name: str,
    numbers: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    guard: Callable[[str], Any],
) -> None:
    seen: dict[str, list[tuple[Any, int]]] = {label: [] for label in layers}
    order: list[str] = []

    def reader(label: str) -> Callable[..., None]:
        def read(_: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            h = inputs[0] if inputs else None
            seen[label].append((h, getattr(h, "_version", 0)))
            order.append(label)

        return read

    hooks = [module.register_forward_hook(reader(label)) for label, module in layers.items()]
    what = f"the network's forward on train rows {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
    try:
        with guard(what), evaluating(model), same_random_numbers():
            out = functional_call(model, numbers, (x,))
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(out, Tensor) or not out.is_floating_point():
        given = f"a tensor of {out.dtype}" if isinstance(out, Tensor) else _a(out)
        raise UserError(
            f"{name}: the network returned {given}; it must return one tensor of floats, predictions {tuple(y.shape)}"
        )
    if out.shape != y.shape:
        raise UserError(
            f"{name}: the network returned predictions {tuple(out.shape)} for targets {tuple(y.shape)}; let forward return "
            "one column for each target, without squeeze()"
        )
    for label, calls in seen.items():
        if len(calls) != 1:
            how = f"runs {len(calls)} times in" if calls else "does not run in"
            why = ", so it has no one input" if calls else ""
            raise UserError(
                f"{name}: measured layer '{label}' {how} a forward pass{why}; leave it out of measured_layers()"
            )
        h, version = calls[0]
        if not isinstance(h, Tensor) or h.shape[:1] != y.shape[:1] or (x.ndim == 2 and h.ndim != 2):
            given = f"a tensor {tuple(h.shape)}" if isinstance(h, Tensor) else _a(h)
            raise UserError(
                f"{name}: measured layer '{label}' takes {given} for {len(y)} rows; it must take one vector for each, "
                f"({len(y)}, d), as its first argument"
            )
        if h._version != version:
            raise UserError(
                f"{name}: the input of measured layer '{label}' is overwritten after it has run (inplace=True, +=); "
                "write the result to another tensor"
            )
    if order != list(layers):
        raise UserError(
            f"{name}: measured_layers() gives {', '.join(layers)}, but they run as {', '.join(order)}; give them in that "
            "order, the layer that makes the predictions last"
        )
    head = order[-1]
    weight, bias = reading_weight(layers[head])
    h = seen[head][0][0]
    if weight is None or bias is None or weight.shape != (y.shape[1], h.shape[-1]) or h.ndim != 2:
        shape = "no weight" if weight is None else f"a weight {tuple(weight.shape)}"
        raise UserError(
            f"{name}: the last measured layer '{head}' has {shape}, so it cannot predict {y.shape[1]} targets; let "
            "measured_layers() end with the nn.Linear that makes the predictions"
        )
    w, b = weight.detach().double(), bias.detach().double()
    size = h.double().abs() @ w.abs().T + b.abs()  # of what cancels out in a sum
    if bool(unlike(out, h.double() @ w.T + b, size)):
        raise UserError(f"{name}: {unlike_head(head)}")


def _layers(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """`measured_layers()`, if it names modules of the network."""
    wanted = "it must return {name: module} in forward order, the layer that makes the predictions last"
    if not callable(getattr(model, "measured_layers", None)):
        raise UserError(f"{name}: {type(model).__name__} has no method measured_layers(); {wanted}")
    layers = model.measured_layers()  # type: ignore[operator]
    if not isinstance(layers, dict) or not layers:
        given = "nothing" if isinstance(layers, dict) else _a(layers)
        raise UserError(f"{name}: measured_layers() returned {given}; {wanted}")
    inside = set(model.modules())
    for label, module in layers.items():
        # a label stands in a line of metrics.csv
        if (
            not isinstance(label, str)
            or not label
            or any(c in label for c in ',"\r\n')
            or label.endswith(OUT)
        ):
            raise UserError(
                f"{name}: measured_layers() has the name {label!r}; give a text without commas, quotes and '{OUT}'"
            )
        if not isinstance(module, nn.Module) or module not in inside:
            raise UserError(
                f"{name}: measured_layers()[{label!r}] is {_a(module)}, no module of the network; {wanted}"
            )
    return layers


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
