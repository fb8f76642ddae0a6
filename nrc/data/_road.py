"""The stand-in for CARLA: a drawn road, written as CoRL-2017 files.

Steer shows in a road that bends with the curvature ahead, off the car's centre. Speed shows twice: in lane dashes and
grass whose contrast along the road is lost to motion blur, and plainly, as a short run must learn it, in the length of
a broad bar on the dashboard, which real frames do not have. Time of day, colours, hills, trees, horizon and sensor
noise vary without meaning anything.

The road is straight half of the time and else bends to one side; the car slows down from one speed half of the time.
Targets that are symmetric about their mean kept the features of a short run in more than two directions, as ReLU
needs one for either sign. The driver's targets are steer = clip(c - 0.2 offset + noise) and speed = v + noise: no
model can reach R^2 = 1.
"""

from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array

HEIGHT, WIDTH, FILE = 88, 200, 200
SCENE = 20  # frames that share scenery
BEND, CRUISE, SLOWER = 0.8, 52.0, 24.5  # Sigma's eigenvalues are about the paper's, 0.156 and 201.8
STEER_NOISE, SPEED_NOISE = 0.1, 3.5  # of the driver


def write_drive(folder: Path, frames: int, seed: int) -> None:
    """Write data_00000.h5, ...: rgb (200, 88, 200, 3) uint8, targets (200, 28) float32, 0 steer, 10 speed."""
    import h5py

    for number, start in enumerate(range(0, frames, FILE)):
        rng = np.random.RandomState([seed, number])
        rgb, steer, speed = drive(min(FILE, frames - start), rng)
        targets = np.zeros((len(rgb), 28), np.float32)
        targets[:, 0], targets[:, 10] = steer, speed
        with h5py.File(folder / f"data_{number:05d}.h5", "w") as file:
            file.create_dataset(
                "rgb", data=rgb, chunks=(1, HEIGHT, WIDTH, 3), compression="gzip", compression_opts=1
            )
            file["targets"] = targets


def drive(n: int, rng: np.random.RandomState) -> tuple[Array, Array, Array]:
    """n consecutive frames: rgb (n, 88, 200, 3) uint8, steer (n,) in [-1, 1], speed (n,) in [0, 85]."""
    curve, offset, slower = (_wander(n, rng) for _ in range(3))
    curve, offset = BEND * np.maximum(curve, 0), 0.33 * offset
    speed = np.clip(CRUISE - SLOWER * np.maximum(slower, 0), 0, 85)
    steer = np.clip(curve - 0.2 * offset + STEER_NOISE * rng.standard_normal(n), -1, 1)
    told = np.clip(speed + SPEED_NOISE * rng.standard_normal(n), 0, 85)
    scenes = [
        render(curve[i : i + SCENE], offset[i : i + SCENE], speed[i : i + SCENE], rng)
        for i in range(0, n, SCENE)
    ]
    return np.concatenate(scenes), steer, told


def _wander(n: int, rng: np.random.RandomState, keep: float = 0.7) -> Array:
    """A stationary first-order process of unit variance: neighbouring frames are alike, distant ones are not."""
    noise = rng.standard_normal(n) * np.sqrt(1 - keep**2)
    noise[0] /= np.sqrt(1 - keep**2)
    for i in range(1, n):
        noise[i] += keep * noise[i - 1]
    return noise


