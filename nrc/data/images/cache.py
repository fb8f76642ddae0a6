"""The decoded cache: all frames of a set as one uint8 memory map, train rows first, and what they were made of."""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from nrc.data.base import Array, pixels_sha256
from nrc.data.reading import sha256
from nrc.errors import UserError

VERSION = 1
CHUNK = 200  # frames in memory at a time: one CoRL-2017 file, 10.6 MB
PIXELS, TARGETS, MANIFEST = "pixels.npy", "targets.npy", "manifest.json"


class Frames(Protocol):
    """Frames in recorded order, not yet decoded.

    Attributes:
        where: the source, for messages.
        shape: (H, W) after decoding.
        targets: (N, k) fp64, finite.
        target_names: k names.
        notes: what a reader should know about the source.
        left_out: every file that was to be read and could not be, with why; only where that was asked for.
    """

    where: str
    shape: tuple[int, int]
    targets: Array
    target_names: tuple[str, ...]
    notes: list[str]
    left_out: Sequence[str] = ()

    def read(self, rows: Array) -> Array:
        """Decode these rows: (len(rows), H, W, 3) uint8."""

    def finish(self) -> None:
        """Called after the last row: raise UserError if some frames could not be decoded."""
        return

    def sha256(self) -> str:
        """sha256 over the source's files."""


@dataclass(frozen=True)
class Decoded:
    """The cached set: pixels (N, H, W, 3) uint8 as a read-only memory map, targets (N, k) fp64."""

    pixels: Array
    targets: Array
    manifest: dict[str, Any]

    @property
    def n_train(self) -> int:
        return self.manifest["n_train"]


def decoded(
    place: str | Path,
    name: str,
    settings: dict[str, Any],
    files: Sequence[Path],
    open_frames: Callable[[], tuple[Frames, Array, Array]],
) -> Decoded:
    """The decoded frames in split order, from the cache or made now.

    What is in the cache is taken as it is while its files have the sizes and times they were written with; else its
    sha256 decides.

    Args:
        place: the cache folder; every combination of name and settings has its own folder in it.
        name: of the set.
        settings: what the pixels, their order and the targets depend on, JSON-able.
        files: all that is read of the source; another file, size or time of change makes the cache anew.
        open_frames: returns the frames and the train and test rows; called only when the cache is made.

    Raises:
        UserError: the disk is too small, or whatever the source raises.
    """
    key = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(place).expanduser() / f"{name}-{key}"
    stamp = hashlib.sha256("\n".join(map(_stamp, files)).encode()).hexdigest()
    manifest = _valid(folder, stamp)
    if manifest is None:
        with _alone(folder):
            manifest = _valid(folder, stamp)  # another process may have made it meanwhile
            if manifest is None:
                manifest = _make(folder, open_frames, {"settings": settings, "stamp": stamp})
    pixels = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
    return Decoded(pixels, np.load(folder / TARGETS, allow_pickle=False), manifest)


def _stamp(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); repair or remove it") from error
    # the time of change as well: copying tools set the time of modification back
    return f"{file} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def _written(folder: Path) -> list[str]:
    """Sizes and times of the cache's own arrays."""
    return [_stamp(folder / name).removeprefix(f"{folder}/") for name in (PIXELS, TARGETS)]


def _valid(folder: Path, stamp: str) -> dict[str, Any] | None:
    """The manifest, if its source is unchanged and the cache is what was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["stamp"] != stamp:
            return None
        written = _written(folder)
        if manifest["written"] == written:
            return manifest
        # copied, moved or damaged
        pixels = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
        if pixels_sha256(pixels) != manifest["pixels_sha256"]:
            return None
        if sha256(folder / TARGETS) != manifest["targets_sha256"]:
            return None
        # a cache that may only be read is checked at every start
        with suppress(OSError):
            tmp = folder / f".{MANIFEST}.{os.getpid()}.tmp"
            tmp.write_text(json.dumps(manifest | {"written": written}, indent=1), encoding="utf-8")
            tmp.replace(folder / MANIFEST)
        return manifest
    except (OSError, EOFError, ValueError, KeyError, UserError):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process makes a cache, the others of a sweep wait for it."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written ({error.strerror}); set data.cache to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make(
    folder: Path, open_frames: Callable[[], tuple[Frames, Array, Array]], facts: dict[str, Any]
) -> dict[str, Any]:
    frames, train, test = open_frames()
    rows = np.concatenate([train, test])
    part = folder.with_name(f"{folder.name}.part")
    needed = len(rows) * frames.shape[0] * frames.shape[1] * 3
    free = shutil.disk_usage(folder.parent).free
    full = f"the decoded frames of {frames.where} need {_size(needed)} in {folder.parent}"
    if free < needed + 1e8:
        raise UserError(
            f"{full}, which has {_size(free)} free; set data.cache to a folder on a larger disk, "
            "or data.limit"
        )
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        pixels = _write(part / PIXELS, frames, rows, folder.name)
        np.save(part / TARGETS, frames.targets[rows])
        manifest = {
            **facts, "where": frames.where, "source_sha256": frames.sha256(), "pixels_sha256": pixels,
            "targets_sha256": sha256(part / TARGETS), "written": _written(part), "shape": [len(rows), *frames.shape, 3],
            "n_train": len(train), "target_names": list(frames.target_names), "notes": frames.notes,
            "left_out": list(frames.left_out),
        }  # fmt: skip
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{full}, and the disk is full; set data.cache to a folder on a larger disk"
            ) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes > 1e9 else f"{nbytes / 1e6:.1f} MB"


def _write(file: Path, frames: Frames, rows: Array, label: str) -> str:
    """Decode in chunks into an .npy file and return the sha256 of its pixels."""
    shape = (len(rows), *frames.shape, 3)
    digest = hashlib.sha256()
    bar = tqdm(total=len(rows), unit="frame", desc=f"decoding {label}", disable=not sys.stderr.isatty())
    # written as a plain file: a full disk is then an error, where a memory map would be killed by a signal
    with file.open("wb") as out, bar:
        np.lib.format.write_array_header_2_0(
            out, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )  # fmt: skip
        for start in range(0, len(rows), CHUNK):
            chunk = frames.read(rows[start : start + CHUNK]).tobytes()
            digest.update(chunk)
            out.write(chunk)
            bar.update(min(CHUNK, len(rows) - start))
        out.flush()
        os.fsync(out.fileno())
    frames.finish()
    return digest.hexdigest()
