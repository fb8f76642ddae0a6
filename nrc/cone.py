"""One-sidedness: do vectors z_i lie to one side of a hyperplane through 0?

Exact uncentred collapse of non-negative features needs it: with h_i >= 0 and NRC1 = NRC2 = 0 all predictions
z_i = W h_i lie in one pointed cone (`nrc.theory.nonnegative`, proposition in its docstring). Of finitely many
z_i different from 0 that is the same as: some v has v'z_i > 0 for all i. A linear programme answers it, with a
certificate either way (Gordan's theorem): such a v, or weights m_i >= 0 that add up to 1 with sum_i m_i z_i = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nrc.errors import UserError

Array = NDArray[np.float64]

ROUNDING = 1e-12  # relative to the rms of z: what is shorter counts as 0
CUTS = 100  # most half-spaces on the way from a box to the Euclidean ball
PART = 50  # most rows that join the linear programme at a time
TRIMS = 10  # most rounds of choosing which rows to except


@dataclass(frozen=True)
class OneSided:
    """The answer of `one_sided`.

    Attributes:
        holds: whether `direction` has v'z_i > margin for all rows but the exceptions. True is certified by
            `direction`. False is certified by `multipliers`; where these are None it is only "none found".
        direction: (n,) unit vector v, the best one found; None if every z_i is 0.
        multipliers: (M,) weights m_i >= 0, sum m = 1, with |sum_i m_i z_i| <= the margin asked for (so = 0 when
            none was asked for): then no unit v has v'z_i > margin for all i. None if `holds`, or if exceptions
            were allowed.
        margin: smallest v'z_i / rms(z) over the rows that are not excepted; negative if one is on the wrong side.
        share: of all rows, those with v'z_i > 0, in [0, 1].
    """

    holds: bool
    direction: Array | None
    multipliers: Array | None
    margin: float
    share: float


def one_sided(z: ArrayLike, margin: float = 0.0, exceptions: float = 0.0) -> OneSided:
    """Is there a unit vector v with v'z_i > margin * rms(z) for all rows i, rms(z) = sqrt(mean |z_i|^2)?

    Without exceptions this is decided by the linear programme

        max t  subject to  v'z_i - margin rms(z) >= t |z_i|,  |v| <= 1,

    one-sided if and only if t > 0. The constraint is scaled by |z_i|, so without a margin only the directions of
    the z_i matter. |v| <= 1 is a box at first, to which half-spaces are added while v/|v| does not serve all
    rows and |v| > 1 + 1e-7, the accuracy to which a margin is decided (none are needed for margin = 0, where any
    bounded set of v decides). For n = 1 no programme is needed.

    With exceptions the problem is combinatorial. Heuristic: start from the v of least total slack,
    min sum_i (1 - v'z_i/|z_i|)_+, except the rows that v serves worst, solve the programme for the others, and
    repeat with its v while that helps. "holds" is then certified by its direction; "does not" is not certified.
    For n = 1 both are exact.

    Args:
        z: (M, n) or (M,), predictions without the output bias, any unit.
        margin: >= 0, relative to the rms of z.
        exceptions: share of rows that may be on the wrong side, in [0, 1); floor(exceptions * M) rows.

    Raises:
        UserError: z of another shape, not finite or empty; margin or exceptions out of range.

    Example:
        >>> one_sided([[1.0, 2.0], [1.0, -3.0]]).holds
        True
        >>> found = one_sided([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> found.holds, found.multipliers.round(6).tolist()
        (False, [0.5, 0.25, 0.25])
        >>> one_sided([1.0, 2.0, 3.0, -0.1], exceptions=0.25).holds
        True
    """
    rows = np.asarray(z, dtype=float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
        raise UserError(f"z has shape {rows.shape}; expected finite predictions (M, n) or (M,)")
    if not 0 <= margin < math.inf:
        raise UserError(f"margin is {margin:g}; it must be a finite number >= 0, in units of the rms of z")
    if not 0 <= exceptions < 1:
        raise UserError(f"exceptions is {exceptions:g}; it must be a share of the rows, in [0, 1)")
    size = float(np.abs(rows).max())
    if size == 0:
        only_zeros = None if exceptions else np.full(len(rows), 1 / len(rows))
        return OneSided(False, None, only_zeros, 0.0, 0.0)
    rows = rows / size  # squares of very small or large numbers stay in range
    rows = rows / math.sqrt((rows**2).sum(1).mean())
    length = np.linalg.norm(rows, axis=1)
    spare = int(exceptions * len(rows) + 1e-9)
    multipliers = None
    if rows.shape[1] == 1:
        direction = _on_a_line(rows[:, 0], spare)
        multipliers = None if spare else _balance_of_two(rows[:, 0])
    elif not spare:
        direction, multipliers = _widest(rows, length, margin)
    else:
        direction = _trimmed(rows, length, margin, spare)
    along = rows @ direction
    holds = int((~_served(along, length, margin)).sum()) <= spare
    least = float(np.partition(along, spare)[spare])
    return OneSided(holds, direction, None if holds else multipliers, least, float((along > 0).mean()))


def _served(along: Array, length: Array, margin: float) -> NDArray[np.bool_]:
    """Which rows have v'z_i > margin, by more than rounding."""
    return (length > ROUNDING) & (along - margin > ROUNDING * length)


def offset(mean: ArrayLike, second_moment: ArrayLike) -> float:
    """offset = |mean z|^2 / mean |z|^2, how far off 0 the z lie; cheap companion of `one_sided` from moments.

    [0, 1]: 0 when the z are centred, 1 when all are the same. Vectors with an offset of 0 are never one-sided
    (unless all are 0), since then sum_i z_i = 0; an offset near 1 does not prove that they are.

    Args:
        mean: (n,), mean of z.
        second_moment: (n, n), mean of z z', not centred; or its trace, mean |z|^2, as a number.

    Returns:
        NaN if all z are 0.

    Example:
        >>> offset([1.0, 0.0], [[2.0, 0.0], [0.0, 2.0]])
        0.25
    """
    total = float(np.trace(np.atleast_2d(np.asarray(second_moment, dtype=float))))
    return float((np.asarray(mean, dtype=float) ** 2).sum()) / total if total > 0 else math.nan


def _on_a_line(z: Array, spare: int) -> Array:
    """The better of +1 and -1: the one whose worst row, exceptions left out, lies further up."""
    up, down = (np.partition(signed, spare)[spare] for signed in (z, -z))
    return np.array([1.0 if up >= down else -1.0])


def _balance_of_two(z: Array) -> Array:
    """Weights on the smallest and the largest number that bring their mean as near to 0 as it can be."""
    low, high = int(z.argmin()), int(z.argmax())
    weights = np.zeros(len(z))
    if z[low] >= 0 or z[high] <= 0:
        weights[low if z[low] >= 0 else high] = 1.0
    else:
        weights[low], weights[high] = z[high], -z[low]
    return weights / weights.sum()


def _widest(rows: Array, length: Array, margin: float) -> tuple[Array, Array]:
    """The v of the programme in `one_sided` (that of least slack if there is none), and its multipliers.

    Few rows matter: the programme is solved for a part of them, and those that its v violates most are added
    until none is violated. A part that is not one-sided already settles the matter.
    """
    from scipy.optimize import linprog

    count, n = rows.shape
    if length.min() <= ROUNDING:  # nothing is on the positive side of 0
        return _least_slack(rows, length), np.eye(1, count, int(length.argmin()))[0]
    units = rows / length[:, None]
    # unknowns (v, t): t - v'z_i/|z_i| <= -margin/|z_i|, one row for each z_i, then the cuts u'v <= 1
    upper, limit = np.hstack([-units, np.ones((count, 1))]), -margin / length
    cuts = np.zeros((0, n + 1))
    bounds = [(-1.0, 1.0)] * n + [(None, None)]
    part = np.unique(np.concatenate([_worst(units @ u, n) for u in (*np.eye(n), *-np.eye(n), units.mean(0))]))
    while True:
        found = linprog(
            -np.eye(n + 1)[n], np.vstack([upper[part], cuts]), np.append(limit[part], np.ones(len(cuts))),
            bounds=bounds, method="highs",
        )  # fmt: skip
        if found.x is None:
            raise RuntimeError(f"the linear programme of one_sided did not solve: {found.message}")
        v, t = found.x[:n], float(found.x[n])
        norm = float(np.linalg.norm(v))
        if t <= ROUNDING:
            break
        slack = limit - upper @ found.x
        new = np.setdiff1d(_worst(slack, PART), part)
        new = new[slack[new] < -1e-9]
        long = norm > 1 + 1e-7 and not _served(rows @ v / norm, length, margin).all()
        if not len(new) and (not long or len(cuts) == CUTS):
            break
        part = np.concatenate([part, new])
        cuts = np.vstack([cuts, np.append(v / norm, 0.0)]) if long and len(cuts) < CUTS else cuts
    weights = np.zeros(count)
    weights[part] = np.maximum(-found.ineqlin.marginals[: len(part)], 0.0) / length[part]
    # without a margin v = 0 is all that is left when the z are not one-sided
    return (v / norm if t > ROUNDING else _least_slack(rows, length)), weights / weights.sum()


def _worst(values: Array, number: int) -> NDArray[np.intp]:
    """Where the `number` smallest of the values stand."""
    number = min(number, len(values))
    return np.argpartition(values, number - 1)[:number]


def _least_slack(rows: Array, length: Array) -> Array:
    """The unit v of min sum_i (1 - v'z_i/|z_i|)_+, from its dual: n equations, one weight in [0, 1] for each row."""
    from scipy.optimize import linprog

    present = length > ROUNDING
    units = rows[present] / length[present, None]
    n = units.shape[1]
    found = linprog(-np.ones(len(units)), A_eq=units.T, b_eq=np.zeros(n), bounds=(0.0, 1.0), method="highs")
    v = -np.asarray(found.eqlin.marginals, dtype=float)
    norm = float(np.linalg.norm(v))
    if norm <= ROUNDING:  # the units add up to 0: any direction is as good
        v = np.linalg.svd(units, full_matrices=False)[2][0]
        norm = 1.0
    v = v / norm
    return v if (units @ v > 0).mean() >= (units @ v < 0).mean() else -v


def _trimmed(rows: Array, length: Array, margin: float, spare: int) -> Array:
    """A direction for all rows but `spare` of them: each round excepts the rows that the last v served worst."""
    direction = answer = _least_slack(rows, length)
    fewest = len(rows) + 1
    for _ in range(TRIMS):
        along = rows @ direction
        left = int((~_served(along, length, margin)).sum())
        if left >= fewest:
            break
        fewest, answer = left, direction
        if left <= spare:
            break
        # no direction serves what is shorter than the margin
        order = np.argsort(np.where(length > max(margin, ROUNDING), along, -math.inf), kind="stable")[spare:]
        direction, _ = _widest(rows[order], length[order], margin)
    return answer
