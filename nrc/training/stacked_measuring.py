"""Measuring all members of a stack at once: one forward pass of all, their moments as batched products.

As in `nrc.training.measuring` the pass is in float64.

What comes after, small float64 eigenproblems on the CPU for each member, goes over as many threads as there are
cores to spare.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nrc.arrays import double, precision
from nrc.features.collect import KEEP_BYTES
from nrc.moments import Moments, Scatter, unit_rows
from nrc.training.measuring import Collected, Measurer, Pass
from nrc.training.placement import Batches
from nrc.training.stacked_step import StackedStepper

ELEMENTS = 1 << 24  # of a layer's features at a time: 128 MB in float64


class StackedMoments:
    """The sums of `Moments` for K members at once.

    Args:
        eps: relative rounding of the networks' type, 1.2e-7 for float32.
        directions: whether to sum the directions of the features, as in `Moments`.
    """

    def __init__(self, eps: float = 0.0, *, directions: bool = True) -> None:
        self.directions = directions
        self.joint: Scatter | None = None
        self.unit: Scatter | None = None
        self.centred: Scatter | None = None
        self.zero_rows: Tensor | int = 0
        self.n = 0
        self.precisions = (eps, 0.0)

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features (K, N, d) and targets (K, N, n)."""
        self.n = targets.shape[2]
        self.precisions = self.precisions[0], precision(targets.dtype)
        rows = double(features)
        self.joint = _plus(self.joint, torch.cat((rows, double(targets)), 2))
        if self.directions:
            unit, zero = unit_rows(rows)
            self.unit = _plus(self.unit, unit)
            self.zero_rows = self.zero_rows + zero

    def add_centred(self, features: Tensor) -> None:
        """Second pass over the same features (K, N, d), now that their mean is known."""
        assert self.joint is not None
        mean = self.joint.mean[:, None, : -self.n]
        self.centred = _plus(self.centred, unit_rows(double(features) - mean)[0])

    def members(self) -> list[Moments]:
        """The moments of each member, on the CPU."""
        assert self.joint is not None
        joint = _each(self.joint)
        unit = [None] * len(joint) if self.unit is None else _each(self.unit)
        zero = torch.as_tensor(self.zero_rows).expand(len(joint)).tolist()
        found = []
        for k, (j, u) in enumerate(zip(joint, unit, strict=True)):
            found.append(Moments.of_sums(j, u, zero[k], self.n, self.precisions))
        if self.centred is not None:
            for moments, centred in zip(found, _each(self.centred), strict=True):
                moments.centre, moments.centred = moments.mean_h, centred
        return found


def _plus(sums: Scatter | None, rows: Tensor) -> Scatter:
    return Scatter.of(rows) if sums is None else sums + Scatter.of(rows)


def _each(sums: Scatter) -> list[Scatter]:
    sums = sums.to("cpu")
    return [Scatter(sums.count, m, s) for m, s in zip(sums.mean, sums.scatter, strict=True)]


def collect_stacked(stack: StackedStepper, measurers: Sequence[Measurer]) -> list[Pass]:
    """For each member what its `Measurer.collect` finds, up to the order of the sums.

    Args:
        stack: holds the networks.
        measurers: one for each place, alike but for the rows they draw.
    """
    layers, head = measurers[0].layers, measurers[0].head
    train, scores = _moments(stack, [m.train for m in measurers], layers, head)
    shape = train[head].joint
    assert shape is not None
    if shape.count * (shape.mean.shape[1] - train[head].n) * stack.theta.itemsize <= KEEP_BYTES:
        for x, _ in _rows(stack, [m.train for m in measurers]):
            for label, features in stack.layers(x):
                if label == head:
                    train[head].add_centred(features)
    test, _ = _moments(stack, [m.test for m in measurers], layers)
    both = [_by_member(found) for found in (train, test)]
    for moments, _ in zip(*both, strict=True):
        if moments[head].centred is None:
            moments[
                head
            ].centred_missing = f"the features exceed keep_bytes={KEEP_BYTES}, so no second pass was made"
    return [Pass(*found) for found in zip(*both, scores.cpu(), strict=True)]


def _moments(
    stack: StackedStepper, parts: list[Batches], layers: list[str], head: str = ""
) -> tuple[dict[str, StackedMoments], Tensor]:
    """The sums of each layer, with directions for the head, and z = W h of all rows (K, N, n)."""
    eps = precision(stack.theta.dtype)
    found = {label: StackedMoments(eps, directions=label == head) for label in layers}
    scores = []
    weight = stack.weights[-1][0].double()
    for x, y in _rows(stack, parts):
        for label, features in stack.layers(x):
            if label in found:
                found[label].update(features, y)
        scores.append(features @ weight.mT)  # of the last layer, which is the head
    return found, torch.cat(scores, 1)


def _rows(stack: StackedStepper, parts: list[Batches]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (K, N, n_in), in float64, and targets (K, N, n) of all members, so many at a time that features fit."""
    size = max(1, ELEMENTS // max(len(weight) * max(weight.shape[1:]) for weight, _ in stack.weights))
    for batches in zip(*parts, strict=True):
        x, y = (torch.stack(side) for side in zip(*batches, strict=True))
        yield from zip(x.double().split(size, 1), y.split(size, 1), strict=True)


def _by_member(found: dict[str, StackedMoments]) -> list[Collected]:
    columns = {label: moments.members() for label, moments in found.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
