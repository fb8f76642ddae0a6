"""The hooks that read the measured layers of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nrc.arrays import dense
from nrc.errors import UserError
from nrc.features.layers import CONVOLUTIONS, OUT
from nrc.features.prediction import Prediction
from nrc.moments import Moments


class Unmeasurable(Exception):
    """Why a layer has no measurement; the text follows "layer 'name'"."""


def _input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not isinstance(module, nn.MultiheadAttention):
        return next(iter((*args, *kwargs.values())), None)
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    if not given["query"] is given["key"] is given["value"]:
        raise Unmeasurable("attends to another input than its own, so its in-projection has no one input")
    return given["query"]


def _rows(
    module: nn.Module, x: Any, y: Tensor, mask: Tensor | None, every_position: bool
) -> tuple[Tensor, Tensor]:
    """One row per target row: sequences flattened together with their targets, other maps averaged.

    With `every_position` a map has a row for each of its positions, all with the targets of their image.
    """
    if isinstance(x, tuple | list) and x:
        x = x[0]  # what recurrent and attention layers put out first
    if not isinstance(x, Tensor):
        raise Unmeasurable(f"passes {type(x).__name__}, not a tensor; measure a layer inside it")
    x = dense(x.detach())
    if isinstance(module, CONVOLUTIONS) or (x.ndim == 4 and not isinstance(module, nn.Linear | nn.LayerNorm)):
        positions = x.movedim(1, -1)
        if x.ndim > 2 and every_position and y.ndim == 2 and len(x) == len(y):
            many = positions[0, ..., 0].numel()
            x, y = positions.flatten(0, -2), y.repeat_interleave(many, 0)
            mask = None if mask is None else mask.repeat_interleave(many, 0)
        elif x.ndim > 2:
            fits = positions.shape[:-1] == y.shape[:-1]
            x = positions if fits else x.mean(tuple(range(2, x.ndim)))
    if x.shape[:-1] != y.shape[:-1] or x.ndim < 2:
        remedy = "give one target row per feature row, (B, T, n) for (B, T, d)"
        if x.ndim < 2:
            remedy = "the inputs have no batch axis: wrap a data set into a DataLoader"
        if x.ndim > 2 and y.ndim == 2:
            remedy = (
                "it has a feature row for every position, but there is one target row per sample: "
                "measure after the pooling, or give targets (B, T, n)"
            )
        raise Unmeasurable(f"sees {tuple(x.shape)} but the targets are {tuple(y.shape)}; {remedy}")
    x, y = x.flatten(0, -2), y.flatten(0, -2)
    if mask is not None:
        kept = mask.flatten()
        x, y = x[kept.to(x.device)], y[kept]
    return x, y


class Taps:
    """Hooks on the measured layers that add every forward pass to their moments, until `close`.

    Call `begin_batch` before each forward pass and `end_batch` after it. A layer that cannot be measured, or has
    more than `max_features`, goes to `skipped` with the reason; those `named` by the user have no such limit, and
    raise.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        named: set[str],
        keep_bytes: int,
        max_features: int,
        *,
        every_position: bool,
    ) -> None:
        self.moments: dict[str, Moments] = {}
        self.skipped: dict[str, str] = {}
        self.ran: Counter[str] = Counter()
        self.batches = 0
        self.prediction = Prediction()
        self._targets: Tensor | None = None
        self._mask: Tensor | None = None
        self._made: dict[str, Tensor] = {}  # label -> W h + b of the layers with n outputs, in this batch
        self._named = named
        self._seen: set[str] = set()
        self._budget = keep_bytes
        self._every_position = every_position
        self._max_features = max_features
        self._kept: list[Tensor] = []
        self._last = ""  # the last measured layer in forward order, known after the first batch
        self._first_batch = True
        self._labels = set(layers)
        self._batch_first: set[str] = set()  # layers whose first axis was seen to be that of the targets
        self._looking = False
        self._handles = [
            module.register_forward_hook(self._hook(label, label.endswith(OUT)), with_kwargs=True)
            for label, module in layers.items()
        ]

    def ambiguous(self, y: Tensor) -> bool:
        """Whether a layer that puts positions before sequences would go unnoticed: there are as many of both."""
        square = y.ndim > 2 and y.shape[0] == y.shape[1] > 1
        return square and not self._labels <= self._batch_first | self.skipped.keys()

    def begin_batch(self, y: Tensor, mask: Tensor | None, *, only_look: bool = False) -> None:
        """Say which targets (B, ..., n) belong to the next forward pass, and which of their rows count.

        With `only_look` nothing is added: the pass shows which layers put the batch first.
        """
        self._targets, self._mask, self._looking = y, mask, only_look

    def end_batch(self, out: Any) -> None:
        """Take what the network put out."""
        if self._targets is not None and self._looking:
            self.prediction.look(out, self._targets)
        elif self._targets is not None:
            self.prediction.add(out, self._targets, self._mask, self._made)
            if self.moments:
                self._first_batch = False
            self.batches += 1
            self.ran.update(self._seen)
        self._seen, self._targets, self._mask, self._made = set(), None, None, {}

    def _hook(self, label: str, output: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            y = self._targets
            if y is None or label in self.skipped:
                return
            try:
                x = out if output else _input(module, args, kwargs)
                rows = _rows(module, x, y, self._mask, self._every_position)
                self._see(label, y)
                if self._looking:
                    return
                self._add(label, *rows)
            except Unmeasurable as reason:
                if not self._looking:
                    self.refuse(label, str(reason))
                return
            if output or not isinstance(module, nn.Linear) or module.out_features != y.shape[-1]:
                return
            self._made[label] = nn.Linear.forward(module, x)  # what hooks make of it does not count

        return hook

    def _see(self, label: str, y: Tensor) -> None:
        if label in self._batch_first or y.ndim < 3 or y.shape[0] != y.shape[1]:
            self._batch_first.add(label)
        elif len(y) > 1:
            raise Unmeasurable(
                "puts positions before sequences, or it could not be told because there are as many of both "
                f"({len(y)}) in a batch; give batches of another size"
            )

    def _add(self, label: str, x: Tensor, y: Tensor) -> None:
        if label in self._seen:
            raise Unmeasurable("ran twice in one forward pass (a shared module), so it has no one input")
        d = x.shape[1]
        if d > self._max_features and label not in self._named:
            raise Unmeasurable(
                f"has {d} features, more than max_features={self._max_features}: its sums would take "
                f"{16 * d * d / 1e9:.1f} GB; name it in layers=[...], or raise max_features, if that fits"
            )
        self._seen.add(label)
        if not len(x):
            return  # the mask leaves nothing of this batch
        self.moments.setdefault(label, Moments()).update(x, y)
        if self._first_batch:
            self._last, self._kept = label, []
        if label == self._last and self._budget:
            if sum(k.nbytes for k in self._kept) + x.nbytes > self._budget:
                self._kept, self._budget = [], 0
            else:
                self._kept.append(x.clone())

    def refuse(self, label: str, reason: str) -> None:
        """Leave a layer out for this reason.

        Raises:
            UserError: the layer was named by the user.
        """
        if label in self._named:
            raise UserError(f"layer '{label}' {reason}; or leave it out of layers=[...]") from None
        self.skipped[label] = reason
        self.moments.pop(label, None)
        if label == self._last:
            self._last, self._kept = "", []

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
