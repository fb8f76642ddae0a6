"""Moments of every named layer of a network in one forward pass, for any `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nrc.arrays import as_tensor
from nrc.errors import UserError
from nrc.metrics.assemble import Metrics, evaluate
from nrc.metrics.layer import Layer
from nrc.metrics.linalg import weight_spectrum
from nrc.moments import Moments
from nrc.taps import OUT, Taps, measured_layers

KEEP_BYTES = 256 << 20


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def collect(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    layers: Sequence[str] | None = None,
    *,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
) -> dict[str, Moments]:
    """Moments of all layers in one forward pass over the data, in evaluation mode, without gradients.

    Args:
        model: any module; its training mode is restored afterwards and nothing stays attached to it.
        batches: pairs (inputs, targets), tensors or arrays; inputs (B, ...), targets (B, n) or (B,).
            For sequences (B, T, d) the targets are (B, T, n).
        layers: names as in `named_modules()` (or the model's own labels); a layer is measured at its input,
        with
            suffix ':out' at its output. None: the model's `measured_layers()`, else every Linear and Conv2d
            that runs.
        keep_bytes: the last layer's features are kept up to this size, for `nrc1_centred`, which needs their
        mean first.
        positions: "pool" averages maps (B, c, h, w) over positions; "all" takes every position as a sample,
            with its image's targets.

    Returns:
        label -> Moments, in forward order.

    Raises:
        UserError: unknown or unused layers, shapes that do not fit, a layer that runs twice, no batches.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> moments = collect(model, [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)])
        >>> {label: (m.count, m.d) for label, m in moments.items()}
        {'0': (48, 4), '2': (48, 8)}
    """
    parameter = next(model.parameters(), None)
    chosen = measured_layers(model, layers)
    taps = Taps(chosen, keep_bytes, positions)
    try:
        with _evaluating(model):
            for batch in batches:
                inputs, taps.targets = _pair(batch, parameter)
                model(inputs)
                taps.end_batch()
    finally:
        taps.close()
    if not taps.moments:
        raise UserError("no batch reached the measured layers; give at least one (inputs, targets) pair")
    unused = [label for label in chosen if label not in taps.moments]
    if layers is not None and unused:
        raise UserError(f"layer '{unused[0]}' did not run in the forward pass; leave it out of layers=[...]")
    return taps.finish(keep_bytes)


def _pair(batch: Any, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(
            f"a batch must be a pair (inputs, targets), got {type(batch).__name__}; wrap it: [(x, y)]"
        )
    x, y = as_tensor(batch[0], "inputs"), as_tensor(batch[1], "targets")
    if parameter is not None:
        x = x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)
    return x, (y[:, None] if y.ndim == 1 else y).to(x.device)


def measure_layers(
    model: nn.Module,
    moments: dict[str, Moments],
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
    splits: dict[str, dict[str, Moments]],
    *,
    rank: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the same layers on several sets, say {"train": ..., "test": ...}.

    The weights are decomposed once. The first split is the training set: on the others linear_mse applies the
    map fitted there, and NRC3's Sigma and the number of target directions come from there. The last Linear
    with n outputs gives mse, r2, nrc2 and nrc3; elsewhere they are NaN. Layers measured at their output
    (':out') have no weight metrics.

    Returns:
        split -> layer -> Metrics.
    """
    first = next(iter(splits.values()))
    modules = measured_layers(model, list(first))
    readers = {label: _reader(m) for label, m in modules.items() if not label.endswith(OUT)}
    heads = [label for label in readers if _outputs(modules[label]) == first[label].n]
    chosen = None if only is None else list(only)
    table: dict[str, dict[str, Metrics]] = {split: {} for split in splits}
    for label in first:
        weight, bias = readers.get(label, (None, None))
        decomposed = None if weight is None else weight_spectrum(weight)
        train = None
        for split, moments in splits.items():
            layer = Layer.of(
                moments[label],
                decomposed,
                bias,
                rank=rank,
                maps_to_targets=bool(heads) and label == heads[-1],
                linear_map_from=train,
            )
            train = train or layer
            table[split][label] = evaluate(layer, chosen)
    return table


def _outputs(module: nn.Module) -> int | None:
    return module.out_features if isinstance(module, nn.Linear) else None


def _reader(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a layer that maps its input linearly (no bias: zeros)."""
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None, None
    weight = module.weight.detach()
    return weight, torch.zeros(len(weight)) if module.bias is None else module.bias.detach()


class CollapseMonitor:
    """Collapse metrics of somebody else's network, inside somebody else's training loop.

    Args:
        model, layers: as for `collect`.
        rank: number of target directions r; None: the numerical rank of the targets.

    Attributes:
        undefined: layer -> metric -> why it is NaN, for the latest measurement.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> monitor = CollapseMonitor(model)
        >>> table = monitor.measure([(torch.randn(64, 4), torch.randn(64, 2))])
        >>> sorted(table), 0 < table["2"]["noise"] < 1
        (['0', '2'], True)
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str] | None = None, *, rank: int | None = None
    ) -> None:
        measured_layers(model, layers)  # a wrong name fails here, before training starts
        self.model = model
        self.layers = layers
        self.rank = rank
        self.undefined: dict[str, dict[str, str]] = {}

    def measure(self, batches: Iterable[tuple[Any, Any]]) -> dict[str, dict[str, float]]:
        """Layer -> metric -> value over these (inputs, targets), as the network is now."""
        moments = collect(self.model, batches, self.layers)
        table = measure_layers(self.model, moments, rank=self.rank)
        self.undefined = {label: metrics.undefined for label, metrics in table.items()}
        return {label: metrics.values for label, metrics in table.items()}
