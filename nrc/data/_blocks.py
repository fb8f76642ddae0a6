"""Train and test frames of a drive: by blocks of consecutive frames, or from two sources."""

from collections.abc import Sequence

import numpy as np

from nrc.data._cache import Frames
from nrc.data.base import Array
from nrc.errors import UserError

BLOCK, BLOCKS = 200, 10  # a CoRL-2017 file has 200 frames


class Joined:
    """Train frames followed by test frames."""

    left_out: Sequence[str] = ()

    def __init__(self, train: Frames, test: Frames) -> None:
        if train.shape != test.shape or train.target_names != test.target_names:
            raise UserError(
                f"{test.where} has frames {test.shape} with {', '.join(test.target_names)}, {train.where} "
                f"{train.shape} with {', '.join(train.target_names)}; set data.size or give both the same layout"
            )
        self.parts, self.first = (train, test), len(train.targets)
        self.where, self.shape, self.target_names = train.where, train.shape, train.target_names
        self.targets = np.concatenate([train.targets, test.targets])
        self.notes = [*train.notes, *test.notes]

    def read(self, rows: Array) -> Array:
        mine = rows < self.first
        read = [self.parts[0].read(rows[mine])] if mine.any() else []
        return np.concatenate(
            [*read, self.parts[1].read(rows[~mine] - self.first)] if not mine.all() else read
        )

    def finish(self) -> None:
        for part in self.parts:
            part.finish()

    def sha256(self) -> str:
        return " ".join(part.sha256() for part in self.parts)


def split_blocks(where: str, n: int, test_fraction: float, seed: int) -> tuple[Array, Array]:
    """Rows (train, test), each ascending: whole blocks of consecutive rows, the test blocks drawn at random.

    Example:
        >>> train, test = split_blocks("a drive", 50, 0.2, seed=0)
        >>> len(train), test.tolist()
        (40, [10, 11, 12, 13, 14, 40, 41, 42, 43, 44])
    """
    block = min(BLOCK, -(-n // BLOCKS))
    blocks = np.arange(n) // block
    count = int(blocks[-1]) + 1
    drawn = np.random.RandomState(seed).permutation(count)[: max(1, round(test_fraction * count))]
    test = np.isin(blocks, drawn)
    if n - test.sum() < 2:
        raise UserError(f"{where}: {n} frames are too few for train and test; give more, or a data.test_path")
    return np.flatnonzero(~test), np.flatnonzero(test)
