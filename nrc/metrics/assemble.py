"""All metrics of one layer, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrc.arrays import as_rows, double, precision
from nrc.errors import UserError
from nrc.metrics import last_layer, layerwise
from nrc.metrics.groups import Values, coded, labels_of, spread
from nrc.metrics.layer import MANY_COLUMNS, Layer, Undefined
from nrc.metrics.linalg import WeightSpectrum, weight_spectrum
from nrc.moments import Moments

LAST_LAYER: dict[str, Callable[[Layer], float]] = {
    "mse": last_layer.mse,
    "r2": last_layer.r2,
    "nrc1": last_layer.nrc1,
    "nrc2": last_layer.nrc2,
    "nrc3": last_layer.nrc3_best,
    "nrc3_gamma": last_layer.nrc3_gamma,
    "nrc1_raw": last_layer.nrc1_raw,
    "nrc2_raw": last_layer.nrc2_raw,
    "nrc1_centred": last_layer.nrc1_centred,
    "offset": last_layer.offset,
    **{f"evr_{k}": partial(last_layer.evr, k=k) for k in range(1, 6)},
}
LAYERWISE: dict[str, Callable[[Layer], float]] = {
    name: getattr(layerwise, name)
    for name in (
        "noise",
        "noise_abs",
        "stable_rank_features",
        "stable_rank_covariance",
        "stable_rank_weights",
        "feature_weight_alignment",
        "feature_weight_alignment_k",
        "feature_weight_alignment_null",
        "feature_target_alignment",
        "feature_target_alignment_null",
        "feature_target_alignment_features",
        "noise_alignment",
        "cka",
        "cka_null",
        "cka_first_columns",
        "linear_mse",
        "linear_mse_uncentred",
        "feature_rank",
        "weight_rank",
        "weight_rcond",
        "mean_share",
        "signal_share",
        "effective_rank",
        "participation_ratio",
        "rankme",
        "feature_norm",
        "weight_norm",
        "balancedness",
    )
}
METRICS = LAST_LAYER | LAYERWISE
OVERFLOW = "the value overflows float64; give features, targets or weight in other units"
MOST_COLUMNS = 8192  # more would take an eigenproblem of many minutes
MOST_NUMBERS = 200_000_000  # of features of many columns and fewer rows: 1.6 GB as float64


@dataclass(frozen=True)
class Metrics:
    """`values`: every metric by name, NaN where it is undefined; `undefined`: the reason for each NaN."""

    values: dict[str, float]
    undefined: dict[str, str]

    def __getitem__(self, name: str) -> float:
        return self.values[name]


def evaluate(layer: Layer, only: str | Iterable[str] | None = None) -> Metrics:
    """The metrics of a layer: all, or the one or those named in `only`. Nothing is computed that no chosen metric needs.

    Raises:
        UserError: a name that is no metric.
    """
    names = METRICS.keys() if only is None else [only] if isinstance(only, str) else dict.fromkeys(only)
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name in names:
        if name not in METRICS:
            raise UserError(f"there is no metric '{name}'; choose from: {', '.join(METRICS)}")
        try:
            values[name] = METRICS[name](layer)
        except Undefined as reason:
            values[name], undefined[name] = float("nan"), str(reason)
        else:
            if not math.isfinite(values[name]):
                values[name], undefined[name] = float("nan"), OVERFLOW
    return Metrics(values, undefined)


def measure_moments(
    moments: Moments,
    weight: Any = None,
    bias: Any = None,
    *,
    rank: int | None = None,
    maps_to_targets: bool | None = None,
    linear_map_from: Moments | Layer | None = None,
    only: str | Iterable[str] | None = None,
) -> Metrics:
    """All metrics of one layer from its moments.

    Args:
        moments: from `nrc.features.collect` or `Moments.update`.
        weight: (out, d), (c_out, d, kh, kw), a `weight_spectrum` of either, or None.
        bias: (out,), zeros for a layer without one; None means unknown: mse and r2 then use the optimal
            b = ybar - W hbar.
        rank: number of target directions r for noise and alignments; None: numerical rank of the targets.
        maps_to_targets: False when a weight with n outputs is not the model's last one; None: True if out == n.
        linear_map_from: moments of the training set when `moments` are held-out: the linear map of linear_mse is
            fitted there, and NRC3 takes its Sigma from there, as the paper does.
        only: name or names of the metrics wanted; None: all.

    Raises:
        UserError: shapes that do not fit, a rank out of range, features that are not finite.

    Example:
        >>> h = torch.randn(100, 8)
        >>> m = measure_moments(Moments().update(h, h[:, :2]), weight=torch.eye(2, 8))
        >>> m["mse"] < 1e-12, m.undefined["nrc1_centred"]
        (True, 'the mean feature was not known during the pass')
    """
    layer = Layer.of(
        moments, weight, bias, rank=rank, maps_to_targets=maps_to_targets, linear_map_from=linear_map_from
    )
    return evaluate(layer, only)


def measure_with_reasons(
    features: Any, targets: Any, weight: Any = None, *, rank: int | None = None, bias: Any = None
) -> Metrics:
    """`measure`, with the reason for every NaN in `.undefined`; the same arguments and errors."""
    h, y = as_rows(features, targets)
    if h.shape[1] > MANY_COLUMNS:
        decomposed = None if weight is None else weight_spectrum(weight)
        if len(h) + (0 if decomposed is None else len(decomposed.matrix)) < h.shape[1]:
            return evaluate(_in_space_of_rows(h, y, decomposed, bias, rank))
    if h.shape[1] > MOST_COLUMNS:
        raise UserError(
            f"features have {h.shape[1]} columns, more than {MOST_COLUMNS}, and the rows of features and weight are "
            "no fewer; give fewer rows, or fewer columns"
        )
    moments = _finite(Moments().update(h, y), h, y)
    layer = Layer.of(moments.add_centred(h), weight, bias, rank=rank)
    return evaluate(layer.with_rows(h, y))


def _finite(moments: Moments, h: Tensor, y: Tensor) -> Moments:
    for what, rows in (("features", h), ("targets", y)) if not moments.finite else ():
        bad = (~torch.isfinite(rows).all(1)).nonzero()
        if len(bad):
            raise UserError(
                f"{what} contain NaN or infinity, first in row {int(bad[0])}; remove or repair such rows"
            )
    return moments


def _in_space_of_rows(
    h: Tensor, y: Tensor, weight: WeightSpectrum | None, bias: Any, rank: int | None
) -> Layer:
    """The layer in coordinates along an orthonormal basis of the rows of features (N, d) and weight (out, d).

    No metric but `cka_first_columns` depends on the coordinates, and there are N + out of them instead of d.
    """
    if h.numel() > MOST_NUMBERS:
        raise UserError(
            f"features have shape {tuple(h.shape)}, more than {MOST_NUMBERS:,} numbers in more than {MANY_COLUMNS} "
            "columns; give fewer rows, or fewer columns"
        )
    rows = double(h).cpu()
    spanning = (
        rows
        if weight is None
        else torch.cat((rows, weight.matrix / weight.matrix.abs().max().clamp_min(1e-300)))
    )
    _finite(Moments().update(rows.sum(1, keepdim=True), y), h, y)
    basis = torch.linalg.qr(spanning.T).Q
    inside = rows @ basis
    moments = Moments().update(inside, y).add_centred(inside)
    eps = precision(h.dtype)
    moments.feature_eps = eps
    rounding = eps**2 * (basis.T * rows.square().mean(0)) @ basis
    layer = Layer.of(moments, None if weight is None else weight.along(basis), bias, rank=rank)
    return replace(layer, rows=(inside, y), basis=basis, rounding=rounding)


def measure(
    features: Any,
    targets: Any,
    weight: Any = None,
    *,
    rank: int | None = None,
    bias: Any = None,
    groups: Any = None,
) -> dict[str, float]:
    """All collapse metrics of one layer from arrays or tensors.

    Args:
        features: (N, d), the inputs of the layer.
        targets: (N, n) or (N,).
        weight: (out, d) of the layer that reads the features. mse, r2, nrc2 and nrc3 need out = n.
        rank: number of target directions r for noise and alignments; None: numerical rank of the targets.
            NRC1 always uses n, the number of target columns, as published.
        bias: (out,); None means unknown: mse and r2 then use the optimal one, b = ybar - W hbar.
        groups: (N,) labels of the rows, such as classes, episodes or bins of a target; the result then has
            `.groups`, the same metrics for the rows of each label, and `.spread` (`nrc.metrics.groups.spread`).

    Returns:
        metric name -> value; NaN where a metric is undefined (`nrc.metrics.measure_with_reasons` says why).

    Raises:
        UserError: shapes that do not fit, a rank out of range, NaN or infinity in the data, more than 8192
            columns with as many rows.

    Example:
        >>> import numpy as np
        >>> h = np.random.default_rng(0).normal(size=(200, 2)) @ np.eye(2, 10)
        >>> values = measure(h, h[:, :2], weight=np.eye(2, 10))
        >>> round(values["noise"], 9), round(values["r2"], 9), round(values["cka"], 9)
        (0.0, 1.0, 1.0)
    """
    values = measure_with_reasons(features, targets, weight, rank=rank, bias=bias).values
    if groups is None:
        return values
    h, y = as_rows(features, targets)
    labels = labels_of(groups)
    if labels.shape != (len(h),):
        raise UserError(
            f"groups have shape {labels.shape}, but there are {len(h)} rows; give one label for each"
        )
    names, codes = coded(labels)
    rows = {name: torch.from_numpy(np.flatnonzero(codes == k)) for k, name in enumerate(names)}
    parts = {name: (h[at.to(h.device)], y[at.to(y.device)]) for name, at in rows.items()}
    features_of = [double(features) for features, _ in parts.values()]
    return Values(
        values,
        {name: measure(*part, weight, rank=rank, bias=bias) for name, part in parts.items()},
        spread([(len(f), f.mean(0), float((f - f.mean(0)).square().sum()) / len(f)) for f in features_of]),
    )
