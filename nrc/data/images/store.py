"""Files in a folder or in a tar archive, read in place: nothing is unpacked, so nothing can be written elsewhere."""

import gzip
import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

from nrc.data.reading import expanded, one_line, sha256
from nrc.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TARS = (".tar", ".tar.gz", ".tgz")


class Folder:
    """The files below a folder, by their path relative to it; hidden ones and the cache's own are left out."""

    def __init__(self, place: Path, scratch: Path) -> None:
        self.where = str(place)
        self.place = place
        own = _inside(scratch, place)
        found = (file.relative_to(place) for file in place.rglob("*") if file.is_file())
        self.names = sorted(
            file.as_posix()
            for file in found
            if not _hidden(file) and (own is None or own not in file.parents)
        )
        if not self.names:
            raise UserError(f"{place} is an empty folder; give data.path the folder that holds the files")

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def sha256(self, names: list[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{sha256(self.place / name)}  {name}\n".encode())
        return digest.hexdigest()


class Tar:
    """The files of a tar archive (.tar, .tar.gz, .tgz), by member name.

    Members are read at their offset. A compressed archive is first expanded into an unnamed temporary file.

    Raises:
        UserError: a link, device, absolute name, "..", two members of one name, or an archive cut short.
    """

    def __init__(self, file: Path, scratch: Path) -> None:
        self.where = str(file)
        self.file = file
        with one_line(file, "tar"):
            self.stream = self._plain(scratch)
            with tarfile.open(fileobj=self.stream, mode="r:") as archive:
                members = archive.getmembers()
            self.stream.seek(-512, 2)
            if self.stream.read(512).strip(b"\0"):
                raise UserError(f"{file} ends without the mark of a tar's end (cut short?); get it again")
        self.members: dict[str, tuple[int, int]] = {}
        for member in members:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or "\\" in member.name:
                raise UserError(f"{file}: member {member.name!r} points outside the archive; it is not read")
            if member.isdir() or _hidden(path):
                continue
            if not member.isreg() or member.issparse():
                raise UserError(
                    f"{file}: member {member.name!r} is a link or device, not a file; pack the files themselves"
                )
            if str(path) in self.members:
                raise UserError(f"{file} holds {member.name!r} twice; pack it again with one of them")
            self.members[str(path)] = member.offset_data, member.size
        self.names = sorted(self.members)
        if not self.names:
            raise UserError(f"{file} holds no files; get it or pack it again")

    def _plain(self, scratch: Path) -> IO[bytes]:
        stream = self.file.open("rb")
        compressed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not compressed:
            return stream
        scratch.mkdir(parents=True, exist_ok=True)
        plain = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (read from later)
        with stream, gzip.open(stream) as source:
            shutil.copyfileobj(source, plain, 1 << 20)
        plain.seek(0)
        return plain

    def read(self, name: str) -> bytes:
        offset, size = self.members[name]
        self.stream.seek(offset)
        return self.stream.read(size)

    def sha256(self, names: list[str]) -> str:
        return sha256(self.file)


Store = Folder | Tar


def open_store(path: str | Path, scratch: str | Path) -> Store:
    """The folder or tar at `path`; scratch: where a compressed one may be expanded."""
    place = Path(path).expanduser()
    if place.is_dir():
        return Folder(place, expanded(scratch))
    if not place.is_file():
        raise UserError(f"{place} does not exist; give data.path an existing folder or file")
    if not place.name.lower().endswith(TARS):
        raise UserError(f"{place} is no folder and no {', '.join(TARS)} archive; unpack it first")
    return Tar(place, expanded(scratch))


def files_read(path: Path, scratch: str | Path, endings: tuple[str, ...]) -> list[Path]:
    """What a loader of files with these endings reads of a folder or tar."""
    if not path.is_dir():
        return [path]
    return [path / name for name in Folder(path, expanded(scratch)).names if name.lower().endswith(endings)]


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image, by its ending."""
    return name.lower().endswith(IMAGES)


def _inside(inner: Path, outer: Path) -> Path | None:
    """The path of a folder below another, relative to it; None where it lies elsewhere or is the same."""
    inner, outer = inner.resolve(), outer.resolve()
    return inner.relative_to(outer) if outer in inner.parents else None


def _hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)
