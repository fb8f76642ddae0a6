"""Where weight decay lets a signal die, estimated from a deep linear network. Our own derivation; in no paper.

Take L layers without activations on centred inputs and targets (biases free): f(x) = W_L ... W_1 x, with the loss

    (k/n) mean |f(x) - y|^2 + lambda/2 sum_l |W_l|_F^2        (k: loss scale, 1/2 in the published recipe)

At every stationary point W_(l+1)' W_(l+1) = W_l W_l', so all layers share their singular values, and a map
p u v' of rank one (|u| = |v| = 1) costs lambda L/2 p^(2/L). With a = v' Sxx v and m = v' Sxy u the gradient in p
vanishes where

    lambda = (2k/n) (m - a p) p^(1 - 2/L).

The right-hand side is largest at p = (m/a) (L-2)/(2L-2). Above that largest value no p > 0 is stationary: the
direction u dies, for L > 2 at once and not gradually. The threshold of u is this value for the best v.
"""

import numpy as np

from nrc.errors import UserError

__all__ = ["thresholds"]

ROUNDS = 200  # of the fixed point below; it settles to 1e-12 in a few dozen


def thresholds(x: np.ndarray, y: np.ndarray, layers: int, loss_scale: float = 0.5) -> list[float]:
    """Weight decay above which each target direction is dead in a deep linear network, largest first.

    For each left singular vector u_j of the covariance Syx between targets and inputs, the largest lambda for
    which p u_j v' is stationary for some p > 0 and unit v (module docstring). An estimate for other networks: it
    knows nothing of activations, of penalised biases, and of more than one direction at a time.

    Args:
        x, y: inputs (N, d) and targets (N, n), any scale; they are centred here.
        layers: L, at least 2.
        loss_scale: k.

    Returns:
        min(d, n) values >= 0, in units of the weight decay (y^2 per squared weight).

    Raises:
        UserError: layers < 2, where nothing vanishes at a finite weight decay.

    Example:
        One input of variance 1, y = x, two layers: no stationary point but zero from lambda = 2k/n = 1 on.
        >>> thresholds(np.array([[-1.0], [1.0]]), np.array([[-1.0], [1.0]]), layers=2)
        [1.0]
    """
    if layers < 2:
        raise UserError(
            f"layers is {layers}; only networks of at least 2 layers lose a direction at a threshold"
        )
    x, y = (np.asarray(z, float) - np.asarray(z, float).mean(0) for z in (x, y))
    cross = x.T @ y / len(x)  # (d, n)
    if len(x) < x.shape[1]:  # the rows span all that matters
        lengths, rows = np.linalg.svd(x, full_matrices=False)[1:]
        values, vectors = lengths**2 / len(x), rows.T
    else:
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
    u = np.linalg.svd(cross, full_matrices=False)[2]  # (min(d, n), n)
    found = [_largest(vectors.T @ (cross @ direction), values, layers) for direction in u]
    return sorted((2 * loss_scale / y.shape[1] * value for value in found), reverse=True)


def _largest(s: np.ndarray, values: np.ndarray, layers: int) -> float:
    """max over unit v and p > 0 of (v's - p v'Dv) p^(1 - 2/L), for D = diag(values), in D's basis (where s is not 0)."""
    if not np.linalg.norm(s) > 0:
        return 0.0
    e = 1 - 2 / layers
    v = s / np.linalg.norm(s)
    for _ in range(ROUNDS):  # gradient in v = 0: v is parallel to (2 e D/a + (1 - e) I)^-1 s
        v = s / (2 * e * values / max(v @ (values * v), 1e-300) + (1 - e))
        v /= np.linalg.norm(v)
    m, a = float(v @ s), float(v @ (values * v))
    p = m / a * e / (1 + e)  # (L - 2)/(2L - 2)
    return (m - a * p) * p**e
