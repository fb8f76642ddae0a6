"""Files that are whole or absent: atomic replacement, disk errors in one line, and a lock."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nrc.errors import UserError

PATIENCE = 5.0  # seconds to wait for a lock whose holder is about to stop


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block an error of the disk becomes one line that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some disk space" if full else "see that its folder exists and may be written"
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; {remedy}, then run the same command again"
        ) from error


@contextlib.contextmanager
def atomic(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; move it into place only when the block succeeds.

    Args:
        path: appears whole or not at all, even when the process is killed or the disk is full.
        keep: where the file that was at `path` goes; None: it is replaced.

    Raises:
        UserError: the disk is full or may not be written.
    """
    _remove_stale(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield tmp
            with open(tmp, "rb+") as handle:
                os.fsync(handle.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(tmp, path)
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file, 0 when it is not there."""
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path, length: int | None = None) -> str:
    """Digest of a file, or of its first `length` bytes (of 0 bytes it need not be there)."""
    digest, left = hashlib.sha256(), path.stat().st_size if length is None else length
    if left:
        with open(path, "rb") as handle:
            while left and (block := handle.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` whose process was killed."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = stale.name.split(".")[-2]
        if number.isdigit() and not _is_alive(int(number)):
            stale.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, but not ours
        return True
    return True


@contextlib.contextmanager
def lock(path: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the file `path` within the block; a second process that asks for it is refused.

    The kernel frees the lock when its holder ends, in whatever way, so a lock file that was left behind or
    copied means nothing. On one machine this holds on every local file system. Between machines it holds on
    NFS (Linux turns it into a byte-range lock of the server; version 3 needs lockd) and on Lustre mounted with
    `flock`; with Lustre's `localflock`, and on many FUSE and SMB mounts, each machine sees its own locks only.
    Where there are no locks at all, a warning is said and the block is entered.

    Args:
        path: the lock file; it is made, and stays.
        say: receives the warning.

    Raises:
        UserError: somebody else holds it.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    say(
                        f"warning: {path}: no lock on this file system ({error.strerror}); run one process here"
                    )
                    break
            if time.monotonic() > until:
                holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
                raise UserError(f"{path.parent} is in use by {holder}; wait for it, or stop it") from None
            time.sleep(0.1)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(handle)
