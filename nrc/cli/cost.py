"""How long a run takes beside others, before it has begun: orders a sweep and weighs its progress."""

from typing import Any

from nrc.data import DataSource
from nrc.models import MLP
from nrc.training import Clock, RunSettings

BLOCK = 6e5  # parameters of a ResNet for each of its layers: 11 million at depth 18


def cost(settings: RunSettings) -> float:
    """Steps times rows of a batch times parameters: roughly proportional to the time.

    What is in files that have not been read counts as 1000 rows, and a model that is not known as a small one.
    """
    rows = settings.data.expected_rows if isinstance(settings.data, DataSource) else 1000
    steps = Clock.of(settings.optim, settings.protocol, rows).total_steps
    model: Any = settings.model
    parameters = (
        model.num_layers * model.width**2 if isinstance(model, MLP) else BLOCK * getattr(model, "depth", 1)
    )
    return steps * min(settings.optim.batch_size, rows) * parameters
