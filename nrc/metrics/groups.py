"""The same metrics for each group of rows, and how far the groups lie apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor


class Values(dict[str, float]):
    """metric -> value, with the same for each group of rows.

    Attributes:
        groups: name of a group -> metric -> value over its rows alone.
        spread: see `spread`.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        groups: Mapping[Hashable, Mapping[str, float]],
        spread: Mapping[str, float],
    ) -> None:
        super().__init__(values)
        self.groups = {name: dict(metrics) for name, metrics in groups.items()}
        self.spread = dict(spread)


def spread(groups: Sequence[tuple[int, Tensor, float]]) -> dict[str, float]:
    """Variance of the features inside the groups and between their means.

    within = sum_g N_g/N tr(Sigma_g), between = sum_g N_g/N |hbar_g - hbar|^2; together they are tr(Sigma_H), the
    variance of all rows. [0, inf), units of h^2; between_share = between/(within + between), [0, 1], NaN where all
    rows are equal.

    Args:
        groups: of each group the number of rows, their mean (d,) and tr(Sigma_g).

    Example:
        >>> import torch
        >>> spread([(5, torch.zeros(1), 0.0), (5, 2 * torch.ones(1), 0.0)])
        {'within': 0.0, 'between': 1.0, 'between_share': 1.0}
    """
    count = sum(n for n, _, _ in groups)
    means = torch.stack([mean.double().cpu() for _, mean, _ in groups])
    share = torch.tensor([n / count for n, _, _ in groups], dtype=torch.float64, device="cpu")
    within = sum(n / count * trace for n, _, trace in groups)
    between = float(share @ (means - share @ means).square().sum(1))
    total = within + between
    return {"within": within, "between": between, "between_share": between / total if total else float("nan")}
