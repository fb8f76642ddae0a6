"""The unconstrained feature model minimised directly: the experiment beside the closed form of `ufm`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nrc.errors import UserError
from nrc.theory._inputs import as_targets, check_penalties


@dataclass(frozen=True)
class Minimum:
    """Where direct optimisation of the UFM ended: weight (n, d), features (M, d), bias (n,), the loss there, and
    the norm of its gradient with respect to (W, H / sqrt(M), b)."""

    weight: Tensor
    features: Tensor
    bias: Tensor
    loss: float
    gradient: float

    @property
    def gram(self) -> Tensor:
        """K = W W', (n, n)."""
        return self.weight @ self.weight.T


def minimise(
    y: Any, lambda_h: float, lambda_w: float, d: int, *, seed: int = 0, loss: str = "paper", steps: int = 2000
) -> Minimum:
    """Minimise the UFM over (H, W, b) with L-BFGS from a random start: the experiment beside `ufm.optimum`.

    Every critical point that is not a global minimum is a strict saddle (NeurIPS 2024, theorem 4.1), so any
    random start gets there.

    Args:
        y: targets (M, n) or (M,).
        lambda_h, lambda_w: >= 0.
        d: number of features, >= 1; `ufm.optimum` is the answer for d >= n.
        seed: of the start, standard normal divided by sqrt(d).
        loss: "paper" or "coded", see `nrc.theory.ufm`.
        steps: most L-BFGS iterations.

    Raises:
        UserError: d < 1, penalties out of range, targets that are not finite numbers.

    Example:
        >>> from nrc.theory import ufm
        >>> y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> found, best = minimise(y, 0.1, 0.1, d=4), ufm.optimum(torch.cov(y.T, correction=0), 0.1, 0.1)
        >>> abs(found.loss - best.loss) < 1e-9, bool((found.gram - best.gram).abs().max() < 1e-6)
        (True, True)
    """
    check_penalties(lambda_h, lambda_w, loss)
    if d < 1:
        raise UserError(f"d is {d}; it must be at least 1")
    targets, _ = as_targets(y)
    m, n = targets.shape
    generator = torch.Generator("cpu").manual_seed(seed)
    # G = H / sqrt(M): all directions of the problem then have curvatures of the same size
    weight, g = (
        torch.randn(rows, d, dtype=torch.float64, generator=generator, device="cpu").div_(math.sqrt(d * size))
        for rows, size in ((n, 1), (m, m))
    )
    bias = torch.zeros(n, dtype=torch.float64, device="cpu")
    unknowns = [u.requires_grad_() for u in (weight, g, bias)]
    scale = n if loss == "coded" else 1
    solver = torch.optim.LBFGS(
        unknowns, max_iter=steps, max_eval=2 * steps, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=1e-18,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        residual = g @ weight.T + (bias - targets) / math.sqrt(m)
        value = (
            residual.square().sum() / scale + lambda_h * g.square().sum() + lambda_w * weight.square().sum()
        )
        (value / 2).backward()
        return value.detach() / 2

    solver.step(closure)  # type: ignore[no-untyped-call]
    value = float(closure())
    gradient = math.sqrt(sum(float(u.grad.square().sum()) for u in unknowns if u.grad is not None))
    return Minimum(weight.detach(), g.detach() * math.sqrt(m), bias.detach(), value, gradient)
