"""The directions of the features that are more than rounding, and the best affine map on them.

Rounding changes every column h_j by noise of variance at most eps^2/12 of its own mean square, so a direction b
receives at most eps^2/12 sum_j b_j^2 mean h_j^2. A direction counts when its variance exceeds 12 times that
(N rows of d columns of noise alone reach 4 times it where N = d). What limits the sums is something else: float64
leaves eigenvalues below `linalg.RESOLUTION` of the largest undecided. Dividing the columns by their standard
deviations first (Jacobi scaling) takes that limit away where only the columns' units differ, and the rows
themselves, where they are at hand, reach its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nrc.arrays import double
from nrc.metrics.linalg import RESOLUTION, Spectrum, eigenvalue_floor, spectrum
from nrc.moments import Moments

UNEVEN = 10.0  # from this ratio of standard deviations on, scaling the columns is worth a second eigenproblem
SETTLED = 1e-6  # relative, of the error: a doubt below it changes nothing


@dataclass(frozen=True)
class AffineFit:
    """The best affine map H -> Y on the directions that are more than rounding.

    Attributes:
        weight: A = Sigma_YH Sigma_H^+ (n, d).
        rank: number of those directions.
        error: tr(Sigma_Y - A Sigma_HY), the summed variance of what it leaves of the targets.
        doubt: how much of that the directions that the sums leave undecided may explain.
        undecided: number of such directions.
    """

    weight: Tensor
    rank: int
    error: float
    doubt: float
    undecided: int

    @property
    def settled(self) -> bool:
        return self.undecided == 0 and self.doubt <= SETTLED * self.error


def rounding_along(basis: Tensor, rounding: Tensor) -> Tensor:
    """Rounding b' R b of the directions in the columns of basis (d, k); R is (d,), a diagonal, or (d, d)."""
    noise = rounding[:, None] * basis if rounding.ndim == 1 else rounding @ basis
    return (noise * basis).sum(0)


def fit_of_sums(moments: Moments, found: Spectrum, rounding: Tensor) -> AffineFit:
    """The fit from the sums.

    Args:
        found: values (k,) and directions B (d, k) with B' Sigma_H B = diag(values), largest value first.
        rounding: variance that rounding may give the columns, (d,) or (d, d).
    """
    values, basis = found.values, found.vectors
    noise, floor = rounding_along(basis, rounding), eigenvalue_floor(values)
    kept = (values > floor) & (values > noise)
    cross = basis.T @ moments.sigma_hy
    gains = cross.square().sum(1) / values
    weight = (cross[kept] / values[kept, None]).T @ basis[:, kept].T
    # too small for the sums, but perhaps not for the type that the features came in
    undecided = (values <= floor) & (noise < floor)
    left = basis[:, undecided].T @ (moments.sigma_hy - moments.sigma_h @ weight.T)
    limit = RESOLUTION * values[0]
    doubt = (gains * (limit / values))[kept].sum()
    doubt += (left.square().sum(1) / values[undecided].clamp_min(float(limit))).sum() if limit > 0 else 0.0
    error = moments.sigma_y.diagonal().sum() - gains[kept].sum()
    return AffineFit(weight, int(kept.sum()), max(float(error), 0.0), float(doubt), int(undecided.sum()))


def fit_of_scaled_columns(moments: Moments, rounding: Tensor) -> AffineFit | None:
    """The fit from the eigenproblem of the correlations; None where the columns are about as large as each other."""
    if rounding.ndim != 1:
        return None
    variance = moments.sigma_h.diagonal()
    alive = variance > rounding
    if not alive.any() or variance[alive].max() <= UNEVEN**2 * variance[alive].min():
        return None
    scale = torch.where(alive, variance, torch.inf).rsqrt()
    found = spectrum(scale[:, None] * moments.sigma_h * scale)
    return fit_of_sums(moments, Spectrum(found.values, scale[:, None] * found.vectors), rounding)


def fit_of_rows(moments: Moments, h: Tensor, y: Tensor, rounding: Tensor) -> AffineFit:
    """The fit from the singular values of the scaled rows h (N, d) and y (N, n) themselves."""
    variance = moments.sigma_h.diagonal()
    alive = variance > (rounding if rounding.ndim == 1 else rounding.diagonal())
    if not alive.any():
        error = float(moments.sigma_y.diagonal().sum())
        return AffineFit(moments.sigma_hy.T * 0.0, 0, error, 0.0, 0)
    scale = torch.where(alive, variance, torch.inf).rsqrt()
    rows = _centred(h)[:, alive] * scale[alive]
    left, values, right = torch.linalg.svd(rows / len(h) ** 0.5, full_matrices=False)
    basis = torch.zeros(len(scale), len(values), dtype=torch.float64)
    basis[alive] = scale[alive, None] * right.T
    # singular values are good to d eps of the largest: their squares to the square of that
    kept = values.square() > torch.maximum(
        rounding_along(basis, rounding), (2.3e-16 * len(values) * values[0]) ** 2
    )
    targets = _centred(y) / len(y) ** 0.5
    along = left[:, kept].T @ targets
    error = float((targets - left[:, kept] @ along).square().sum())
    weight = (along / values[kept, None]).T @ basis[:, kept].T
    return AffineFit(weight, int(kept.sum()), error, 0.0, 0)


def spectrum_of_rows(h: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of Sigma_H from the rows: small ones have their own accuracy."""
    rows = _centred(h) / len(h) ** 0.5
    if len(rows) > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    values, vectors = torch.linalg.svd(rows)[1:]
    padded = torch.zeros(rows.shape[1], dtype=values.dtype)
    padded[: len(values)] = values.square()
    return Spectrum(padded, vectors.T, of_rows=True)


def _centred(rows: Tensor) -> Tensor:
    rows = double(rows).cpu()
    rows = rows - rows.mean(0)
    return rows - rows.mean(0)  # again: the mean of a column about 1e16 is itself rounded