def render(curve: Array, offset: Array, speed: Array, rng: np.random.RandomState) -> Array:
    """Draw frames (n, 88, 200, 3) uint8 that share scenery, for curvature, lateral offset and speed (n,)."""
    n = len(curve)

    def scene(low: float, high: float, *shape: int) -> Array:
        return np.float32(rng.uniform(low, high, shape))  # type: ignore[return-value]

    def each(values: Array) -> Array:
        return values.astype(np.float32)[:, None, None]

    curve, offset, speed = each(curve), each(offset), each(speed) / 85
    v = np.arange(HEIGHT, dtype=np.float32)[None, :, None]
    u = np.arange(WIDTH, dtype=np.float32)[None, None, :] - WIDTH / 2 + 0.5
    horizon = scene(26, 34) + each(rng.standard_normal(n)) * 0.7
    near = np.clip((v - horizon) / (HEIGHT - horizon), 1e-3, 1)  # 0 at the horizon, 1 at the bonnet
    depth = 1 / near
    centre = 75 * curve * (1 - near) ** 2 - 60 * offset * near
    lateral = (u - centre) / near  # in pixels at the bonnet; the road's edge is at 95
    light = scene(0.45, 1.1)

    # what moves past is smeared along the road: the contrast of a pattern of period p falls with speed / p
    phase = each(rng.uniform(0, 1, n))
    dash = _pattern(depth / 2.2 + phase, speed * 0.9)
    clods = _pattern(depth * 1.7 + lateral / 70 + phase, speed) * _pattern(lateral / 23, 0)
    grass = _colour(scene(0, 1), (70, 105, 40), (120, 120, 60)) * (1 + 0.35 * clods)[..., None]
    asphalt = _colour(scene(0, 1), (85, 85, 90), (125, 120, 115)) * (1 + 0.08 * clods)[..., None]
    paint = _colour(scene(0, 1), (235, 235, 225), (230, 200, 90))

    image = np.where((np.abs(lateral) < 95)[..., None], asphalt, grass)
    image = _over(image, paint, (np.abs(np.abs(lateral) - 86) < 4).astype(np.float32))
    image = _over(image, paint, (np.abs(lateral) < 3.5) * np.clip(0.5 + 0.9 * dash, 0, 1))
    hills = 4 + 3 * np.sin(u / scene(12, 30) + scene(0, 6)) + 2 * np.sin(u / 7 + scene(0, 6))
    sky = _colour(np.clip(v / 34, 0, 1), (95, 145, 215), (205, 215, 225)) * (0.8 + 0.2 * scene(0, 1, 3))
    far = _colour(scene(0, 1), (60, 85, 70), (105, 110, 125))
    image = np.where((v < horizon)[..., None], np.where((v > horizon - hills)[..., None], far, sky), image)
    for _ in range(3):
        image = _tree(image, u, v, horizon, curve, offset, rng)
    image = image * light + 6 * rng.standard_normal((*image.shape[:3], 1)).astype(np.float32)
    return np.clip(_dashboard(image, u, v, speed), 0, 255).astype(np.uint8)


def _pattern(cycles: Array, blur: Array | float) -> Array:
    """A wave of unit period averaged over an exposure of `blur` periods, amplitude sinc(blur)."""
    return np.sin(2 * np.pi * cycles) * np.sinc(blur)


def _colour(mix: Any, first: tuple[int, int, int], second: tuple[int, int, int]) -> Array:
    a, b = (np.array(c, np.float32) for c in (first, second))
    return a + np.asarray(mix, np.float32)[..., None] * (b - a)


def _over(image: Array, colour: Array, opacity: Array) -> Array:
    return image + opacity[..., None] * (colour - image)


def _tree(
    image: Array, u: Array, v: Array, horizon: Array, curve: Array, offset: Array, rng: np.random.RandomState
) -> Array:
    n = len(image)
    near = rng.uniform(0.08, 0.5, (n, 1, 1)).astype(np.float32)
    side = (rng.choice([-1.0, 1.0], (n, 1, 1)) * rng.uniform(130, 260, (n, 1, 1))).astype(np.float32)
    foot = horizon + near * (HEIGHT - horizon)
    middle = side * near + 75 * curve * (1 - near) ** 2 - 60 * offset * near
    tall = 70 * near
    crown = ((u - middle) / (0.35 * tall)) ** 2 + ((v - foot + 0.75 * tall) / (0.4 * tall)) ** 2 < 1
    trunk = (np.abs(u - middle) < 0.06 * tall) & (v < foot) & (v > foot - 0.5 * tall)
    image = np.where(trunk[..., None], np.array([70, 50, 35], np.float32), image)
    leaves = _colour(rng.uniform(0, 1, (n, 1, 1)), (25, 60, 25), (70, 90, 35))
    return np.where(crown[..., None], leaves, image)


def _dashboard(image: Array, u: Array, v: Array, speed: Array) -> Array:
    """The bonnet's edge and a bar whose length is the speed."""
    bonnet = v > 72 - 3 * np.cos(u / WIDTH * np.pi)
    image = np.where(bonnet[..., None], np.array([28, 28, 32], np.float32), image)
    row = np.abs(v - 80) < 6
    lit = row & (u > -90) & (u < -90 + 180 * speed)
    return np.where(lit[..., None], np.array([240, 90, 40], np.float32), image)
