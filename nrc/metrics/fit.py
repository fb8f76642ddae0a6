"""The best affine map on the features, and how many of their directions are more than rounding.

Two limits are at work. Rounding changes every column h_j by noise of variance at most eps^2/12 of its own mean
square, so a direction b receives at most eps^2/12 sum_j b_j^2 mean h_j^2. A direction counts for the rank when its
variance exceeds 12 times that (N rows of d columns of noise alone reach 4 times it where N = d). N < d rows of noise
line up along some direction: they reach (1 + sqrt(d/N))^2 times it (Marchenko-Pastur), and (1 + sqrt(r d/N))^2 where
the longest row has r times the mean square. Twice that is asked of them, where it is more than 12. The affine map is
least squares on the numbers as they are, rounded or not.

Float64 sums, on the other hand, leave eigenvalues below `linalg.RESOLUTION` of the largest undecided. Dividing the
columns by their standard deviations first (Jacobi scaling) takes that limit away where only the columns' units
differ, and the rows themselves, where they are at hand, reach its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nrc.arrays import double
from nrc.metrics.linalg import EPS, RESOLUTION, Spectrum, eigenvalue_floor, spectrum
from nrc.moments import Moments
from nrc.rank import above_rounding, rounding_along

ROUNDED = (
    2 * torch.finfo(torch.float64).eps
) ** 2  # of a column's mean square: a variance that float64 itself makes
UNEVEN = 10.0  # from this ratio of standard deviations on, scaling the columns is worth a second eigenproblem
SETTLED = 1e-6  # relative, of the error: a doubt below it changes nothing


@dataclass(frozen=True)
class AffineFit:
    """The best affine map H -> Y.

    Attributes:
        weight: A = Sigma_YH Sigma_H^+ (n, d), on the directions that are resolved.
        rank: number of directions that are more than rounding.
        error: tr(Sigma_Y - A Sigma_HY), the summed variance of what it leaves of the targets.
        doubt: how much of that may be wrong: what the other directions seem to explain, and the accuracy of the sums.
        unresolved: number of the other directions.
        rank_open: whether one of them may be more than rounding.
    """

    weight: Tensor
    rank: int
    error: float
    doubt: float
    unresolved: int
    rank_open: bool

    @property
    def settled(self) -> bool:
        return not self.rank_open and self.doubt <= SETTLED * self.error


def rank_margin(moments: Moments, columns: int) -> float:
    """By how much more than eps^2 of its columns' mean squares a direction of features in so many columns must vary."""
    mean = float(moments.sigma_h.trace() + moments.mean_h.square().sum())
    if moments.count >= columns or mean == 0:
        return 1.0
    return max(1.0, (1 + (moments.longest / mean * columns / moments.count) ** 0.5) ** 2 / 6)


def fit_of_sums(moments: Moments, found: Spectrum, rounding: Tensor, margin: float = 1.0) -> AffineFit:
    """The fit from the sums.

    Args:
        found: values (k,) and directions B (d, k) with B' Sigma_H B = diag(values), largest value first.
        rounding: variance that rounding may give the columns, (d,) or (d, d).
        margin: see `rank_margin`.
    """
    values, basis = found.values, found.vectors
    floor = eigenvalue_floor(values)
    k = int((values > floor).sum())
    kept, others = basis[:, :k], basis[:, k:]
    cross = kept.T @ moments.sigma_hy
    # divided before they are squared: squares of 1e-170 underflow
    gains = (cross / values[:k, None].sqrt()).square().sum(1).nan_to_num()
    weight = (cross / values[:k, None]).T @ kept.T
    left = others.T @ (moments.sigma_hy - moments.sigma_h @ weight.T)
    limit = RESOLUTION * float(values[0])
    doubt = float((gains * (limit / values[:k])).sum())
    if limit > 0:
        # A direction left over explains |left|^2 over its variance, which may be as small as the rounding of its columns.
        # Half an ulp at either side makes variances of eps^2/12 down to eps^2/48, by the mantissa.
        least = (rounding_along(others, rounding) / 48).clamp_min((len(values) * EPS) ** 2 * float(values[0]))
        # what the sums themselves make of it
        noise = RESOLUTION * (limit / least) * moments.sigma_y.diagonal().sum()
        doubt += float(((left / least[:, None].sqrt()).square().sum(1) - noise).clamp_min(0.0).sum())
    error = moments.sigma_y.diagonal().sum() - gains.sum()
    # columns that are constant, as those of dead ReLUs, are directions left over that hold nothing
    constant = int((moments.sigma_h.diagonal() == 0).sum())
    unresolved = len(values) - k
    open_ = unresolved > constant and (margin * rounding_along(others, rounding) < floor).any()
    return AffineFit(
        weight,
        rank=above_rounding(values[:k], kept, margin * rounding),
        error=max(float(error), 0.0),
        doubt=doubt,
        unresolved=unresolved,
        rank_open=bool(open_),
    )


