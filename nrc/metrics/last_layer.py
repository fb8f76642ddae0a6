"""Metrics of the last layer: Andriopoulos et al., "The Prevalence of Neural Collapse in Neural Multivariate
Regression", NeurIPS 2024 (arXiv 2409.04180v2), section 3.

Rows h of H (N, d) are features, y of Y (N, n) targets, W (n, d) is the last weight. h~ = h/|h|; zero rows
keep h~ = 0 and count in the mean. A bar is a mean over rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor, dense
from nrc.errors import UserError
from nrc.metrics.fit import UNEVEN
from nrc.metrics.layer import Layer, Undefined
from nrc.metrics.linalg import as_covariance, outside, smallest_eigenvalue, weight_matrix, weight_spectrum
from nrc.moments import Moments, unit_rows


def squared_error(moments: Moments, weight: Tensor, bias: Tensor | None) -> float:
    """mean_i |W h_i + b - y_i|^2 from moments; b = None takes the best one, b = ybar - W hbar."""
    m = moments
    through = weight @ m.sigma_h - m.sigma_hy.T
    spread = (through * weight).sum() - (weight * m.sigma_hy.T).sum() + m.sigma_y.diagonal().sum()
    offset = 0.0 if bias is None else float((weight @ m.mean_h + bias - m.mean_y).square().sum())
    return max(float(spread), 0.0) + offset


def _error(layer: Layer) -> float:
    if layer.error is None:
        return squared_error(layer.moments, layer.require_prediction().matrix, layer.bias)
    if not math.isfinite(layer.error):
        raise Undefined("the network's output holds NaN or infinity")
    return layer.error


def mse(layer: Layer) -> float:
    """MSE = mean over samples and targets of (W h + b - y)^2. Range [0, inf), unit of y squared; 0 is a
    perfect fit.

    With an unknown bias the optimal one is used. Of a network whose output is not W h + b, `Layer.error`, its own
    error, counts. NeurIPS 2024, section 4 (figure 2).
    """
    return _error(layer) / layer.moments.n


def r2(layer: Layer) -> float:
    """R^2 = 1 - SSE/SST, both pooled over the target columns. (-inf, 1]; 1 is perfect, 0 is predicting the
    mean."""
    error = _error(layer)
    if layer.target_rank == 0:
        raise Undefined("targets are constant: R^2 divides by their variance")
    return 1.0 - error / float(layer.targets.values.sum())


def _principal(layer: Layer) -> Tensor:
    layer.require_alive()
    n = layer.moments.n
    if layer.feature_rank < n:
        raise Undefined(
            f"the features have rank {layer.feature_rank} < n = {n}: the principal component of number n "
            "is arbitrary"
        )
    if not layer.separates(n):
        raise Undefined(
            f"principal components {n} and {n + 1} have the same variance, to the resolution of the sums: which "
            "of them counts among the first n is arbitrary"
        )
    return layer.features.vectors[:, :n]


def _outside_directions(layer: Layer, basis: Tensor) -> float:
    unit = layer.moments.unit
    if unit is None:
        raise Undefined("the directions h/|h| were not summed")
    return outside(unit.covariance, unit.mean, basis)


def nrc1(layer: Layer) -> float:
    """NRC1 = mean_i |h~_i - P h~_i|^2, P on the top n principal components of the raw, centred H.

    NeurIPS 2024, definition of NRC1. [0, 1]: 0 when all features lie in the n-dimensional principal subspace,
    1 when all are orthogonal to it. The h~ are not centred, so it stays > 0 while the mean feature leaves
    that subspace. n is the number of target columns, also for low-rank targets.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
        >>> nrc1(Layer.of(Moments().update(h, h[:, 0])))
        0.0
    """
    basis = _principal(layer)
    return _outside_directions(layer, basis)


def nrc1_raw(layer: Layer) -> float:
    """mean_i |h_i - P h_i|^2: NRC1 of features that are not normalised, as in earlier runs. [0, inf), unit of
    h^2. Good to 1e-16 of mean |h|^2 where the rows are not at hand."""
    return layer.outside(_principal(layer))


def nrc1_centred(layer: Layer) -> float:
    """mean_i |v_i - P v_i|^2, v = (h - hbar)/|h - hbar|: centred, then normalised. [0, 1]; blind to the mean
    feature.

    No function of second moments: it needs a second pass (`Moments.add_centred`).
    """
    basis = _principal(layer)
    centred = layer.moments.centred
    if centred is None:
        raise Undefined(layer.moments.centred_missing)
    if centred.count != layer.moments.count:
        raise Undefined(f"the second pass had {centred.count} rows, the first {layer.moments.count}")
    return outside(centred.covariance, centred.mean, basis)


def _row_space(layer: Layer) -> Tensor:
    layer.require_alive()
    weight = layer.require_prediction()
    n = layer.moments.n
    if weight.rank < n:  # perhaps only the units of the targets differ
        deviation = layer.moments.sigma_y.diagonal().sqrt()
        if (deviation > 0).all() and deviation.max() > UNEVEN * deviation.min():
            weight = weight_spectrum(weight.matrix / deviation[:, None])
    if weight.rank < n:
        raise Undefined(f"W has numerical rank {weight.rank} < n = {n}")
    return weight.vectors


def nrc2(layer: Layer) -> float:
    """NRC2 = mean_i |h~_i - P_W h~_i|^2, P_W the projector on the row space of W.

    NeurIPS 2024, definition of NRC2. [0, 1]: 0 when all features lie in the row space, 1 when all are
    orthogonal. Undefined where W has a rank below n.
    """
    return _outside_directions(layer, _row_space(layer))


def nrc2_raw(layer: Layer) -> float:
    """mean_i |h_i - P_W h_i|^2: NRC2 of features that are not normalised. [0, inf), unit of h^2. Good to 1e-16
    of mean |h|^2 where the rows are not at hand."""
    return layer.outside(_row_space(layer))


def nrc2_centred(features: Any, weight: Any) -> float:
    """mean_i |v_i - P_W v_i|^2, v = (h - hbar)/|h - hbar|: centred, then normalised. [0, 1]; blind to the mean feature.

    Of features (N, d) and the weight (n, d) themselves: it is no function of second moments. NaN where a feature is the
    mean itself, or where W has a rank below n. Not in a paper; beside NRC2 (NeurIPS 2024) as `nrc1_centred` is beside NRC1.

    Example:
        >>> nrc2_centred([[1.0, 5.0], [-1.0, 5.0]], [[2.0, 0.0]])
        0.0
    """
    h, w = dense(as_tensor(features, "features")).cpu().double(), as_tensor(weight, "weight").double()
    if h.ndim != 2 or w.ndim != 2 or h.shape[1] != w.shape[1] or 0 in h.shape:
        raise UserError(
            f"features have shape {tuple(h.shape)} and weight {tuple(w.shape)}; expected (N, d) and (n, d)"
        )
    if not torch.isfinite(h).all():
        raise UserError("features contain NaN or infinity; remove or repair such rows")
    unit, zero = unit_rows(h - h.mean(0))
    found = weight_spectrum(w)
    if zero or found.rank < len(w):
        return math.nan
    return float(1 - (unit @ found.vectors).square().sum(1).mean())


SUMS_FLOOR = 1e-16  # what rounding of the float64 sums adds


def _floor(layer: Layer, basis: Tensor, eps: float, terms: int) -> float:
    unit = layer.moments.unit
    assert unit is not None  # the basis is of a layer whose directions were summed
    second = unit.covariance.diagonal() + unit.mean.square()
    outside_basis = (1 - basis.square().sum(1)).clamp_min(0.0)
    return eps**2 * terms / 52 * float((outside_basis * second).sum()) + SUMS_FLOOR


def nrc1_floor(layer: Layer, eps: float, terms: int) -> float:
    """The NRC1 that rounding in the forward pass makes of perfectly collapsed features: an estimate, good to a
    factor of 10.

    Each entry h_j is a sum of K products. Rounding the i-th partial sum s_i to nearest adds an error that is
    uniform in +- ulp(s_i)/2, of variance ulp^2/12 = eps^2 s_i^2/26 on average over the mantissas. Partial sums grow as
    s_i^2 = (i/K) h_j^2, so the errors of one sum add up to eps^2 K/52 h_j^2, independent of the other columns; what
    leaves the subspace of P is

        floor = eps^2 K/52 sum_j (1 - P_jj) mean_i h~_ij^2 + 1e-16,

    the last term for the float64 sums. Errors of earlier layers pass through collapsed weights into the subspace
    and do not count. Kernels with several accumulators stay up to 8 times below it; where products cancel, so that
    h_j is small beside its partial sums, it is exceeded. NeurIPS 2024 has no such line.

    Args:
        eps: machine epsilon of the forward pass, 1.2e-7 for float32.
        terms: K, inputs of the layer that makes the features (of a convolution: channels times kernel).

    Returns:
        [0, inf); an NRC1 of about this size or less is rounding.
    """
    return _floor(layer, _principal(layer), eps, terms)


def nrc2_floor(layer: Layer, eps: float, terms: int) -> float:
    """The same of NRC2, with the projector on the row space of W for P; see `nrc1_floor`. [0, inf)."""
    return _floor(layer, _row_space(layer), eps, terms)


def offset(layer: Layer) -> float:
    """offset = |mean z|^2 / mean |z|^2 of z = W h, the prediction without its bias.

    [0, 1]: 0 when the z are centred, 1 when all are the same. Non-negative features collapse exactly only where all z
    lie to one side of a hyperplane (`nrc.cone`), which an offset of 0 excludes. From moments: mean z = W hbar.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> round(offset(Layer.of(Moments().update(h, h[:, 0]), torch.tensor([[2.0, 0.0]]))), 12)
        0.8
    """
    weight = layer.require_prediction().matrix
    mean = float((weight @ layer.moments.mean_h).square().sum())
    total = mean + float(((weight @ layer.moments.sigma_h) * weight).sum())
    if total == 0:
        raise Undefined("all predictions without their bias are 0")
    return mean / total


def _gram_and_root(weight: Any, sigma: Any) -> tuple[Tensor, Tensor, Tensor]:
    """K = W W' normalised, eigenvalues of Sigma, and Sigma^(1/2), all float64."""
    w = weight_matrix(weight)[0]
    w = w / w.abs().max().clamp_min(torch.finfo(w.dtype).tiny)  # K/|K| has no scale, and K may overflow
    s = as_covariance(sigma, "sigma")
    if s.shape != (len(w), len(w)):
        raise UserError(
            f"weight has shape {tuple(w.shape)} and sigma {tuple(s.shape)}; expected (n, d) and (n, n)"
        )
    gram = w @ w.T
    norm = torch.linalg.matrix_norm(gram)
    if norm == 0:
        raise Undefined("the weight is zero: K/|K| is 0/0")
    values, vectors = torch.linalg.eigh(s)
    values = values.clamp_min(0.0)
    return gram / norm, values, (vectors * values.sqrt()) @ vectors.T


