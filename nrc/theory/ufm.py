"""The unconstrained feature model (UFM): its global minimum in closed form, and by direct optimisation.

Andriopoulos et al., NeurIPS 2024 (arXiv 2409.04180v2), section 4: features H are free variables beside W and b,

    L(H, W, b) = 1/(2M) |W H + b 1' - Y|^2 + lambda_H/(2M) |H|^2 + lambda_W/2 |W|^2        (loss="paper")

over M samples and n targets. The released code takes the mean of the squares over samples AND targets:
1/(2 M n) in front of the first term (loss="coded"). That is the paper's loss with n lambda_H and n lambda_W,
divided by n, so every formula below holds for it with those two.

Write c = lambda_H lambda_W (coded: n^2 lambda_H lambda_W), Sigma = U diag(l) U' for the targets' covariance
(centred, divided by M) and S = Sigma^(1/2). Rows are samples here: H is (M, d), Y is (M, n). All float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nrc.errors import UserError
from nrc.metrics import Undefined, gamma_star
from nrc.theory._inputs import LOSSES, as_covariance, as_targets, check_penalties, root, spectrum
from nrc.theory.descent import Minimum, minimise

__all__ = ["LOSSES", "Minimum", "Optimum", "balanced_gram", "minimise", "optimum", "root"]


@dataclass(frozen=True)
class Optimum:
    """The global minimum of the UFM (theorem 4.1 and corollary 4.2), made by `optimum`.

    With s_j = sqrt(l_j), the j-th direction is alive if s_j > sqrt(c).

    Attributes:
        sigma: (n, n) covariance of the targets, unit of y^2.
        lambda_h, lambda_w, loss_name: as given.
        c: lambda_H lambda_W, or n^2 lambda_H lambda_W for the coded loss; unit of y^2.
        regime: "collapse" (c < l_min: all directions alive), "partial collapse" (some alive), "zero"
            (c >= l_max: W = 0, H = 0) or "no regularisation" (lambda_H = lambda_W = 0).
        rank: number of directions alive.
        gram: K = W W' = sqrt(lambda_H/lambda_W) U diag((s_j - sqrt(c))_+) U', (n, n); NaN without
            regularisation, where every W of full rank is optimal.
        loss: L = sum_j [c/2 + sqrt(c) (s_j - sqrt(c)) if alive, else l_j/2] (coded: that / n).
        residual_covariance: of W h + b - y, U diag(min(l_j, c)) U', (n, n): c I when all are alive.
        gamma: where NRC3 of `gram` is smallest: c if all directions are alive (then NRC3 = 0), else the
            best gamma in [0, l_min]. NaN where there is no `gram`.
        nrc1, nrc2, nrc3: what `nrc.measure` finds at the minimum: 0 in the regime "collapse"; NRC1 and NRC2 are NaN
            when fewer than n directions are alive.
        undefined: the reason for each of gram, gamma, nrc1, nrc2, nrc3 that is NaN.
    """

    sigma: Tensor
    lambda_h: float
    lambda_w: float
    loss_name: str
    c: float
    regime: str
    rank: int
    gram: Tensor
    loss: float
    residual_covariance: Tensor
    gamma: float
    nrc1: float
    nrc2: float
    nrc3: float
    undefined: dict[str, str] = field(default_factory=dict)

    @property
    def mse(self) -> float:
        """tr(residual covariance)/n: the MSE as `nrc.measure` defines it, at the minimum."""
        return float(self.residual_covariance.trace()) / len(self.sigma)

    def weights(self, d: int, seed: int | None = None) -> Tensor:
        """One optimal W = K^(1/2) R', (n, d), with R (d, n) of orthonormal columns.

        R holds the first n axes, or random directions when a seed is given: every R is optimal.

        Raises:
            UserError: d < n, or no regularisation (no particular W is optimal).
        """
        n = len(self.sigma)
        if d < n:
            raise UserError(f"d is {d}, below the number of targets {n}; the closed form needs d >= n")
        if "gram" in self.undefined:
            raise UserError(f"there is no particular optimal weight: {self.undefined['gram']}")
        frame = torch.eye(d, n, dtype=torch.float64, device="cpu")
        if seed is not None:
            generator = torch.Generator("cpu").manual_seed(seed)
            draws = torch.randn(d, n, dtype=torch.float64, generator=generator, device="cpu")
            frame = torch.linalg.qr(draws).Q
        return root(self.gram) @ frame.T

    def features(self, y: Any, d: int, seed: int | None = None) -> Tensor:
        """The optimal features for targets y (M, n): H = sqrt(lambda_W/lambda_H) (Y - ybar) S^-1 W, (M, d).

        W is `weights(d, seed)`; the optimal bias is ybar. S^-1 acts on living directions alone.

        Raises:
            UserError: targets whose covariance is not `sigma`; the errors of `weights`.
        """
        targets, covariance = as_targets(y)
        scale = float(self.sigma.abs().max())
        if (
            covariance.shape != self.sigma.shape
            or float((covariance - self.sigma).abs().max()) > 1e-6 * scale
        ):
            raise UserError(
                "y has another covariance than sigma; give the targets that sigma was computed from"
            )
        weight = self.weights(d, seed)
        if self.rank == 0:
            return torch.zeros(len(targets), d, dtype=torch.float64, device="cpu")
        values, vectors = spectrum(self.sigma)
        alive = values.sqrt() > math.sqrt(self.c)
        inverse = (vectors[:, alive] / values[alive].sqrt()) @ vectors[:, alive].T
        centred = targets - targets.mean(0)
        return math.sqrt(self.lambda_w / self.lambda_h) * centred @ inverse @ weight


def optimum(sigma: Any, lambda_h: float, lambda_w: float, *, loss: str = "paper") -> Optimum:
    """The global minimum of the UFM: NeurIPS 2024, theorem 4.1, for any Sigma and any regularisation.

    Args:
        sigma: (n, n) covariance of the targets, or a number for n = 1; symmetric, no negative eigenvalue.
        lambda_h, lambda_w: >= 0; both 0 is the model without regularisation (theorem 4.3: no collapse).
        loss: "paper" (1/(2M) in front of the squares) or "coded" (1/(2 M n), as the released code).

    Raises:
        UserError: a sigma or penalties out of range; exactly one penalty 0, where the loss has no minimum
            (it falls to 0 while one factor shrinks and the other grows without end).

    Example:
        >>> best = optimum([[1.0, 0.0], [0.0, 4.0]], lambda_h=0.1, lambda_w=0.1)
        >>> best.regime, best.gram.diagonal().tolist(), round(best.gamma, 12)
        ('collapse', [0.9, 1.9], 0.01)
        >>> optimum([[1.0, 0.0], [0.0, 4.0]], 0.1, 0.1, loss="coded").gram.diagonal().tolist()
        [0.8, 1.8]
        >>> optimum(4.0, 0.25, 0.25).gram.item()   # n = 1: |w|^2 = lambda_H (sigma / sqrt(c) - 1)
        1.75
    """
    s = as_covariance(sigma)
    n = len(s)
    check_penalties(lambda_h, lambda_w, loss)
    values, vectors = spectrum(s)
    scale = n if loss == "coded" else 1
    c = scale**2 * lambda_h * lambda_w
    if lambda_h == 0:
        why = "without regularisation every W of full rank, with H its exact fit, is optimal"
        names = ("gram", "gamma", "nrc1", "nrc2", "nrc3")
        nan = torch.full_like(s, math.nan)
        rank = int((values > 0).sum())
        numbers = (math.nan,) * 4
        facts = (s, 0.0, 0.0, loss, 0.0, "no regularisation", rank, nan, 0.0, torch.zeros_like(s))
        return Optimum(*facts, *numbers, undefined=dict.fromkeys(names, why))
    shrunk = (values.sqrt() - math.sqrt(c)).clamp_min(0.0)
    gram = (vectors * (math.sqrt(lambda_h / lambda_w) * shrunk)) @ vectors.T
    rank = int((shrunk > 0).sum())
    value = torch.where(shrunk > 0, c / 2 + math.sqrt(c) * shrunk, values / 2).sum() / scale
    residual = (vectors * values.clamp_max(c)) @ vectors.T
    regime = "collapse" if rank == n else ("partial collapse" if rank else "zero")
    gamma, found, undefined = _predictions(gram, s, c, rank)
    return Optimum(
        s, float(lambda_h), float(lambda_w), loss, c, regime, rank, gram, float(value), residual, gamma,
        *found, undefined=undefined,
    )  # fmt: skip


def _predictions(
    gram: Tensor, sigma: Tensor, c: float, rank: int
) -> tuple[float, tuple[float, float, float], dict[str, str]]:
    """gamma, (NRC1, NRC2, NRC3) and the reasons for those that are NaN."""
    n, nan = len(sigma), math.nan
    if rank == 0:
        why = "the features vanish: c >= l_max makes W and H zero"
        return nan, (nan, nan, nan), dict.fromkeys(("gamma", "nrc1", "nrc2", "nrc3"), why)
    if n == 1:
        return c, (0.0, 0.0, nan), {"nrc3": "n = 1: NRC3 is identically 0"}
    if rank == n:
        return c, (0.0, 0.0, 0.0), {}
    reasons = {"nrc1": f"the features have rank {rank} < n = {n}", "nrc2": f"W has rank {rank} < n = {n}"}
    try:
        gamma, nrc3 = gamma_star(root(gram), sigma)
    except Undefined as reason:
        return nan, (nan, nan, nan), {**reasons, "nrc3": str(reason), "gamma": str(reason)}
    return gamma, (nan, nan, nrc3), reasons


def balanced_gram(second_moment: Any, lambda_h: float, lambda_w: float) -> Tensor:
    """K = sqrt(lambda_H/lambda_W) (W (H'H/M) W')^(1/2): what K is for given predictions, whatever the fit.

    Among all ways to write the same predictions W h, the penalty lambda_H/(2M)|H|^2 + lambda_W/2 |W|^2 is
    smallest there (it is then sqrt(c) times the nuclear norm). It holds wherever the gradients of W and of a
    LINEAR feature layer H = V A + v both vanish: they give lambda_W W'W = lambda_H H'H/M. So it needs neither a
    global minimum nor unconstrained features, only the penalties on H and W. At the UFM's own minimum the
    predictions have the covariance (S - sqrt(c) I)^2, and it is theorem 4.1 again. Not in the papers.

    Args:
        second_moment: (n, n) mean of (W h)(W h)' over the samples, not centred, without the bias; unit y^2.
        lambda_h, lambda_w: > 0; only their ratio matters, so both losses give the same.

    Returns:
        (n, n).

    Example:
        >>> best = optimum([[1.0, 0.5], [0.5, 4.0]], 0.1, 0.2)
        >>> shrunk = root(best.sigma) - best.c**0.5 * torch.eye(2)
        >>> bool(torch.allclose(balanced_gram(shrunk @ shrunk, 0.1, 0.2), best.gram))
        True
    """
    check_penalties(lambda_h, lambda_w, "paper")
    if lambda_h == 0:
        raise UserError("lambda_h and lambda_w are 0: without penalties nothing ties W to H; give both > 0")
    return math.sqrt(lambda_h / lambda_w) * root(as_covariance(second_moment))
