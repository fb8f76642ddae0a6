"""The largest height phi(w) = sum_i (w'r_i)_+^2 over the unit sphere of R^n, n = 1, 2, 3; for `nrc.theory.nonnegative`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCK = 2048  # rows at a time: bounds the memory
GRID = 6000  # points on the sphere, n = 3: 2.6 degrees apart


def peaks(residual: Array, rays: Array) -> tuple[Array, Array]:
    """Local maxima of phi, (P, n) and their heights (P,), the highest among them; `rays` are starts for n = 3."""
    if residual.shape[1] == 1:
        return np.array([[1.0], [-1.0]]), np.array(
            [(np.maximum(sign * residual, 0.0) ** 2).sum() for sign in (1, -1)]
        )
    return _circle_peaks(residual) if residual.shape[1] == 2 else _sphere_peaks(residual, rays)


def _circle_peaks(residual: Array) -> tuple[Array, Array]:
    """Exact: between neighbouring angles where some w'r_i changes sign, phi = A + B cos 2(theta - t)."""
    x, y = residual.T
    angle = np.arctan2(y, x)
    squares = np.stack([x * x, x * y, y * y], axis=1)
    ends = np.concatenate([(angle - np.pi / 2) % (2 * np.pi), (angle + np.pi / 2) % (2 * np.pi)])
    order = np.argsort(ends)
    changes = np.concatenate([squares, -squares])[order]
    sums = squares[x > 0].sum(0) + np.vstack([np.zeros(3), np.cumsum(changes, axis=0)])
    low, high = np.append(0.0, ends[order]), np.append(ends[order], 2 * np.pi)
    half = (sums[:, 0] - sums[:, 2]) / 2
    top = np.arctan2(sums[:, 1], half) / 2
    at = top + np.ceil((low - top) / np.pi) * np.pi  # the first maximum of the sinusoid from `low` on
    heights = (sums[:, 0] + sums[:, 2]) / 2 + np.hypot(half, sums[:, 1])
    inside = at <= high
    if not inside.any():  # all residuals are 0
        return np.array([[1.0, 0.0]]), np.zeros(1)
    angles = at[inside]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1), heights[inside]


def _sphere_peaks(residual: Array, rays: Array) -> tuple[Array, Array]:
    """From each peak on a grid and from each ray uphill: Newton on the sphere where it climbs, else a power step.

    phi is convex, so w <- grad phi/|grad phi| never goes down.
    """
    grid, neighbours = _grid(GRID)
    heights = _heights(residual, grid)
    starts = grid[(heights[:, None] >= heights[neighbours]).all(1)]
    lengths = np.linalg.norm(rays, axis=1)
    w = np.vstack([starts, rays[lengths > 0] / lengths[lengths > 0, None]])
    height, moment = _second_moments(residual, w)
    climbing = np.arange(len(w))
    for _ in range(40):
        uphill = np.einsum("pij,pj->pi", moment[climbing], w[climbing])
        new = _newton_on_sphere(w[climbing], moment[climbing], uphill, height[climbing])
        new_height, new_moment = _second_moments(residual, new)
        lower = new_height <= height[climbing]
        if lower.any():
            new[lower] = uphill[lower] / np.maximum(np.linalg.norm(uphill[lower], axis=1)[:, None], 1e-300)
            new_height[lower], new_moment[lower] = _second_moments(residual, new[lower])
        climbed = new_height > height[climbing] * (1 + 1e-11)
        climbing = climbing[climbed]
        if not len(climbing):
            break
        w[climbing], height[climbing], moment[climbing] = (
            new[climbed],
            new_height[climbed],
            new_moment[climbed],
        )
    order = np.argsort(-height)
    w, height = w[order], height[order]
    kept: list[int] = []
    for k in range(len(w)):  # starts that climbed the same peak
        if not kept or (w[kept] @ w[k]).max() < 1 - 1e-10:
            kept.append(k)
    return w[kept], height[kept]


def _newton_on_sphere(w: Array, moment: Array, uphill: Array, height: Array) -> Array:
    """One Newton step for w'Sw in the tangent plane; w itself where the second derivative is not negative."""
    frame = np.linalg.svd(w[:, None, :])[2][:, 1:, :]  # (P, 2, 3), orthonormal, orthogonal to w
    second = frame @ moment @ frame.transpose(0, 2, 1) - height[:, None, None] * np.eye(2)
    first = np.einsum("pij,pj->pi", frame, uphill)
    concave = np.linalg.eigvalsh(second)[:, -1] < 0
    second[~concave] = -np.eye(2)
    first[~concave] = 0.0
    new = w + np.einsum("pij,pi->pj", frame, -np.linalg.solve(second, first[:, :, None])[:, :, 0])
    return new / np.linalg.norm(new, axis=1, keepdims=True)


def _second_moments(residual: Array, w: Array) -> tuple[Array, Array]:
    """phi (P,) and S = sum of r r' over the rows with w'r > 0, (P, n, n)."""
    n = residual.shape[1]
    moment = np.zeros((len(w), n * n))
    for block in blocks(len(residual)):
        r = residual[block]
        moment += (w @ r.T > 0) @ (r[:, :, None] * r[:, None, :]).reshape(-1, n * n)
    moment = moment.reshape(-1, n, n)
    return np.einsum("pi,pij,pj->p", w, moment, w), moment


def _heights(residual: Array, w: Array) -> Array:
    total = np.zeros(len(w))
    for start in range(0, len(residual), 256):  # small enough for a processor's cache
        along = residual[start : start + 256] @ w.T
        np.maximum(along, 0.0, out=along)
        total += np.einsum("ij,ij->j", along, along)
    return total


def circle(count: int) -> Array:
    """Points spread evenly over the circle."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def sphere(count: int) -> Array:
    """Points spread evenly over the sphere: a golden-angle spiral."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angles = np.pi * (3 - math.sqrt(5)) * np.arange(count)
    return np.stack([np.sqrt(1 - z * z) * np.cos(angles), np.sqrt(1 - z * z) * np.sin(angles), z], axis=1)


@lru_cache(maxsize=1)
def _grid(count: int) -> tuple[Array, NDArray[np.intp]]:
    """The points, and of each the six nearest others."""
    from scipy.spatial import cKDTree

    points = sphere(count)
    return points, cKDTree(points).query(points, 7)[1][:, 1:]


def blocks(count: int) -> Iterator[slice]:
    """The rows 0 to count, `BLOCK` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))