def _distance(gram: Tensor, root: Tensor, shift: Tensor) -> Tensor:
    """|gram - A/|A||_F^2 with A = root - shift I, for each shift (m,); inf where A = 0."""
    shifted = root - shift[:, None, None] * torch.eye(len(root), dtype=root.dtype, device=root.device)
    norm = torch.linalg.matrix_norm(shifted)
    # A is Sigma^(1/2) less a multiple of I: below rounding its direction means nothing.
    gone = norm <= 1e-13 * torch.linalg.matrix_norm(root)
    distance = (gram - shifted / norm.masked_fill(gone, 1.0)[:, None, None]).square().sum((1, 2))
    return distance.masked_fill(gone, float("inf"))


def nrc3(weight: Any, sigma: Any, gamma: float) -> float:
    """NRC3(gamma) = | K/|K| - (S - sqrt(gamma) I)/|S - sqrt(gamma) I| |_F^2 with K = W W', S = Sigma^(1/2).

    NeurIPS 2024, definition of NRC3. weight (n, d), sigma (n, n) the targets' covariance, gamma >= 0 in the
    unit of sigma. [0, 4]: 0 when K is proportional to S - sqrt(gamma) I, 2 when the two are orthogonal.
    Identically 0 for n = 1.

    Example:
        >>> sigma = torch.diag(torch.tensor([1.0, 4.0]))
        >>> nrc3(torch.diag(torch.tensor([0.5, 1.5])).sqrt(), sigma, gamma=0.25) < 1e-12
        True
    """
    return float(nrc3_curve(weight, sigma, [gamma])[0])


