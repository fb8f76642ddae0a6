"""Moments of every named layer of a network in one forward pass, for any `nn.Module`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from nrc.arrays import unpack
from nrc.errors import UserError
from nrc.layers import OUT, default_layers, measured_layers, reading_weight, unwrapped
from nrc.metrics.assemble import Metrics, evaluate
from nrc.metrics.layer import Layer
from nrc.metrics.linalg import weight_spectrum
from nrc.moments import Moments
from nrc.taps import Taps

KEEP_BYTES = 256 << 20


def _uncompiled() -> AbstractContextManager[Any]:
    # compiled code does not look at hooks that came later; importing the compiler takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and every module called as a module, so that hooks fire."""
    modes = {module: module.training for module in model.modules()}
    # nn.TransformerEncoder otherwise packs padded batches, and its layers may call no submodule
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Sequence[str] | None = None,
    *,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
) -> dict[str, Moments]:
    """Moments of all layers in one forward pass over the data, in evaluation mode, without gradients.

    Args:
        model: any module; its training mode is restored afterwards and nothing stays attached to it. Inside
            DataParallel, DistributedDataParallel or torch.compile the network itself is run, by its own names.
        batches: pairs (inputs, targets) or triples with a mask, tensors or arrays. inputs: (B, ...), a tuple
            of them, or a dict that the model takes by keyword. targets: (B, n) or (B,); for features at every
            position, (B, T, d), targets (B, T, n). mask: targets' shape without n, True where a row counts.
        layers: names as in `named_modules()` (or the model's own labels); a layer is measured at its input,
            with suffix ':out' at its output. None: the model's `measured_layers()`, else every Linear,
            convolution and self-attention (at its fused in-projection).
        keep_bytes: the last layer's features are kept up to this size, for `nrc1_centred`, which needs their
            mean first.
        positions: "pool" averages maps (B, c, h, w) over positions; "all" takes every position as a sample,
            with its image's targets.

    Returns:
        label -> Moments, in forward order.

    Raises:
        UserError: unknown layers, no batches; and with `layers` given a layer that does not run, runs twice or
            does not fit the targets. With layers=None such layers are left out and a warning names them.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> moments = collect(model, [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)])
        >>> {label: (m.count, m.d) for label, m in moments.items()}
        {'0': (48, 4), '2': (48, 8)}
    """
    moments, skipped = collect_with_skipped(model, batches, layers, keep_bytes, positions)
    if skipped:
        named = [f"'{label}' {reason}" for label, reason in skipped.items()]
        more = f"; and {len(named) - 3} more: CollapseMonitor.skipped lists all" if len(named) > 3 else ""
        warnings.warn("not measured: " + "; ".join(named[:3]) + more, stacklevel=2)
    return moments


def collect_with_skipped(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Sequence[str] | None,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
) -> tuple[dict[str, Moments], dict[str, str]]:
    """`collect` without the warning: the moments, and label -> why a layer was left out."""
    network = unwrapped(model)
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    chosen = measured_layers(model, layers)
    skipped = default_layers(model)[1]
    taps = Taps(chosen, keep_bytes, strict=layers is not None, positions=positions)
    try:
        with _evaluating(network):
            for batch in batches:
                args, kwargs, taps.targets, taps.mask = unpack(batch, parameter)
                network(*args, **kwargs)
                taps.end_batch()
    finally:
        taps.close()
    idle = {
        label: skipped.get(label.removesuffix(OUT), "did not run in the forward pass")
        for label in chosen
        if label not in taps.ran | taps.skipped.keys()
    }
    if layers is not None and taps.batches:
        for label, reason in idle.items():
            raise UserError(f"layer '{label}' {reason}; or leave it out of layers=[...]")
    if not taps.moments:
        why = [f"no layer could be measured: '{label}' {reason}" for label, reason in taps.skipped.items()]
        none = "no batch with a row that counts reached the measured layers; give (inputs, targets) pairs"
        raise UserError(why[0] if why else none)
    skipped = skipped | taps.skipped | idle if layers is None else {}
    return taps.finish(keep_bytes), skipped


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
    (':out') and recurrent layers have no weight metrics.

    Returns:
        split -> layer -> Metrics.
    """
    first = next(iter(splits.values()))
    modules = measured_layers(model, list(first))
    readers = {label: reading_weight(m) for label, m in modules.items() if not label.endswith(OUT)}
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


class CollapseMonitor:
    """Collapse metrics of somebody else's network, inside somebody else's training loop.

    Args:
        model, layers: as for `collect`.
        rank: number of target directions r; None: the numerical rank of the targets.

    Attributes:
        undefined: layer -> metric -> why it is NaN, for the latest measurement.
        skipped: layer -> why it is not measured (attention's output projection, shared modules, token features
            where there is one target a sequence, ...); complete after the first measurement.

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
        self.skipped = default_layers(model)[1] if layers is None else {}
        self.model = model
        self.layers = layers
        self.rank = rank
        self.undefined: dict[str, dict[str, str]] = {}

    def measure(self, batches: Iterable[Any]) -> dict[str, dict[str, float]]:
        """Layer -> metric -> value over these (inputs, targets), as the network is now; see `collect`."""
        moments, self.skipped = collect_with_skipped(self.model, batches, self.layers)
        table = measure_layers(self.model, moments, rank=self.rank)
        self.undefined = {label: metrics.undefined for label, metrics in table.items()}
        return {label: metrics.values for label, metrics in table.items()}
