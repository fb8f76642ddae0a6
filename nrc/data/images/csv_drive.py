"""A drive as image files with a csv of steer and speed."""

import csv
import io
import math
from difflib import get_close_matches
from pathlib import PurePosixPath

import numpy as np

from nrc.data.base import Array
from nrc.data.images.frames import ImageFrames, listed
from nrc.data.images.store import Store, is_image
from nrc.data.reading import is_number
from nrc.errors import UserError

USUAL = {
    "image": ("image", "image_name", "center", "filename", "file", "frame"),
    "steer": ("steer", "steering", "steering_angle", "angle"),
    "speed": ("speed",),
}
UDACITY = ("center", "left", "right", "steering", "throttle", "brake", "speed")  # its csv has no header


def csv_drive(
    store: Store,
    csv_file: str | None,
    columns: dict[str, str | None],
    size: tuple[int, int] | None,
    limit: int | None,
) -> ImageFrames:
    """The frames that the csv names, in its order.

    Args:
        store: the folder or tar with the images and the csv.
        csv_file: its name, needed where there are several.
        columns: "image", "steer", "speed" -> the name of that column; None: one of its usual names.
        size: (H, W), or None for the images' own.
        limit: at most this many rows.
    """
    name = _the_csv(store, csv_file)
    where = f"{store.where}/{name}"
    header, rows = _table(where, store.read(name))
    found = {kind: _column(where, header, kind, given) for kind, given in columns.items()}
    if found["image"] is None:
        raise UserError(
            f"{where} has no column of image names among {', '.join(header[:12])}; set data.image_column to its name"
        )
    rows = rows[:limit]
    targets = {
        k: _numbers(where, rows, i, header[i]) for k, i in found.items() if k != "image" and i is not None
    }
    names, unused = _files(where, store, PurePosixPath(name).parent, [row[found["image"]] for row in rows])
    notes = [f"{unused} images that {name} does not name are left out"] if unused and limit is None else []
    values = np.stack([*targets.values()], axis=1) if targets else np.empty((len(rows), 0))
    return ImageFrames(store, names, values, tuple(targets), size, notes)


def _the_csv(store: Store, csv_file: str | None) -> str:
    found = [name for name in store.names if name.lower().endswith(".csv")]
    if csv_file is not None:
        found = [name for name in store.names if name == csv_file or PurePosixPath(name).name == csv_file]
    if len(found) != 1:
        what = f"{len(found)} files named {csv_file}" if csv_file else f"{len(found)} csv files"
        remedy = "set data.csv_file to the one with steer and speed" if found else _what_else(store)
        raise UserError(f"{store.where} holds {what} ({', '.join(found[:4]) or 'none'}); {remedy}")
    return found[0]


def _what_else(store: Store) -> str:
    inner = sorted(
        {PurePosixPath(name).parts[0] for name in store.names if name.lower().endswith((".h5", ".hdf5"))}
    )
    if inner:
        return f"its HDF5 files are in {', '.join(inner[:4])}: set data.path to one of these folders"
    return "expected HDF5 files, or images with a csv of image name, steer and speed"


def _table(where: str, data: bytes) -> tuple[list[str], list[list[str]]]:
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where} cannot be read as csv ({error}); write it as UTF-8 with commas") from error
    rows = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    if not rows:
        raise UserError(f"{where} is empty; expected rows of image name, steer and speed")
    header = list(UDACITY) if is_image(rows[0][0]) and len(rows[0]) == len(UDACITY) else rows.pop(0)
    short = [number for number, row in enumerate(rows, 1) if len(row) != len(header)]
    if short:
        raise UserError(
            f"{where}: data row {short[0]} has {len(rows[short[0] - 1])} cells, the header {len(header)} "
            f"({len(short)} such rows; cut short?); repair or get it again"
        )
    if not rows:
        raise UserError(f"{where} has a header but no rows; get it again")
    return header, rows


def _column(where: str, header: list[str], kind: str, given: str | None) -> int | None:
    if given is None:
        return next((header.index(name) for name in USUAL[kind] if name in header), None)
    if given in header:
        return header.index(given)
    close = get_close_matches(given, header, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(header[:12])}"
    raise UserError(f"{where} has no column {given!r} (data.{kind}_column); {hint}")


def _numbers(where: str, rows: list[list[str]], column: int, name: str) -> Array:
    values = np.empty(len(rows))
    for number, row in enumerate(rows):
        values[number] = float(row[column]) if is_number(row[column]) else math.nan
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"{where}: data row {bad[0] + 1}, column {name!r} is {rows[bad[0]][column]!r}, not a finite number "
            f"({len(bad)} such rows); fill in or take out those rows"
        )
    return values


def _files(where: str, store: Store, folder: PurePosixPath, cells: list[str]) -> tuple[list[str], int]:
    """The file behind each cell, and how many images no cell names.

    A cell may hold a path of the machine that recorded the drive: then the file's name alone decides.
    """
    images = [name for name in store.names if is_image(name)]
    known, by_name = set(images), dict[str, list[str]]()
    for image in images:
        by_name.setdefault(PurePosixPath(image).name, []).append(image)
    found, missing = [], []
    for cell in cells:
        path = PurePosixPath(cell.replace("\\", "/"))
        same = by_name.get(path.name, [])
        if str(folder / path) in known:
            found.append(str(folder / path))
        elif len(same) == 1:
            found.append(same[0])
        elif same:
            raise UserError(
                f"{where}: {cell!r} may be {' or '.join(same[:3])}; write paths relative to the csv's folder"
            )
        else:
            missing.append(cell)
    if missing:
        raise UserError(
            f"{where} names images that do not exist: {listed(missing)}; get them, or take those rows out of the csv"
        )
    return found, len(known - set(found))
