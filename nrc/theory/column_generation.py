"""The minimum of `nrc.theory.nonnegative` for 2 and 3 targets, by rays that join and leave.

By hand, as no solver that we know has rays of a cone for columns. Everything here has y and r divided by sqrt(M).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nrc.theory.sphere import blocks, circle, peaks, sphere

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

ROUNDS = 100  # most rounds of adding rays
FIRST = {2: 16, 3: 60}  # rays at the start
ADDED = {2: 40, 3: 120}  # most rays that one round adds
DEAD = 1e-12  # share of the gauge below which a ray counts as dead


def column_generation(
    y: Array, c: float, lambda_b: float, tolerance: float
) -> tuple[Array, Array, Array, Array]:
    """Rays (K, n), amounts (K,), bias (n,) and residuals (M, n) of the minimum."""
    size = float(np.abs(y).max()) or 1.0  # solved in units of the targets: loss(t y, t^2 c) = t^2 loss(y, c)
    problem = _Problem(y / size / math.sqrt(len(y)), c / size**2, lambda_b)
    n = y.shape[1]
    rays = circle(FIRST[n]) if n == 2 else sphere(FIRST[n])
    spread = float(np.linalg.norm(problem.y))
    point = _Point(np.full(len(rays), spread / len(rays)), np.zeros(n), problem.y)
    limit = problem.c * (1 + tolerance / 2) ** 2
    for round_ in range(ROUNDS):
        point = problem.minimise(rays, point)
        alive = point.amounts > DEAD * point.amounts.sum()
        where, heights = peaks(point.residual, rays[alive])
        log.debug(
            "round %d: %d rays, %d alive, violation %.1e",
            round_, len(rays), alive.sum(), math.sqrt(heights.max() / problem.c) - 1,
        )  # fmt: skip
        rays, point = rays[alive], _Point(point.amounts[alive], point.bias, point.residual)
        if heights.max() <= limit:
            break
        new = where[heights > limit][np.argsort(-heights[heights > limit])][: ADDED[n]]
        rays = np.vstack([rays, new])
        point = _Point(np.append(point.amounts, np.zeros(len(new))), point.bias, point.residual)
    return rays, point.amounts * size, point.bias * size, point.residual * size


@dataclass(frozen=True)
class _Point:
    amounts: Array  # (K,), a_k = |w_k| |h_k| / sqrt(M)
    bias: Array  # (n,)
    residual: Array  # (M, n), a start for the rows' own problems, or their solution


@dataclass(frozen=True)
class _Problem:
    """F(a, b) = sum_i max_r [r'(y_i - b/sqrt(M)) - |r|^2/2 - sum_k a_k/(2 sqrt(c)) (w_k'r)_+^2]
    + sqrt(c)/2 sum a + lambda_b/2 |b|^2: the loss for given rays, a smooth convex function of a >= 0 and b."""

    y: Array
    c: float
    lambda_b: float

    def minimise(self, rays: Array, start: _Point) -> _Point:
        """Newton's method in (a, b), each step a non-negative least squares problem in a, b eliminated."""
        from scipy.linalg import solve_triangular
        from scipy.optimize import nnls

        count = len(rays)
        point = start
        value, point, gradient, hessian = self.evaluate(rays, point)
        for _ in range(60):
            of_a, of_b = gradient[:count], gradient[count:]
            active = np.where(point.amounts > 0, np.abs(of_a), np.maximum(-of_a, 0.0))
            if max(active.max(initial=0.0), np.abs(of_b).max()) < 1e-10 * math.sqrt(self.c):
                break
            x = np.append(point.amounts, point.bias)
            linear = hessian @ x - gradient
            aa, ab, bb = hessian[:count, :count], hessian[:count, count:], hessian[count:, count:]
            through = np.linalg.solve(bb, ab.T).T
            schur = aa - through @ ab.T
            schur[np.diag_indices(count)] += 1e-12 * np.trace(schur) / count  # rays close to each other
            factor = np.linalg.cholesky(schur)
            right = solve_triangular(factor, linear[:count] - through @ linear[count:], lower=True)
            amounts = nnls(factor.T, right, maxiter=50 * count)[0]
            bias = np.linalg.solve(bb, linear[count:] - ab.T @ amounts)
            step = np.append(amounts, bias) - x
            slope, share = float(gradient @ step), 1.0
            while True:
                moved = x + share * step
                trial = _Point(np.maximum(moved[:count], 0.0), moved[count:], point.residual)
                result = self.evaluate(rays, trial)
                if result[0] <= value + 1e-4 * share * slope + 1e-15 * abs(value):
                    break
                share /= 2
                if share < 1e-6:  # rounding: no lower point on the way
                    return point
            value, point, gradient, hessian = result
        return point

    def evaluate(self, rays: Array, point: _Point) -> tuple[float, _Point, Array, Array]:
        """F, the point with its residuals solved, and gradient and Hessian of F in (a, b)."""
        count, n = rays.shape
        root_c, root_m = math.sqrt(self.c), math.sqrt(len(self.y))
        strengths = point.amounts / root_c
        residual = np.empty_like(self.y)
        value, heights, hessian = 0.0, np.zeros(count), np.zeros((count + n, count + n))
        for block in blocks(len(self.y)):
            y = self.y[block] - point.bias / root_m
            r, h, curvature = _solve_rows(y, rays, strengths, point.residual[block])
            residual[block] = r
            value += float((r * y).sum() - (r * r).sum() / 2 - (h * h).sum(0) @ strengths / 2)
            heights += (h * h).sum(0)
            columns = np.empty((len(y), n, count + n))
            np.multiply(h[:, None, :], rays.T, out=columns[:, :, :count])
            columns[:, :, count:] = root_c / root_m * np.eye(n)
            half = (_inverse_root(curvature) @ columns).reshape(-1, count + n)
            hessian += half.T @ half
        hessian /= self.c
        hessian[count:, count:] += self.lambda_b * np.eye(n)
        of_b = self.lambda_b * point.bias - residual.sum(0) / root_m
        gradient = np.append(root_c / 2 * (1 - heights / self.c), of_b)
        value += root_c / 2 * point.amounts.sum() + self.lambda_b / 2 * float(point.bias @ point.bias)
        return value, _Point(point.amounts, point.bias, residual), gradient, hessian


