"""A measured K = W W' against the unconstrained feature model's, element by element."""

import math
from dataclasses import dataclass

import numpy as np

from nrc.metrics import gamma_star


@dataclass(frozen=True)
class Fit:
    """The theory's K = scale (S - sqrt(gamma) I) with the gamma that NRC3 likes best and the scale of K.

    Attributes:
        gram: (n, n), the fitted K.
        gamma: gamma*, in [0, lambda_min].
        lambda_min: of Sigma.
    """

    gram: np.ndarray
    gamma: float
    lambda_min: float


def fit_theory(weight: np.ndarray, sigma: np.ndarray) -> Fit:
    """Fit the theory to a measured W (n, d).

    Raises:
        Undefined: n = 1, or a W that has vanished.
    """
    gamma, _ = gamma_star(weight, sigma)
    values, vectors = np.linalg.eigh(sigma)
    roots = np.sqrt(np.maximum(values, 0.0))
    shape = (vectors * (roots - math.sqrt(gamma))) @ vectors.T
    scale = np.linalg.norm(gram(weight)) / np.linalg.norm(shape)
    return Fit(scale * shape, gamma, float(values[0]))


def gram(weight: np.ndarray) -> np.ndarray:
    """K = W W' in float64, (n, n)."""
    w = weight.astype(float)
    return w @ w.T


def elements(matrix: np.ndarray) -> np.ndarray:
    """The n (n + 1) / 2 different elements of a symmetric matrix, diagonal first."""
    return np.concatenate([np.diag(matrix), matrix[np.triu_indices(len(matrix), 1)]])
