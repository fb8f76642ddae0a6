"""Streaming second moments: everything that the collapse metrics need to know about a layer.

The sums are kept in float64 about their own mean (Chan, Golub, LeVeque 1979), so batches can come in any
split and order, accumulators merge exactly, and a large mean does not swamp a small variance.
Memory is O(d^2), whatever the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import as_rows, as_tensor, dense, double, precision
from nrc.errors import UserError

CHUNK_ELEMENTS = 1 << 22  # rows are converted to float64 a chunk at a time: at most 32 MB a copy
UNDERFLOW = 1e-140  # shorter rows are scaled before their length is taken


@dataclass(frozen=True)
class Scatter:
    """Count, mean and centred scatter of rows: N, m = sum x / N, sum (x - m)(x - m)'. Two of them add up."""

    count: int
    mean: Tensor  # (d,)
    scatter: Tensor  # (d, d)

    @staticmethod
    def of(rows: Tensor) -> Scatter:
        """The scatter of float64 rows (N, d), N >= 1."""
        mean = rows.mean(0)
        return Scatter(len(rows), mean, _gram(rows - mean))

    def __add__(self, other: Scatter) -> Scatter:
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = torch.outer(delta, delta) * (self.count * other.count / count)
        return Scatter(count, mean, self.scatter + other.scatter + between)

    @cached_property
    def covariance(self) -> Tensor:
        """(d, d), centred and divided by N."""
        return self.scatter / self.count

    def along(self, basis: Tensor) -> Scatter:
        """The same of the coordinates B'x, along the columns of basis (d, k)."""
        return Scatter(self.count, basis.T @ self.mean, basis.T @ self.scatter @ basis)

    def to(self, device: torch.device | str) -> Scatter:
        return Scatter(self.count, self.mean.to(device), self.scatter.to(device))


