"""What users give to the theory, checked; and the two matrix functions it is made of."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor
from nrc.errors import UserError

LOSSES = ("paper", "coded")


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric matrix with no negative eigenvalue."""
    values, vectors = spectrum(matrix)
    return (vectors * values.sqrt()) @ vectors.T


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending and >= 0, and eigenvectors in columns."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0.0), vectors


def check_penalties(lambda_h: float, lambda_w: float, loss: str) -> None:
    """Both finite and >= 0, both or none of them 0, and a loss that exists."""
    for name, value in (("lambda_h", lambda_h), ("lambda_w", lambda_w)):
        if not 0 <= value < math.inf:
            raise UserError(f"{name} is {value:g}; it must be a finite number >= 0")
    if (lambda_h == 0) != (lambda_w == 0):
        raise UserError(
            f"lambda_h is {lambda_h:g} and lambda_w is {lambda_w:g}: with one of them 0 the loss has no minimum; "
            "make both positive, or both 0"
        )
    if loss not in LOSSES:
        raise UserError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)}")


def as_covariance(sigma: Any) -> Tensor:
    """`sigma` as float64 (n, n), symmetric and without negative eigenvalues; a number becomes (1, 1)."""
    s = as_tensor(sigma, "sigma").cpu().double()
    s = s.reshape(1, 1) if s.ndim == 0 else s
    if s.ndim != 2 or s.shape[0] != s.shape[1] or not len(s):
        raise UserError(f"sigma has shape {tuple(s.shape)}; expected (n, n), the covariance of the targets")
    if not torch.isfinite(s).all():
        raise UserError("sigma contains NaN or infinity; give the covariance of finite targets")
    size = float(s.abs().max())
    if float((s - s.T).abs().max()) > 1e-6 * size:
        raise UserError("sigma is not symmetric; give the covariance of the targets, (n, n)")
    s = (s + s.T) / 2
    smallest = float(torch.linalg.eigvalsh(s)[0])
    if smallest < -1e-6 * size:
        raise UserError(f"sigma has the negative eigenvalue {smallest:.3g}, so it is no covariance")
    return s


def as_targets(y: Any) -> tuple[Tensor, Tensor]:
    """y as float64 (M, n), and its covariance."""
    targets = as_tensor(y, "y").cpu().double()
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.ndim != 2 or 0 in targets.shape or not torch.isfinite(targets).all():
        raise UserError(f"y has shape {tuple(targets.shape)}; expected finite targets (M, n) or (M,)")
    centred = targets - targets.mean(0)
    return targets, centred.T @ centred / len(targets)
