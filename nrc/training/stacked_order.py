"""The batches of all members of a stack."""

import torch
from torch import Tensor

from nrc.training.loop import epoch_order

BLOCK = 256  # about so many steps are drawn at a time


class StackedOrder:
    """For each member the order in which it goes through its rows, from the step `start` on.

    It is that of `batch_order` with the member's seed, so a member sees the batches of its separate run.

    Args:
        n: rows of the training set.
        batch_size: rows of a full batch; the last one of an epoch may have fewer.
        seeds: of the members.
    """

    def __init__(self, n: int, batch_size: int, seeds: list[int], start: int = 0) -> None:
        self.n, self.seeds = n, seeds
        self.batch = min(batch_size, n)
        self.per_epoch = -(-n // batch_size)
        self.rows = torch.full((self.per_epoch,), self.batch)
        self.rows[-1] = n - (self.per_epoch - 1) * self.batch
        self.epochs = max(1, BLOCK // self.per_epoch)
        self.step = start
        self.block, skip = divmod(start, self.epochs * self.per_epoch)
        self.ready = self._draw()[skip:]

    def take(self, steps: int) -> tuple[Tensor, Tensor]:
        """The next batches: indices (steps, K, B), and how many of the B are real (steps,)."""
        while len(self.ready) < steps:
            self.ready = torch.cat((self.ready, self._draw()))
        index, self.ready = self.ready[:steps], self.ready[steps:]
        rows = self.rows[torch.arange(self.step, self.step + steps) % self.per_epoch]
        self.step += steps
        return index, rows

    def _draw(self) -> Tensor:
        """The batches of a block of epochs, (epochs * per_epoch, K, B)."""
        order = torch.stack([self._as_alone(seed) for seed in self.seeds], 1)  # (epochs, K, n)
        self.block += 1
        padded = order.new_zeros(*order.shape[:2], self.per_epoch * self.batch)
        padded[..., : self.n] = order
        return padded.unflatten(2, (self.per_epoch, self.batch)).transpose(1, 2).flatten(0, 1)

    def _as_alone(self, seed: int) -> Tensor:
        first = self.block * self.epochs
        return torch.stack([epoch_order(self.n, seed, epoch) for epoch in range(first, first + self.epochs)])