def fit_of_scaled_columns(moments: Moments, rounding: Tensor, margin: float) -> AffineFit | None:
    """The fit from the eigenproblem of the correlations; None where the columns are about as large as each other."""
    if rounding.ndim != 1:
        return None
    variance = moments.sigma_h.diagonal()
    alive = _varies(moments)
    if not alive.any() or variance[alive].max() <= UNEVEN**2 * variance[alive].min():
        return None
    scale = torch.where(alive, variance, torch.inf).rsqrt()
    found = spectrum(scale[:, None] * moments.sigma_h * scale)
    return fit_of_sums(moments, Spectrum(found.values, scale[:, None] * found.vectors), rounding, margin)


def fit_of_rows(moments: Moments, h: Tensor, y: Tensor, rounding: Tensor, margin: float) -> AffineFit:
    """The fit from the singular values of the scaled rows h (N, d) and y (N, n) themselves."""
    alive = _varies(moments)
    if not alive.any():
        error = float(moments.sigma_y.diagonal().sum())
        return AffineFit(moments.sigma_hy.T * 0.0, 0, error, doubt=0.0, unresolved=0, rank_open=False)
    variance = moments.sigma_h.diagonal()
    # coordinates of the rows' own space have no units
    scale = torch.where(alive, variance, torch.inf).rsqrt() if rounding.ndim == 1 else alive.double()
    rows = centred_rows(h)[:, alive] * scale[alive]
    left, values, right = torch.linalg.svd(rows / len(h) ** 0.5, full_matrices=False)
    basis = torch.zeros(len(scale), len(values), dtype=torch.float64, device="cpu")
    basis[alive] = scale[alive, None] * right.T
    # singular values are good to eps of the largest and of each column; turning the rows rounded their mean, too
    largest = values[0] if rounding.ndim == 1 else torch.hypot(values[0], moments.mean_h.norm())
    kept = values > EPS * rows.shape[1] * largest
    targets = centred_rows(y) / len(y) ** 0.5
    along = left[:, kept].T @ targets
    error = float((targets - left[:, kept] @ along).square().sum())
    weight = (along / values[kept, None]).T @ basis[:, kept].T
    rank = above_rounding(values[kept].square(), basis[:, kept], margin * rounding)
    return AffineFit(weight, rank, error, doubt=0.0, unresolved=0, rank_open=False)


def _varies(moments: Moments) -> Tensor:
    """Which columns (d,) are more than a constant in float64."""
    variance = moments.sigma_h.diagonal()
    return variance > ROUNDED * (variance + moments.mean_h.square())


def spectrum_of_rows(h: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of Sigma_H from the rows: small ones have their own accuracy."""
    rows = centred_rows(h) / len(h) ** 0.5
    if len(rows) > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    values, vectors = torch.linalg.svd(rows)[1:]
    padded = torch.zeros(rows.shape[1], dtype=values.dtype, device="cpu")
    padded[: len(values)] = values.square()
    return Spectrum(padded, vectors.T, of_rows=True)


def centred_rows(rows: Tensor) -> Tensor:
    """Rows less their mean, float64 on the CPU."""
    rows = double(rows).cpu()
    rows = rows - rows.mean(0)
    return rows - rows.mean(0)  # again: the mean of a column about 1e16 is itself rounded