def _solve_rows(y: Array, rays: Array, strengths: Array, start: Array) -> tuple[Array, Array, Array]:
    """For each row: r that minimises |r|^2/2 - r'y + sum_k s_k/2 (w_k'r)_+^2 (strongly convex, piecewise quadratic).

    Newton's method with halved steps. Returns r (m, n), (w_k'r)_+ (m, K) and the Hessians (m, n, n).
    """
    n = y.shape[1]
    outer = (strengths[:, None, None] * rays[:, :, None] * rays[:, None, :]).reshape(-1, n * n)
    tiny = 1e-15 * float(np.abs(y).max())

    def at(r: Array, y: Array) -> tuple[Array, Array]:
        h = np.maximum(r @ rays.T, 0.0)
        return h, (r * r).sum(1) / 2 - (r * y).sum(1) + (h * h) @ strengths / 2

    r = start
    h, value = at(r, y)
    for _ in range(100):
        gradient = r - y + (h * strengths) @ rays
        curvature = ((h > 0) @ outer).reshape(-1, n, n) + np.eye(n)
        step = -np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        if np.abs(step).max() <= tiny:
            break
        slope = (gradient * step).sum(1)
        new = r + step
        new_h, new_value = at(new, y)
        share = np.ones(len(r))
        for _ in range(40):
            short = np.flatnonzero(new_value > value + 1e-4 * share * slope + 1e-15 * np.abs(value))
            if not len(short):
                break
            share[short] /= 2
            new[short] = r[short] + share[short, None] * step[short]
            new_h[short], new_value[short] = at(new[short], y[short])
        r, h, value = new, new_h, new_value
    return r, h, curvature


def _inverse_root(matrices: Array) -> Array:
    """L^-1 with L L' = A for each symmetric positive definite A, (m, n, n)."""
    return np.linalg.inv(np.linalg.cholesky(matrices))
