"""The unconstrained feature model with NON-NEGATIVE features: its global minimum, with a certificate.

The papers' model (`nrc.theory.ufm`) lets features have any sign; features after a ReLU have none below 0. Here

    L(W, H, b) = 1/(2M) |W H + b 1' - Y|^2 + lambda_h/(2M) |H|^2 + lambda_w/2 |W|^2 + lambda_b/2 |b|^2,  H >= 0,

with Y (n, M), W (n, d), H (d, M), b (n,), and d free. lambda_b = 0 is the papers' free bias; lambda_b = the weight
decay is what a decay of all parameters does. Write c = lambda_h lambda_w, z_i = W h_i, r_i = y_i - b - z_i.

**Convex form.** For given predictions Z the least penalty is sqrt(c/M) g(Z), where the gauge g(Z) is the minimum
of sum_k |w_k| |h_k| over Z = sum_k w_k h_k' with h_k >= 0. So L is, in (Z, b), a convex function.

**Certificate.** (W, H, b) is a GLOBAL minimum if and only if
  (i)   rms_i (w'r_i)_+ <= sqrt(c) for every unit vector w of R^n,
  (ii)  lambda_h/(2M) |H|^2 + lambda_w/2 |W|^2 = mean_i r_i'z_i: every ray w_k of W attains the limit in (i), with
        h_k proportional to the rectified residuals (w_k'r_i)_+ and both penalties equal,
  (iii) lambda_b b = mean_i r_i.
(i) is a search over the unit sphere of R^n: two points, a circle, a sphere. `certificate` returns the largest
violation of the three, relative to its limit. It bounds the loss above the minimum L*: with e the certificate,
L - L* <= e (L + L* + sqrt(c) |b - b*|). Proofs: docs/theory.md.

**Who collapses.** NRC1 = NRC2 = 0 for non-negative features of rank n if and only if all z_i lie in one pointed
cone; `one_sided` decides that. Around 0 in all directions they never do, at any weight decay.

**Known and not known.** For n = 1 the minimum is in closed form; for n = 2 and 3 it is computed, up to the
certificate. The minimal loss and the residuals are unique (the loss is strictly convex in them), with lambda_b > 0 also b
and Z; the rays are not proved to be, and NRC1 depends on them. Where the sign costs nothing (targets in a narrow cone, no
bias) the minimum is that of `nrc.theory.ufm`. All this is about free features and ONE weight layer. In a deep network
the gauge becomes a quasi-norm that is not convex: no certificate, and a minimum found may be a local one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nrc.cone import OneSided, offset, one_sided
from nrc.errors import UserError
from nrc.metrics import measure_with_reasons
from nrc.theory._inputs import as_targets
from nrc.theory.column_generation import column_generation
from nrc.theory.sphere import peaks

__all__ = [
    "OneSided", "Optimum", "Prediction", "certificate", "from_trainer", "offset", "one_sided", "optimum",
    "predicted_curve",
]  # fmt: skip

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

TOLERANCE = 5e-7  # of the certificate


@dataclass(frozen=True)
class Optimum:
    """The global minimum of the model, made by `optimum`. d is the number of living rays; Z = weight @ features.

    Attributes:
        loss: L at the minimum, unit of y^2.
        rays: (n, d), unit vectors w_k/|w_k| in columns.
        weight: (n, d), W, balanced: lambda_w |w_k|^2 = lambda_h |h_k|^2/M.
        features: (d, M), H >= 0. The metrics take samples in rows: `nrc.measure(features.T, y, weight)`.
        bias: (n,), b.
        certificate: largest violation of the optimality conditions, relative to their limits; 0 is optimal.
        nrc1, nrc2, nrc1_centred: what `nrc.measure` finds at the minimum; NaN where it is undefined.
        undefined: the reason for each of these that is NaN.
    """

    loss: float
    rays: Array
    weight: Array
    features: Array
    bias: Array
    certificate: float
    nrc1: float
    nrc2: float
    nrc1_centred: float
    undefined: dict[str, str] = field(default_factory=dict)


def optimum(
    targets: Any, lambda_h: float, lambda_w: float, lambda_b: float, *, tolerance: float = TOLERANCE
) -> Optimum:
    """The global minimum of the unconstrained feature model with non-negative features, for n = 1, 2 or 3.

    n = 1, closed form: with p, q = rms of the positive and the negative part of y - b,

        z = (1 - sqrt(c)/p)_+ (y - b)_+  -  (1 - sqrt(c)/q)_+ (y - b)_-,

    and b solves lambda_b b = mean residual, one increasing scalar equation. Two rays, +1 and -1; each shrinks on its
    own and is dead when its rms is below sqrt(c). With one side dead NRC1 = 0; targets that are symmetric about b
    have NRC1 = 1/2.

    n = 2, 3: column generation. For given unit rays w_k, sqrt(c)|u| = min over a >= 0 of sqrt(c)/2 (|u|^2/a + a)
    makes L a smooth convex function of the amounts a_k and of b whose inner problem falls apart into M problems
    in R^n; Newton's method with a non-negative least squares step solves it. Then the rays that violate (i) most
    join and dead ones leave, until the certificate is below `tolerance`.

    Args:
        targets: Y as (M, n) or (M,), samples in rows, not centred.
        lambda_h, lambda_w: > 0. `from_trainer` converts a weight decay of the trainer.
        lambda_b: >= 0; 0 is the free bias.
        tolerance: of the certificate; a warning is logged if it is not reached. The closed form ignores it.

    Raises:
        UserError: penalties out of range, targets that are not finite, more than 3 of them.

    Example:
        >>> y = [[1.0], [2.0], [3.0]]
        >>> best = optimum(y, 0.1, 0.1, 0.1)                       # all on one side of the bias: one ray
        >>> best.rays.tolist(), best.nrc1 < 1e-12, best.certificate < 1e-9
        ([[1.0]], True, True)
        >>> optimum(y, 0.1, 0.1, 0.0).rays.tolist()                # free bias: a ray on each side
        [[1.0, -1.0]]
    """
    y, lambda_h, lambda_w, lambda_b = _checked(targets, lambda_h, lambda_w, lambda_b)
    c = lambda_h * lambda_w
    if y.shape[1] == 1:
        rays, amounts, bias, residual = _two_rays(y, c, lambda_b)
    else:
        rays, amounts, bias, residual = column_generation(y, c, lambda_b, tolerance)
    # h_k/sqrt(M) has the direction of the rectified residual and, balanced, the length below
    h = np.maximum(residual @ rays.T, 0.0)
    norms = np.linalg.norm(h, axis=0)
    ratio = (lambda_h / lambda_w) ** 0.25
    weight = (rays * np.sqrt(amounts)[:, None] * ratio).T
    features = (h / norms * np.sqrt(amounts) / ratio).T * math.sqrt(len(y))
    loss = _loss(y, weight, features, bias, lambda_h, lambda_w, lambda_b)
    found = certificate(y, weight, features, bias, lambda_h, lambda_w, lambda_b)
    if not found <= max(tolerance, 1e-6 if y.shape[1] == 1 else 0.0):
        log.warning("the certificate is %.1e, above the tolerance %.1e: not proved optimal", found, tolerance)
    predicted, undefined = _metrics(y, weight, features, bias)
    return Optimum(loss, rays.T, weight, features, bias, found, *predicted, undefined=undefined)


def certificate(
    targets: Any, weight: ArrayLike, features: ArrayLike, bias: ArrayLike,
    lambda_h: float, lambda_w: float, lambda_b: float,
) -> float:  # fmt: skip
    """How far (W, H, b) is from satisfying the conditions of a global minimum, relative to their limits.

    The largest of
      (i)   max over unit w of rms_i (w'r_i)_+ / sqrt(c) - 1, or 0 if negative,
      (ii)  |P - mean_i r_i'z_i| / P with the penalty P = lambda_h/(2M) |H|^2 + lambda_w/2 |W|^2 (0 if P = 0),
      (iii) |lambda_b b - mean_i r_i| / sqrt(c).
    0 if and only if (W, H, b) is a global minimum. (i) is exact for n = 1 and n = 2 (where the circle falls apart
    into 2M arcs with a maximum in closed form each). For n = 3 it is the best of a local ascent from each peak on a
    grid of 6,000 points: a lower bound, exact unless a peak is narrower than the grid is fine.

    What it proves: with e the certificate, and L* and b* at the minimum, L - L* <= e (L + L* + sqrt(c) |b - b*|).
    Expand 1/(2M) |R|^2 and the penalty on b to first order, and use <R, Z*>/M <= (1 + e) sqrt(c/M) g(Z*) and
    sqrt(c/M) g(Z*) <= L*.

    Args:
        targets: (M, n) or (M,), samples in rows.
        weight, features, bias: W (n, d), H (d, M) >= 0, b (n,); of any origin, such as another solver.
        lambda_h, lambda_w, lambda_b: as for `optimum`.

    Raises:
        UserError: shapes that do not fit, negative features, penalties out of range, more than 3 targets.

    Example:
        >>> certificate([[1.0], [-1.0]], [[0.0]], [[0.0, 0.0]], [0.0], 1.0, 1.0, 0.0)   # sqrt(c) = 1 > rms
        0.0
        >>> round(certificate([[1.0], [-1.0]], [[0.0]], [[0.0, 0.0]], [0.0], 0.1, 0.1, 0.0), 3)
        6.071
    """
    y, lambda_h, lambda_w, lambda_b = _checked(targets, lambda_h, lambda_w, lambda_b)
    w, h, b = (np.asarray(values, dtype=float) for values in (weight, features, bias))
    n, count = y.shape[1], len(y)
    if w.ndim != 2 or h.ndim != 2 or (w.shape[0], h.shape[0], h.shape[1]) != (n, w.shape[1], count):
        raise UserError(
            f"weight has shape {w.shape} and features {h.shape}; expected (n, d) = ({n}, d) and (d, M) = (d, {count})"
        )
    if b.shape != (n,):
        raise UserError(f"bias has shape {b.shape}; expected ({n},)")
    if h.size and h.min() < 0:
        raise UserError("features are negative; the model's features are >= 0")
    root_c = math.sqrt(lambda_h * lambda_w)
    z = (w @ h).T
    residual = y - b - z
    highest = max(float(value) for value in peaks(residual / math.sqrt(count), w.T)[1])
    penalty = lambda_h / (2 * count) * float((h**2).sum()) + lambda_w / 2 * float((w**2).sum())
    slack = abs(penalty - float((residual * z).sum()) / count) / penalty if penalty > 0 else 0.0
    bias_error = float(np.linalg.norm(lambda_b * b - residual.mean(0))) / root_c
    return max(math.sqrt(highest) / root_c - 1, slack, bias_error, 0.0)


def from_trainer(
    weight_decay: float, n: int, loss_scale: float = 0.5, decay_biases: bool = True
) -> tuple[float, float, float]:
    """(lambda_h, lambda_w, lambda_b) of this model for a weight decay and a loss scale of the trainer.

    The trainer's loss is k * mean over samples AND targets of (prediction - y)^2 + lambda/2 |theta|^2, which is
    2k/n times [1/(2M) |residuals|^2 + (n lambda / 2k)/2 |theta|^2]. So lambda_w = n lambda/(2k), lambda_b is the
    same if biases are decayed, else 0, and the model's loss is n/(2k) times the trainer's.

    lambda_h: `optim.penalty=ufm` has lambda/2 |H|^2/B, so lambda_h = lambda_w exactly. A network whose decay acts on
    the weights below instead has no lambda_h; to set it to lambda_w is the papers' convention, not a theorem.

    Args:
        weight_decay: lambda >= 0, `optim.weight_decay`.
        n: number of targets.
        loss_scale: k > 0, `optim.loss_scale`; 0.5 in the NeurIPS paper's code.
        decay_biases: `optim.decay_biases`.

    Example:
        >>> from_trainer(1e-2, n=2)
        (0.02, 0.02, 0.02)
        >>> from_trainer(1e-2, n=2, loss_scale=1.0, decay_biases=False)
        (0.01, 0.01, 0.0)
    """
    if not (0 <= weight_decay < math.inf and 0 < loss_scale < math.inf and n >= 1):
        raise UserError(
            f"weight_decay is {weight_decay:g}, loss_scale {loss_scale:g}, n {n}; expected >= 0, > 0 and >= 1"
        )
    strength = n * weight_decay / (2 * loss_scale)
    return strength, strength, strength if decay_biases else 0.0


@dataclass(frozen=True)
class Prediction:
    """One point of `predicted_curve`: the settings, and the model's minimum there."""

    mean: float
    scale: float
    decayed: bool
    nrc1: float
    nrc2: float
    nrc1_centred: float
    bias: Array
    certificate: float


def predicted_curve(
    targets: Any, weight_decay: float, means: Sequence[float], scales: Sequence[float] = (1.0,), *,
    direction: int = 0, loss_scale: float = 0.5, tolerance: float = TOLERANCE,
) -> list[Prediction]:  # fmt: skip
    """What the convex model predicts when the targets' mean and scale are moved, with biases decayed and not.

    The targets become scale * (y_i - ybar + mean * s u), with s^2 and u an eigenvalue and eigenvector of their
    covariance: the mean lies `mean` deviations of that direction away from 0, whatever the scale. The sign of u
    makes its largest entry positive. That is what `data.target_mean_along=sigma` does, with `data.target_mean` =
    [mean, 0, ...] for direction 0, and `data.target_scale`.

    Args:
        targets: (M, n) or (M,) rows, n <= 3; their own mean is taken away first.
        weight_decay, loss_scale: of the trainer, see `from_trainer`.
        means: in deviations.
        scales: factors on the targets.
        direction: which eigenvector; 0 is that of the largest eigenvalue.
        tolerance: of the certificate.

    Returns:
        For each scale, each mean: first biases decayed, then not. Without a bias decay the mean does not matter.

    Example:
        >>> y = np.random.default_rng(0).normal(size=200)
        >>> [round(p.nrc1, 2) for p in predicted_curve(y, 1e-2, [0.0, 3.0])]
        [0.5, 0.5, 0.03, 0.5]
    """
    rows = as_targets(targets)[0].numpy()
    n = rows.shape[1]
    if not 0 <= direction < n:
        raise UserError(f"direction is {direction}; the targets have {n} of them: give 0 to {n - 1}")
    centred = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    axis = vectors[:, n - 1 - direction]
    axis = axis * np.sign(axis[np.abs(axis).argmax()]) * math.sqrt(max(values[n - 1 - direction], 0.0))
    found = []
    for scale in scales:
        for mean in means:
            for decayed in (True, False):
                penalties = from_trainer(weight_decay, n, loss_scale, decayed)
                best = optimum(scale * (centred + mean * axis), *penalties, tolerance=tolerance)
                numbers = (best.nrc1, best.nrc2, best.nrc1_centred, best.bias, best.certificate)
                found.append(Prediction(float(mean), float(scale), decayed, *numbers))
    return found


def _checked(
    targets: Any, lambda_h: float, lambda_w: float, lambda_b: float
) -> tuple[Array, float, float, float]:
    for name, value in (("lambda_h", lambda_h), ("lambda_w", lambda_w)):
        if not 0 < value < math.inf:
            raise UserError(
                f"{name} is {value:g}; it must be a finite number > 0, else no minimum is special"
            )
    if not 0 <= lambda_b < math.inf:
        raise UserError(f"lambda_b is {lambda_b:g}; it must be a finite number >= 0 (0: a free bias)")
    y = as_targets(targets)[0].numpy()
    if y.shape[1] > 3:
        raise UserError(
            f"there are {y.shape[1]} targets; the certificate searches a sphere in at most 3 dimensions: give 1 to 3"
        )
    return y, float(lambda_h), float(lambda_w), float(lambda_b)


def _loss(
    y: Array, weight: Array, features: Array, bias: Array, lambda_h: float, lambda_w: float, lambda_b: float
) -> float:
    fit = float(((y - bias - (weight @ features).T) ** 2).sum()) / (2 * len(y))
    of_h = lambda_h / (2 * len(y)) * float((features**2).sum())
    return fit + of_h + lambda_w / 2 * float((weight**2).sum()) + lambda_b / 2 * float(bias @ bias)


def _metrics(
    y: Array, weight: Array, features: Array, bias: Array
) -> tuple[tuple[float, float, float], dict[str, str]]:
    """(NRC1, NRC2, centred NRC1) of the features, and the reasons for those that are NaN."""
    names = ("nrc1", "nrc2", "nrc1_centred")
    if not len(features):
        return (math.nan,) * 3, dict.fromkeys(names, "no ray is alive: W and H are zero")
    found = measure_with_reasons(features.T, y, weight, bias=bias)
    reasons = {name: why for name, why in found.undefined.items() if name in names}
    return (found["nrc1"], found["nrc2"], found["nrc1_centred"]), reasons


def _two_rays(y: Array, c: float, lambda_b: float) -> tuple[Array, Array, Array, Array]:
    """n = 1 in closed form: rays (K, 1), amounts |w||h|/sqrt(M) (K,), bias (1,), residuals / sqrt(M) (M, 1)."""
    from scipy.optimize import brentq

    root_c, count = math.sqrt(c), len(y)

    def residual(b: float) -> Array:
        found = np.zeros_like(y)
        for sign in (1.0, -1.0):
            part = np.maximum(sign * (y - b), 0.0)
            size = math.sqrt(float((part**2).mean()))
            found += sign * part * (min(1.0, root_c / size) if size > 0 else 0.0)
        return found

    def pull(b: float) -> float:  # increasing: the gradient of the loss with respect to b
        return lambda_b * b - float(np.mean(residual(b)))

    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    if pull(low) >= 0 or pull(high) <= 0:
        b = low if pull(low) >= 0 else high
    else:
        b = brentq(pull, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps)
    sides = [(sign, math.sqrt(float((np.maximum(sign * (y - b), 0.0) ** 2).mean()))) for sign in (1.0, -1.0)]
    alive = [(sign, size - root_c) for sign, size in sides if size > root_c]
    rays = np.array([[sign] for sign, _ in alive]).reshape(-1, 1)
    return rays, np.array([amount for _, amount in alive]), np.array([b]), residual(b) / math.sqrt(count)
