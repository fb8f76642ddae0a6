"""Faces in, age out: UTKFace's crops, or a drawn stand-in."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from nrc.data.base import Array, Kind, RegressionData, ScaleTargets, scaled_targets
from nrc.data.images.cache import Decoded, Frames, decoded
from nrc.data.images.carla import stem
from nrc.data.images.frames import ImageFrames, Unreadable, listed
from nrc.data.images.standins import VERSION, drawn_faces
from nrc.data.images.store import IMAGES, Store, files_read, is_image, open_store
from nrc.data.settings import FRACTIONS, INF, ROWS, SEEDS, DataSource
from nrc.errors import UserError

AGE = re.compile(r"(\d{1,3})_")
WELL_FORMED = re.compile(r"\d{1,3}_[01]_[0-4]_\d{17}\.jpg\.chip\.jpg")
OLDEST = 116


@dataclass(frozen=True)
class UTKFace(DataSource):
    """Aligned crops named [age]_[gender]_[race]_[date].jpg.chip.jpg; the target is the age in years, raw.

    The published set has five malformed names (three without race, one with a blank, one without a dot): their
    age is as good as any, so they are kept and counted. Byte-for-byte copies of a picture go to the same side of
    the random split. Files that cannot be decoded stop the run, or with unreadable=skip are left out by name.

    Args:
        name: name of the data; run directories of other sources than the stand-in add the file's name.
        path: a folder or tar (.tar, .tar.gz) of crops; null: a drawn stand-in, spots that show the age.
        scale_targets: "none" (as published), "minmax" or "standard", over the train faces.
        size: pixels of a side after resizing (200 as published, 128 in CPAL 2026).
        limit: only this many faces, drawn with split_seed, as the names are sorted by age.
        test_fraction, split_seed: of the random split.
        unreadable: "stop" or "skip"; run.json then lists every file left out.
        cache: folder of the decoded faces.
        rendered, render_seed: faces of the stand-in, and its seed.

    Raises:
        UserError: on load, one line naming the file and the remedy.

    Example:
        >>> UTKFace(path="faces/UTKFace.tar.gz").data_name
        'utkface-UTKFace'
    """

    name: str = "utkface"
    path: str | None = None
    scale_targets: ScaleTargets = "none"
    size: int = 64
    limit: int | None = None
    test_fraction: float = 0.2
    split_seed: int = 42
    unreadable: Literal["stop", "skip"] = "stop"
    cache: str = "outputs/cache"
    rendered: int = 1200
    render_seed: int = 0

    def __post_init__(self) -> None:
        self.check(
            size=(8, 4096), limit=(3, INF), test_fraction=FRACTIONS, split_seed=SEEDS, rendered=(10, INF),
            render_seed=SEEDS,
        )  # fmt: skip

    @property
    def dataset(self) -> str:
        """utkface, unless named otherwise."""
        return self.name

    @property
    def origin(self) -> dict[str, str]:
        """The file or folder, if there is one."""
        return {"file": stem(Path(self.path))} if self.path else {}

    @property
    def expected_rows(self) -> int:
        """At most `limit`; the faces of the stand-in."""
        return (self.limit or ROWS) if self.path else min(self.limit or self.rendered, self.rendered)

    @property
    def expected_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.size, self.size

    def load(self) -> RegressionData:
        """Read the cache, or decode into it first."""
        found = self._decoded(Path(self.path).expanduser()) if self.path else self._drawn()
        manifest, n = found.manifest, found.n_train
        y, done = scaled_targets(self.scale_targets, found.targets, n)
        provenance = {
            "source": "files" if self.path else "drawn stand-in", "where": manifest["where"],
            "source_sha256": manifest["source_sha256"], "pixels_sha256": manifest["pixels_sha256"],
            "split": "random, copies together", "split_seed": self.split_seed, "limit": self.limit,
            "notes": manifest["notes"], "left_out": manifest["left_out"], **done,
        }  # fmt: skip
        x = found.pixels
        kind: Kind = "real" if self.path else "stand-in"
        return self.finished((x[:n], y[:n], x[n:], y[n:]), ("image",), ("age",), kind, provenance)

    def _decoded(self, path: Path) -> Decoded:
        if not path.exists():
            raise UserError(f"{path} does not exist; give data.path an existing folder or tar of crops")
        settings = {
            "path": str(path.resolve()), "size": self.size, "limit": self.limit,
            "split": [self.test_fraction, self.split_seed], "unreadable": self.unreadable,
        }  # fmt: skip
        read = files_read(path, self.cache, IMAGES)
        return decoded(self.cache, "utkface", settings, read, lambda: self._open(path))

    def _drawn(self) -> Decoded:
        """The stand-in."""

        def open_frames() -> tuple[Frames, Array, Array]:
            frames = drawn_faces(self.expected_rows, self.render_seed, self.expected_size)
            groups = np.arange(len(frames.targets))
            return frames, *split_groups(frames.where, groups, self.test_fraction, self.split_seed)

        settings = {
            "drawn": [VERSION, self.expected_rows, self.render_seed], "size": self.size,
            "split": [self.test_fraction, self.split_seed],
        }  # fmt: skip
        return decoded(self.cache, "utkface-stand-in", settings, [], open_frames)

    def _open(self, path: Path) -> tuple[Frames, Array, Array]:
        store = open_store(path, self.cache)
        names = _faces(store)
        if self.limit is not None and self.limit < len(names):
            kept = np.random.RandomState(self.split_seed).permutation(len(names))[: self.limit]
            names = [names[i] for i in np.sort(kept)]
        notes = _oddities(store, names)
        left_out: list[str] = []
        if self.unreadable == "skip":
            names, left_out = _readable(store, names, self.size)
            notes += [f"unreadable, left out: {listed(left_out)}"] if left_out else []
        groups, copies = _copies(store, names)
        age = np.array([[_age(name)] for name in names], np.float64)
        frames = ImageFrames(
            store, names, age, ("age",), (self.size, self.size), notes + copies,
            "get them again, or leave them out with data.unreadable=skip", left_out,
        )  # fmt: skip
        return frames, *split_groups(store.where, groups, self.test_fraction, self.split_seed)


def _faces(store: Store) -> list[str]:
    """The crops in a fixed order, whatever folder they are in."""
    names = sorted(filter(is_image, store.names), key=lambda name: (PurePosixPath(name).name, name))
    if not names:
        raise UserError(
            f"{store.where} holds no images; expected crops named [age]_[gender]_[race]_[date].jpg.chip.jpg"
        )
    ageless = [name for name in names if not 1 <= _age(name) <= OLDEST]
    if ageless:
        raise UserError(
            f"{store.where}: {listed(ageless)} without an age of 1 to {OLDEST} before the first '_'; expected "
            "[age]_[gender]_[race]_[date].jpg.chip.jpg: rename them or take them out"
        )
    return names


def _oddities(store: Store, names: list[str]) -> list[str]:
    """Notes on malformed names and on files that are no images."""
    notes = []
    odd = [name for name in names if not WELL_FORMED.fullmatch(PurePosixPath(name).name)]
    if odd:
        notes.append(f"malformed names, kept with the age they give: {listed(odd)}")
    others = [name for name in store.names if not is_image(name)]
    if others:
        notes.append(f"not images, left out: {listed(others)}")
    return notes


def _age(name: str) -> int:
    """The age in a crop's name, 0 if there is none."""
    match = AGE.match(PurePosixPath(name).name)
    return int(match[1]) if match else 0


