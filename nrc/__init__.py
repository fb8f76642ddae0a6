"""Neural regression collapse: measure it in any network, and reproduce the two papers that found it.

Example:
    >>> import numpy as np, nrc
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(500, 2))
    >>> weight = rng.normal(size=(2, 16))
    >>> features = z @ weight                      # features that live in the row space of the weight
    >>> values = nrc.measure(features, features @ weight.T, weight)
    >>> values["nrc1"] < 1e-12 and values["nrc2"] < 1e-12
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nrc.features.collect import collect
    from nrc.features.monitor import CollapseMonitor
    from nrc.metrics import measure
    from nrc.moments import Moments

__version__ = "0.2.0"

__all__ = ["CollapseMonitor", "Moments", "__version__", "collect", "measure"]
_HOMES = {
    "CollapseMonitor": "nrc.features.monitor",
    "Moments": "nrc.moments",
    "collect": "nrc.features.collect",
    "measure": "nrc.metrics",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a command then hears Ctrl-C before torch is loaded."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in ("errors", "features", "metrics", "moments"):
        value = import_module(f"nrc.{name}")
    else:
        raise AttributeError(f"module 'nrc' has no attribute {name!r}")
    globals()[name] = value
    return value
