"""Where the data lie during a run: on the device when they fit, else pixels streamed from their memory map."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nrc.data import RegressionData
from nrc.errors import UserError

RESIDENT = ("auto", "device", "stream")
SHARE = 0.5  # of the device's free memory that pixels may take; the rest is for activations


@dataclass(frozen=True)
class Placed:
    """The four arrays of a data set as tensors; targets are on the device, inputs perhaps not."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def device(self) -> torch.device:
        return self.y_train.device


def check_resident(resident: object) -> None:
    """Raises UserError unless it is one of the choices."""
    if resident not in RESIDENT:
        raise UserError(f"resident is {resident!r}; choose {', '.join(RESIDENT)}")


def place(data: RegressionData, device: str, resident: str = "auto") -> Placed:
    """Put targets and tables on the device, and images as `resident` says.

    Args:
        resident: "device", "stream", or "auto": on the device if they fit into half of its free memory. A CPU
            reads images where they lie, from the memory map: the page cache is shared by all processes.

    Raises:
        UserError: "device" without room for them.
    """
    x_train, y_train, x_test, y_test = (
        _tensor(a) for a in (data.x_train, data.y_train, data.x_test, data.y_test)
    )
    if not data.is_image or _goes_to_device(x_train.nbytes + x_test.nbytes, device, resident):
        x_train, x_test = x_train.to(device), x_test.to(device)
    return Placed(x_train, y_train.to(device), x_test, y_test.to(device))


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # a read-only memory map is only ever read
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _goes_to_device(nbytes: int, device: str, resident: str) -> bool:
    if resident == "stream" or device == "cpu":
        return False
    free = torch.cuda.mem_get_info()[0]
    fits = nbytes <= SHARE * free
    if resident == "device" and not fits:
        raise UserError(
            f"resident=device, but the images take {nbytes / 1e9:.1f} GB and the device has "
            f"{free / 1e9:.1f} GB free; use resident=stream"
        )
    return fits


def rows(x: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """The rows of `x` with these numbers, on the device."""
    chosen = x.index_select(0, index.to(x.device))
    if x.device == device:
        return chosen
    # pinned memory is copied while the device still computes the step before
    return chosen.pin_memory().to(device, non_blocking=True)


class Batches:
    """(inputs, targets) in order, `size` rows at a time, of all rows or of those in `index`; read when asked."""

    def __init__(self, x: Tensor, y: Tensor, size: int, index: Tensor | None = None) -> None:
        self.x, self.y, self.size, self.index = x, y, size, index

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.index is None:
            yield from zip(self.x.split(self.size), self.y.split(self.size), strict=True)
            return
        for part in self.index.split(self.size):
            yield self.x[part.to(self.x.device)], self.y[part.to(self.y.device)]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first rows, inputs on the device of the targets."""
        x, y = next(iter(Batches(self.x, self.y, count, self.index)))
        return x.to(y.device), y

    @property
    def targets(self) -> Tensor:
        return self.y if self.index is None else self.y[self.index.to(self.y.device)]
