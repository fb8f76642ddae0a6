"""Frames of a drive with their steer and speed, from CoRL-2017 HDF5 files or a pair of .npy dumps; their split."""

import hashlib
from pathlib import Path

import numpy as np

from nrc.data.base import Array
from nrc.data.images.cache import Frames
from nrc.data.images.decode import resize
from nrc.data.reading import existing, one_line, open_hdf5, sha256
from nrc.errors import UserError

COLUMNS = {"steer": 0, "speed": 10}  # of the 28 target columns of the CoRL-2017 set
HDF5 = (".h5", ".hdf5", ".hdf")
BLOCK, BLOCKS = 200, 10  # a CoRL-2017 file has 200 frames


def hdf5_files(path: Path) -> list[Path]:
    """The HDF5 files of a folder in the order of their names, or the file itself; [] where there are none."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.name.lower().endswith(HDF5)]


class Hdf5Drive(Frames):
    """Files with rgb (N, H, W, 3) uint8 and targets (N, 28), in the order of their names.

    Only the targets are read here; a file that is cut short shows now and not after hours of decoding.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, limit: int | None) -> None:
        self.where = str(path)
        self.notes: list[str] = []
        self.target_names = tuple(COLUMNS)
        self.files: list[Path] = []
        targets, self.starts, native = [], [0], None
        for file in hdf5_files(path):
            rows, shape = _hdf5_targets(existing(file))
            if native not in (None, shape):
                raise UserError(
                    f"{file} has frames of {shape[0]} x {shape[1]}, the files before it {native[0]} x {native[1]}; "
                    "take it out of the folder"
                )
            native = shape
            self.files.append(file)
            targets.append(rows)
            self.starts.append(self.starts[-1] + len(rows))
            if limit is not None and self.starts[-1] >= limit:
                break
        assert native is not None
        self.native, self.shape = native, size or native
        self.targets = np.concatenate(targets)[:limit]

    def read(self, rows: Array) -> Array:
        out = np.empty((len(rows), *self.native, 3), np.uint8)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            local = rows[mine] - self.starts[number]
            first, last = local.min(), local.max() + 1
            file = self.files[number]
            with open_hdf5(file) as archive:
                out[mine] = archive["rgb"][first:last][local - first]
        return resize(out, self.shape)

    def sha256(self) -> str:
        return _combined(self.files)


def _hdf5_targets(file: Path) -> tuple[Array, tuple[int, int]]:
    with open_hdf5(file) as archive:
        for key in ("rgb", "targets"):
            if key not in archive:
                raise UserError(
                    f"{file} holds {', '.join(archive) or 'nothing'} but no {key!r}; expected the CoRL-2017 layout: "
                    "rgb (200, 88, 200, 3) uint8 and targets (200, 28)"
                )
        rgb, targets = archive["rgb"], archive["targets"]
        _check_frames(f"{file}: rgb", rgb.shape, rgb.dtype)
        if targets.ndim != 2 or targets.shape[1] <= max(COLUMNS.values()) or len(targets) != len(rgb):
            raise UserError(
                f"{file}: targets has shape {targets.shape} for {len(rgb)} frames; expected ({len(rgb)}, 28) "
                "with steer in column 0 and speed in column 10"
            )
        return _finite(file, targets[:, list(COLUMNS.values())]), rgb.shape[1:3]


class NpyDrive(Frames):
    """A pair frames.npy (N, H, W, 3) uint8, memory-mapped, and targets.npy (N, 28) or (N, targets).

    With 28 columns the targets are CoRL-2017's; with as many columns as `wanted` they are in that order.
    """

    def __init__(
        self,
        frames: Path,
        targets: Path,
        wanted: tuple[str, ...],
        size: tuple[int, int] | None,
        limit: int | None,
    ) -> None:
        self.where, self.files = f"{frames},{targets.name}", [frames, targets]
        self.notes: list[str] = []
        with one_line(existing(frames), "npy"):
            self.frames = np.load(frames, mmap_mode="r", allow_pickle=False)
        with one_line(existing(targets), "npy"):
            values = np.load(targets, mmap_mode="r", allow_pickle=False)
        _check_frames(str(frames), self.frames.shape, self.frames.dtype)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != len(self.frames) or values.shape[1] not in (28, len(wanted)):
            raise UserError(
                f"{targets} has shape {values.shape} for {len(self.frames)} frames; expected "
                f"({len(self.frames)}, 28) as in the CoRL-2017 set, or one column each for {', '.join(wanted)}"
            )
        whole = values.shape[1] == 28
        self.target_names = tuple(COLUMNS) if whole else wanted
        picked = values[:, list(COLUMNS.values())] if whole else values
        self.targets = _finite(targets, picked)[:limit]
        self.shape = size or self.frames.shape[1:3]

    def read(self, rows: Array) -> Array:
        return resize(self.frames[rows], self.shape)

    def sha256(self) -> str:
        return _combined(self.files)


def _check_frames(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or not shape[0]:
        raise UserError(f"{what} has shape {shape}, {dtype}; expected frames (N, height, width, 3) of uint8")


def _finite(file: Path, targets: Array) -> Array:
    values = np.asarray(targets, np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"{file}: the targets of frame {bad[0][0] + 1} are NaN or infinite ({len(bad)} such values); "
            "repair or take out that file"
        )
    return values


def _combined(files: list[Path]) -> str:
    lines = (f"{sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Joined(Frames):
    """Train frames followed by test frames."""

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
