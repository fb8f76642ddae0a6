"""What a network puts out: its error, and the layer whose W h + b it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import double, precision

SAME = 1e-5  # of the largest prediction: what two ways to compute one product may differ by


def prediction_in(out: Any, shape: torch.Size) -> Tensor | None:
    """The first tensor of the targets' shape in an output (a tensor, or tuples, dicts and dataclasses of them).

    Example:
        >>> prediction_in({"loss": torch.tensor(0.5), "logits": torch.ones(3)}, torch.Size([3, 1])).shape
        torch.Size([3, 1])
    """
    if isinstance(out, Tensor):
        fits = out.shape == shape or (shape[-1] == 1 and out.shape == shape[:-1])
        return out.detach().reshape(shape) if fits else None
    parts: Iterable[Any] = out if isinstance(out, tuple | list) else ()
    if isinstance(out, Mapping) or is_dataclass(out):
        parts = out.values() if isinstance(out, Mapping) else vars(out).values()
    return next((found for part in parts if (found := prediction_in(part, shape)) is not None), None)


class Prediction:
    """The network's outputs over a pass, beside those of the layers that might have made them."""

    def __init__(self) -> None:
        self._total: Tensor | float = 0.0
        self._rows = 0
        self._missing = False
        self._same: dict[str, Tensor] = {}

    def add(self, out: Any, y: Tensor, mask: Tensor | None, candidates: dict[str, Tensor]) -> None:
        """One batch: what the network put out, the targets (B, ..., n), and W h + b of the candidates."""
        if not y.numel():
            return
        found = prediction_in(out, y.shape)
        if found is None:
            self._missing = True
            return

        def rows(values: Tensor) -> Tensor:
            values = values.to(y.device)
            return double(values.reshape(-1, y.shape[-1]) if mask is None else values[mask])

        prediction = rows(found)
        if not len(prediction):
            return
        self._total = self._total + (prediction - rows(y)).square().sum()
        self._rows += len(prediction)
        largest = prediction.abs().amax()
        for label, made in candidates.items():
            if made.numel() == found.numel():
                eps = max(precision(made.dtype), precision(found.dtype))
                apart = (rows(made.reshape(found.shape)) - prediction).abs().amax()
                same = largest.isfinite() & (apart <= max(4 * eps, SAME) * largest)
                self._same[label] = same & self._same.get(label, same)

    def look(self, out: Any, y: Tensor) -> None:
        """Half a batch: what is not of the targets' shape then has its axes in another order."""
        self._missing = self._missing or prediction_in(out, y.shape) is None

    @property
    def error(self) -> float | None:
        """mean |output - y|^2 over the rows; None when an output held nothing of the targets' shape."""
        return None if self._missing or not self._rows else float(self._total) / self._rows

    @property
    def maker(self) -> str | None:
        """The last layer whose W h + b was the output in every batch."""
        made = [label for label, same in self._same.items() if not self._missing and same]
        return made[-1] if made else None
