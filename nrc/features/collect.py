"""Moments of every named layer of a network in one forward pass, for any `nn.Module`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nrc.arrays import unpack
from nrc.errors import UserError
from nrc.features.hooks import Taps
from nrc.features.layers import OUT, default_layers, measured_layers, reading_weight, unwrapped
from nrc.features.modes import evaluating
from nrc.metrics.assemble import Metrics, evaluate
from nrc.metrics.layer import Layer
from nrc.metrics.linalg import weight_spectrum
from nrc.moments import Moments

KEEP_BYTES = 256 << 20
MAX_FEATURES = 4096
POSITIONS = ("pool", "all")


class Collected(dict[str, Moments]):
    """label -> Moments in forward order, with what the pass showed of the whole network.

    Attributes:
        skipped: label -> why a layer is not among them.
        head: label of the layer whose W h + b is the network's output, or that was named as such; None: none is.
        error: mean |output - y|^2 of the network where that is not the head's W h + b; None: it is, or the
            network put out nothing of the targets' shape.
    """

    def __init__(
        self, moments: Mapping[str, Moments], skipped: dict[str, str], head: str | None, error: float | None
    ) -> None:
        super().__init__(moments)
        self.skipped, self.head, self.error = skipped, head, error


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Sequence[str] | None = None,
    *,
    head: str | None = None,
    max_features: int = MAX_FEATURES,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
) -> Collected:
    """Moments of all layers in one forward pass over the data, in evaluation mode, without gradients.

    Args:
        model: any module; its training mode is restored afterwards and nothing stays attached to it. Inside
            DataParallel, DistributedDataParallel or torch.compile the network itself is run, by its own names.
        batches: pairs (inputs, targets) or triples with a mask, tensors or arrays. inputs: (B, ...), a tuple or
            list of them, or a dict that the model takes by keyword. targets: (B, n) or (B,); for features at
            every position, (B, T, d), targets (B, T, n). mask: bool, the targets' shape without n, True where a
            row counts. Where B = T the first half of the batch is run once more, to see which axis is which.
        layers: names as in `named_modules()` (or the model's own labels); a layer is measured at its input,
            with suffix ':out' at its output. None: the model's `measured_layers()`, else every Linear,
            convolution and self-attention (at its fused in-projection).
        head: the layer whose weight counts as the last one, W. None: the Linear whose W h + b is the network's
            output (or the first tensor in it that has the targets' shape), found by comparing the two.
        max_features: a wider layer is left out unless `layers` or `head` names it; d features take 16 d^2 bytes.
        keep_bytes: the last layer's features are kept up to this size, for `nrc1_centred`, which needs their
            mean first.
        positions: "pool" averages maps (B, c, h, w) over positions; "all" takes every position as a sample,
            with its image's targets.

    Returns:
        label -> Moments, in forward order.

    Raises:
        UserError: unknown layers, no batches; and with `layers` given a layer that does not run in every batch,
            runs twice or does not fit the targets. With layers=None such layers are left out and a warning
            names them.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> moments = collect(model, [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)])
        >>> {label: (m.count, m.d) for label, m in moments.items()}, moments.head
        ({'0': (48, 4), '2': (48, 8)}, '2')
    """
    found = _collect(model, batches, layers, head, max_features, keep_bytes, positions)
    if found.skipped:
        named = [f"'{label}' {reason}" for label, reason in found.skipped.items()]
        more = f"; and {len(named) - 3} more: CollapseMonitor.skipped lists all" if len(named) > 3 else ""
        warnings.warn("not measured: " + "; ".join(named[:3]) + more, stacklevel=2)
    return found


def _collect(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Sequence[str] | None,
    head: str | None,
    max_features: int,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
) -> Collected:
    """`collect` without the warning."""
    if positions not in POSITIONS:
        raise UserError(f"positions is {positions!r}; choose pool or all")
    try:
        batches = iter(batches)
    except TypeError:
        what = type(batches).__name__
        raise UserError(
            f"batches is {what}; give a list or a DataLoader of pairs (inputs, targets)"
        ) from None
    chosen = measured_layers(model, layers, head)
    network = unwrapped(model)
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    named = {label for label in chosen if layers is not None or label == head}
    taps = Taps(chosen, named, keep_bytes, max_features, every_position=positions == "all")
    try:
        with evaluating(network):
            for batch in batches:
                args, kwargs, y, mask = unpack(batch, parameter)
                if taps.ambiguous(y):
                    _look(network, taps, args, kwargs, y)
                taps.begin_batch(y, mask)
                taps.end_batch(network(*args, **kwargs))
    finally:
        taps.close()
    if not taps.batches:
        raise UserError(
            "batches gave nothing: it is empty, or an iterator that is used up; give a list or a DataLoader"
        )
    skipped = default_layers(model)[1]
    for label in chosen:
        times = taps.ran[label]
        if label not in taps.skipped and times < taps.batches:
            never = skipped.get(label.removesuffix(OUT), "did not run in the forward pass")
            taps.refuse(label, f"ran in {times} of {taps.batches} batches" if times else never)
    if not taps.moments:
        why = [f"no layer could be measured: '{label}' {reason}" for label, reason in taps.skipped.items()]
        raise UserError(why[0] if why else "no row of the batches counts: they are empty or masked")
    made = taps.prediction.maker
    made = made if made in taps.moments else None
    head = head or made
    error = taps.prediction.error if head is None or head != made else None
    skipped = skipped | taps.skipped if layers is None else {}
    return Collected(taps.finish(keep_bytes), skipped, head, error)


def _look(network: nn.Module, taps: Taps, args: Any, kwargs: Any, y: torch.Tensor) -> None:
    """As many sequences as positions: half the batch shows which layers put the batch first."""
    half = len(y) // 2

    def cut(values: Any) -> Any:
        if isinstance(values, dict):
            return {name: cut(value) for name, value in values.items()}
        if type(values) in (tuple, list):
            return type(values)(map(cut, values))
        whole = isinstance(values, torch.Tensor) and values.ndim and len(values) == len(y)
        return values[:half] if whole else values

    taps.begin_batch(y[:half], None, only_look=True)
    with suppress(Exception):  # a mask (T, T) was cut, say: then what is not known yet is left out
        taps.end_batch(network(*cut(args), **cut(kwargs)))


def measure_layers(
    model: nn.Module,
    moments: Mapping[str, Moments],
    *,
    rank: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, Metrics]:
    """Metrics of collected layers, with the weights and biases that read them. See `measure_splits`.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> batches = [(torch.randn(32, 4), torch.randn(32, 2))]
        >>> measure_layers(model, collect(model, batches), only=["weight_rank"])[""]["weight_rank"]
        2.0
    """
    return measure_splits(model, {"": moments}, rank=rank, only=only)[""]


def measure_splits(
    model: nn.Module,
    splits: Mapping[str, Mapping[str, Moments]],
    *,
    rank: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the same layers on several sets, say {"train": ..., "test": ...}, as `collect` gives them.

    The weights are decomposed once. The first split is the training set: on the others linear_mse applies the
    map fitted there, and NRC3's Sigma and the number of target directions come from there. nrc2 and nrc3 are
    those of the head (see `collect`) and NaN elsewhere. mse and r2 are the network's own and stand with the
    head, or where there is none with the last layer. Layers measured at their output (':out') and recurrent
    layers have no weight metrics.

    Returns:
        split -> layer -> Metrics.

    Raises:
        UserError: features, targets or a weight that are not finite, by the name of the layer.
    """
    first = next(iter(splits.values()))
    head = first.head if isinstance(first, Collected) else None
    judged = head or list(first)[-1]
    chosen = None if only is None else list(only)
    table: dict[str, dict[str, Metrics]] = {split: {} for split in splits}
    # in training mode the mere read of a spectral-normed weight changes it, and an adapter's is not merged
    with evaluating(unwrapped(model)):
        for label, module in measured_layers(model, list(first)).items():
            weight, bias = (None, None) if label.endswith(OUT) else reading_weight(module)
            train = None
            try:
                decomposed = None if weight is None else weight_spectrum(weight)
                for split, moments in splits.items():
                    layer = Layer.of(
                        moments[label],
                        decomposed,
                        bias,
                        rank=rank,
                        maps_to_targets=label == head,
                        linear_map_from=train,
                    )
                    train = train or layer
                    if label == judged and isinstance(moments, Collected):
                        layer = replace(layer, error=moments.error)
                    table[split][label] = evaluate(layer, chosen)
            except UserError as error:
                raise UserError(f"layer '{label}': {error}") from None
    return table


class CollapseMonitor:
    """Collapse metrics of somebody else's network, inside somebody else's training loop.

    Args:
        model, layers, head, max_features: as for `collect`.
        rank: number of target directions r; None: the numerical rank of the targets.

    Attributes:
        head: the layer whose W h + b is the network's output in the latest measurement, or the one named; None: none.
        undefined: layer -> metric -> why it is NaN, for the latest measurement.
        skipped: layer -> why it is not measured (attention's output projection, shared modules, token features
            where there is one target a sequence, ...); complete after the first measurement.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> monitor = CollapseMonitor(model)
        >>> table = monitor.measure([(torch.randn(64, 4), torch.randn(64, 2))])
        >>> sorted(table), monitor.head, 0 < table["2"]["noise"] < 1
        (['0', '2'], '2', True)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        rank: int | None = None,
        head: str | None = None,
        max_features: int = MAX_FEATURES,
    ) -> None:
        measured_layers(model, layers, head)  # a wrong name fails here, before training starts
        self.skipped = default_layers(model)[1] if layers is None else {}
        self.model = model
        self.layers = layers
        self.rank = rank
        self.head = head
        self.max_features = max_features
        self.undefined: dict[str, dict[str, str]] = {}
        self._named_head = head

    def measure(self, batches: Iterable[Any]) -> dict[str, dict[str, float]]:
        """Layer -> metric -> value over these (inputs, targets), as the network is now; see `collect`."""
        found = _collect(self.model, batches, self.layers, self._named_head, self.max_features)
        table = measure_layers(self.model, found, rank=self.rank)
        self.skipped, self.head = found.skipped, found.head
        self.undefined = {label: metrics.undefined for label, metrics in table.items()}
        return {label: metrics.values for label, metrics in table.items()}
