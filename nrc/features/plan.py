"""What is known of a network's layers, and how samples are taken out of its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nrc.features.rows import LATER, Arrangement, Fold
from nrc.features.samples import Change, choose, cut, edges, order_of, parts, renamed
from nrc.features.spot import Spot
from nrc.features.tensors import Path


@dataclass
class Plan:
    """What is known of a network's layers.

    Attributes:
        arrangements: label -> how to read it.
        left_out: label -> why it is not measured.
        random: where in the output tensors stand that differ from pass to pass.
        disordered: where in it tensors stand whose samples are not in the order of the inputs.
        fold: how targets (B T, n) belong to samples, where they are folded.
        complete: False where the samples looked too much alike to tell, or were too few: later batches are looked at
            again.
        taking: how samples were taken out of the batch; None: they could not be.
        spot: what they showed in another order.
    """

    arrangements: dict[str, Arrangement] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    random: frozenset[Path] = frozenset()
    disordered: frozenset[Path] = frozenset()
    fold: Fold | None = None
    complete: bool = True
    taking: Taking | None = None
    spot: Spot | None = None

    def learn(self, fresh: Plan) -> dict[str, str]:
        """Take on what a later look showed; label -> why what was read before may be wrong."""
        wrong = dict(fresh.left_out)
        for label, how in fresh.arrangements.items():
            seen = how.seen
            if seen is not None and how.sample_axis not in seen.samples and not seen.folded:
                wrong[label] = seen.doubt or LATER
            elif seen is not None and seen.doubt:
                wrong[label] = seen.doubt
        self.random |= fresh.random
        self.disordered |= fresh.disordered
        if fresh.taking is not None or self.taking is None:
            self.arrangements.update(fresh.arrangements)
            self.left_out |= fresh.left_out
            self.taking, self.complete = fresh.taking, fresh.complete
            self.fold = self.fold or fresh.fold
        return wrong


@dataclass(frozen=True)
class Taking:
    """How samples are taken out of a batch.

    Attributes:
        size: how many there are.
        axes: id of an input -> which of its axes holds them.
        sample_axis: of the targets: 1 where positions come first.
        how: "few" of them; "all" in another order, where few cannot be run; "graph": all, which the edges name.
        layout: the axes in the order of the inputs, for those of another batch.
    """

    size: int
    axes: Mapping[int, int]
    sample_axis: int = 0
    how: str = "few"
    layout: tuple[int | None, ...] = ()

    def again(self, inputs: Any, size: int) -> Taking | None:
        """The same for another batch; None: its inputs are others."""
        now = parts(inputs)
        held = [(x, axis) for x, axis in zip(now, self.layout, strict=False) if axis is not None]
        fits = len(now) == len(self.layout) and all(
            not isinstance(x, Tensor) or (x.ndim > axis and x.shape[axis] == size) for x, axis in held
        )
        return replace(self, size=size, axes={id(x): axis for x, axis in held}) if fits else None

    def chosen(self, inputs: Any) -> Tensor:
        return (
            choose(inputs, self.axes, self.size)
            if self.how == "few"
            else torch.arange(self.size, device="cpu")
        )

    def order(self, inputs: Any, count: int) -> Tensor:
        if self.how != "graph":
            return order_of(count)
        named = torch.cat([x.flatten().long().cpu() for x in edges(inputs, self.size).values()])
        return order_of(count, named.unique())

    def take(self, inputs: Any, index: Tensor, change: Change | None = None) -> Any:
        if self.how == "graph":
            return renamed(inputs, self.axes, edges(inputs, self.size), index)
        return cut(inputs, self.axes, index, change)
