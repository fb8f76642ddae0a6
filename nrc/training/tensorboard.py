"""Metric rows as TensorBoard curves, beside metrics.csv: `tensorboard=true`, then `tensorboard --logdir outputs`."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nrc.errors import UserError
from nrc.training.measuring import Row


@contextmanager
def mirrored(
    append: Callable[[list[Row]], None], directory: Path, last_step: int
) -> Iterator[Callable[[list[Row]], None]]:
    """Within the block an `append` that also writes an event file in `directory`: `layer/metric/split` against the step.

    Args:
        append: takes rows in the order of `nrc.runs.directory.COLUMNS`.
        directory: the run directory.
        last_step: the last measured step of a resumed run; later curves of an earlier attempt are hidden.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tensorboard=true needs TensorBoard, which is not installed: pip install 'nrc[tensorboard]'"
        ) from None
    writer = SummaryWriter(str(directory), purge_step=last_step + 1)

    def both(rows: list[Row]) -> None:
        append(rows)
        for _, step, _, split, layer, metric, value in rows:
            if not math.isnan(value):
                writer.add_scalar(f"{layer.replace(':', '_')}/{metric}/{split}", value, step)
        writer.flush()  # a killed run keeps its curves

    with writer:
        yield both
