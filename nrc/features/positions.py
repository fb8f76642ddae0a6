"""Whether a layer has the targets' positions where it is read, and in their order: what one changed position changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nrc.features.rows import Arrangement, Unmeasurable, arrange
from nrc.features.samples import Change, spread

CHANGED = 8  # positions
NOTHING = 1e-3  # of the largest change: none
Run = Callable[[Change], tuple[Mapping[str, Tensor], Mapping[Any, Tensor]]]


def _places(x: Tensor, positions: tuple[int, ...]) -> tuple[int, int] | None:
    """Which axes of x (k, ...) hold the positions: the first and their number; also all of them in one axis."""
    for wanted in {positions, (torch.Size(positions).numel(),)}:
        for start in range(1, x.ndim - len(wanted) + 1):
            if tuple(x.shape[start : start + len(wanted)]) == wanted:
                return start, len(wanted)
    return None


def _changed(x: Tensor, axis: int, positions: tuple[int, ...], at: list[int]) -> Tensor:
    """x with, in each of its samples, one position taken from where it differs most: another sample, or elsewhere."""
    x = x.movedim(axis, 0)
    places = _places(x, positions)
    if places is None or x.dtype == torch.bool or x.is_complex():
        return x.movedim(0, axis)
    start, many = places
    moved = x.movedim(tuple(range(start, start + many)), tuple(range(1, 1 + many)))
    flat = moved.reshape(len(x), torch.Size(positions).numel(), -1)
    new = flat.clone()
    for i, t in enumerate(at):
        for others in (flat[:, t], flat[i]):
            away = (others.double() - flat[i, t].double()).abs().sum(1)
            if float(away.max()) > 0:
                new[i, t] = others[int(away.argmax())]
                break
    new = new.reshape(moved.shape).movedim(tuple(range(1, 1 + many)), tuple(range(start, start + many)))
    return new.movedim(0, axis).contiguous()


def _change(a: Tensor, b: Tensor, how: Arrangement, lead: tuple[int, ...], n: int) -> Tensor | None:
    """How much the rows of each sample and position differ (k, P)."""
    seen = how.seen
    how = replace(how, seen=None if seen is None else replace(seen, doubt=""))
    try:
        rows = [arrange(x, (*lead, n), how, False)[0].float() for x in (a, b)]
    except Unmeasurable:
        return None
    away = (rows[0] - rows[1]).norm(dim=1)
    away = away.unflatten(0, lead).movedim(how.sample_axis, 0).flatten(1)
    return away * (away > 1e-6 * rows[0].abs().max())


def _elsewhere(change: Tensor, at: Tensor, out: Tensor | None) -> tuple[float, float, float, int]:
    """Of the positions that changed anything, the share with no change in place, with a clear peak elsewhere, and with
    a clear peak in place; and their number. Where the output does not change in place either, that says nothing."""
    peak = change.amax(1)
    told = peak > 0
    index = torch.arange(len(change), device=change.device)
    own = change[index, at]
    if out is not None:
        told &= (out[index, at] > NOTHING * out.amax(1)) | (own > NOTHING * peak)
    count = int(told.sum())
    if not count:
        return 0.0, 0.0, 0.0, 0
    top = change.topk(min(2, change.shape[1]), 1)
    second = top.values[:, 1] if top.values.shape[1] > 1 else torch.zeros_like(peak)
    elsewhere = (top.indices[:, 0] != at) & (own <= 0.25 * peak) & (second <= 0.5 * peak)
    others = (change.sum(1) - own) / max(1, change.shape[1] - 1)
    here = (own == peak) & (others <= 0.5 * peak)
    shares = [float((told & case).sum()) / count for case in (own <= NOTHING * peak, elsewhere, here)]
    return shares[0], shares[1], shares[2], count


def judge(
    run: Run,
    first: Mapping[str, Tensor],
    outs: Mapping[Any, Tensor],
    arrangements: Mapping[str, Arrangement],
    shape: tuple[int, ...],
    sample_axis: int,
    k: int,
) -> dict[str, str]:
    """Label -> "moved" where the positions are in another order than the inputs', "here" where they are clearly in it,
    "mixed" where a change spreads too far to tell; what did not change is not there.

    Args:
        run: a pass over the same k samples, each of its input tensors changed first.
        first, outs: what the layers saw, and the network put out, without.
        shape: that of the targets (B, ..., n).
    """
    lead = tuple(k if axis == sample_axis else size for axis, size in enumerate(shape[:-1]))
    positions = tuple(size for axis, size in enumerate(shape[:-1]) if axis != sample_axis)
    tried = spread(torch.Size(positions).numel(), max(CHANGED, k))
    changes: dict[str, list[Tensor]] = {}
    made: list[Tensor | None] = []
    ats: list[Tensor] = []
    for start in range(0, min(len(tried), max(CHANGED, k)), k):
        at = tried[(torch.arange(k, device="cpu") + start) % len(tried)]
        seen, put_out = run(lambda x, axis, at=at: _changed(x, axis, positions, at.tolist()))  # type: ignore[misc]
        ats.append(at)
        read = Arrangement(sample_axis=sample_axis)
        out = [
            change
            for path, x in outs.items()
            if path in put_out and x.shape[:-1] == lead and put_out[path].shape == x.shape
            if (change := _change(x, put_out[path], replace(read, axis=-1), lead, shape[-1])) is not None
        ]
        made.append(out[0] if len(out) == 1 else None)
        for label, how in arrangements.items():
            if label not in first or label not in seen or first[label].shape != seen[label].shape:
                continue
            change = _change(first[label], seen[label], how, lead, shape[-1])
            if change is not None:
                changes.setdefault(label, []).append(change)
    found = {}
    for label, several in changes.items():
        if len(several) != len(ats):
            continue
        device = several[0].device
        outs_changed = [m.to(device) for m in made if m is not None]
        beside = torch.cat(outs_changed) if len(outs_changed) == len(made) else None
        nowhere, elsewhere, here, count = _elsewhere(torch.cat(several), torch.cat(ats).to(device), beside)
        if count:
            found[label] = (
                "moved" if nowhere > 0.25 or elsewhere > 0.5 else "here" if here >= 0.75 else "mixed"
            )
    return found
