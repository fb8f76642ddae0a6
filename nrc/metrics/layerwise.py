"""Metrics of any layer: Rangamani and Unal, "Deep Neural Regression Collapse", CPAL 2026 (arXiv 2603.23805),
and the poster of the same work.

Hc (N, d), Yc (N, t) are centred, Sigma_H = Hc'Hc/N with eigenvalues l1 >= l2 >= ... and top-k eigenvectors
U_k, W (out, d) is the weight that reads the features, r the number of target directions (`Layer.directions`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor, double
from nrc.errors import UserError
from nrc.metrics.fit import spectrum_of_rows
from nrc.metrics.last_layer import squared_error
from nrc.metrics.layer import Layer, Undefined
from nrc.metrics.linalg import (
    RESOLUTION,
    eigenvalue_floor,
    fixed_normal,
    mean_cosine,
    random_subspace_cosine,
    weight_matrix,
)

RELEASED_RTOL = 1e-3  # of singular values, in the released code's least squares
NULL_DRAWS = 20
RANKME_EPS = 1e-7  # the paper's, for float32
SMALL = 1e-6  # of the largest eigenvalue: the root of a smaller one is taken from the rows, where they are at hand
ALIVE = 0.1  # of the largest singular value of the last weight: with less, a target direction counts as dead


def noise_abs(layer: Layer, k: int | None = None) -> float:
    """Tr(Sigma_H) - Tr(U_k' Sigma_H U_k) = sum of l_j over j > k, by default k = r. [0, inf), unit of h^2.
    Poster. Good to 1e-16 of the features' variance where the rows are not at hand."""
    k = layer.directions if k is None else k
    return layer.outside(layer.features.vectors[:, :k], centred=True)


def noise(layer: Layer, k: int | None = None) -> float:
    """Noise component 1 - Tr(U_k' Sigma_H U_k)/Tr(Sigma_H), by default k = r. CPAL 2026 (the poster draws
    `noise_abs`).

    [0, 1]: 0 when k directions hold all the variance (collapse), 1 - k/d for isotropic features. Summed from
    the tail, so it is exact down to about 1e-16.

    Example:
        >>> from nrc import Moments
        >>> h = torch.diag(torch.tensor([2.0, 1.0]))
        >>> both_signs = torch.cat((h, -h))
        >>> round(noise(Layer.of(Moments().update(both_signs, both_signs[:, 0])), k=1), 12)
        0.2
    """
    layer.require_alive()
    return min(noise_abs(layer, k) / float(layer.moments.sigma_h.trace()), 1.0)


def stable_rank_features(layer: Layer) -> float:
    """|Hc|_F^2/|Hc|_2^2 = sum_j l_j / l1. [1, d]; 1: one direction only. Poster."""
    layer.require_alive()
    return float(layer.features.values.sum() / layer.features.values[0])


def stable_rank_covariance(layer: Layer) -> float:
    """|Sigma_H|_F^2/|Sigma_H|_2^2 = sum_j l_j^2 / l1^2. [1, d]; what the figures of CPAL 2026 and its code
    show."""
    layer.require_alive()
    return float((layer.features.values / layer.features.values[0]).square().sum())


def stable_rank_weights(layer: Layer) -> float:
    """|W|_F^2/|W|_2^2. [1, min(out, d)]; 1: a rank-one map. Convolutions as (c_in, c_out kh kw). CPAL
    2026."""
    values = layer.require_weight().values
    return float((values / values[0]).square().sum())


def feature_weight_alignment_k(layer: Layer) -> float:
    """Number of directions compared: k = min(r, numerical rank of Hc, numerical rank of W); beyond are
    arbitrary. 0..r."""
    layer.require_alive()
    return float(min(layer.directions, layer.feature_rank, layer.require_weight().rank))


def feature_weight_alignment(layer: Layer) -> float:
    """Mean cosine of the principal angles between the top-k right singular vectors of W and U_k. CPAL 2026.

    [0, 1]: 1 when the weight reads exactly the features' main directions. k is `feature_weight_alignment_k`;
    compare with `feature_weight_alignment_null`. Convolutions: W as (c_in, c_out kh kw), left singular
    vectors, channels.
    """
    k = int(feature_weight_alignment_k(layer))
    return mean_cosine(layer.require_weight().vectors[:, :k], layer.features.vectors[:, :k])


def feature_weight_alignment_null(layer: Layer) -> float:
    """The same for a random k-dimensional subspace of R^d: what unrelated weights and features score.
    [0, 1]."""
    return random_subspace_cosine(layer.columns, int(feature_weight_alignment_k(layer)))


def _cross(layer: Layer) -> tuple[Tensor, Tensor]:
    """Top-k left and right singular vectors of Sigma_HY, k = min(r, its rank)."""
    layer.require_alive()
    left, right, rank = layer.cross
    k = min(layer.directions, rank)
    if k == 0:
        raise Undefined("features and targets are uncorrelated: Sigma_HY is zero")
    return left[:, :k], right[:, :k]


def feature_target_alignment(layer: Layer) -> float:
    """Mean cosine between the top-r right singular vectors of Sigma_HY = Hc'Yc/N and the top-r eigenvectors
    of Sigma_Y.

    Poster. [0, 1]. It is 1 for ANY features when the targets have exact rank r or r = t: read it beside
    `feature_target_alignment_null`, and see `feature_target_alignment_features`.
    """
    return mean_cosine(_cross(layer)[1], layer.targets.vectors[:, : layer.directions])


def noise_alignment(layer: Layer) -> float:
    """The same singular vectors against the remaining t - r target directions. [0, 1]; small is good.
    Poster."""
    right = _cross(layer)[1]
    rest = layer.targets.vectors[:, layer.directions :]
    if rest.shape[1] == 0:
        raise Undefined("no target directions remain: r = t")
    return mean_cosine(right, rest)


def feature_target_alignment_features(layer: Layer) -> float:
    """Feature side: mean cosine between the top-r LEFT singular vectors of Sigma_HY and U_r. [0, 1].

    1 when the directions that carry the targets are the features' main directions.
    """
    left = _cross(layer)[0]
    return mean_cosine(left, layer.features.vectors[:, : min(layer.directions, layer.feature_rank)])


def feature_target_alignment_null(layer: Layer) -> float:
    """`feature_target_alignment` expected when the pairing of features and targets is random.

    Over uniform permutations P of the rows, Hc'P Yc has mean 0 and covariance N^2/(N - 1) Sigma_H (x) Sigma_Y
    exactly; the alignment is averaged over 20 Gaussian matrices of that covariance, with a fixed seed.
    [0, 1].
    """
    layer.require_alive()
    r = layer.directions
    k = min(r, layer.feature_rank)
    d, t = layer.moments.sigma_hy.shape
    draws = fixed_normal(NULL_DRAWS, d, t)
    # In the eigenbases of Sigma_H and Sigma_Y the draws are independent, with these scales.
    rows = (layer.features.values / layer.features.values[0]).sqrt()[:, None]
    columns = (layer.targets.values / layer.targets.values[0]).sqrt()
    right = torch.linalg.svd(rows * draws * columns, full_matrices=False).Vh.mT[:, :r, :k]
    return float(torch.linalg.svdvals(right).clamp_max(1.0).mean())


def cka(layer: Layer) -> float:
    """Linear CKA = |Hc'Yc|_F^2 / (|Hc'Hc|_F |Yc'Yc|_F): signal-target alignment of CPAL 2026.

    [0, 1]: 1 when the features are the targets up to rotation and scale. Compare with `cka_null`.
    """
    return _cka(layer, layer.moments.sigma_h, layer.moments.sigma_hy)


def cka_first_columns(layer: Layer) -> float:
    """CKA of the first t columns of H alone, as the released code has it: not rotation invariant, never 1 in
    general. [0, 1]."""
    if layer.basis is not None:
        raise Undefined("more columns than rows: the features are measured in the space of their rows")
    t = layer.moments.n
    return _cka(layer, layer.moments.sigma_h[:t, :t], layer.moments.sigma_hy[:t])


def _cka(layer: Layer, sigma_h: Tensor, sigma_hy: Tensor) -> float:
    layer.require_alive()
    if layer.target_rank == 0:
        raise Undefined("targets are constant: CKA divides by their variance")
    # each divided by its trace: features of 1e100 would overflow in the squares
    h, y = sigma_h.trace(), layer.moments.sigma_y.trace()
    if h == 0:
        raise Undefined("the first columns of the features are constant")
    scale = torch.linalg.matrix_norm(sigma_h / h) * torch.linalg.matrix_norm(layer.moments.sigma_y / y)
    return min(float((sigma_hy / h.sqrt() / y.sqrt()).square().sum() / scale), 1.0)


def cka_null(layer: Layer) -> float:
    """CKA expected over random pairings, exactly: tr(Sigma_H) tr(Sigma_Y) / ((N - 1) |Sigma_H|_F
    |Sigma_Y|_F). [1/(N - 1), sqrt(d t)/(N - 1)]."""
    layer.require_alive()
    if layer.target_rank == 0:
        raise Undefined("targets are constant: CKA divides by their variance")
    h, y = (v / v[0] for v in (layer.features.values, layer.targets.values))
    shape = float(h.sum() / torch.linalg.vector_norm(h) * y.sum() / torch.linalg.vector_norm(y))
    return shape / (layer.moments.count - 1)


def linear_mse(layer: Layer) -> float:
    """MSE of the best affine map H -> Y: Tr(Sigma_Y - Sigma_YH Sigma_H^+ Sigma_HY)/t. CPAL 2026.

    [0, inf), unit of y^2; 0 is a perfect fit, good to 1e-15 of the targets' variance from the rows, to 1e-8 of it
    from moments alone. Least squares on the numbers as they are; float64 holds a direction of size s beside others of size 1 to 1e-16/s. From moments alone, k directions
    below 2e-16 d of the largest variance are left out; where they may explain more of the error than 1 % and twice the
    share k/N of chance, it is undefined (see `nrc.metrics.fit`). With `linear_map_from` the map is fitted
    there and judged on these moments. The model's own MSE where a layer already holds the prediction, or less, where
    directions of rounding size carry some of the residual.
    """
    source = layer.reference or layer
    a, b = source.affine_map
    m = layer.moments
    if layer.reference is None:
        return layer.fit.error / m.n
    a = layer.read_here(a, source)
    if layer.rows is not None:
        h, y = (double(part).cpu() for part in layer.rows)
        return float((h @ a.T + b - y).square().mean())
    error = squared_error(m, a, b)
    # A Sigma A' loses what its large terms take from each other
    largest = float((a.abs() @ m.sigma_h.diagonal().sqrt()).square().sum())
    if RESOLUTION * largest > 0.01 * error + 1e-8 * float(m.sigma_y.diagonal().sum()):
        raise Undefined("the best linear map has such large entries that float64 sums do not give its error")
    return error / m.n


def linear_mse_uncentred(layer: Layer) -> float:
    """The same as the released code has it: no intercept, features uncentred, singular values below 1e-3 of
    the largest cut off. Wrong by orders of magnitude in collapsed layers; for comparison only, so runs log it at their
    start and end alone. [0, inf), unit of y^2.
    """
    source = layer.reference or layer
    m = source.moments
    second = m.sigma_h + torch.outer(m.mean_h, m.mean_h)
    cross = m.sigma_hy + torch.outer(m.mean_h, m.mean_y)
    values, vectors = torch.linalg.eigh(second)
    kept = int((values > RELEASED_RTOL**2 * max(float(values[-1]), 0.0)).sum())
    basis = vectors[:, len(values) - kept :]
    a = ((cross.T @ basis) / values[len(values) - kept :]) @ basis.T
    a = layer.read_here(a, source)
    return squared_error(layer.moments, a, a.new_zeros(m.n)) / layer.moments.n


def feature_rank(layer: Layer) -> float:
    """Number of directions of the centred features that are more than rounding (see `nrc.metrics.fit`). 0..d.

    From moments alone a direction also needs a variance above 2e-16 d of the largest, which counts for float64 features.
    """
    return float(layer.feature_rank)


def weight_rank(layer: Layer) -> float:
    """Numerical rank of W (tolerance: max(out, d) * eps of the largest singular value). 0..min(out, d)."""
    if layer.weight is None:
        raise Undefined("no weight was given")
    return float(layer.weight.rank)


def weight_rcond(layer: Layer) -> float:
    """s_min/s_max over the min(out, d) singular values of W: the reciprocal condition number. [0, 1].

    Of the last weight: 1 when all target directions are read equally, 0 when one is dead. Below `ALIVE` a
    collapse is bought with a lost direction. For targets of a rank below n it tends to 0 by nature.

    Example:
        >>> from nrc import Moments
        >>> h = torch.diag(torch.tensor([2.0, 1.0]))
        >>> weight_rcond(Layer.of(Moments().update(h, h), weight=torch.tensor([[4.0, 0.0], [0.0, 1.0]])))
        0.25
    """
    return layer.require_weight().rcond


def mean_share(layer: Layer) -> float:
    """|hbar|^2 / mean |h|^2. [0, 1]: 0 centred features, 1 constant ones. Explains an NRC1 that does not
    fall."""
    if layer.mean_square == 0:
        raise Undefined("features vanished: all are exactly 0")
    return float(layer.moments.mean_h.square().sum()) / layer.mean_square


def feature_norm(layer: Layer) -> float:
    """Root mean square length of the features, sqrt(mean_i |h_i|^2). [0, inf), unit of h; below 1e-12 the features
    count as vanished.

    Example:
        >>> from nrc import Moments
        >>> h = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
        >>> round(feature_norm(Layer.of(Moments().update(h, h))), 12)
        5.0
    """
    return float(layer.mean_square**0.5)


def weight_norm(layer: Layer) -> float:
    """Frobenius norm |W|_F of the weight that reads the features. [0, inf), unit of W; convolutions: of all entries.

    Example:
        >>> from nrc import Moments
        >>> h = torch.randn(10, 2)
        >>> weight_norm(Layer.of(Moments().update(h, h), weight=torch.tensor([[3.0, 4.0]])))
        5.0
    """
    if layer.weight is None:
        raise Undefined("no weight was given")
    values = layer.weight.values
    # in units of the largest: the squares of 1e160 overflow
    return float(values[0] * torch.linalg.vector_norm(values / values[0])) if values[0] > 0 else 0.0


def participation_ratio(layer: Layer) -> float:
    """(sum_j l_j)^2 / sum_j l_j^2 of the eigenvalues of Sigma_H: how many directions share the variance.

    [1, d]: 1 when one direction holds all, d when all hold the same; k for k equal ones and none else. A common
    measure of dimension in neuroscience (Gao et al. 2017); neither paper draws it (CPAL 2026 has the stable ranks).

    Example:
        >>> from nrc import Moments
        >>> h = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
        >>> both_signs = torch.cat((h, -h))
        >>> round(participation_ratio(Layer.of(Moments().update(both_signs, both_signs[:, 0]))), 9)
        2.0
    """
    layer.require_alive()
    values = layer.features.values / layer.features.values[0]
    return float(values.sum().square() / values.square().sum())


def effective_rank(layer: Layer) -> float:
    """exp(-sum_j p_j log p_j), p_j = s_j/sum_k s_k with the singular values s_j = sqrt(N l_j) of centred H.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. [1, d]: 1 when one direction holds all the variance, d when all
    hold the same. It counts directions by their length, not their variance, so it reacts to small ones more than
    `participation_ratio`; neither paper draws it (CPAL 2026 has the stable ranks). Where the rows are not at hand,
    directions below the resolution of the sums, 2e-16 d of the largest variance, count as 0.

    Example:
        >>> from nrc import Moments
        >>> h = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
        >>> both_signs = torch.cat((h, -h))
        >>> round(effective_rank(Layer.of(Moments().update(both_signs, both_signs[:, 0]))), 6)
        2.0
    """
    layer.require_alive()
    values = layer.features.values
    if layer.rows is not None and not layer.features.of_rows and values[-1] < SMALL * values[0]:
        values = spectrum_of_rows(layer.rows[0]).values
    elif not layer.features.of_rows:
        values = values * (values > eigenvalue_floor(values))
    lengths = values.sqrt()
    share = lengths / lengths.sum()
    return float(torch.special.entr(share).sum().exp())


def rankme(layer: Layer) -> float:
    """RankMe = exp(-sum_j p_j log p_j), p_j = s_j/sum_k s_k + 1e-7, s_j the min(N, d) singular values of H, not centred.

    Garrido, Balestriero, Najman, LeCun, "RankMe", ICML 2023, equations 1 and 2. [1, min(N, d)], up to the 1e-7: the mean
    feature counts as a direction, which is all the difference to `effective_rank`. Needs an eigenproblem of its own,
    so runs log it at their start and end alone (neither NeurIPS 2024 nor CPAL 2026 draws it).

    Example:
        >>> from nrc import Moments
        >>> h = torch.eye(4)
        >>> round(rankme(Layer.of(Moments().update(h, h[:, 0]))), 3)
        4.0
    """
    layer.require_alive()
    m = layer.moments
    values = torch.linalg.eigvalsh(m.sigma_h + torch.outer(m.mean_h, m.mean_h)).flip(0).clamp_min(0.0)
    if layer.rows is not None and values[-1] < SMALL * values[0]:
        lengths = torch.linalg.svdvals(double(layer.rows[0]).cpu())
    else:
        lengths = (values * (values > eigenvalue_floor(values))).sqrt()
    lengths = lengths[: min(m.count, layer.columns)]
    return float(torch.special.entr(lengths / lengths.sum() + RANKME_EPS).sum().exp())


def weight_balance(weight: Any, next_weight: Any, bias: Any = None, *, relu: bool = False) -> float:
    """How far two weights in a row are from balanced: |V'V - G|_F / (|V'V|_F + |G|_F), G = W W' + b b'.

    h = f(W a + b), then V h. With f the identity, gradient flow under weight decay lambda brings V'V - G to zero as
    exp(-2 lambda t), whatever the loss (Du, Hu, Lee 2018, for its conservation without decay); with a ReLU the same holds of
    the diagonals, one number for each unit. So it says how far training is from where it ends: [0, 1], 0 balanced,
    1 when one of the two is zero.

    Args:
        weight: W (d, in) of the layer that makes the features.
        next_weight: V (out, d) of the layer that reads them.
        bias: b (d,) of the first, if it decays as well; None: it has none, or one that does not decay.
        relu: whether a ReLU stands between them; then the diagonals are compared.

    Raises:
        UserError: shapes that do not fit.

    Example:
        >>> weight_balance([[3.0]], [[3.0]]), weight_balance([[1.0]], [[2.0]])
        (0.0, 0.6)
    """
    w, v = (weight_matrix(each) for each in (weight, next_weight))
    if len(w[1]) != 2 or len(v[1]) != 2 or w[1][0] != v[1][1]:
        raise UserError(f"weights have shapes {w[1]} and {v[1]}; expected (d, in) and (out, d)")
    first, then = w[0], v[0]
    if bias is not None:
        column = double(as_tensor(bias, "bias")).cpu().reshape(-1, 1)
        if len(column) != len(first):
            raise UserError(f"bias has {len(column)} entries, but the weight has shape {w[1]}")
        if not torch.isfinite(column).all():
            raise UserError("the bias contains NaN or infinity; training may have diverged")
        first = torch.cat((first, column), 1)
    largest = torch.maximum(first.abs().max(), then.abs().max())
    if largest == 0:
        raise Undefined("both weights are zero")
    first, then = first / largest, then / largest
    if relu:
        made, read = first.square().sum(1), then.square().sum(0)
    else:
        made, read = (first @ first.T).flatten(), (then.T @ then).flatten()
    sizes = torch.linalg.vector_norm(made) + torch.linalg.vector_norm(read)
    if sizes == 0:
        raise Undefined("the weights are too small for their squares")
    return float(torch.linalg.vector_norm(read - made) / sizes)


def balancedness(layer: Layer) -> float:
    """`weight_balance` of the weight that makes the layer's features and the one that reads them. [0, 1]: 0 is where
    training under weight decay ends, so it tells "converged" from "not yet". Neither NeurIPS 2024 nor CPAL 2026 draws it.
    """
    if layer.weight is None:
        raise Undefined("no weight was given")
    if layer.maker is None:
        raise Undefined("the weight that makes these features is not known")
    if isinstance(layer.maker, str):
        raise Undefined(layer.maker)
    weight = layer.weight.matrix if layer.basis is None else layer.weight.matrix @ layer.basis.T
    return weight_balance(layer.maker.weight, weight, layer.maker.bias, relu=layer.maker.relu)


def signal_share(layer: Layer) -> float:
    """tr(W Sigma_H W')/tr(Sigma_Y), the variance of the prediction in that of the targets. [0, inf);
    below 1e-8: vanished."""
    w = layer.require_prediction().matrix
    if layer.target_rank == 0:
        raise Undefined("targets are constant: their variance is 0")
    return float(((w @ layer.moments.sigma_h) * w).sum() / layer.targets.values.sum())
