"""The tau clock: steps, epochs, learning rates and gradient-flow time of one run."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nrc.errors import UserError
from nrc.training.settings import MOST_MEASURED, Measure, Optim, Protocol

MOST_STEPS = 10**12  # thirty years at a millisecond each


@dataclass(frozen=True)
class Clock:
    """Maps a step number to its learning rate, epoch and gradient-flow time.

    tau(step) = sum over the steps before it of lr / (1 - momentum). Momentum SGD and plain SGD follow
    the same trajectory when both are read against tau.

    Example:
        >>> clock = Clock.of(Optim(lr=0.1, momentum=0.9), Protocol(tau=100.0), n_samples=1000)
        >>> clock.total_steps, clock.steps_per_epoch, clock.tau_at(100)
        (100, 4, 100.0)
    """

    lr: float
    momentum: float
    total_steps: int
    steps_per_epoch: int
    drops: tuple[int, ...]  # steps at which the rate is divided by 10

    @classmethod
    def of(cls, optim: Optim, protocol: Protocol, n_samples: int) -> "Clock":
        steps_per_epoch = math.ceil(n_samples / optim.batch_size)
        if protocol.epochs is not None:
            total = protocol.epochs * steps_per_epoch
        else:
            assert protocol.tau is not None
            edges = [0.0, *optim.milestones, 1.0]
            mean_rate = sum((b - a) * 0.1**k for k, (a, b) in enumerate(pairwise(edges)))
            steps = protocol.tau * (1 - optim.momentum) / (optim.lr * mean_rate)
            # rounding first: 100 / 0.1 must not become 1001 steps
            total = math.ceil(round(min(steps, 2.0 * MOST_STEPS), 6))
        if total > MOST_STEPS:
            raise UserError(
                f"the run would take more than {MOST_STEPS:.0e} steps (optim.lr {optim.lr:g}, protocol.tau "
                f"{protocol.tau}, protocol.epochs {protocol.epochs}); raise optim.lr or shorten the protocol"
            )
        drops = tuple(round(m * total) for m in optim.milestones)
        return cls(optim.lr, optim.momentum, max(1, total), steps_per_epoch, drops)

    def lr_at(self, step: int) -> float:
        """Learning rate of the step with this number (the first step is 0)."""
        return self.lr * 0.1 ** sum(step >= d for d in self.drops)

    def tau_at(self, step: int) -> float:
        """Gradient-flow time after `step` steps."""
        edges = [0, *[min(d, step) for d in self.drops], step]
        weighted = sum((b - a) * 0.1**k for k, (a, b) in enumerate(pairwise(edges)))
        return round(weighted * self.lr / (1 - self.momentum), 9)

    def epoch_at(self, step: int) -> float:
        """Passes over the training set after `step` steps."""
        return step / self.steps_per_epoch

    def measured_steps(self, measure: Measure) -> list[int]:
        """Steps at which to measure: start and end always, the rest as `measure` says."""
        total = self.total_steps
        steps = {0, total}
        if measure.every is not None:
            if total // (measure.every * self.steps_per_epoch) > MOST_MEASURED:
                raise UserError(
                    f"measure.every={measure.every} would measure more than {MOST_MEASURED} times; raise it"
                )
            steps.update(range(0, total + 1, measure.every * self.steps_per_epoch))
        if measure.log_spaced:
            steps.update(np.geomspace(1, total, measure.log_spaced).round().astype(int).tolist())
        if measure.evenly:
            steps.update(np.linspace(0, total, measure.evenly + 1).round().astype(int).tolist())
        return sorted(steps)
