"""How long a run takes beside others, before it has begun: orders a sweep and weighs its progress."""

import math

from nrc.data import Carla, DataSource, UTKFace
from nrc.models import MLP
from nrc.training import Clock, RunSettings

AUTOGRAD = 1.6  # a step by autograd, with BatchNorm, against one by hand
ROWS, SIZE = 1_000, (88, 200)  # guessed of data that do not say
FEWEST = 2.6  # pixels of the last maps that cost as much as any fewer


def cost(settings: RunSettings) -> float:
    """Floating-point operations of a run, or what takes as long: some 5e10 to 1.5e11 a second on one core.

    The factors were fitted to CPU times of steps and measurements of all experiments of the quick protocol, which
    they give within a third. What is in files that have not been read counts as 1000 rows.
    """
    rows = settings.data.expected_rows if isinstance(settings.data, DataSource) else ROWS
    clock = Clock.of(settings.optim, settings.protocol, rows)
    seen = min(rows, settings.measure.samples or rows) + 0.2 * rows  # the test set, too
    step, look = _of_mlp(settings, seen) if isinstance(settings.model, MLP) else _of_resnet(settings, seen)
    return clock.total_steps * step + len(clock.measured_steps(settings.measure)) * look


def _of_mlp(settings: RunSettings, rows: float) -> tuple[float, float]:
    """A step and a measurement: products of the hidden layers; second moments and eigenproblems of each layer."""
    model, optim, plan = settings.model, settings.optim, settings.measure
    assert isinstance(model, MLP)
    width, hidden = model.width, max(model.num_layers - 2, 1)
    step = 6.0 * optim.batch_size * hidden * width**2 + 2e7
    if model.norm != "none" or optim.penalty != "all":
        step *= AUTOGRAD
    layers = (model.num_layers - 1 if plan.layers == "all" else 1) * (1 + plan.outputs)
    return step, layers * (20.0 * rows * width**2 + 70.0 * width**3)


def _of_resnet(settings: RunSettings, images: float) -> tuple[float, float]:
    """The same from the pixels: maps shrink by 32, and below some size reading the weights is what takes time."""
    height, width = settings.data.expected_size if isinstance(settings.data, Carla | UTKFace) else SIZE
    pixels = 1024 * max(FEWEST, math.ceil(height / 32) * math.ceil(width / 32))
    one = 2e4 * settings.model.depth * pixels  # type: ignore[attr-defined]
    return settings.optim.batch_size * one, images * one / 6
