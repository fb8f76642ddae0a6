"""How many directions are more than rounding: one rule, for features and for targets.

No part of the metrics alone: a data set knows the rank of its targets before anything is measured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TARGET_TOLERANCE = 1e-10  # relative, of eigenvalues; SGEMM's nearly collinear targets have 4e-6


def rounding_along(basis: Tensor, rounding: Tensor) -> Tensor:
    """Rounding b' R b of the directions in the columns of basis (d, k); R is (d,), a diagonal, or (d, d)."""
    return (_times(rounding, basis) * basis).sum(0)


def _times(rounding: Tensor, basis: Tensor) -> Tensor:
    return rounding[:, None] * basis if rounding.ndim == 1 else rounding @ basis


def above_rounding(values: Tensor, basis: Tensor, rounding: Tensor) -> int:
    """Number of positive eigenvalues of Sigma - R in the span of basis, where B' Sigma B = diag(values), values > 0.

    That is the number of directions with more variance than rounding, in whatever coordinates.
    """
    scaled = basis / values.sqrt()
    if rounding_along(scaled, rounding).sum() < 1:  # a trace; then so is each eigenvalue
        return len(values)
    return int((torch.linalg.eigvalsh(scaled.T @ _times(rounding, scaled)) < 1).sum())


def rank_of_targets(sigma: Any, mean: Any, eps: float) -> int:
    """Numerical rank of centred targets, each divided by its standard deviation: units do not count.

    Eigenvalues of such correlations count above 1e-10 of the largest, in directions with more variance than 4 times what
    rounding may give, eps^2 of each column's mean square.

    Args:
        sigma, mean: covariance (n, n) and mean (n,) of the targets, float64 arrays or tensors.
        eps: of the type that the targets came in, `torch.finfo(torch.float32).eps` for float32.

    Example:
        >>> rank_of_targets([[1.0, 2.0], [2.0, 4.0]], [0.0, 0.0], 2.0**-23)
        1
    """
    sigma, mean = (  # a tensor stays where it is, whatever device torch would make a new one on
        torch.as_tensor(values, dtype=torch.float64, device=getattr(values, "device", "cpu"))
        for values in (sigma, mean)
    )
    variance = sigma.diagonal()
    rounding = eps**2 * (variance + mean.square())
    alive = variance > rounding
    if not alive.any():
        return 0
    scale = variance[alive].rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * sigma[alive][:, alive] * scale)
    kept = values > TARGET_TOLERANCE * values[-1]
    return above_rounding(values[kept], scale[:, None] * vectors[:, kept], 4 * rounding[alive])