def _gram(rows: Tensor) -> Tensor:
    """X'X of float64 rows (N, d). numpy sees one matrix twice and computes one triangle; torch does not."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    array = rows.detach().numpy()
    return torch.from_numpy(array.T @ array)


def _plus(a: Scatter | None, b: Scatter | None) -> Scatter | None:
    return a + b if a is not None and b is not None else a if b is None else b


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, d) divided by their lengths, and how many are zero and stay it."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    # The squares of entries below 1e-154 underflow. No type that a GPU computes features in has such entries.
    if rows.device.type == "cpu" and bool((length < UNDERFLOW).any()):
        peak = rows.abs().amax(-1, keepdim=True)
        rows = torch.where((length < UNDERFLOW) & (peak > 0), rows / peak.masked_fill(peak == 0, 1.0), rows)
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    zero = length == 0
    return rows / length.masked_fill(zero, 1.0), zero.sum()


class Moments:
    """Second moments of features h (d) and targets y (n), and of the normalised features u = h/|h|.

    Zero rows count as u = 0 and are counted in `zero_rows`. With `centre` (d,) the directions
    v = (h - centre)/|h - centre| are accumulated, too; `add_centred` does that in a second pass over all rows.

    Args:
        centre: the mean feature if it is known beforehand, else None.
        directions: False leaves the sums of u out, which NRC1 and NRC2 are made of: `unit` is then None.

    Raises:
        UserError: shapes that do not fit each other or the earlier batches.

    Example:
        >>> import torch
        >>> h, y = torch.randn(100, 5), torch.randn(100, 2)
        >>> whole = Moments().update(h, y)
        >>> parts = Moments().update(h[:30], y[:30]) + Moments().update(h[30:], y[30:])
        >>> whole.count == parts.count, torch.allclose(whole.sigma_h, parts.sigma_h)
        (True, True)
    """

    def __init__(self, centre: Any = None, *, directions: bool = True) -> None:
        self._directions = directions
        self._joint: Scatter | None = None  # of (h, y) side by side: one product gives H'H, H'Y and Y'Y
        self._unit: Scatter | None = None
        self._zero_rows: Tensor | int = 0
        self.centred: Scatter | None = None
        self.centre: Tensor | None = None if centre is None else double(as_tensor(centre, "centre"))
        self._known_centre = centre is not None
        self.centred_missing = "the mean feature was not known during the pass"
        self.d = 0
        self.n = 0
        self.feature_eps = 0.0  # relative rounding of the features as they came, e.g. 1.2e-7 for float32
        self.target_eps = 0.0
        self._longest: Tensor | float = 0.0

    def update(self, features: Any, targets: Any) -> Moments:
        """Add rows: features (N, d), targets (N, n) or (N,). Returns itself."""
        h, y = as_rows(features, targets)
        self._expect(h.shape[1], y.shape[1], "this batch")
        if self.centre is not None and not self._known_centre:  # it is no longer the mean
            self.centre = self.centred = None
            self.centred_missing = "rows were added after add_centred; call it again, with all rows"
        self.feature_eps = max(self.feature_eps, precision(h.dtype))
        self.target_eps = max(self.target_eps, precision(y.dtype))
        step = max(1, CHUNK_ELEMENTS // (self.d + self.n))
        for start in range(0, len(h), step):
            rows = double(h[start : start + step])
            if self.count < self.d:
                self._longest = rows.square().sum(1).max().clamp_min(self._longest)
            self._joint = _plus(self._joint, _scatter_of_pair(rows, double(y[start : start + step])))
            if self._directions:
                unit, zero = unit_rows(rows)
                self._unit = _plus(self._unit, Scatter.of(unit))
                self._zero_rows = self._zero_rows + zero
            if self.centre is not None:
                self._add_centred_rows(rows)
        return self

    def add_centred(self, features: Any) -> Moments:
        """Second pass over the same features (N, d), now that their mean is known. Returns itself."""
        h = dense(as_tensor(features, "features"))
        if h.ndim != 2 or h.shape[1] != len(self.mean_h):
            raise UserError(
                f"the second pass has features of shape {tuple(h.shape)}; expected (N, {self.d}), as in the first"
            )
        if self.centre is None:
            self.centre = self.mean_h
        step = max(1, CHUNK_ELEMENTS // self.d)
        for start in range(0, len(h), step):
            self._add_centred_rows(double(h[start : start + step]))
        return self

    def _add_centred_rows(self, rows: Tensor) -> None:
        assert self.centre is not None
        self.centred = _plus(self.centred, Scatter.of(unit_rows(rows - self.centre.to(rows.device))[0]))

    def _expect(self, d: int, n: int, what: str) -> None:
        if self.d and (d, n) != (self.d, self.n):
            raise UserError(
                f"{what} has {d} features and {n} targets, but the moments so far have {self.d} and {self.n}"
            )
        if self.centre is not None and self.centre.shape != (d,):
            raise UserError(f"centre has shape {tuple(self.centre.shape)}, but the features have {d} columns")
        self.d, self.n = d, n

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows together (on this one's device); neither operand changes."""
        if not other.count or not self.count:
            return (self if self.count else other).to(self._device or other._device or "cpu")
        self._expect(other.d, other.n, "the other set of moments")
        other = other.to(self._device or "cpu")
        merged = Moments(directions=self._directions and other._directions)
        merged.d, merged.n = self.d, self.n
        merged.feature_eps = max(self.feature_eps, other.feature_eps)
        merged.target_eps = max(self.target_eps, other.target_eps)
        merged._longest = max(self.longest, other.longest)
        merged._joint = _plus(self._joint, other._joint)
        if self._unit is not None and other._unit is not None:
            merged._unit = self._unit + other._unit
        merged._zero_rows = self._zero_rows + other._zero_rows
        if self.centre is None or other.centre is None or not torch.equal(self.centre, other.centre):
            merged.centred_missing = "the merged moments were centred about different points, or not at all"
        else:
            merged.centre, merged.centred = self.centre, _plus(self.centred, other.centred)
            merged._known_centre = self._known_centre and other._known_centre
        return merged

    def __add__(self, other: Moments) -> Moments:
        return self.merge(other)

    def to(self, device: torch.device | str) -> Moments:
        """A copy on a device: rows added to it are not added to these."""
        moved = Moments()
        moved.__dict__.update(self.__dict__)
        for name in ("_joint", "_unit", "centred", "centre", "_zero_rows", "_longest"):
            value = getattr(self, name)
            setattr(moved, name, value.to(device) if isinstance(value, Scatter | Tensor) else value)
        return moved

    def along(self, basis: Tensor) -> Moments:
        """The moments of the coordinates B'h, along the orthonormal columns of basis (d, k)."""
        both = torch.block_diag(basis, torch.eye(self.n, dtype=basis.dtype, device=basis.device))
        moved = Moments()
        moved.__dict__.update(self.__dict__)
        moved.d = basis.shape[1]
        moved._joint = self._sums.along(both)
        moved._unit = None if self._unit is None else self._unit.along(basis)
        moved.centred = None if self.centred is None else self.centred.along(basis)
        moved.centre = None if self.centre is None else basis.T @ self.centre
        return moved

    @property
    def _device(self) -> torch.device | None:
        return None if self._joint is None else self._joint.mean.device

    @property
    def _sums(self) -> Scatter:
        if self._joint is None:
            raise UserError("these moments are empty; call update(features, targets) with at least one row")
        return self._joint

    @property
    def count(self) -> int:
        """Number of rows N."""
        return 0 if self._joint is None else self._joint.count

    @property
    def zero_rows(self) -> int:
        """Number of features that are exactly zero and so have no direction."""
        return int(self._zero_rows)

    @property
    def longest(self) -> float:
        """The largest |h|^2, of fewer rows than columns; of more, that of some of them."""
        return float(self._longest)

    @property
    def finite(self) -> bool:
        """False as soon as one row held NaN or infinity (or overflowed)."""
        parts = (self._sums, self.centred)
        return all(bool(torch.isfinite(part.scatter).all()) for part in parts if part is not None)

    @property
    def mean_h(self) -> Tensor:
        return self._sums.mean[: self.d]

    @property
    def mean_y(self) -> Tensor:
        return self._sums.mean[self.d :]

    @property
    def sigma_h(self) -> Tensor:
        """Covariance of the features, Hc'Hc/N, (d, d)."""
        return self._sums.covariance[: self.d, : self.d]

    @property
    def sigma_hy(self) -> Tensor:
        """Cross-covariance Hc'Yc/N, (d, n)."""
        return self._sums.covariance[: self.d, self.d :]

    @property
    def sigma_y(self) -> Tensor:
        """Covariance of the targets, Yc'Yc/N, (n, n): the papers' Sigma."""
        return self._sums.covariance[self.d :, self.d :]

    @property
    def unit(self) -> Scatter | None:
        """Mean and scatter of the normalised features u = h/|h|; None where they were left out."""
        self._sums  # noqa: B018  raises when empty
        return self._unit


def _scatter_of_pair(h: Tensor, y: Tensor) -> Scatter:
    return Scatter.of(torch.cat((h, y.to(h.device)), dim=1))
