"""Files that are whole or absent: atomic replacement, disk errors in one line, and a lock."""

import contextlib
import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nrc.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for one, if it begins a text
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


def file_name(text: str) -> str:
    """A text, say of somebody else's record, as the name of a file that lies in no other folder.

    Example:
        >>> file_name("deep_x/../../a b"), file_name("sweep_wd=1e-3")
        ('deep_x_.._.._a_b', 'sweep_wd=1e-3')
    """
    return re.sub(r"[^\w.=+-]+", "_", text).lstrip(".")


def csv_text(table: "pd.DataFrame") -> str:
    """A table as csv, in which no text is a formula to a spreadsheet: it then begins with an apostrophe.

    Example:
        >>> import pandas as pd
        >>> csv_text(pd.DataFrame({"data": ["=1+1", "toy"], "value": [-1.0, 2.0]})).splitlines()
        ['data,value', "'=1+1,-1.0", 'toy,2.0']
    """
    safe = table.copy()
    for name in table.select_dtypes(exclude=["number", "bool"]):
        safe[name] = table[name].map(lambda v: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v)
    return safe.to_csv(index=False, lineterminator="\n")


def read_json(file: Path) -> dict[str, Any]:
    """What an earlier run of ours wrote there; {} where there is no file, or not one of ours."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def between(text: str, name: str, new: str) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced.

    Raises:
        UserError: these two lines are not there.

    Example:
        >>> between("a <!-- x -->old<!-- /x --> b", "x", "new")
        'a <!-- x -->\\nnew\\n<!-- /x --> b'
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(first) != 1 or text.count(last) != 1:
        raise UserError(f"{first} and {last} must stand in the text once each")
    before, after = text.split(first)[0], text.split(last)[1]
    return f"{before}{first}\n{new}\n{last}{after}"


def size(path: Path) -> int:
    """Bytes of a file, 0 when it is not there."""
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path, length: int | None = None) -> str:
    """Digest of a file, or of its first `length` bytes (of 0 bytes it need not be there)."""
    if length == 0:
        return hashlib.sha256().hexdigest()
    with open(path, "rb") as handle:
        if length is None:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        return hashlib.sha256(handle.read(length)).hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` whose process was killed."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = stale.name.split(".")[-2]
        if number.isdigit() and not _is_alive(int(number)):
            stale.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there signal 0 is Ctrl-C, not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, but not ours
        return True
    return True


@contextlib.contextmanager
def lock(path: Path, wait: float | None = None) -> Iterator[None]:
    """Hold the file `path` within the block, against other processes on any system (by the library filelock).

    The kernel frees the lock when its holder ends, in whatever way, so a lock file that was left behind or
    copied means nothing. On one machine this holds on every local file system. Between machines it holds on
    NFS (Linux turns it into a byte-range lock of the server; version 3 needs lockd) and on Lustre mounted with
    `flock`; with Lustre's `localflock`, and on many FUSE and SMB mounts, each machine sees its own locks only.
    Where there are no locks at all, a warning is logged and the block is entered.

    Args:
        path: the lock file; it is made, and stays.
        wait: seconds to wait for another holder, -1 for as long as it takes; None: `PATIENCE`.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    held = FileLock(path)
    with writing(path):
        try:
            held.acquire(timeout=PATIENCE if wait is None else wait)
        except Timeout:
            raise UserError(
                f"{path.parent} is in use by {_holder(path) or 'another process'}; wait for it, or stop it"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            log.warning(f"{path}: no lock on this file system ({error}); run one process here")
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's name
            if _holder(path) is not None:
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        held.release()


def _holder(path: Path) -> str | None:
    """The name in a lock file, "" for none; None if it cannot be told (Windows) or is filelock's own mark."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text if not text or text.startswith("process ") else None
