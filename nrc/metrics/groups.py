"""The same metrics for each group of rows, and how far the groups lie apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import reduce
from operator import add

from nrc.moments import Moments


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


def spread(groups: Sequence[Moments]) -> dict[str, float]:
    """Variance of the features inside the groups and between their means.

    within = sum_g N_g/N tr(Sigma_g), between = sum_g N_g/N |hbar_g - hbar|^2; together they are tr(Sigma_H), the
    variance of all rows. [0, inf), units of h^2; between_share = between/(within + between), [0, 1], NaN where all
    rows are equal.

    Example:
        >>> import torch
        >>> apart = [Moments().update(torch.full((5, 1), k), torch.zeros(5, 1)) for k in (0.0, 2.0)]
        >>> spread(apart)
        {'within': 0.0, 'between': 1.0, 'between_share': 1.0}
    """
    whole = reduce(add, groups, Moments())
    within = sum(m.count / whole.count * float(m.sigma_h.trace()) for m in groups)
    mean = whole.mean_h
    between = sum(
        m.count / whole.count * float((m.mean_h.to(mean.device) - mean).square().sum()) for m in groups
    )
    total = within + between
    return {"within": within, "between": between, "between_share": between / total if total else float("nan")}
