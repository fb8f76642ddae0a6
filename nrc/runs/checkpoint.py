"""Checkpoints of a run directory: written atomically, checked by checksum, two of them kept until the run is finished."""

import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from nrc.errors import UserError
from nrc.runs.files import atomic, sha256, size, writing

log = logging.getLogger(__name__)
NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(folder: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `checkpoint.pt`; the one before becomes `checkpoint.previous.pt`.

    With the state go the identity of the run, and size and digest of `metrics.csv`: rows beyond are of a later
    time. The checksums of the state are those of the zip format, one for each tensor.

    Raises:
        UserError: the disk is full or may not be written.
    """
    metrics = folder / "metrics.csv"
    if metrics.exists():
        with writing(metrics), open(metrics, "rb") as handle:
            os.fsync(handle.fileno())  # no checkpoint may outlive the rows it counts on
    # by way of memory: torch's own file writer hides the reason when the disk is full
    buffer = io.BytesIO()
    length = size(metrics)
    rows = {"rows": length, "rows_sha256": sha256(metrics, length)}
    torch.save(state | {"identity": identity} | rows, buffer)
    with atomic(folder / NEWEST, keep=folder / PREVIOUS) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def slim(folder: Path, keep_weights: bool) -> None:
    """Keep of the newest checkpoint `model`, `step` and `identity`, or nothing; it can no longer be continued."""
    if not keep_weights:
        (folder / NEWEST).unlink(missing_ok=True)
        return
    state = _read_whole(folder / NEWEST)
    buffer = io.BytesIO()
    torch.save({key: state[key] for key in ("model", "step", "identity")} | {"finished": True}, buffer)
    with atomic(folder / NEWEST) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def load(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, with `metrics.csv` cut back to it; None to start over.

    A warning is logged for every checkpoint that cannot be used.

    Args:
        folder: the run directory.
        identity: of the run that wants to continue.

    Raises:
        UserError: the checkpoint is of another run.
    """
    metrics = folder / "metrics.csv"
    found = [file for name in (NEWEST, PREVIOUS) if (file := folder / name).exists()]
    for file in found:
        try:
            state = _read_whole(file)
            other = differences(state["identity"], identity)
            if not other and state.get("finished"):
                raise UserError("the run was finished: it holds the weights alone")
            if not other and state["rows"] > size(metrics):
                raise UserError("metrics.csv has lost rows since")
            if not other and state["rows_sha256"] != sha256(metrics, state["rows"]):
                raise UserError("metrics.csv was changed since")
        except Exception as error:  # damage can show as any exception at all
            why = " ".join(f"{type(error).__name__}: {error}".split())[:150]
            remedy = "starting over" if file is found[-1] else "taking the one before"
            log.warning(f"{file} cannot be used ({why}); {remedy}")
            continue
        if other:
            raise UserError(f"{file} is of another run ({'; '.join(other[:3])}); delete it to start over")
        with writing(metrics):
            if file.name == PREVIOUS:  # else the next save would put the damaged one in its place
                (folder / NEWEST).unlink(missing_ok=True)
            if metrics.exists():
                os.truncate(metrics, state["rows"])
        return state
    with writing(metrics):
        metrics.unlink(missing_ok=True)
    return None


def _read_whole(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:  # torch.load alone does not look at the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    return torch.load(file, map_location="cpu", weights_only=True)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, as words."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} is {a} there and {b} here")
    return found
