"""One layer as the metrics see it: moments, weight, and the small eigenproblems, each solved once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_tensor
from nrc.errors import UserError
from nrc.metrics.linalg import Spectrum, WeightSpectrum, numerical_rank, spectrum, weight_spectrum
from nrc.moments import Moments

VANISHED_RMS = 1e-12
VANISHED_SIGNAL = 1e-8
TARGET_RANK_TOLERANCE = 1e-10  # relative, of eigenvalues; SGEMM's nearly collinear targets have 4e-6


class Undefined(Exception):
    """A metric has no value here; the text is the reason that is recorded beside the NaN."""


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
    """

    moments: Moments
    weight: WeightSpectrum | None = None
    bias: Tensor | None = None
    maps_to_targets: bool = False
    rank: int | None = None
    reference: Layer | None = None
    error: float | None = None

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
                f"{moments.d} columns; measure the weight's own input (a grouped convolution has none)"
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
        if reference is not None and (reference.moments.d, reference.moments.n) != (moments.d, moments.n):
            raise UserError(
                f"linear_map_from has {reference.moments.d} features and {reference.moments.n} targets, "
                f"but the moments have {moments.d} and {moments.n}"
            )
        return Layer(moments.to("cpu"), w, b, maps, rank, reference)

    @cached_property
    def features(self) -> Spectrum:
        """Eigenvalues (descending) and eigenvectors of Sigma_H."""
        return spectrum(self.moments.sigma_h)

    @cached_property
    def targets(self) -> Spectrum:
        """The same of Sigma_Y."""
        return spectrum(self.moments.sigma_y)

    @cached_property
    def cross(self) -> tuple[Tensor, Tensor, int]:
        """Left (d, k) and right (n, k) singular vectors of Sigma_HY, and its numerical rank."""
        u, s, vh = torch.linalg.svd(self.moments.sigma_hy, full_matrices=False)
        scale = (self.features.values[0] * self.targets.values[0]).sqrt()
        noise = max(self.moments.feature_eps, self.moments.target_eps, 1e-15) * float(scale)
        return u, vh.T, int((s > noise).sum())

    @cached_property
    def feature_tolerance(self) -> float:
        """Eigenvalues of Sigma_H below this are rounding: (2 eps)^2 of mean |h|^2, eps that of the features'
        type.

        Rounding n float32 numbers perturbs Sigma_H by some eps^2/12 of their mean square; the float64 sums
        themselves are good to 2e-16 d of the largest eigenvalue.
        """
        rounding = 4 * self.moments.feature_eps**2 * self.mean_square
        return max(rounding, 2.3e-16 * self.moments.d * float(self.features.values[0]))

    @cached_property
    def feature_rank(self) -> int:
        """Numerical rank of the centred features."""
        return numerical_rank(self.features.values, self.feature_tolerance)

    @cached_property
    def target_rank(self) -> int:
        """Numerical rank of the centred targets."""
        mean_square = float(self.targets.values.sum() + self.moments.mean_y.square().sum())
        rounding = 4 * self.moments.target_eps**2 * mean_square
        return numerical_rank(
            self.targets.values, max(TARGET_RANK_TOLERANCE * float(self.targets.values[0]), rounding)
        )

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
        """The best affine map H -> Y: A = Sigma_YH Sigma_H^+ (t, d) and b = ybar - A hbar (t,).

        Directions of Sigma_H below `feature_tolerance` are rounding and are left out.
        """
        m = self.moments
        kept = self.features.values > self.feature_tolerance
        basis, values = self.features.vectors[:, kept], self.features.values[kept]
        a = ((m.sigma_hy.T @ basis) / values) @ basis.T
        return a, m.mean_y - a @ m.mean_h

    @cached_property
    def signal_share(self) -> float:
        """tr(W Sigma_H W') / tr(Sigma_Y)."""
        if self.weight is None or not self.maps_to_targets:
            raise Undefined("the weight does not map to the targets")
        if self.target_rank == 0:
            raise Undefined("targets are constant: their variance is 0")
        w = self.weight.matrix
        return float(((w @ self.moments.sigma_h) * w).sum() / self.targets.values.sum())

    @cached_property
    def vanished(self) -> str:
        """Why the features have vanished; empty while they are alive."""
        rms = self.mean_square**0.5
        if rms <= VANISHED_RMS:
            return f"features vanished: root mean square {rms:.1e} <= {VANISHED_RMS:g}"
        if self.feature_rank == 0:
            return "features vanished: all rows are equal, no variance is left"
        if self.maps_to_targets and self.target_rank and self.signal_share < VANISHED_SIGNAL:
            share = f"{self.signal_share:.1e} of the targets' < {VANISHED_SIGNAL:g}"
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
            if len(shape) == 2 and shape[0] == n:
                why += ": W h + b is not the network's output; if W counts as its last weight, name head=..."
            raise Undefined(why)
        return self.weight
