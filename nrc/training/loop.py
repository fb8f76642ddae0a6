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

STRIDE = 2**64 - 1  # counter values between two epochs: more than a permutation can take
LOOK = 64  # steps between two looks at the errors


class Diverged(Exception):
    """The loss became infinite or NaN."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")
        self.step = step


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) in which a run with this seed goes through its n rows in this epoch.

    Drawn by Philox (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), which turns a key and a counter
    into random words. The key is the seed, so all seeds from 0 to 2**128 - 1 have different streams, and each epoch
    begins STRIDE further on, so its words are used in no other epoch. To resume, no generator state is needed.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=7).tolist())
        [0, 1, 2, 3, 4]
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=epoch * STRIDE))
    return torch.from_numpy(generator.permutation(n))


def batch_order(n: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Tensor]:
    """Endless shuffled index batches from step `start_step` on; the last partial batch of an epoch is kept."""
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
        Diverged: the error is no longer finite (looked at once in `LOOK` steps and at the end).
    """
    for step in range(first, last):
        index = next(order)
        here = rows(x, index, y.device), rows(y, index, y.device)
        residual = stepper.step(*here, clock.lr_at(step))
        if (step % LOOK == 0 or step == last - 1) and not torch.isfinite(residual).all():
            raise Diverged(step)
        if stop():
            return step + 1
    return last
