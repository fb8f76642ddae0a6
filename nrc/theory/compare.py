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
        gamma_from_decay: the gamma of the UFM whose lambda_W is the weight decay and whose lambda_H gives the
            measured trace of K: the one number left free is then K's size. NaN if no lambda_H does.
        lambda_min: of Sigma.
    """

    gram: np.ndarray
    gamma: float
    gamma_from_decay: float
    lambda_min: float


def fit_theory(weight: np.ndarray, sigma: np.ndarray, weight_decay: float) -> Fit:
    """Fit the theory to a measured W (n, d).

    Raises:
        Undefined: n = 1, or a W that has vanished.
    """
    n = len(sigma)
    gamma, _ = gamma_star(weight, sigma)
    values, vectors = np.linalg.eigh(sigma)
    roots = np.sqrt(np.maximum(values, 0.0))
    shape = (vectors * (roots - math.sqrt(gamma))) @ vectors.T
    measured = gram(weight)
    scale = np.linalg.norm(measured) / np.linalg.norm(shape)
    # coded loss: sqrt(gamma) = n lambda_W a and tr K = a (tr S - n sqrt(gamma)); of its two roots
    # the one that is tr K / tr S for a small weight decay
    total, target = roots.sum(), np.trace(measured)
    inside = total**2 - 4 * n**2 * weight_decay * target
    a = (
        (total - math.sqrt(inside)) / (2 * n**2 * weight_decay)
        if inside >= 0 and weight_decay > 0
        else math.nan
    )
    return Fit(scale * shape, gamma, (n * weight_decay * a) ** 2, float(values[0]))


def gram(weight: np.ndarray) -> np.ndarray:
    """K = W W' in float64, (n, n)."""
    w = weight.astype(float)
    return w @ w.T


def deviation(measured: np.ndarray, theory: np.ndarray) -> float:
    """Largest difference of two matrices, relative to the largest element of the theory's."""
    return float(np.abs(measured - theory).max() / np.abs(theory).max())


def correlation(measured: list[np.ndarray], theory: list[np.ndarray]) -> float:
    """Pearson correlation over all different elements of pairs of matrices."""
    a, b = (np.concatenate([elements(k) for k in group]) for group in (measured, theory))
    return float(np.corrcoef(a, b)[0, 1])


def elements(matrix: np.ndarray) -> np.ndarray:
    """The n (n + 1) / 2 different elements of a symmetric matrix, diagonal first."""
    return np.concatenate([np.diag(matrix), matrix[np.triu_indices(len(matrix), 1)]])
