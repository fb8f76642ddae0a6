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

from nrc.features.collect import CollapseMonitor, collect
from nrc.metrics import measure
from nrc.moments import Moments

__version__ = "0.1.0"

__all__ = ["CollapseMonitor", "Moments", "__version__", "collect", "measure"]
