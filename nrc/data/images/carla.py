"""Driving frames of CARLA (CoRL-2017) or any other car: an image in, speed and steer out."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array, Kind, RegressionData, ScaleTargets, scaled_targets
from nrc.data.images.cache import Decoded, Frames, decoded
from nrc.data.images.csv_drive import csv_drive
from nrc.data.images.drives import Hdf5Drive, Joined, NpyDrive, hdf5_files, split_blocks
from nrc.data.images.standins import VERSION, drawn_drive
from nrc.data.images.store import IMAGES, files_read, open_store
from nrc.data.settings import FRACTIONS, INF, ROWS, SEEDS, DataSource
from nrc.errors import UserError

TARGETS = ("speed", "steer")
ONE_TARGET = {"speed": "carla_1d", "steer": "carla_1d_steer"}  # the papers' CARLA 1D is speed
NATIVE = (88, 200)  # pixels of a CoRL-2017 frame


@dataclass(frozen=True)
class Carla(DataSource):
    """Frames with the speed and steer of the driver: CARLA of NeurIPS 2024 and CPAL 2026, or a drawn stand-in.

    Layouts, told apart by what `path` is:
    - a folder of CoRL-2017 HDF5 files, or one of them: rgb (200, 88, 200, 3) uint8, targets (200, 28), of which
      column 0 is steer and column 10 speed;
    - two dumps "frames.npy,targets.npy", memory-mapped;
    - a folder or tar of images with a csv of image, steer and speed, Udacity's driving_log.csv included;
    - null: a drawn stand-in, spots that show speed and steer.

    Split: frames of a drive follow each other closely, so whole blocks of consecutive frames (200, a CoRL-2017
    file, but at most a tenth of the set) are drawn at random for testing until test_fraction is reached. With a
    test_path (the published SeqVal beside SeqTrain) all frames of `path` are train frames.

    Args:
        name: name of the data; null: carla_2d, carla_1d (speed) or carla_1d_steer, by the targets. Run directories
            of other sources than the stand-in add the file's name.
        path, test_path: as above; test_path is a set of the same layout.
        targets: speed and steer, or one of them, in this order.
        scale_targets: "none" (NeurIPS 2024), "minmax": each target to [0, 1] over the train frames (CPAL 2026), or
            "standard": to mean 0 and deviation 1.
        size: [height, width] in pixels; null keeps the source's (88 x 200).
        limit: only the first `limit` frames of path, and of test_path test_fraction times as many.
        test_fraction, split_seed: of the split by blocks.
        csv_file, image_column, steer_column, speed_column: null: found by their usual names.
        cache: folder of the decoded frames.
        rendered, render_seed: frames of the stand-in, and its seed.

    Raises:
        UserError: on load, one line naming the file and the remedy.

    Example:
        >>> Carla(path="SeqTrain", limit=50_000, scale_targets="minmax").data_name
        'carla_2d-SeqTrain'
    """

    name: str | None = None
    path: Any = None
    test_path: Any = None
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    scale_targets: ScaleTargets = "none"
    size: Any = None
    limit: int | None = None
    test_fraction: float = 0.2
    split_seed: int = 42
    csv_file: str | None = None
    image_column: str | None = None
    steer_column: str | None = None
    speed_column: str | None = None
    cache: str = "outputs/cache"
    rendered: int = 1200
    render_seed: int = 0

    def __post_init__(self) -> None:
        self.check(
            limit=(3, INF), rendered=(20, INF), render_seed=SEEDS, split_seed=SEEDS, test_fraction=FRACTIONS
        )
        if (
            not self.targets
            or not set(self.targets) <= set(TARGETS)
            or len(set(self.targets)) < len(self.targets)
        ):
            raise UserError(
                f"data.targets is {list(self.targets)}; expected [speed,steer], [speed] or [steer]"
            )
        _ = self._size
        if self.test_path and not self.path:
            raise UserError("data.test_path needs data.path, the frames to train on")

    @property
    def dataset(self) -> str:
        """Its name, by default the papers' for these targets."""
        return self.name or ("carla_2d" if len(self.targets) > 1 else ONE_TARGET[self.targets[0]])

    @property
    def origin(self) -> dict[str, str]:
        """The file or folder, if there is one."""
        return {"file": stem(_files(self.path)[0])} if self.path else {}

    @property
    def expected_rows(self) -> int:
        """At most `limit`; the frames of the stand-in."""
        return (self.limit or ROWS) if self.path else min(self.limit or self.rendered, self.rendered)

    @property
    def expected_size(self) -> tuple[int, int]:
        """(H, W) in pixels, as far as the settings tell."""
        return self._size or NATIVE

    @property
    def _size(self) -> tuple[int, int] | None:
        if self.size is None:
            return None
        size = list(self.size) if isinstance(self.size, list | tuple) else []
        if len(size) != 2 or not all(type(side) is int and 8 <= side <= 4096 for side in size):
            raise UserError(f"data.size is {self.size!r}; expected [height,width] in pixels, e.g. [88,200]")
        return size[0], size[1]

    def load(self) -> RegressionData:
        """Read the cache, or decode into it first; split and scale the targets."""
        data = self._decoded(self.path) if self.path else self._drawn()
        names = list(data.manifest["target_names"])
        _check_targets(data.manifest["where"], names, self.targets)
        y = data.targets[:, [names.index(name) for name in self.targets]]
        y, done = scaled_targets(self.scale_targets, y, data.n_train)
        manifest = data.manifest
        provenance = {
            "source": "drawn stand-in" if not self.path else "files", "where": manifest["where"],
            "source_sha256": manifest["source_sha256"], "pixels_sha256": manifest["pixels_sha256"],
            "split": "test_path" if self.test_path else "blocks", "split_seed": self.split_seed,
            "limit": self.limit, "notes": manifest["notes"], **done,
        }  # fmt: skip
        n, x = data.n_train, data.pixels
        kind: Kind = "real" if self.path else "stand-in"
        return self.finished((x[:n], y[:n], x[n:], y[n:]), ("image",), tuple(self.targets), kind, provenance)

    def _drawn(self) -> Decoded:
        """The stand-in."""

        def open_frames() -> tuple[Frames, Array, Array]:
            frames = drawn_drive(self.expected_rows, self.render_seed, self.expected_size)
            return frames, *split_blocks(
                frames.where, len(frames.targets), self.test_fraction, self.split_seed
            )

        settings = {
            "drawn": [VERSION, self.expected_rows, self.render_seed], "size": self.expected_size,
            "split": [self.test_fraction, self.split_seed],
        }  # fmt: skip
        return decoded(self.cache, "carla-stand-in", settings, [], open_frames)

    def _decoded(self, path: Any) -> Decoded:
        files = _files(path)
        tests = _files(self.test_path) if self.test_path else []
        for file in files + tests:
            if not file.exists():
                raise UserError(
                    f"{file} does not exist; give data.path and data.test_path existing files or folders"
                )
        settings = {
            "path": [str(file.resolve()) for file in files], "test_path": [str(f.resolve()) for f in tests],
            "size": self._size, "limit": self.limit, "split": [self.test_fraction, self.split_seed],
            "csv": [self.csv_file, self.image_column, self.steer_column, self.speed_column],
            "targets": list(self.targets) if len(files) == 2 else None,
        }  # fmt: skip

        def open_frames() -> tuple[Frames, Array, Array]:
            frames = self._open(files, self.limit)
            _check_targets(frames.where, list(frames.target_names), self.targets)
            if not tests:
                return frames, *split_blocks(
                    frames.where, len(frames.targets), self.test_fraction, self.split_seed
                )
            limit = None if self.limit is None else max(1, round(self.limit * self.test_fraction))
            both = Joined(frames, self._open(tests, limit))
            n = len(frames.targets)
            return both, np.arange(n), np.arange(n, len(both.targets))

        read = [file for path in files + tests for file in self._read(path)]
        return decoded(self.cache, "carla", settings, read, open_frames)

    def _read(self, path: Path) -> list[Path]:
        """The files that frames and targets come from."""
        return hdf5_files(path) or files_read(path, self.cache, (*IMAGES, ".csv"))

    def _open(self, files: list[Path], limit: int | None) -> Frames:
        if len(files) == 2:
            return NpyDrive(files[0], files[1], tuple(self.targets), self._size, limit)
        (path,) = files
        if path.suffix.lower() == ".npy":
            raise UserError(f"{path} needs its targets beside it: data.path='{path},targets.npy'")
        if hdf5_files(path):
            return Hdf5Drive(path, self._size, limit)
        columns = {"image": self.image_column, "steer": self.steer_column, "speed": self.speed_column}
        return csv_drive(open_store(path, self.cache), self.csv_file, columns, self._size, limit)


def _check_targets(where: str, found: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{where} has no {missing[0]} column (found: {', '.join(found) or 'neither speed nor steer'}); set "
            f"data.{missing[0]}_column to its name, or leave {missing[0]} out of data.targets"
        )


def stem(file: Path) -> str:
    """A file's name without its endings, as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", file.expanduser().resolve().name.split(".")[0])


def _files(path: Any) -> list[Path]:
    parts = path.split(",") if isinstance(path, str) and not Path(path).exists() else path
    parts = [parts] if isinstance(parts, str | Path) else list(parts)
    if len(parts) not in (1, 2):
        raise UserError(f"data.path is {path!r}; expected one folder or file, or frames.npy,targets.npy")
    return [Path(str(part).strip()).expanduser() for part in parts]
