"""Collapse metrics of both papers as pure functions of moments.

`measure` takes arrays, `measure_moments` takes `nrc.Moments`; both return every metric by name. Each metric
is also a function of a `Layer`, in `nrc.metrics.last_layer` and `nrc.metrics.layerwise`.
"""

from nrc.metrics.assemble import (
    LAST_LAYER,
    LAYERWISE,
    METRICS,
    Metrics,
    evaluate,
    measure,
    measure_moments,
    measure_with_reasons,
)
from nrc.metrics.intrinsic import intrinsic_dimension
from nrc.metrics.last_layer import gamma_star, nrc3, nrc3_curve
from nrc.metrics.layer import Layer, Maker, Undefined
from nrc.metrics.layerwise import ALIVE, weight_balance
from nrc.metrics.linalg import weight_spectrum

__all__ = [
    "ALIVE",
    "LAST_LAYER",
    "LAYERWISE",
    "METRICS",
    "Layer",
    "Maker",
    "Metrics",
    "Undefined",
    "evaluate",
    "gamma_star",
    "intrinsic_dimension",
    "measure",
    "measure_moments",
    "measure_with_reasons",
    "nrc3",
    "nrc3_curve",
    "weight_balance",
    "weight_spectrum",
]
