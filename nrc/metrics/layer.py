"""One layer as the metrics see it: moments, weight, and the small eigenproblems, each solved once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor, double
from nrc.errors import UserError
from nrc.metrics.fit import (
    AffineFit,
    centred_rows,
    fit_of_rows,
    fit_of_scaled_columns,
    fit_of_sums,
    rank_margin,
    spectrum_of_rows,
)
from nrc.metrics.linalg import (
    RESOLUTION,
    Spectrum,
    WeightSpectrum,
    eigenvalue_floor,
    outside,
    spectrum,
    weight_spectrum,
)
from nrc.moments import Moments
from nrc.rank import rank_of_targets

MANY_COLUMNS = 2048  # of more columns than this, and than twice the rows, the rows' own space is measured
VANISHED_RMS = 1e-12
VANISHED_SIGNAL = 1e-8
SMALL_SHARE = 1e-10  # of the mean square: what is left of less has fewer than six digits in the sums
CLEAR_GAP = 1e-8  # relative, between two eigenvalues: the sums then give their vectors to 1e-7
MAP_DOUBT = 0.01  # relative, of linear_mse: with more in doubt it is not stated
MAP_DOUBT_OF_TARGETS = 1e-8  # the same of the targets' variance


def _correlation_scale(covariance: Tensor) -> Tensor:
    """1 over the standard deviations; 0 for a column that is constant."""
    variance = covariance.diagonal()
    return torch.where(variance > 0, variance, torch.inf).rsqrt()


def _gap(values: Tensor, k: int) -> float:
    """From the k-th of descending values to the next; infinite where there is none."""
    return float(values[k - 1] - values[k]) if k < len(values) else float("inf")


def row_space(moments: Moments, weight: WeightSpectrum | None) -> Tensor:
    """An orthonormal basis (d, N + out) of the space of the features' and the weight's rows, N + out < d.

    From the sums: N random combinations of the columns of their second moment span what its N rows do, to the
    accuracy at which the sums know them.
    """
    second = moments.sigma_h + torch.outer(moments.mean_h, moments.mean_h)
    generator = torch.Generator("cpu").manual_seed(0)
    draws = torch.randn(moments.d, moments.count, generator=generator, dtype=torch.float64, device="cpu")
    spanning = [second @ draws] if weight is None else [second @ draws, weight.matrix.T]
    return torch.linalg.qr(torch.cat([m / m.abs().max().clamp_min(1e-300) for m in spanning], 1)).Q


class Undefined(Exception):
    """A metric has no value here; the text is the reason that is recorded beside the NaN."""


@dataclass(frozen=True)
class Maker:
    """What makes a layer's features: h = f(weight a + bias), with f a ReLU or the identity.

    Attributes:
        weight: (d, in).
        bias: (d,), where it decays as the weight does; None: none, or one that does not.
        relu: whether f is a ReLU.
    """

    weight: Tensor
    bias: Tensor | None = None
    relu: bool = False


@dataclass(frozen=True)
class Layer:
    """What every metric takes. Build it with `Layer.of`, which checks the shapes.

    Attributes:
        moments: second moments of the layer's features and of the targets, on the CPU.
        weight: (out, d) or None; a convolution's weight is unfolded to (out * kh * kw, d).
        bias: (out,), or None when unknown: mse and r2 then use the optimal b = ybar - W hbar.
        maps_to_targets: whether weight and bias produce the prediction.
        rank: number of target directions r; None means the numerical rank of the
            (training) targets' covariance.
        reference: the training set's layer when `moments` are held-out ones, else None.
        error: mean |prediction - y|^2 of a network whose prediction is not W h + b; None: it is.
        rows: features (N, d) and targets (N, n) as they came, where they are at hand: what the sums leave
            undecided is then decided by them.
        basis: (columns, d) orthonormal, where the moments and the weight are of fewer coordinates B'h than the
            features have columns; None: of the columns themselves.
        rounding: variance that rounding may give the coordinates, (d,) or as a matrix (d, d); None: eps^2 of each
            column's mean square, with eps of the features' type.
        maker: what makes the features, for `balancedness`; a text: why that is not a weight; None: not known.
    """

    moments: Moments
    weight: WeightSpectrum | None = None
    bias: Tensor | None = None
    maps_to_targets: bool = False
    rank: int | None = None
    reference: Layer | None = None
    error: float | None = None
    rows: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    basis: Tensor | None = field(default=None, repr=False)
    rounding: Tensor | None = field(default=None, repr=False)
    maker: Maker | str | None = field(default=None, repr=False)

    @staticmethod
    def of(
        moments: Moments,
        weight: Any = None,
        bias: Any = None,
        *,
        rank: int | None = None,
        maps_to_targets: bool | None = None,
        linear_map_from: Moments | Layer | None = None,
    ) -> Layer:
        """A checked layer; arguments as for `measure_moments`.

        Example:
            >>> import torch
            >>> m = Moments().update(torch.randn(50, 4), torch.randn(50, 2))
            >>> Layer.of(m, weight=torch.randn(2, 4)).maps_to_targets
            True
        """
        if not moments.finite:
            what = "features" if torch.isfinite(moments.sigma_y).all() else "targets"
            raise UserError(
                f"{what} contain NaN or infinity (or overflow when squared); "
                "remove such rows, or lower the learning rate if training diverged"
            )
        if rank is not None and (not isinstance(rank, Integral) or isinstance(rank, bool)):
            raise UserError(f"rank={rank!r}; give a whole number, or None for the rank of the targets")
        if rank is not None and not 1 <= rank <= moments.n:
            raise UserError(f"rank={rank}, but the targets have {moments.n} columns; give 1 <= rank <= that")
        w = weight if weight is None or isinstance(weight, WeightSpectrum) else weight_spectrum(weight)
        if w is not None and w.matrix.shape[1] != moments.d:
            raise UserError(
                f"weight has shape {w.shape}, which takes {w.matrix.shape[1]} inputs, but the features have "
                f"{moments.d} columns; "
                + (
                    "give it transposed, weight.T"
                    if len(w.shape) == 2 and w.shape[0] == moments.d
                    else "measure the weight's own input (a grouped convolution has none)"
                )
            )
        maps = (
            w is not None and len(w.shape) == 2 and w.shape[0] == moments.n and maps_to_targets is not False
        )
        if maps_to_targets and not maps:
            shape = None if w is None else w.shape
            raise UserError(f"weight of shape {shape} cannot predict {moments.n} targets; expected (n, d)")
        b = None if bias is None else as_tensor(bias, "bias").cpu().double().reshape(-1)
        if b is not None and w is not None and len(b) != w.shape[0]:
            raise UserError(f"bias has {len(b)} entries, but the weight has shape {w.shape}; expected (out,)")
        if b is not None and not torch.isfinite(b).all():
            raise UserError("the bias contains NaN or infinity; training may have diverged")
        reference = linear_map_from
        if isinstance(reference, Moments):
            reference = Layer.of(reference)
        if reference is not None and (reference.columns, reference.moments.n) != (moments.d, moments.n):
            raise UserError(
                f"linear_map_from has {reference.columns} features and {reference.moments.n} targets, "
                f"but the moments have {moments.d} and {moments.n}"
            )
        layer = Layer(moments.to("cpu"), w, b, maps, rank, reference)
        spanning = moments.count + (0 if w is None else len(w.matrix))
        few = moments.d > MANY_COLUMNS and 2 * spanning < moments.d
        return layer.along(row_space(layer.moments, w)) if few else layer

    def along(self, basis: Tensor) -> Layer:
        """The layer in the coordinates B'h, along an orthonormal basis (d, k) of the rows of features and weight.

        No metric but `cka_first_columns` depends on the coordinates, and k may be far below d.
        """
        w = None if self.weight is None else self.weight.along(basis)
        rounding = (basis.T * self.column_rounding) @ basis
        return replace(self, moments=self.moments.along(basis), weight=w, basis=basis, rounding=rounding)

    def with_rows(self, features: Tensor, targets: Tensor) -> Layer:
        """The layer with the rows at hand of which its sums are: features (N, columns) and targets (N, n)."""
        rows = features if self.basis is None else double(features).cpu() @ self.basis
        return replace(self, rows=(rows, targets))

    def read_here(self, weight: Tensor, source: Layer) -> Tensor:
        """A map (n, d) of the coordinates of `source`, as one of the coordinates of this layer."""
        weight = weight if source.basis is None else weight @ source.basis.T
        return weight if self.basis is None else weight @ self.basis

    @cached_property
    def features(self) -> Spectrum:
        """Eigenvalues (descending) and eigenvectors of Sigma_H."""
        found = spectrum(self.moments.sigma_h)
        if self.rows is None or _gap(found.values, self.moments.n) > CLEAR_GAP * float(found.values[0]):
            return found
        return spectrum_of_rows(self.rows[0])

    def separates(self, k: int) -> bool:
        """Whether the first k principal components are told apart from the others."""
        values = self.features.values
        if self.features.of_rows:
            values = values.sqrt()
        return _gap(values, k) > eigenvalue_floor(values)

    @cached_property
    def targets(self) -> Spectrum:
        """The same of Sigma_Y."""
        return spectrum(self.moments.sigma_y)

    @cached_property
    def cross(self) -> tuple[Tensor, Tensor, int]:
        """Left (d, k) and right (n, k) singular vectors of Sigma_HY, and its numerical rank."""
        m = self.moments
        u, s, vh = torch.linalg.svd(m.sigma_hy, full_matrices=False)
        scale = (self.features.values[0] * self.targets.values[0]).sqrt()
        noise = max(m.feature_eps, m.target_eps, 1e-15)
        rank = int((s > noise * scale).sum())
        if rank < len(s):  # perhaps only the units differ: the same of correlations
            h, y = (_correlation_scale(c) for c in (m.sigma_h, m.sigma_y))
            sizes = (
                torch.linalg.matrix_norm(d[:, None] * c * d) for d, c in ((h, m.sigma_h), (y, m.sigma_y))
            )
            of_units = torch.linalg.svdvals(h[:, None] * m.sigma_hy * y)
            above = int((of_units > noise * math.prod(map(float, sizes)) ** 0.5).sum())
            rank = max(rank, min(above, int((s > RESOLUTION * scale).sum())))
        return u, vh.T, rank

    @cached_property
    def column_rounding(self) -> Tensor:
        """Variance that rounding may give the columns: eps^2 of the mean square of each, (d,); or `rounding`."""
        if self.rounding is not None:
            return self.rounding
        m = self.moments
        square = m.sigma_h.diagonal() + m.mean_h.square()
        # below 6e-5 float16 has steps of 6e-8, whatever the number
        step = 2.0**-24 if m.feature_eps == torch.finfo(torch.float16).eps else 0.0
        return (m.feature_eps**2 * square).clamp_min(step**2)

    @cached_property
    def fit(self) -> AffineFit:
        """The best affine map H -> Y, from the sums where they decide, else from the rows or scaled columns."""
        m, rounding = self.moments, self.column_rounding
        margin = rank_margin(m, self.columns)
        fit = fit_of_sums(m, self.features, rounding, margin)
        if fit.settled:
            return fit
        if self.rows is not None:
            return fit_of_rows(m, *self.rows, rounding, margin)
        return fit_of_scaled_columns(m, rounding, margin) or fit

    @property
    def feature_rank(self) -> int:
        """Number of directions of the centred features that are more than rounding (see `nrc.metrics.fit`)."""
        return self.fit.rank

    @cached_property
    def target_rank(self) -> int:
        """Numerical rank of the centred targets, each divided by its standard deviation: units do not count."""
        m = self.moments
        return rank_of_targets(m.sigma_y, m.mean_y, m.target_eps)

    @cached_property
    def mean_square(self) -> float:
        """mean |h|^2."""
        return float(self.features.values.sum() + self.moments.mean_h.square().sum())

    @property
    def directions(self) -> int:
        """Number of target directions r."""
        if self.target_rank == 0:
            raise Undefined("targets are constant: they have no direction")
        return self.rank or (self.reference or self).target_rank or self.target_rank

    @cached_property
    def affine_map(self) -> tuple[Tensor, Tensor]:
        """The best affine map H -> Y: A = Sigma_YH Sigma_H^+ (n, d) and b = ybar - A hbar (n,).

        Raises:
            Undefined: it rests on directions that float64 sums do not resolve.
        """
        fit, m = self.fit, self.moments
        # what chance explains of the error with so many more directions is no information
        chance = 2 * fit.unresolved / m.count
        variance = float(m.sigma_y.diagonal().sum())
        if fit.doubt > (MAP_DOUBT + chance) * fit.error + MAP_DOUBT_OF_TARGETS * variance:
            raise Undefined(
                f"the best linear map reads directions whose variance is below {RESOLUTION:g} of the largest, which "
                "float64 sums do not resolve; divide the features by their standard deviations"
            )
        return fit.weight, m.mean_y - fit.weight @ m.mean_h

    def outside(self, basis: Tensor, *, centred: bool = False) -> float:
        """mean |h - P h|^2, P = basis basis' (orthonormal columns): from the sums, or what is small from the rows."""
        m = self.moments
        found = outside(m.sigma_h, None if centred else m.mean_h, basis)
        if self.rows is None or found > SMALL_SHARE * self.mean_square:
            return found
        rows = centred_rows(self.rows[0]) if centred else double(self.rows[0]).cpu()
        for _ in range(2):  # again: the first leaves the rounding of what it takes away
            rows = rows - (rows @ basis) @ basis.T
        return float(rows.square().sum() / len(rows))

    @property
    def columns(self) -> int:
        """Number of columns d that the features came in."""
        return self.moments.d if self.basis is None else len(self.basis)

    @cached_property
    def strongest_signal(self) -> float:
        """The largest share of a target's variance that its prediction has, whatever the units of the targets."""
        if self.weight is None:
            return 0.0
        w = self.weight.matrix
        variance = self.moments.sigma_y.diagonal()
        shares = ((w @ self.moments.sigma_h) * w).sum(1) / variance
        return float(shares[variance > 0].max())

    @cached_property
    def vanished(self) -> str:
        """Why the features have vanished; empty while they are alive."""
        rms = self.mean_square**0.5
        if rms <= VANISHED_RMS:
            return f"features vanished: root mean square {rms:.1e} <= {VANISHED_RMS:g}"
        if self.feature_rank == 0:
            return "features vanished: all rows are equal, no variance is left"
        if self.maps_to_targets and self.target_rank and self.strongest_signal < VANISHED_SIGNAL:
            share = f"{self.strongest_signal:.1e} of the targets' < {VANISHED_SIGNAL:g}"
            return f"features vanished: the prediction's variance is {share}"
        return ""

    def require_alive(self) -> None:
        if self.vanished:
            raise Undefined(self.vanished)

    def require_weight(self) -> WeightSpectrum:
        if self.weight is None:
            raise Undefined("no weight was given")
        if self.weight.rank == 0:
            raise Undefined("the weight is zero")
        return self.weight

    def require_prediction(self) -> WeightSpectrum:
        """The weight, if it produces the prediction (it may be zero)."""
        if self.weight is None:
            raise Undefined("no weight was given")
        if not self.maps_to_targets:
            n, shape = self.moments.n, self.weight.shape
            why = f"the weight {shape} does not map to the {n} targets"
            if shape[0] == n and set(shape[2:]) <= {1}:
                why += ": W h + b is not the network's output; if W counts as its last weight, name head=..."
            raise Undefined(why)
        return self.weight