def nrc3_curve(weight: Any, sigma: Any, gammas: Any) -> Tensor:
    """NRC3 at each of `gammas` (m,), as float64 (m,): figure 4 of NeurIPS 2024."""
    gram, values, root = _gram_and_root(weight, sigma)
    gammas = as_tensor(gammas, "gammas").cpu().double()
    # a share of lambda_min may be below 0 by rounding
    if gammas.ndim != 1 or not (gammas >= -1e-12 * values[-1]).all():
        raise UserError(f"gammas must be numbers >= 0 of shape (m,), got {gammas.tolist()}")
    return _distance(gram, root, gammas.clamp_min(0.0).sqrt())


def gamma_star(weight: Any, sigma: Any) -> tuple[float, float]:
    """The gamma in [0, lambda_min(Sigma)] at which NRC3 is smallest, and NRC3 there, in closed form.

    With k = tr K, s = tr S, q = tr S^2, m = tr(K S): sqrt(gamma*) = (s m - k q)/(n m - k s), clipped to
    [0, sqrt(lambda_min)] and compared with both ends. (The papers search 1000 grid points; their theorem F.1
    minimises the unnormalised distance only.)

    Raises:
        Undefined: n = 1, where NRC3 is 0 for every gamma; a zero weight.

    Example:
        >>> sigma = torch.diag(torch.tensor([1.0, 4.0]))
        >>> gamma, value = gamma_star(torch.diag(torch.tensor([0.5, 1.5])).sqrt(), sigma)
        >>> round(gamma, 6), value < 1e-12
        (0.25, True)
    """
    gram, values, root = _gram_and_root(weight, sigma)
    n = len(values)
    if n == 1:
        raise Undefined("n = 1: NRC3 is identically 0")
    k, s, q, m = gram.trace(), root.trace(), values.sum(), (gram * root).sum()
    end = values[0].sqrt()
    slope = n * m - k * s
    inner = ((s * m - k * q) / slope if slope != 0 else end).clamp(torch.zeros_like(end), end)
    candidates = torch.stack((inner, torch.zeros_like(end), end))
    distances = _distance(gram, root, candidates)
    best = int(distances.argmin())
    if not torch.isfinite(distances[best]):
        raise Undefined("Sigma is zero: it has no direction")
    return float(candidates[best] ** 2), float(distances[best])


