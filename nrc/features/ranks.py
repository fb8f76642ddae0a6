"""The same pass on several ranks of torch.distributed, each over its own share of the data: one result for all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nrc.errors import UserError
from nrc.features.hooks import Read
from nrc.features.weights import Applied
from nrc.moments import Moments


def several() -> bool:
    """Whether this process is one of several ranks."""
    d = torch.distributed
    return d.is_available() and d.is_initialized() and d.get_world_size() > 1


def gathered(value: Any) -> list[Any]:
    """The value of every rank, in their order; all of them must call."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def raise_together(error: Exception | None) -> None:
    """Raise on every rank what one of them met; without it the others would wait for ever.

    Raises:
        UserError: another rank's error, by its number.
    """
    errors = gathered(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(errors):
        if text is not None:
            raise UserError(f"rank {rank} could not measure: {text}")


def merge(read: Read) -> tuple[Read, Tensor | None]:
    """The pass of all ranks as one, and the mean of the last layer's features; every rank gets the same.

    A layer that any rank left out is left out. The kept features stay where they are.
    """
    facts = gathered((list(read.moments), read.skipped, read.last, read.kept is not None, list(read.groups)))
    whole = Read(weights=read.weights, kept=read.kept)
    for reasons in gathered({label: w.reason for label, w in read.weights.items() if w.reason}):
        whole.weights |= {label: Applied(reason=reason) for label, reason in reasons.items()}
    whole.batches = sum(gathered(read.batches))
    for ran in gathered(read.ran):
        whole.ran.update(ran)
    for _, skipped, *_ in facts:
        whole.skipped |= {label: reason for label, reason in skipped.items() if label not in whole.skipped}
    labels = [
        label
        for label in dict.fromkeys(name for ran, *_ in facts for name in ran)
        if label not in whole.skipped
    ]
    names = list(dict.fromkeys(name for *_, groups in facts for name in groups))
    for label in labels:
        whole.moments[label] = _sum(read.moments.get(label))
        for name in names:
            moments = _sum(read.groups.get(name, {}).get(label))
            if moments.count:
                whole.groups.setdefault(name, {})[label] = moments
    lasts = {last for _, _, last, _, _ in facts if last}
    whole.last = lasts.pop() if len(lasts) == 1 else ""
    if not all(kept for *_, kept, _ in facts):
        whole.kept = None
    return whole, whole.moments[whole.last].mean_h if whole.last in whole.moments else None


def _sum(moments: Moments | None) -> Moments:
    home = "cpu" if moments is None or not moments.count else moments.mean_h.device
    total = Moments()
    for part in gathered(None if moments is None else moments.to("cpu")):
        if part is not None and part.count:
            total = total.merge(part)
    return total.to(home)


def add_centred(moments: Moments) -> None:
    """Put the directions about the common mean together, after every rank added its own."""
    parts = [
        part for part in gathered(None if moments.centred is None else moments.centred.to("cpu")) if part
    ]
    if parts:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        moments.centred = total.to(moments.mean_h.device)
