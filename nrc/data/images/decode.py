"""From the bytes of an image file, or an array of any size, to uint8 RGB of one size."""

import io
import warnings

import numpy as np

from nrc.data.base import Array


def decode(data: bytes, size: tuple[int, int] | None) -> Array:
    """An image file as (H, W, 3) uint8; size = (H, W) resizes, bilinear with antialiasing.

    Raises:
        ValueError: not an image, or cut short; the message says what is wrong, not which file.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                rgb = image.convert("RGB")
        return np.asarray(rgb if size is None else _resized(rgb, size))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise ValueError(" ".join(str(error).split())[:120] or type(error).__name__) from error


def resize(frames: Array, size: tuple[int, int]) -> Array:
    """Frames (N, H, W, 3) uint8 as (N, *size, 3), bilinear with antialiasing."""
    from PIL import Image

    if frames.shape[1:3] == size:
        return frames
    out = np.empty((len(frames), *size, 3), np.uint8)
    for i, frame in enumerate(frames):
        out[i] = np.asarray(_resized(Image.fromarray(frame), size))
    return out


def _resized(image, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    from PIL.Image import Resampling

    return image.resize((size[1], size[0]), Resampling.BILINEAR)
