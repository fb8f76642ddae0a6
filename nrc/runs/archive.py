"""Finished runs as one compressed file that travels with the project, and back into a folder of their own.

The folder has a mark, `archive.json`, that says when and on what kind of processor they were made. What is drawn and
reported from it is labelled, and nothing trains there.
"""

import hashlib
import io
import json
import lzma
import platform
import shutil
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml

import nrc
from nrc.errors import UserError
from nrc.places import PROTOCOLS, ROOT
from nrc.runs.directory import read_info, write_json
from nrc.runs.files import atomic, lock, read_json, sha256

HOME = ROOT / "data" / "archive"
MARK = "archive.json"  # in a folder of unpacked runs
MOST = 12_000_000  # bytes of the packed file
FILES = ("metrics.csv", "run.json", "config.yaml", "snapshots.npz")  # one kind after the other packs best
HEADLINE = ("headline",)
FEATURES = {  # experiment -> roles of the runs whose features are drawn or judged
    "prevalence": HEADLINE,
    "prevalence_linear": HEADLINE,
    "images": HEADLINE,
    "ufm": (*HEADLINE, "control"),
}
LEFT_OUT = ("animation",)  # 10 MB for one film
BITS = 13  # of the 23 that a feature's mantissa has, rounded away: three digits are left
GET_IT = "get it again, e.g. by git checkout data/archive"


def pack(outputs: Path, protocol: str, home: Path = HOME, *, processor: str = "") -> dict[str, Any]:
    """Write `PROTOCOL.tar.xz` and its manifest `PROTOCOL.json` from all finished runs of experiments.

    What no figure and no claim reads is left out: the networks, features of runs that are no headline, the animation.
    The features that stay are rounded to three digits.

    Args:
        outputs: the folder of experiments.
        protocol: of these runs; those that compare protocols come along.
        home: where to write.
        processor: on what kind they were made; "": this machine's.

    Returns:
        The manifest: version, date, protocol, processor, torch, commits, runs, sha256 and bytes of the archive, and the
        sha256 of every file in it.

    Raises:
        UserError: there are no such runs, one was made on a file of the user, or the archive is larger than 12 MB.

    Example:
        pack(Path("outputs"), "quick", Path("data/archive"))
    """
    home.mkdir(parents=True, exist_ok=True)
    places = list(_finished(outputs, protocol))
    if not places:
        raise UserError(
            f"{outputs} holds no finished runs of the {protocol} protocol; make reproduce-figures makes them"
        )
    infos = [read_info(place) for place in places]
    file = home / f"{protocol}.tar.xz"
    found: dict[str, str] = {}
    with atomic(file) as tmp:
        with tarfile.open(tmp, "w:xz", preset=9) as archive:
            for name in FILES:
                for place, info in zip(places, infos, strict=True):
                    if (place / name).exists():
                        path = (place / name).relative_to(outputs).as_posix()
                        content = _content(place / name, info)
                        member = tarfile.TarInfo(path)  # no time, no owner: equal runs give equal bytes
                        member.size, member.mode = len(content), 0o644
                        archive.addfile(member, io.BytesIO(content))
                        found[path] = hashlib.sha256(content).hexdigest()
        if tmp.stat().st_size > MOST:
            size = tmp.stat().st_size / 1e6
            raise UserError(
                f"the archive of {len(places)} runs has {size:.1f} MB, more than {MOST / 1e6:.0f}; leave runs out"
            )
        manifest = {
            "version": nrc.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            "protocol": protocol,
            "processor": processor or f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": sorted({info["environment"].get("torch", "unknown") for info in infos}),
            "commits": sorted({info["environment"].get("git_commit") or "unknown" for info in infos}),
            "runs": len(places),
            "bytes": tmp.stat().st_size,
            "sha256": sha256(tmp),
            "files": found,
        }
    write_json(home / f"{protocol}.json", manifest)
    return manifest


