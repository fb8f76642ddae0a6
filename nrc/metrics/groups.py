"""The same metrics for each group of rows, and how far the groups lie apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc.arrays import as_tensor, dense, double, refuse_mask
from nrc.errors import UserError


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


def labels_of(groups: Any) -> np.ndarray:
    """Labels as an array, each as it came: an array of a list would make text of the numbers in it."""
    refuse_mask(groups, "groups")
    if isinstance(groups, Tensor):
        groups = dense(as_tensor(groups, "groups")).cpu()
        groups = double(groups) if groups.is_floating_point() else groups  # numpy has no bfloat16
    labels = np.asarray(groups)
    return (
        np.asarray(groups, dtype=object)
        if labels.dtype.kind in "US" and isinstance(groups, list | tuple)
        else labels
    )


def coded(labels: np.ndarray, counts: np.ndarray | None = None) -> tuple[list[Hashable], np.ndarray]:
    """The different labels, in order where they have one, and for each label which of them it is.

    Args:
        counts: where a label counts; others may be missing.

    Raises:
        UserError: a missing label (None, NaN, pandas' NA or NaT).

    Example:
        >>> coded(np.array(["b", "a", "b"]))
        (['a', 'b'], array([1, 0, 1]))
    """
    missing = _missing(labels)
    if missing.any():
        bad = missing if counts is None else missing & counts
        if bad.any() or missing.all():
            value = labels[missing][0]
            raise UserError(
                f"groups holds {np.count_nonzero(missing)} missing labels ({value!r}); give such rows a label of their own, say "
                "-1 or 'none', or leave them out"
            )
        labels = np.where(missing, labels[~missing][:1], labels)
    if labels.dtype.kind != "O":
        names, codes = np.unique(labels, return_inverse=True)
        return names.tolist(), codes.reshape(labels.shape)
    flat = labels.ravel().tolist()
    try:
        found: list[Hashable] = list(dict.fromkeys(flat))
    except TypeError:
        raise UserError(
            "groups holds lists or arrays, which are no labels; give one number or word for each row"
        ) from None
    with suppress(TypeError):  # of several types: in the order in which they come
        found = sorted(found)  # type: ignore[type-var]
    at = {name: k for k, name in enumerate(found)}
    return found, np.array([at[name] for name in flat], dtype=np.int64).reshape(labels.shape)


def _missing(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind != "O":
        return np.isnat(labels) if labels.dtype.kind in "mM" else labels != labels
    return np.array([_is_missing(label) for label in labels.ravel()], dtype=bool).reshape(labels.shape)


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas' NA is neither equal nor unequal
        return type(label).__name__ == "NAType"
