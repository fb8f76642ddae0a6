"""From what a layer sees to one row of features for each row of targets.

Axes of equal size look alike, so sizes alone do not say which axis holds the samples. What `nrc.features.probe`
found by running a few samples in another order decides where it is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nrc.errors import UserError
from nrc.features.layers import CONVOLUTIONS


class Unmeasurable(Exception):
    """Why a layer has no measurement; the text follows "layer 'name'"."""


CHANNELS_FIRST = (
    *CONVOLUTIONS,
    nn.modules.conv._ConvTransposeNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.Upsample,
)
CHANNELS_LAST = (
    nn.Linear,
    nn.Embedding,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.Transformer,
)


def feature_axis(module: nn.Module) -> int | None:
    """The axis of the features in what a module of this type reads and puts out; None: its type does not say."""
    if isinstance(module, CHANNELS_FIRST):
        return 1
    if isinstance(module, CHANNELS_LAST):
        return -1
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        return -1
    return None


@dataclass(frozen=True)
class Seen:
    """What a run in another order showed of a layer's tensor.

    Attributes:
        samples: the axes along which its entries moved with the samples.
        folded: "outer" or "inner": the first axis holds samples times positions, samples moving slower or faster.
        doubt: why the positions that it is read by are not known to be those of the targets; empty: no doubt.
    """

    samples: frozenset[int] = frozenset()
    folded: str = ""
    doubt: str = ""

    @property
    def found(self) -> bool:
        """Whether its samples were."""
        return bool(self.samples or self.folded)

    @property
    def lost(self) -> str:
        """Why its rows are not those of the samples, where they were not found."""
        return self.doubt or ORDER


@dataclass(frozen=True)
class Arrangement:
    """How to read a layer: the axis of its features (None: unknown), and what was seen of it (None: nothing)."""

    axis: int | None = None
    named_axis: bool = False  # by the user
    seen: Seen | None = None
    sample_axis: int = 0  # of the targets: 1 where positions come first


@dataclass(frozen=True)
class Fold:
    """Targets (B T, n) of samples with T positions each: unfolded they are (B, T, n)."""

    order: str  # as `Seen.folded`

    def unfold(self, y: Tensor, samples: int) -> Tensor:
        if not samples or len(y) % samples:
            raise UserError(
                f"{len(y)} target rows for {samples} samples: in the batches before they had as many rows each; "
                "give as many for every sample of a batch, or targets (B, T, n) with a mask"
            )
        if self.order == "outer":
            return y.unflatten(0, (samples, -1))
        return y.unflatten(0, (-1, samples)).transpose(0, 1)


ORDER = (
    "has its rows in another order than the targets (the network sorts or regroups its batch), or as many rows that are "
    "no samples (edges, points); measure a layer before or after that"
)
MIXED = (
    "is another one for the same samples in another order (the network mixes its batch, or keeps a state for each row), "
    "so the order of its rows could not be told"
)
LATER = (
    "has its rows in another order than the targets in some batches, and in their order in others (the network sorts "
    "or regroups its batch); measure a layer before or after that"
)
MOVED = (
    "has its positions in another order than the targets (the network flips, shifts or turns them); measure a layer "
    "before or after that"
)
TOKENS = (
    "it has a feature row for every position, but there is one target row per sample: "
    "measure after the pooling, or give targets (B, T, n)"
)


def arrange(x: Tensor, shape: tuple[int, ...], how: Arrangement, every_position: bool) -> tuple[Tensor, int]:
    """Rows (N, d) in the order of the targets' rows, and how many rows each target row has.

    Args:
        x: what the layer sees.
        shape: that of the targets: (B, n), (B, T, n) or (B, H, W, n).
        every_position: a map has a row for each of its positions, all with the targets of their sample.

    Raises:
        Unmeasurable: there is no such row, or which one it is could not be told.
    """
    if x.is_complex():
        raise Unmeasurable(f"passes complex numbers ({x.dtype}); measure a layer whose features are real")
    if _vmapped(x):
        raise Unmeasurable(
            "runs inside torch.vmap, which shows one sample (or one of several networks) at a time; call the network on "
            "whole batches"
        )
    if x.ndim == 1 and set(shape[:-1]) == {1}:
        x = x[None]  # a batch of one sample, of which `squeeze()` took the batch axis
    if x.ndim < 2:
        raise Unmeasurable(
            f"sees {tuple(x.shape)} but the targets are {shape}; the inputs have no batch axis: wrap a data set into a "
            "DataLoader"
        )
    lead = shape[:-1]
    if len(lead) > 1:
        return _every(x, shape, how), 1
    (batch,) = lead
    samples = None if how.seen is None else how.seen.samples
    if x.ndim == 2:
        if len(x) != batch:
            raise _mismatch(x, shape)
        if how.seen is not None and 0 not in how.seen.samples:
            raise Unmeasurable(how.seen.lost)
        return x, 1
    at = 0 if samples is None or 0 in samples or not samples else min(samples)
    axis = how.axis
    if axis is not None and at == axis % x.ndim:
        raise Unmeasurable(
            f"sees {tuple(x.shape)}, whose axis {at} holds the samples where features are expected"
        )
    if x.shape[at] != batch:
        raise _mismatch(x, shape)
    if how.seen is not None and not how.seen.samples:
        raise Unmeasurable(how.seen.lost)
    if axis is None:
        raise Unmeasurable(
            f"sees {tuple(x.shape)}, and which of these axes holds the features could not be told; say so: "
            "channels={'NAME': 1} or {'NAME': -1}"
        )
    x = x.movedim((at, axis), (0, -1))
    many = x.shape[1:-1].numel()
    first = how.axis == 1 or how.named_axis  # a map, whose positions are pooled
    if many == 1:
        return x.flatten(1), 1
    if not first:
        raise _mismatch(x, shape, TOKENS)
    if every_position:
        return x.flatten(0, -2), many
    return x.mean(tuple(range(1, x.ndim - 1))), 1


def _every(x: Tensor, shape: tuple[int, ...], how: Arrangement) -> Tensor:
    """Rows of targets (B, T, n) or (B, H, W, n)."""
    seen, axis, lead = how.seen, how.axis, torch.Size(shape[:-1])
    if x.ndim == 2:
        if len(x) != lead.numel():
            raise _mismatch(x, shape)
        if seen is None or not seen.folded:
            raise Unmeasurable(
                f"sees {tuple(x.shape)}, samples and positions in one axis, and their order could not be told; "
                "measure where they are apart"
            )
        if seen.doubt:
            raise Unmeasurable(seen.doubt)
        return x if seen.folded == "outer" else x.unflatten(0, (-1, lead[0])).transpose(0, 1).flatten(0, 1)
    whole, last, first = x, x.shape[:-1] == lead, (x.shape[0], *x.shape[2:]) == lead
    if axis is None and x.ndim == len(lead) + 1:
        if last and first:
            raise Unmeasurable(
                f"sees {tuple(x.shape)}, and which of these axes holds the features could not be told; say so: "
                "channels={'NAME': 1} or {'NAME': -1}"
            )
        axis = -1 if last else 1
    if axis not in (None, -1, x.ndim - 1):
        x = x.movedim(axis, -1)
    if x.shape[:-1] != lead:
        raise _mismatch(whole, shape)
    if seen is None:
        if len(lead) == 2 and lead[0] == lead[1] > 1:
            raise Unmeasurable(
                "puts positions before sequences, or it could not be told because there are as many of both "
                f"({lead[0]}) in a batch; give batches of another size"
            )
        return x.flatten(0, -2)
    if how.sample_axis not in seen.samples:
        other = "puts positions before sequences" if seen.samples and len(lead) == 2 else seen.lost
        raise Unmeasurable(other)
    if seen.doubt:
        raise Unmeasurable(seen.doubt)
    return x.flatten(0, -2)


def same_size(many: int) -> str:
    """Why a layer is not measured whose axis of that size may be another one."""
    return (
        f"has an axis of {many} that may be that of the targets' positions or another one of the same size, which "
        "could not be told; use as many positions as there are of nothing else"
    )


def _vmapped(x: Tensor) -> bool:
    functorch = getattr(torch._C, "_functorch", None)
    return functorch is not None and bool(functorch.is_batchedtensor(x))


def _mismatch(x: Tensor, shape: tuple[int, ...], remedy: str = "") -> Unmeasurable:
    if not remedy:
        remedy = "give one target row per feature row, (B, T, n) for (B, T, d)"
        if len(shape) == 2 and (x.ndim > 2 or (len(x) > shape[0] > 0 and len(x) % shape[0] == 0)):
            remedy = TOKENS
        elif len(shape) > 2 and x.ndim == len(shape) and x.shape[2:] == shape[2:]:
            remedy = "the targets seem to have their channels first; give them last, (B, H, W, n): y.movedim(1, -1)"
    return Unmeasurable(f"sees {tuple(x.shape)} but the targets are {shape}; {remedy}")