def unpacked(target: Path, protocol: str = "quick", home: Path = HOME) -> Path:
    """The folder of archived runs; unpacked now, unless it is there.

    Args:
        target: the folder; one that was unpacked from another edition of the archive is replaced.
        protocol: of the runs.
        home: where the archive lies.

    Returns:
        `target`.

    Raises:
        UserError: there is no archive, it is damaged, or `target` holds something else.

    Example:
        Runs(unpacked(Path("outputs/archive")), "quick")
    """
    file, listed = home / f"{protocol}.tar.xz", home / f"{protocol}.json"
    manifest = _manifest(listed)

    def there() -> bool:
        before = mark(target)
        return before is not None and before.get("sha256") == manifest["sha256"]

    if there():
        return target
    if mark(target) is None and target.exists() and any(target.iterdir()):
        raise UserError(f"{target} holds something else than archived runs; move it away")
    if not file.exists() or sha256(file) != manifest["sha256"]:
        what = "is damaged: its sha256 is not the one in" if file.exists() else "is missing beside"
        raise UserError(f"{file} {what} {listed.name}; {GET_IT}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target.with_name(f".{target.name}.lock"), wait=-1):
        if not there():  # nor made by another process meanwhile
            _unpack(file, target, manifest)
    return target


def _unpack(file: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Put what the archive holds in the place of `target`."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for path, content in _members(file, manifest["files"]):
            place = part / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        told = {key: value for key, value in manifest.items() if key != "files"}
        write_json(part / MARK, told)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def mark(outputs: Path) -> dict[str, Any] | None:
    """What is known of archived runs: version, date, processor; None for a folder of one's own runs."""
    return read_json(outputs / MARK) or None


def _finished(outputs: Path, protocol: str) -> Iterator[Path]:
    """Directories of finished runs of experiments of this protocol, and of those that compare protocols."""
    for folder in sorted(path for path in outputs.glob("*") if path.is_dir() and path.name != "archive"):
        ending = folder.name.rpartition("-")[2]
        if ending in PROTOCOLS and ending != protocol:
            continue
        for record in sorted(folder.glob("*/**/run.json")):
            info = read_info(record.parent)
            if info["status"] == "finished" and info["experiment"] not in (None, *LEFT_OUT):
                yield record.parent


def _content(file: Path, info: dict[str, Any]) -> bytes:
    if file.name == "config.yaml":
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if (settings.get("data") or {}).get("path"):
            raise UserError(
                f"{file.parent} was made on a file of yours (data.path); the archive takes no such runs"
            )
    if file.name != "snapshots.npz":
        return file.read_bytes()
    wanted = info["role"] in FEATURES.get(info["experiment"], ())
    with np.load(file, allow_pickle=False) as archive:
        arrays = {
            name: _rounded(archive[name]) if name.startswith("features") else archive[name]
            for name in archive.files
            if not name.startswith("frame") and (wanted or not name.startswith("features"))
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # not compressed: the archive is
    return buffer.getvalue()


def _rounded(values: np.ndarray) -> np.ndarray:
    """The same numbers with fewer digits, which pack better."""
    bits = values.astype(np.float32).view(np.uint32)
    near = (bits + np.uint32(1 << (BITS - 1))) & np.uint32(0xFFFFFFFF << BITS & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near, bits).view(np.float32)


def _manifest(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(
            f"there are no archived runs ({file} is missing); make reproduce-figures makes runs of your own"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        good = isinstance(found["sha256"], str) and all(isinstance(v, str) for v in found["files"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        good = False
    if not good:
        raise UserError(f"{file} is damaged; {GET_IT}")
    return dict(found)


def _members(file: Path, listed: dict[str, str]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path and content of every file in the archive: those that are listed, and no others.

    Raises:
        UserError: a path outside, a link, a file that is not listed, missing or changed, or no tar.xz at all.
    """
    left = dict(listed)
    try:
        with tarfile.open(file, "r:xz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
                    raise UserError(f"{file}: {member.name!r} points outside the archive; it is not unpacked")
                content = archive.extractfile(member) if member.isreg() else None
                known = left.pop(member.name, None)
                data = content.read() if content is not None and known is not None else None
                if data is None or hashlib.sha256(data).hexdigest() != known:
                    raise UserError(f"{file}: {member.name!r} is not what its manifest lists; {GET_IT}")
                yield path, data
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(f"{file} cannot be unpacked ({' '.join(str(error).split())}); {GET_IT}") from error
    if left:
        raise UserError(f"{file} lacks {len(left)} files of its manifest, e.g. {next(iter(left))}; {GET_IT}")
