"""The table that a measurement returns: a dict of dicts that also prints, draws and turns into a data frame."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nrc.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = (
    "nrc1",
    "nrc2",
    "nrc3",
    "noise",
    "cka",
    "feature_weight_alignment",
    "stable_rank_features",
    "linear_mse",
)


class Table(dict[str, dict[str, float]]):
    """layer -> metric -> value, in forward order.

    Attributes:
        undefined: layer -> metric -> why it is NaN.
        groups: name of a group -> the same table for its rows alone; empty without `groups=`.
        spread: layer -> {"within", "between", "between_share"}: the features' variance inside the groups and of the
            groups' means, in units of h^2, and the second as a share of both; empty without `groups=`.
    """

    def __init__(
        self,
        values: Mapping[str, Mapping[str, float]],
        undefined: Mapping[str, Mapping[str, str]] | None = None,
        groups: Mapping[Hashable, Table] | None = None,
        spread: Mapping[str, dict[str, float]] | None = None,
    ) -> None:
        super().__init__({layer: dict(metrics) for layer, metrics in values.items()})
        self.undefined = {layer: dict(why) for layer, why in (undefined or {}).items()}
        self.groups = dict(groups or {})
        self.spread = dict(spread or {})

    def to_frame(self) -> pd.DataFrame:
        """One row a layer and one column a metric; with groups one row for each layer of each group, too.

        Example:
            >>> float(Table({"head": {"mse": 0.5, "nrc1": 0.1}}).to_frame().loc["head", "mse"])
            0.5
        """
        import pandas as pd

        whole = pd.DataFrame.from_dict(dict(self), orient="index").rename_axis("layer")
        if not self.groups:
            return whole
        if "all" in self.groups:
            raise UserError("a group is named 'all', as the rows of all groups are; give it another label")
        parts = {"all": whole} | {name: table.to_frame() for name, table in self.groups.items()}
        return pd.concat(parts, names=["group"])

    def plot(self, metrics: str | Sequence[str] = ("noise", "cka"), ax: Axes | None = None) -> Axes:
        """Draw metrics against the layers in forward order, one line each; with groups a thin line for each group.

        Args:
            metrics: their names.
            ax: where to draw; None: a new figure.

        Raises:
            UserError: a metric that is not in the table.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.subplots(figsize=(max(4.0, 1.5 + 0.45 * len(self)), 3.2), layout="constrained")[1]
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        for k, name in enumerate(names):
            ax.plot(range(len(self)), self._column(name), marker="o", color=f"C{k}", label=name)
            for table in self.groups.values():
                at = {layer: x for x, layer in enumerate(self)}
                ax.plot(
                    [at[layer] for layer in table],
                    table._column(name),
                    color=f"C{k}",
                    linewidth=0.6,
                    alpha=0.6,
                )
        ax.set_xticks(range(len(self)), list(self), rotation=45, ha="right")
        ax.set_xlabel("layer")
        ax.legend()
        return ax

    def _column(self, name: str) -> list[float]:
        known: dict[str, Any] = next(iter(self.values()), {})
        if name not in known:
            raise UserError(f"there is no metric '{name}' in the table; choose from: {', '.join(known)}")
        return [metrics[name] for metrics in self.values()]

    def __str__(self) -> str:
        return "\n".join(lines(self, [name for name in SHOWN if any(name in m for m in self.values())]))


def lines(table: Mapping[str, Mapping[str, float]], metrics: Iterable[str]) -> list[str]:
    """A table of these metrics as lines of text; '-' is NaN."""
    metrics = list(metrics)
    cells = [["layer", *metrics]]
    for layer, values in table.items():
        numbers = (values.get(name, math.nan) for name in metrics)
        cells.append([layer or "(the model)", *("-" if math.isnan(v) else f"{v:.3g}" for v in numbers)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]
