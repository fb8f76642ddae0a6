"""Frames that are image files in a folder or tar; what cannot be decoded is named and counted."""

from collections.abc import Sequence

import numpy as np

from nrc.data.base import Array
from nrc.data.images.cache import Frames
from nrc.data.images.decode import decode
from nrc.data.images.store import Store
from nrc.errors import UserError

SHOWN = 5


class Unreadable(UserError):
    """Some image files cannot be decoded; `broken` maps each name to what is wrong with it."""

    def __init__(self, where: str, broken: dict[str, str], remedy: str) -> None:
        self.broken = broken
        super().__init__(
            f"{where}: {listed([f'{n} ({why})' for n, why in broken.items()])} cannot be read; {remedy}"
        )


class ImageFrames(Frames):
    """Image files of one size, or resized to `size` = (H, W).

    Args:
        store: the folder or tar.
        names: one file per frame, in order.
        targets, target_names: (N, k) and k names.
        size: None: the size of the first readable image, which all others must have.
        remedy: what a user can do about files that cannot be read.
        left_out: files that are not among the names because they cannot be read.
    """

    def __init__(
        self, store: Store, names: list[str], targets: Array, target_names: tuple[str, ...],
        size: tuple[int, int] | None, notes: list[str], remedy: str = "get them again, or take them out of the set",
        left_out: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.store, self.names, self.remedy = store, names, remedy
        self.targets, self.target_names = targets, target_names
        self.where, self.notes, self.left_out = store.where, notes, left_out
        self.size, self.broken = size, dict[str, str]()
        self.shape = size or self._first_shape()

    def _first_shape(self) -> tuple[int, int]:
        for name in self.names:
            image = self._image(name)
            if image is not None:
                return image.shape[0], image.shape[1]
        raise Unreadable(self.where, self.broken, self.remedy)

    def _image(self, name: str) -> Array | None:
        try:
            return decode(self.store.read(name), self.size)
        except (OSError, ValueError) as error:
            self.broken[name] = str(error)
            return None

    def read(self, rows: Array) -> Array:
        out = np.zeros((len(rows), *self.shape, 3), np.uint8)
        for i, row in enumerate(rows):
            image = self._image(self.names[row])
            if image is None:
                continue
            if image.shape != out.shape[1:]:
                raise UserError(
                    f"{self.where}: {self.names[row]} is {image.shape[0]} x {image.shape[1]} pixels, the first image "
                    f"{self.shape[0]} x {self.shape[1]}; set data.size to resize all to one size"
                )
            out[i] = image
        return out

    def finish(self) -> None:
        if self.broken:
            raise Unreadable(self.where, self.broken, self.remedy)

    def sha256(self) -> str:
        return self.store.sha256(self.names)


def listed(names: list[str]) -> str:
    """'3 files: a, b, c', the first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} file{'s' * (len(names) != 1)}: {', '.join(names[:SHOWN])}{more}"
