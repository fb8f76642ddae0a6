"""Small float64 linear algebra shared by the metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor, dense
from nrc.errors import UserError


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (d,), descending and >= 0, and eigenvectors (d, d) in columns, of a covariance."""

    values: Tensor
    vectors: Tensor
    of_rows: bool = False  # from singular values of the rows: good to eps^2, not eps, of the largest


@dataclass(frozen=True)
class WeightSpectrum:
    """A weight as a matrix (out, d), its singular values (descending), right vectors (d, k) and rank."""

    matrix: Tensor
    shape: tuple[int, ...]
    values: Tensor
    vectors: Tensor
    rank: int

    @cached_property
    def rcond(self) -> float:
        """Smallest singular value over the largest, of min(out, d); small ones are those of the matrix itself."""
        ratio = float(self.values[-1] / self.values[0])
        if ratio > GRAM_RATIO:
            return ratio
        exact = torch.linalg.svdvals(self.matrix / self.matrix.abs().max())
        return float(exact[-1] / exact[0])

    def along(self, basis: Tensor) -> WeightSpectrum:
        """The same weight of the coordinates B'h, along an orthonormal basis (d, k) that holds its rows."""
        return replace(self, matrix=self.matrix @ basis, vectors=basis.T @ self.vectors)


def spectrum(covariance: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of a symmetric positive semi-definite matrix, largest first."""
    values, vectors = torch.linalg.eigh(covariance)
    return Spectrum(values.flip(0).clamp_min(0.0), vectors.flip(1))


# Float64 sums of products and their eigenproblem leave this share of the largest eigenvalue undecided: at most
# 0.75e-15 was seen for 40 to 512 columns.
RESOLUTION = 1e-15
EPS = 2.3e-16  # of float64, rounded up
ASYMMETRY = 1e-5  # of a covariance's largest entry: rounding of float32 sums
GRAM_RATIO = 1e-4  # a Gram matrix gives singular values down to this share of the largest to 1e-8


def eigenvalue_floor(values: Tensor) -> float:
    """Eigenvalues (d,), largest first, at or below this count as zero: d eps of the largest, eps of float64."""
    return EPS * len(values) * float(values[0])


def smallest_eigenvalue(covariance: Tensor) -> float:
    """Smallest eigenvalue of a covariance, to its own accuracy where only the units of the columns differ.

    1 over the largest eigenvalue of the inverse, which is taken of the correlations; 0 for a singular one.

    Example:
        >>> smallest_eigenvalue(torch.diag(torch.tensor([1e20, 1.0], dtype=torch.float64)))
        1.0
    """
    deviation = covariance.diagonal().clamp_min(0.0).sqrt()
    if not (deviation > 0).all():
        return 0.0
    scale = torch.outer(deviation, deviation)
    correlation = covariance / scale
    if float(torch.linalg.eigvalsh(correlation)[0]) <= EPS * len(deviation):
        return 0.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(correlation)) / scale
    return 1.0 / float(torch.linalg.eigvalsh(inverse)[-1])


def weight_matrix(weight: Any) -> tuple[Tensor, tuple[int, ...], float]:
    """A linear (out, d) or convolution (out, d, kh, kw) weight as float64 (out * kh * kw, d), shape,
    precision."""
    w = dense(as_tensor(weight, "weight")).cpu()
    if w.ndim < 2 or 0 in w.shape:
        raise UserError(f"weight has shape {tuple(w.shape)}; expected (out, d) or (out, d, kh, kw)")
    if not torch.isfinite(w).all():
        raise UserError(
            f"weight of shape {tuple(w.shape)} contains NaN or infinity; training may have diverged"
        )
    eps = torch.finfo(w.dtype).eps if w.dtype.is_floating_point else torch.finfo(torch.float64).eps
    return w.double().movedim(1, -1).reshape(-1, w.shape[1]), tuple(w.shape), eps


def weight_spectrum(weight: Any) -> WeightSpectrum:
    """Singular values and right singular vectors of a weight; give it instead of the weight to reuse them.

    Computed from the smaller Gram matrix: exact enough, because singular values below max(out, d) * eps of
    the largest (eps of the weight's own type, and never below 1e-7; for 16-bit types eps alone) count as zero
    anyway.

    Example:
        >>> w = weight_spectrum(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
        >>> w.values.tolist(), w.rank
        ([4.0, 3.0], 2)
    """
    matrix, shape, eps = weight_matrix(weight)
    wide = matrix.shape[0] < matrix.shape[1]
    largest = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
    unit = largest if largest > 0 else torch.ones_like(largest)  # or the squares of 1e160 would overflow
    scaled = matrix / unit
    gram = spectrum(scaled @ scaled.T if wide else scaled.T @ scaled)
    values = gram.values.sqrt()
    # rounding to 16 bits moves singular values by about eps of the largest, whatever the size
    rounding = max(matrix.shape) * min(eps, torch.finfo(torch.float32).eps)
    rank = int((values > max(rounding, eps, 1e-7) * float(values[0])).sum())
    vectors = gram.vectors
    if wide:
        # Orthonormal again after the division by singular values of very different size.
        vectors = torch.linalg.qr(scaled.T @ gram.vectors[:, :rank]).Q
    return WeightSpectrum(matrix, shape, values * unit, vectors, rank)


def outside(covariance: Tensor, mean: Tensor | None, basis: Tensor) -> float:
    """mean |x - P x|^2 over rows x with this covariance and mean, P = basis basis' (orthonormal columns).

    Summed as the trace of (I - P) C (I - P), never as a difference of two large numbers: what is left of
    collapsed features is good to about 1e-16 of their mean square.
    """
    left = covariance - basis @ (basis.T @ covariance)
    total = (left.diagonal() - ((left @ basis) * basis).sum(1)).sum()
    if mean is not None:
        total = total + (mean - basis @ (basis.T @ mean)).square().sum()
    return max(float(total), 0.0)


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine of the principal angles between the spans of two orthonormal bases (d, j) and (d, k)."""
    return float(torch.linalg.svdvals(a.T @ b).clamp_max(1.0).mean())


@lru_cache(maxsize=64)
def random_subspace_cosine(d: int, k: int, draws: int = 400) -> float:
    """Mean cosine between a fixed and a uniformly random k-dimensional subspace of R^d (fixed seed).

    The value that an alignment of two unrelated subspaces has; about 0.85 sqrt(k/d) for large k.

    Example:
        >>> random_subspace_cosine(2, 1)   # 2/pi = 0.6366
        0.636...
    """
    if k >= d:
        return 1.0
    if d > 4096:  # the draws would not fit; the value goes as 1/sqrt(d), to 1/d of itself
        return random_subspace_cosine(4096, k, draws) * (4096 / d) ** 0.5
    if k == 1:
        log_ratio = torch.lgamma(torch.tensor([d / 2, (d + 1) / 2], dtype=torch.float64, device="cpu"))
        return float((log_ratio[0] - log_ratio[1]).exp() / torch.pi**0.5)
    generator = torch.Generator("cpu").manual_seed(0)
    basis = torch.randn(draws, d, k, generator=generator, dtype=torch.float64, device="cpu")
    root = torch.linalg.cholesky(basis.mT @ basis)
    top = torch.linalg.solve_triangular(root, basis[:, :k].mT, upper=False)
    return float(torch.linalg.svdvals(top).mean())


@lru_cache(maxsize=64)
def fixed_normal(draws: int, d: int, n: int) -> Tensor:
    """Standard normal numbers (draws, d, n) that are the same in every run."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(draws, d, n, generator=generator, dtype=torch.float64, device="cpu")


def _square(values: Any, what: str) -> Tensor:
    c = dense(as_tensor(values, what)).cpu().double()
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not len(c):
        raise UserError(f"{what} has shape {tuple(c.shape)}; expected (n, n)")
    return c


def as_covariance(values: Any, what: str) -> Tensor:
    """A covariance (n, n), checked, as float64 on the CPU."""
    c = _square(values, what)
    if not torch.isfinite(c).all():
        raise UserError(f"{what} contains NaN or infinity")
    slack = ASYMMETRY * float(c.abs().max())
    if float((c - c.T).abs().max()) > slack:
        raise UserError(f"{what} is not symmetric; give a covariance, Yc'Yc/N")
    if float(torch.linalg.eigvalsh(c)[0]) < -slack * len(c):
        raise UserError(f"{what} has negative eigenvalues; give a covariance, Yc'Yc/N")
    return c


def stable_rank(covariance: Any) -> float:
    """|C|_F^2/|C|_2^2 = sum_j l_j^2 / l_1^2 of a covariance C with eigenvalues l_j. [1, n]; 1: one direction only, NaN:
    C is zero.

    Example:
        >>> stable_rank([[2.0, 0.0], [0.0, 1.0]])
        1.25
    """
    values = torch.linalg.eigvalsh(as_covariance(covariance, "the covariance"))
    return float((values / values[-1]).square().sum())


def unevenness(covariance: Any) -> float:
    """|C - m I|_F / |m I|_F, m = tr(C)/n the mean variance. [0, sqrt(n - 1)]; 0: a multiple of the identity, NaN: C is
    zero or not finite.

    NeurIPS 2024, corollary 4.2 (v): residuals of the unconstrained feature model have a covariance of this form.

    Example:
        >>> unevenness([[3.0, 0.0], [0.0, 3.0]])
        0.0
    """
    c = _square(covariance, "the covariance")
    even = torch.eye(len(c), dtype=torch.float64, device="cpu")
    return float((c / (c.trace() / len(c)) - even).norm() / even.norm())
