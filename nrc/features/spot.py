"""Whether the rows of a batch are those of its samples: a few of them, run alone, beside the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nrc.features.rows import ORDER, Arrangement, Seen, Unmeasurable, arrange
from nrc.features.tensors import Path

COMPARED = 64  # samples


def limits(a: Tensor, turned: Tensor) -> tuple[float, float]:
    """How far numbers stand from those of another sample, and what rounding may make of them."""
    size, spread = float(a.abs().amax()), float((a - turned).abs().amax())
    return (0.0 if spread <= 1e-5 * size else spread), min(0.01 * spread + 1e-4 * size, 0.5 * spread)


def compare(whole: Tensor, few: Tensor, index: Tensor) -> str:
    """What the samples with these numbers are in a whole batch (B, ...), beside what they are alone (k, ...).

    Returns:
        "same"; "displaced" where they stand at other places of the batch; "other" where they stand nowhere, because
        the batch changes them or chance does; "" where that could not be told.
    """
    if not whole.is_floating_point() or whole.shape[1:] != few.shape[1:] or not few.numel():
        return ""
    index, few = index[:COMPARED].to(whole.device), few[:COMPARED]
    whole, few = whole.reshape(len(whole), -1).float(), few.reshape(len(few), -1).float()
    at = whole[index]
    if len(whole) < 2 or not (at.isfinite().all() and few.isfinite().all()):
        return ""
    neighbours = whole[(index + 1) % len(whole)]
    apart, tolerance = limits(at, neighbours)
    if not apart:
        return ""
    off = (few - at).abs().amax(1) > tolerance
    if not off.any():
        return "same"
    away = torch.cdist(few[off], whole, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    # by chance a row comes as near to another one as that one's neighbour does
    usual = torch.cdist(at, whole, compute_mode="donot_use_mm_for_euclid_dist")
    usual = usual.masked_fill(usual <= 1e-6 * apart, torch.inf).amin(1).median()
    return "displaced" if float((away <= 0.1 * usual).float().mean()) > 0.5 else "other"


@dataclass
class Spot:
    """A few samples of a batch that ran alone.

    Attributes:
        index: which they are.
        tensors: what each layer saw of them.
        outs: what the network put out.
        arrangements: how to read the layers, put right where their rows turn out to stand elsewhere.
        sample_axis: of the targets.
        unclear: layers with other numbers in the whole batch than alone.
        displaced, changed: where in the output tensors stand in another order, or with other numbers.
    """

    index: Tensor
    tensors: Mapping[str, Tensor]
    outs: Mapping[Path, Tensor]
    arrangements: dict[str, Arrangement]
    sample_axis: int = 0
    unclear: set[str] = field(default_factory=set)
    displaced: set[Path] = field(default_factory=set)
    changed: set[Path] = field(default_factory=set)

    def check(self, label: str, rows: Tensor, shape: tuple[int, ...], every_position: bool) -> None:
        """Raises Unmeasurable where rows (N, d), read for targets of this shape, are not those of the samples."""
        how = self.arrangements.get(label)
        if how is None or label not in self.tensors:
            return
        lead = list(shape[:-1])
        at = self.sample_axis if len(lead) > 1 else 0

        def by_sample(x: Tensor, lead: list[int]) -> Tensor:
            return x.unflatten(0, (*lead, -1)).movedim(at, 0).flatten(1)

        few = [len(self.index) if axis == at else size for axis, size in enumerate(lead)]
        try:
            alone, _ = arrange(self.tensors[label], (*few, shape[-1]), how, every_position)
            found = compare(by_sample(rows, lead), by_sample(alone, few), self.index)
        except (Unmeasurable, RuntimeError):
            return  # shorter sequences, say
        if found == "displaced":
            seen = how.seen
            none = Seen() if seen is None else replace(seen, samples=frozenset(), folded="")
            self.arrangements[label] = replace(how, seen=none)
            raise Unmeasurable(ORDER)
        if found == "other":
            self.unclear.add(label)

    def check_outputs(self, outs: Mapping[Path, Tensor]) -> None:
        """Note which of the whole batch's outputs are not those of the samples."""
        for path in outs.keys() & self.outs.keys():
            whole, alone = outs[path], self.outs[path]
            if whole.ndim <= self.sample_axis or whole.ndim != alone.ndim:
                continue
            whole, alone = whole.movedim(self.sample_axis, 0), alone.movedim(self.sample_axis, 0)
            if len(alone) != len(self.index) or int(self.index.max()) >= len(whole):
                continue
            found = compare(whole, alone, self.index)
            if found == "displaced":
                self.displaced.add(path)
            elif found == "other":
                self.changed.add(path)
