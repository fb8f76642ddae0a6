"""Intrinsic dimension of a cloud of features by the distances to the two nearest neighbours.

Facco, d'Errico, Rodriguez, Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
information", Scientific Reports 7 (2017) 12140.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from nrc.arrays import as_tensor, dense, double, precision
from nrc.errors import UserError

CANDIDATES = 8  # nearest rows by the fast formula, among which the exact distances choose two
CHUNK = 1 << 22  # distances at a time: 32 MB
TIES = 0.05  # of the rows; where the density is continuous there are none


def intrinsic_dimension(
    features: Any,
    *,
    estimator: Literal["mle", "fit"] = "mle",
    samples: int = 5000,
    seed: int = 0,
    discard: float = 0.1,
) -> float:
    """2-NN estimate of the dimension of the manifold that the rows lie on. (0, inf); unit-free.

    With r1 <= r2 the distances from a row to its two nearest neighbours, mu = r2/r1 has the distribution
    F(mu) = 1 - mu^-D on a D-dimensional manifold whose density is constant over that distance. Equal rows count once.

    - "mle": the maximum of the likelihood, made unbiased: D = (N - 1)/sum_i log mu_i. Its standard error is D/sqrt(N).
    - "fit": the paper's: the slope through the origin of -log(1 - F(mu)) against log mu, F the empirical
      distribution, without the largest share `discard` of the mu. Less sensitive to outliers.

    Both stay too small for large D (30 dimensions of a Gaussian read as about 22 from 5000 rows), and see noise as
    dimensions where its size is that of the distances: with more rows the estimate then grows.

    Args:
        features: (N, d).
        estimator: "mle" or "fit".
        samples: at most so many rows are used, drawn without replacement; the time grows with its square.
        seed: draws them.
        discard: of "fit", share of the largest mu left out, in [0, 1).

    Raises:
        UserError: another shape, numbers that are not finite, fewer than 10 different rows, unknown estimator; rows on a
            lattice, such as whole numbers, whose nearest neighbours are equally far for more than 1 row in 20.

    Example:
        >>> plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(2, 10)
        >>> 1.9 < intrinsic_dimension(plane) < 2.1
        True
    """
    if estimator not in ("mle", "fit"):
        raise UserError(f"estimator is {estimator!r}; choose mle or fit")
    if not 0 <= discard < 1:
        raise UserError(f"discard is {discard}; give a share of the rows in [0, 1)")
    if not isinstance(samples, Integral) or samples < 10:
        raise UserError(f"samples is {samples!r}; give a whole number of rows, 10 or more")
    h = dense(as_tensor(features, "features"))
    if h.ndim != 2:
        raise UserError(f"features have shape {tuple(h.shape)}; expected (N, d)")
    if not torch.isfinite(h).all():
        raise UserError("features contain NaN or infinity; remove or repair such rows")
    if len(h) > samples:
        draw = torch.randperm(len(h), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[
            :samples
        ]
        h = h[draw.to(h.device)]
    rows = torch.unique(double(h).cpu(), dim=0)
    if len(rows) < 10:
        raise UserError(f"only {len(rows)} different rows; the 2-NN estimate needs at least 10")
    # of 16 bits steps this large are no doubt yet: over many columns they average out
    eps = min(max(precision(h.dtype), torch.finfo(torch.float64).eps), torch.finfo(torch.float32).eps)
    first, second = _nearest(rows)
    ties = int((second - first <= 4 * eps * rows.abs().max()).sum())
    if ties > TIES * len(rows):
        raise UserError(
            f"for {ties} of {len(rows)} different rows the two nearest are equally far: they lie on a lattice, as whole "
            "or rounded numbers do, and the 2-NN estimate would count ties as dimensions; give the numbers unrounded"
        )
    ratios = (second / first).log().sort().values
    if estimator == "mle":
        return float((len(ratios) - 1) / ratios.sum())
    kept = max(1, int(len(ratios) * (1 - discard)))
    share = torch.arange(1, kept + 1, dtype=torch.float64, device="cpu") / len(ratios)
    x, y = ratios[:kept], -torch.log1p(-share.clamp_max(1 - 1 / (2 * len(ratios))))
    return float((x @ y) / (x @ x))


def _nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """r1 and r2 of each row."""
    rows = rows - rows.mean(0)
    unit = rows.abs().max()
    rows = rows / unit
    square = rows.square().sum(1)
    step = max(1, CHUNK // len(rows))
    found = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        apart = square - 2 * part @ rows.T  # + |x|^2, which is the same for all
        apart.diagonal(start).fill_(torch.inf)
        near = apart.topk(min(CANDIDATES, len(rows) - 1), largest=False).indices
        exact = torch.linalg.vector_norm(rows[near] - part[:, None], dim=2).sort(1).values
        found.append(exact[:, :2] * unit)
    return tuple(torch.cat(found).unbind(1))  # type: ignore[return-value]
