"""The rank of targets: one rule, for data sets before training and for the metrics of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RANK_TOLERANCE = 1e-10  # relative, of eigenvalues; SGEMM's nearly collinear targets have 4e-6


def numerical_rank(sigma: NDArray[Any], mean: NDArray[Any], eps: float) -> int:
    """Numerical rank of centred targets, each divided by its standard deviation: units do not count.

    Eigenvalues of such correlations count above 1e-10 of the largest, in directions with more variance than 4 times what
    rounding may give, eps^2 of each column's mean square.

    Args:
        sigma, mean: covariance (n, n) and mean (n,) of the targets, float64.
        eps: of the type that the targets came in, `np.finfo(np.float32).eps` for float32.

    Example:
        >>> numerical_rank(np.array([[1.0, 2.0], [2.0, 4.0]]), np.zeros(2), 2.0**-23)
        1
    """
    variance = sigma.diagonal()
    rounding = eps**2 * (variance + mean**2)
    alive = variance > rounding
    if not alive.any():
        return 0
    scale = 1 / np.sqrt(variance[alive])
    values, vectors = np.linalg.eigh(scale[:, None] * sigma[alive][:, alive] * scale)
    kept = values > RANK_TOLERANCE * values[-1]
    directions = scale[:, None] * vectors[:, kept] / np.sqrt(values[kept])  # of variance 1
    share = directions.T @ (4 * rounding[alive, None] * directions)
    return int((np.linalg.eigvalsh(share) < 1).sum())