def _readable(store: Store, names: list[str], size: int) -> tuple[list[str], list[str]]:
    """The names that can be decoded, and the others with what is wrong with them."""
    trial = ImageFrames(store, names, np.empty((len(names), 0)), (), (size, size), [])
    for row in range(len(names)):
        trial.read(np.array([row]))
    if len(trial.broken) == len(names):
        raise Unreadable(store.where, trial.broken, "get them again")
    broken = [f"{name} ({why})" for name, why in trial.broken.items()]
    return [name for name in names if name not in trial.broken], broken


def _copies(store: Store, names: list[str]) -> tuple[Array, list[str]]:
    """A number per name, equal for byte-for-byte copies, and a note on them."""
    seen: dict[bytes, list[int]] = {}
    for row, name in enumerate(names):
        seen.setdefault(hashlib.sha256(store.read(name)).digest(), []).append(row)
    groups = np.empty(len(names), int)
    for number, rows in enumerate(seen.values()):
        groups[rows] = number
    copied = [rows for rows in seen.values() if len(rows) > 1]
    if not copied:
        return groups, []
    torn = sum(len({_age(names[row]) for row in rows}) > 1 for rows in copied)
    return groups, [
        f"{sum(map(len, copied)) - len(copied)} files are byte-for-byte copies of others, kept on the same side of "
        f"the split; {torn} of these pictures have names with different ages"
    ]


def split_groups(where: str, groups: Array, test_fraction: float, seed: int) -> tuple[Array, Array]:
    """Rows (train, test), each ascending: whole groups are drawn until test_fraction of the rows is reached.

    Example:
        >>> [part.tolist() for part in split_groups("toy", np.array([0, 1, 1, 2, 3]), 0.2, seed=0)]
        [[0, 1, 2, 4], [3]]
    """
    sizes = np.bincount(groups)
    order = np.random.RandomState(seed).permutation(len(sizes))
    count = int(np.searchsorted(np.cumsum(sizes[order]), test_fraction * len(groups))) + 1
    test = np.isin(groups, order[:count])
    if len(groups) - test.sum() < 2:
        raise UserError(f"{where}: {len(groups)} faces are too few for train and test; give more")
    return np.flatnonzero(~test), np.flatnonzero(test)
