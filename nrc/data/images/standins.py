"""Stand-ins for image sets that are not there: soft spots whose place, size and brightness show the targets."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from nrc.data.base import Array
from nrc.data.images.cache import Frames

VERSION = 3  # of the drawing: another number has the cache made anew
COLOURS = np.array([[150.0, 20.0, 10.0], [10.0, 20.0, 150.0]])  # of the first and the second spot


@dataclass(eq=False)
class Drawn(Frames):
    """A spot for each number of `shown` (N, k <= 2) in [0, 1]: a larger one is further right, larger, brighter."""

    shape: tuple[int, int]
    shown: Array
    targets: Array
    target_names: tuple[str, ...]
    seed: int
    where: str = "a drawn stand-in"
    notes: list[str] = field(default_factory=list)

    def read(self, rows: Array) -> Array:
        height, width = self.shape
        y, x = np.mgrid[0.5:height, 0.5:width]
        out = np.empty((len(rows), height, width, 3), np.uint8)
        for picture, row in zip(out, rows, strict=True):
            rng = np.random.RandomState([self.seed, row])
            image = rng.uniform(45, 55, 3) + 6 * rng.standard_normal((height, width, 3))
            for k, value in enumerate(self.shown[row]):
                up, right, size = rng.uniform(0.4, 0.6), 0.2 + 0.6 * value, (0.12 + 0.12 * value) * height
                distance = ((x - right * width) ** 2 + (y - up * height) ** 2) / size**2
                image += (0.3 + 0.7 * value) * np.exp(-distance / 2)[..., None] * COLOURS[k]
            picture[:] = np.clip(image, 0, 255)
        return out

    def sha256(self) -> str:
        made = repr((VERSION, self.shape, self.seed)).encode()
        return hashlib.sha256(made + self.targets.tobytes()).hexdigest()


def drawn_drive(count: int, seed: int, shape: tuple[int, int]) -> Drawn:
    """Speed and steer: one speed, and straight on, half of the time; eigenvalues of Sigma about the paper's."""
    slow, bend, *noise = np.random.RandomState([seed, 0]).standard_normal((4, count))
    shown = np.stack([np.clip(52 - 24.5 * slow * (slow > 0), 0, 85), np.clip(0.8 * bend, 0, 1)], 1)
    targets = np.clip(shown + np.stack(noise, 1) * [3.5, 0.1], [0, -1], [85, 1])
    return Drawn(shape, shown / [60, 1], targets, ("speed", "steer"), seed)


def drawn_faces(count: int, seed: int, shape: tuple[int, int]) -> Drawn:
    """Ages: infants, a broad peak near 30 and a tail, as in UTKFace (variance about 400), told within 5 years."""
    rng = np.random.RandomState([seed, 1])
    infant = rng.uniform(size=count) < 0.18
    age = np.clip(np.where(infant, rng.uniform(1, 10, count), 12 + rng.gamma(3.2, 8.5, count)), 1, 105)
    told = np.clip(np.round(age + 5 * rng.standard_normal(count)), 1, 116)
    return Drawn(shape, age[:, None] / 110, told[:, None], ("age",), seed)
