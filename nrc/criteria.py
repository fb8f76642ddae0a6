"""When a run counts as collapsed, as too short, as still falling, and a target direction as alive: each rule once.

The figures, the report and `make check` take their thresholds from here, so they cannot disagree.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from nrc.metrics import ALIVE

COLLAPSED = 0.05  # NRC1, NRC2 or NRC3 below this, in every seed, ...
FALL = 10.0  # ... and at least this many times below the start
ENOUGH_BUDGET = (
    20.0  # decay budget lambda*tau below which a run is too short; above, less than exp(-20) is left
)
STILL_FALLING = 0.95  # a metric still falls if it ends below this share of its value at half of the run's tau
SIGNAL = 1e-3  # train R^2 below which the network explains nothing
FLOOR = 1e-17  # a mean of logarithms takes an exact zero for this, and a log axis draws it here


def geometric_mean(
    values: Sequence[float] | np.ndarray, axis: int = 0, *, skip_undefined: bool = False
) -> np.ndarray:
    """exp(mean(log(values))) along an axis; values below `FLOOR` count as `FLOOR`.

    Args:
        values: numbers >= 0, e.g. one metric in every seed.
        axis: over which the mean is taken.
        skip_undefined: leave NaN out; else one NaN makes the mean NaN. A mean of nothing is NaN.

    Example:
        >>> round(float(geometric_mean([1e-2, 1e-4])), 9), float(geometric_mean([1.0, float("nan")], skip_undefined=True))
        (0.001, 1.0)
    """
    logs = np.log(np.maximum(np.asarray(values, dtype=float), FLOOR))
    with np.errstate(invalid="ignore", divide="ignore"):
        if skip_undefined:
            return np.exp(np.nansum(logs, axis=axis) / (~np.isnan(logs)).sum(axis=axis))
        return np.exp(logs.sum(axis=axis) / logs.shape[axis])


def collapsed(starts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether a metric has collapsed: in every seed it ends below `COLLAPSED`, at least `FALL` times below its start.

    NaN counts as not collapsed, and so does no seed at all.

    Example:
        >>> collapsed([0.8, 0.7], [1e-4, 2e-3]), collapsed([0.8, 0.7], [1e-4, 0.06]), collapsed([0.1], [0.04])
        (True, False, False)
    """
    pairs = list(zip(starts, ends, strict=True))
    return bool(pairs) and all(end < COLLAPSED and end * FALL < start for start, end in pairs)


def not_yet(budget: float) -> bool:
    """Whether a decay budget lambda*tau is too small to tell "does not collapse" from "not yet".

    Example:
        >>> not_yet(19.9), not_yet(20.0)
        (True, False)
    """
    return budget < ENOUGH_BUDGET


class Curves(Protocol):
    """Anything with measured curves, as `nrc.runs.Run`."""

    def series(self, metric: str) -> pd.Series: ...


def still_falling(run: Curves, metric: str) -> bool:
    """Whether a metric is on its way down at the end of a run: behind a ReLU it may fall slower than exp(-lambda*tau).

    Args:
        run: its `series(metric)` holds the values on the train rows against tau.
        metric: e.g. "nrc1".
    """
    series = run.series(metric)
    if not len(series):
        return False
    half = series[(series.index > 0) & (series.index <= series.index[-1] / 2)]
    return len(half) > 0 and float(series.iloc[-1]) < STILL_FALLING * float(half.iloc[-1])


def directions_alive(singular_values: Sequence[float] | np.ndarray, r2: float) -> int:
    """Number of target directions that the network still reads.

    Args:
        singular_values: of the last weight W. One below `ALIVE` of the largest is of a dead direction.
        r2: of the network on its train rows. Below `SIGNAL` all directions are dead.

    Example:
        >>> directions_alive([2.0, 1.0, 0.1], r2=0.9), directions_alive([2.0, 1.0], r2=0.0)
        (2, 0)
    """
    values = np.asarray(singular_values, dtype=float)
    return 0 if r2 < SIGNAL else int((values > ALIVE * values.max()).sum())
