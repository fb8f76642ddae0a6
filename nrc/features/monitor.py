"""Collapse metrics of somebody else's network, inside somebody else's training loop."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from nrc.features.collect import MAX_FEATURES, Collected, Output, Reader
from nrc.features.layers import default_layers
from nrc.features.measure import measure_splits
from nrc.features.table import Table
from nrc.metrics.groups import spread


class CollapseMonitor:
    """Collapse metrics of somebody else's network, inside somebody else's training loop.

    Args:
        model, layers, head, output, outputs, channels, max_features, all_ranks: as for `nrc.collect`.
        rank: number of target directions r; None: the numerical rank of the targets.

    Attributes:
        head: the layer whose W h + b is the network's output in the latest measurement, or the one named; None: none.
        undefined: layer -> metric -> why it is NaN, for the latest measurement.
        skipped: layer -> why it is not measured (attention's output projection, shared modules, token features
            where there is one target a sequence, ...); complete after the first measurement.
        table: the latest measurement.

    Example:
        >>> import torch
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
        output: Output | None = None,
        outputs: Sequence[int] | None = None,
        channels: Mapping[str, int] | None = None,
        max_features: int = MAX_FEATURES,
        all_ranks: bool = True,
    ) -> None:
        self._reader = Reader(
            model, layers, head=head, output=output, outputs=outputs, channels=channels, max_features=max_features,
            all_ranks=all_ranks,
        )  # fmt: skip
        self.model, self.rank, self.head = model, rank, head
        self.skipped = default_layers(model)[1] if layers is None else {}
        self.table = Table({})

    @property
    def undefined(self) -> dict[str, dict[str, str]]:
        return self.table.undefined

    def measure(self, batches: Iterable[Any], *, groups: Any = None) -> Table:
        """Layer -> metric -> value over these (inputs, targets), as the network is now.

        groups: labels of the samples, as for `nrc.collect`; the table then has `.groups` and `.spread`.
        """
        found = self._reader.collect(batches, groups=groups)
        splits: dict[Hashable, Collected] = {_ALL: found, **found.groups}
        metrics = {
            name: measure_splits(self.model, {"": part}, rank=self.rank)[""] for name, part in splits.items()
        }
        tables = {
            name: Table(
                {label: m.values for label, m in layers.items()},
                {label: m.undefined for label, m in layers.items()},
            )
            for name, layers in metrics.items()
        }
        table = tables.pop(_ALL)
        table.groups = tables
        table.spread = {
            label: spread(
                [
                    (m.count, m.mean_h, float(m.sigma_h.trace()))
                    for m in (part[label] for part in found.groups.values() if label in part)
                ]
            )
            for label in (found if found.groups else ())
        }
        self.skipped, self.head, self.table = found.skipped, found.head, table
        return table

    def __str__(self) -> str:
        head = "none" if self.head is None else self.head or "the model itself"
        lines = [f"CollapseMonitor of {type(self.model).__name__}, head {head}"]
        lines.append(
            str(self.table) if self.table else "not measured yet: monitor.measure([(inputs, targets)])"
        )
        lines += [f"not measured: {label or 'the model'} {reason}" for label, reason in self.skipped.items()]
        lines += [
            f"no mse: {why['mse']}"
            for label, why in self.undefined.items()
            if label == self._judged and "mse" in why
        ]
        return "\n".join(lines)

    @property
    def _judged(self) -> str | None:
        """The layer with which the network's error stands."""
        return self.head if self.head is not None else next(reversed(self.table), None)


_ALL = object()
