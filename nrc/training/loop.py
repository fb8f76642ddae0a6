"""The training loop: data resident on the device, plain values in, nothing but steps inside.

By hand rather than from a trainer library: a run of a small network is millions of steps of about a
millisecond, and the tau clock, the measuring schedule and exact resumption need every step in view.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from nrc.training.clock import Clock
from nrc.training.placement import rows
from nrc.training.steppers import Stepper

STRIDE = 1_000_003  # epochs between the orders of one seed and the next


class Diverged(Exception):
    """The loss became infinite or NaN."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")
        self.step = step


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) in which a run with this seed goes through its rows in this epoch."""
    if epoch >= STRIDE:  # the sum below would be that of the next seed's first epochs
        return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))
    generator = torch.Generator().manual_seed((seed + 1) * STRIDE + epoch)
    return torch.randperm(n, generator=generator)


def batch_order(n: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Tensor]:
    """Endless shuffled index batches; the last partial batch of an epoch is kept.

    The order of an epoch depends on the seed and the epoch alone, so a resumed run needs no
    generator state.
    """
    per_epoch = -(-n // batch_size)
    epoch, skip = divmod(start_step, per_epoch)
    while True:
        yield from epoch_order(n, seed, epoch).split(batch_size)[skip:]
        epoch, skip = epoch + 1, 0


def train_steps(
    stepper: Stepper,
    x: Tensor,
    y: Tensor,
    order: Iterator[Tensor],
    clock: Clock,
    first: int,
    last: int,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Take the steps first..last-1 and return the number of the next step.

    Args:
        stepper: holds the model and how it is updated.
        x, y: training inputs (N, ...) and targets (N, n); y on the device of the model, x there or in memory.
        order: index batches, already at step `first`.
        stop: asked after every step; True ends the loop early.

    Raises:
        Diverged: the error is no longer finite (looked at once in 64 steps and at the end).
    """
    for step in range(first, last):
        index = next(order)
        here = rows(x, index, y.device), rows(y, index, y.device)
        residual = stepper.step(*here, clock.lr_at(step))
        if (step % 64 == 0 or step == last - 1) and not torch.isfinite(residual).all():
            raise Diverged(step)
        if stop():
            return step + 1
    return last