def _lowest(layer: Layer) -> float:
    """lambda_min of the targets."""
    values = layer.targets.values
    clear = values[-1] > 1e-8 * values[0]
    return float(values[-1]) if clear else smallest_eigenvalue(layer.moments.sigma_y)


def _best_gamma(layer: Layer) -> tuple[float, float, float]:
    """gamma*, NRC3 there and lambda_min of the training targets."""
    if layer.moments.n == 1:
        raise Undefined("n = 1: NRC3 is identically 0")
    layer.require_alive()
    weight = layer.require_prediction()
    source = layer.reference or layer
    if source.target_rank == 0:
        raise Undefined("targets are constant: Sigma is zero")
    gamma, value = gamma_star(weight.matrix, source.moments.sigma_y)
    return gamma, value, _lowest(source) if source.target_rank == layer.moments.n else 0.0


def nrc3_best(layer: Layer) -> float:
    """NRC3 at its best gamma in [0, lambda_min] (see `nrc3`, `gamma_star`); Sigma is that of the training
    targets."""
    return _best_gamma(layer)[1]


def nrc3_gamma(layer: Layer) -> float:
    """gamma*/lambda_min in [0, 1]: where on figure 4's axis NRC3 is smallest. Strictly inside, W keeps n
    directions."""
    gamma, _, lowest = _best_gamma(layer)
    if lowest == 0:
        raise Undefined("lambda_min(Sigma) is 0: the targets have a rank below n")
    return gamma / lowest


def evr(layer: Layer, k: int) -> float:
    """EVR_k = l_k / sum_j l_j, the k-th principal component's share of the variance of centred H. [0, 1].

    NeurIPS 2024, figure 3: with collapse the first n add up to 1.
    """
    layer.require_alive()
    if k > layer.moments.d:
        raise Undefined(f"there are only {layer.moments.d} features")
    return float(layer.features.values[k - 1] / layer.features.values.sum())
