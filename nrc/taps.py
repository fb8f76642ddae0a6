"""Which layers of a network are measured, and the hooks that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from nrc.errors import UserError
from nrc.moments import Moments

OUT = ":out"  # suffix of a layer name: measure the module's output instead of its input


def measured_layers(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Label -> module of the layers to measure.

    By default what the model's own `measured_layers()` says, else every Linear and Conv2d by its path in
    `named_modules()`. `layers` picks labels or paths; the suffix ':out' stays in the label.

    Raises:
        UserError: a name that the model does not have, or nothing to measure.
    """
    own = getattr(model, "measured_layers", None)
    paths = dict(model.named_modules(remove_duplicate=False))
    named = dict(own()) if callable(own) else {}
    if layers is None:
        found = named or {p: m for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        if not found:
            raise UserError(
                f"{type(model).__name__} has no Linear or Conv2d layer; name what to measure in layers=[...]"
            )
        return found
    if isinstance(layers, str):
        layers = [layers]
    known, chosen = {**paths, **named}, {}
    for label in layers:
        path = label.removesuffix(OUT)
        if path not in known:
            names = ", ".join(
                list(named) or [p for p, m in paths.items() if isinstance(m, nn.Linear | nn.Conv2d)]
            )
            raise UserError(f"layer '{label}' is not in {type(model).__name__}; choose from: {names}")
        chosen[label] = known[path]
    return chosen


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _flat(label: str, module: nn.Module, x: Tensor, y: Tensor, positions: str) -> tuple[Tensor, Tensor]:
    """One row per sample, or per position of a map; sequences are flattened together with their targets."""
    is_map = _is_conv(module) or (x.ndim == 4 and not isinstance(module, nn.Linear))
    if is_map and x.ndim > 2:
        maps = x.flatten(2)
        if positions == "all":
            return maps.movedim(1, 2).flatten(0, 1), y.repeat_interleave(maps.shape[2], dim=0)
        x = maps.mean(2)
    if x.ndim > 2 and y.shape[:-1] == x.shape[:-1]:
        return x.flatten(0, -2), y.flatten(0, -2)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise UserError(
            f"layer '{label}' sees {tuple(x.shape)} but the targets are {tuple(y.shape)}; "
            "give one target row per feature row, (B, T, n) for (B, T, d), or measure after the pooling"
        )
    return x, y


class Taps:
    """Hooks on the measured layers that add every forward pass to their moments, until `close`.

    Set `targets` (B, n) before each forward pass, and call `end_batch` after it.
    """

    def __init__(self, layers: dict[str, nn.Module], keep_bytes: int = 0, positions: str = "pool") -> None:
        self.moments: dict[str, Moments] = {}
        self.targets: Tensor | None = None
        self._seen: set[str] = set()
        self._budget = keep_bytes
        self._positions = positions
        self._kept: list[Tensor] = []
        self._last = ""  # the last measured layer in forward order, known after the first batch
        self._first_batch = True
        self._handles = [
            module.register_forward_hook(self._hook(label, label.endswith(OUT)), with_kwargs=True)
            for label, module in layers.items()
        ]

    def _hook(self, label: str, output: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            if self.targets is None:
                return
            x = out if output else next(iter((*args, *kwargs.values())), None)
            if not isinstance(x, Tensor):
                raise UserError(
                    f"layer '{label}' passes {type(x).__name__}, not a tensor; measure a layer inside it"
                )
            self._add(label, *_flat(label, module, x.detach(), self.targets, self._positions))

        return hook

    def _add(self, label: str, x: Tensor, y: Tensor) -> None:
        if label in self._seen:
            raise UserError(
                f"layer '{label}' ran twice in one forward pass (a shared module), so it has no one input; "
                "leave it out with layers=[...]"
            )
        self._seen.add(label)
        self.moments.setdefault(label, Moments()).update(x, y)
        if self._first_batch:
            self._last, self._kept = label, []
        if label == self._last and self._budget:
            if sum(k.nbytes for k in self._kept) + x.nbytes > self._budget:
                self._kept, self._budget = [], 0
            else:
                self._kept.append(x.clone())

    def end_batch(self) -> None:
        if self._seen:
            self._first_batch = False
        self._seen, self.targets = set(), None

    def finish(self, keep_bytes: int) -> dict[str, Moments]:
        """The moments in forward order; the last layer's centred directions from its kept features."""
        for label, moments in self.moments.items():
            moments.centred_missing = "only the last measured layer's features are kept for a second pass"
            if label == self._last and not self._budget:
                moments.centred_missing = (
                    f"the features exceed keep_bytes={keep_bytes}, so no second pass was made"
                )
        if self._budget and self._last:
            last = self.moments[self._last]
            last.centre = last.mean_h
            for rows in self._kept:
                last.add_centred(rows)
        self._kept = []
        return self.moments

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
