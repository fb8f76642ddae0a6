"""The stand-in for UTKFace: drawn faces of an apparent age, written as UTKFace names its crops.

Age shows plainly, as a short run must learn it, in hair that turns from dark to white in step with it; and in the
shape of the face (children: round, large eyes), wrinkles, under-eye shadows, receding hair and spots. Skin, shade of
hair and eyes, pose, light, glasses, mouth, background and picture noise vary without meaning anything. The age in the
file's name is the apparent one plus noise: no R^2 of 1.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array

SIDE, DRAWN = 200, 80  # pixels of a UTKFace crop; pixels drawn, then enlarged, as jpg crops are soft anyway
CHUNK = 10
AGE_NOISE = 5.0  # years between the age that shows and the age in the name
SKIN = ((250, 215, 190), (225, 180, 145), (190, 140, 100), (140, 95, 65), (85, 55, 40))
HAIR = ((30, 25, 22), (75, 45, 25), (110, 75, 40), (90, 60, 60), (110, 45, 25))


def write_faces(folder: Path, faces: int, seed: int) -> None:
    """Write UTKFace/[age]_[gender]_[race]_[date].jpg.chip.jpg, 200 x 200 pixels each."""
    from PIL import Image

    (folder / "UTKFace").mkdir()
    for start in range(0, faces, CHUNK):
        rng = np.random.RandomState([seed, start])
        n = min(CHUNK, faces - start)
        seen = ages(n, rng)
        names = np.clip(np.round(seen + AGE_NOISE * rng.standard_normal(n)), 1, 116).astype(int)
        skin = rng.randint(len(SKIN), size=n)
        for i, picture in enumerate(render(seen, skin, rng)):
            date = f"20170101{start + i:09d}"
            out = io.BytesIO()
            enlarged = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            enlarged.save(out, "JPEG", quality=90)
            name = f"{names[i]}_{rng.randint(2)}_{skin[i]}_{date}.jpg.chip.jpg"
            (folder / "UTKFace" / name).write_bytes(out.getvalue())


def ages(n: int, rng: np.random.RandomState) -> Array:
    """Apparent ages (n,) in years: infants, a broad peak near 30 and a tail, as in UTKFace (variance about 400)."""
    grown = 12 + rng.gamma(3.2, 8.5, n)
    return np.clip(np.where(rng.uniform(size=n) < 0.18, rng.uniform(1, 10, n), grown), 1, 105)


def render(age: Array, skin: Array, rng: np.random.RandomState) -> Array:
    """Draw faces (n, DRAWN, DRAWN, 3) uint8 of these apparent ages (n,) and indices into SKIN (n,)."""
    n = len(age)

    def draw(low: float, high: float, *shape: int) -> Array:
        return rng.uniform(low, high, (n, 1, 1, *shape)).astype(np.float32)

    def column(values: Any) -> Array:
        return np.asarray(values, np.float32).reshape(n, 1, 1)

    grown = column(1 / (1 + np.exp(-(age - 9) / 3.5)))  # 0 child, 1 adult
    old = column(np.clip((age - 18) / 55, 0, 1.2))
    tone = np.array(SKIN, np.float32)[skin][:, None, None] * draw(0.9, 1.08)[..., None]

    side = np.linspace(-1, 1, DRAWN, dtype=np.float32)
    turn, size = draw(-0.2, 0.2), draw(0.93, 1.1)
    x0, y0 = side[None, None, :] - draw(-0.08, 0.08), side[None, :, None] - draw(-0.06, 0.06)
    x = (np.cos(turn) * x0 + np.sin(turn) * y0) / size
    y = (np.cos(turn) * y0 - np.sin(turn) * x0) / size
    yaw = draw(-0.1, 0.1)  # features shift, the outline stays

    def blob(cx: Any, cy: Any, rx: Any, ry: Any, soft: float = 0.08) -> Array:
        """Opacity of a soft ellipse."""
        r = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return np.clip((1 - r) / soft + 0.5, 0, 1)

    image = _background(x0, y0, draw)
    wide, tall = 0.62 - 0.06 * grown, 0.66 + 0.12 * grown
    hair = np.array(HAIR, np.float32)[rng.randint(len(HAIR), size=n)][:, None, None]
    grey = np.clip(column((age + 4 * rng.standard_normal(n)) / 75), 0, 1)[..., None]
    hair = hair + grey * (np.array((225, 225, 225), np.float32) - hair)
    long = rng.uniform(size=(n, 1, 1)) < 0.45
    image = _over(image, hair, blob(0, -0.12, wide * 1.2, tall * 1.05) * (long | (y < 0)))
    image = _over(image, hair, blob(0, 0.5, wide * 1.25, 0.75) * long)
    image = _over(image, tone * 0.85, blob(0, 0.95, 0.28, 0.4))
    bald = np.clip(column((age - 45 + 14 * rng.standard_normal(n)) / 45), 0, 1.2) * (~long)
    line = -0.32 - 0.1 * (1 - grown) - 0.4 * bald
    face = blob(0, 0.06, wide, tall) * np.clip((y - line - 0.12 * x**2) / 0.04, 0, 1)
    image = _over(image, tone, face)

    eye_x, eye_y, eye = 0.27 - 0.02 * grown, 0.08 - 0.1 * grown, 0.125 - 0.04 * grown
    iris = _pick(rng, n, ((60, 40, 25), (80, 110, 150), (70, 95, 60), (35, 25, 20)))
    for sign in (-1, 1):
        cx = sign * eye_x + yaw
        image = _over(image, tone * 0.72, blob(cx, eye_y + 0.15, 0.14, 0.07, 0.8) * (0.15 + 0.7 * old))
        image = _over(
            image,
            np.array((245, 243, 240), np.float32),
            blob(cx, eye_y, 0.125, 0.6 * eye * (1.1 - 0.35 * old)),
        )
        image = _over(image, iris, blob(cx, eye_y, 0.055, 0.055) * (np.abs(y - eye_y) < 0.6 * eye))
        image = _over(image, hair * 0.8, blob(cx, eye_y - 0.17, 0.16, 0.028 + 0.008 * grown, 0.4))
        feet = np.exp(-(((x - cx - sign * 0.2) / 0.05) ** 2) - ((y - eye_y - 0.02) / 0.07) ** 2)
        image = image * (1 - 0.35 * old * feet * (1 + np.sin((y - eye_y) * 110)) / 2)[..., None]
        fold = np.exp(
            -(((x - yaw - sign * (0.2 + 0.25 * (y - 0.3))) / 0.025) ** 2) - ((y - 0.42) / 0.15) ** 2
        )
        image = image * (1 - 0.4 * old * fold)[..., None]
    lines = np.clip(np.sin((y + 0.4) * 48 + 2 * draw(0, 3)), 0.3, 1) - 0.3
    image = image * (1 - 0.42 * old * lines * blob(yaw, -0.3, 0.36, 0.16, 0.6) * (y > line))[..., None]
    nose = 0.3 + 0.04 * grown + 0.03 * old
    image = _over(image, tone * 0.7, blob(yaw * 1.4, nose, 0.1 + 0.03 * old, 0.05, 0.6) * 0.8)
    image = _over(image, tone * 0.88, blob(yaw * 1.4 + 0.06, nose - 0.14, 0.03, 0.16, 0.9) * 0.8)
    lips = tone * np.array((0.85, 0.55, 0.55), np.float32) * (1 - 0.1 * old)[..., None]
    smile = draw(-0.4, 1.2) * (x - yaw) ** 2
    image = _over(
        image,
        lips,
        np.clip(1.4 - np.abs(y + smile - 0.55) / (0.05 - 0.02 * old), 0, 1) * (np.abs(x - yaw) < 0.22),
    )
    spots = rng.uniform(size=(n, DRAWN, DRAWN)) < 0.012 * old
    image = image * (1 - 0.3 * spots * face)[..., None]
    image = _glasses(image, x, y, eye_x, eye_y, yaw, rng)

    lit = 1 + draw(-0.3, 0.3) * x0 + draw(-0.2, 0.2) * y0
    image = image * (lit * draw(0.65, 1.15))[..., None] * (1 + draw(-0.07, 0.07, 3))
    image = image + 4 * rng.standard_normal((*image.shape[:3], 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _over(image: Array, colour: Array, opacity: Array) -> Array:
    return image + opacity.astype(np.float32)[..., None] * (colour - image)


def _pick(rng: np.random.RandomState, n: int, colours: tuple[tuple[int, int, int], ...]) -> Array:
    return np.array(colours, np.float32)[rng.randint(len(colours), size=n)][:, None, None]


def _background(x: Array, y: Array, draw: Any) -> Array:
    slope = draw(-0.4, 0.4) * x + draw(-0.4, 0.4) * y
    return (draw(40, 215, 1) + draw(-25, 25, 3)) * (1 + slope[..., None])


def _glasses(
    image: Array, x: Array, y: Array, eye_x: Array, eye_y: Array, yaw: Array, rng: np.random.RandomState
) -> Array:
    worn = rng.uniform(size=(len(image), 1, 1)) < 0.25
    rim = np.zeros(image.shape[:3], bool)
    for sign in (-1, 1):
        r = np.sqrt(((x - sign * eye_x - yaw) / 0.2) ** 2 + ((y - eye_y) / 0.15) ** 2)
        rim |= np.abs(r - 1) < 0.12
    rim |= (np.abs(y - eye_y) < 0.018) & (np.abs(x - yaw) < eye_x - 0.2)
    return _over(image, np.array((25, 25, 30), np.float32), rim & worn)
