"""Draw figures to files: what has changed alone, on all cores, with equal bytes from equal numbers."""

import hashlib
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from nrc.figures.curves import Drawing
from nrc.figures.registry import figures, find
from nrc.places import PROTOCOLS
from nrc.runs.directory import atomic, write_json
from nrc.runs.files import csv_text, read_json
from nrc.runs.read import Runs, commands
from nrc.worker import cores, follow_parent

# what a figure is made by, beside its runs
SOURCES = ("figures", "criteria.py", "reference", "runs", "metrics", "theory")
LIBRARIES = ("matplotlib", "numpy", "pandas")

logger = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """A file of a figure."""

    path: Path
    unchanged: bool  # it was there already, from the same runs and the same code


def draw(name: str, runs: Runs, folder: Path | None = None) -> list[Drawn]:
    """Draw one figure, unless it is there and nothing that it is made from has changed.

    Args:
        name: one of `nrc.figures.figures()`.
        runs: the finished runs.
        folder: where to write; None: `figures` beside the runs.

    Returns:
        PNG, PDF and csv of each drawing; [] without runs to draw.

    Example:
        draw("prevalence", Runs(Path("outputs"), "quick"))
    """
    folder = Path(folder or runs.outputs / "figures")
    found = _up_to_date(name, runs, folder)
    if not found:
        found = [Drawn(folder / file, False) for file in _draw(name, runs, folder)]
    _write_captions(folder)
    return found


def draw_all(
    outputs: Path, protocol: str = "quick", only: Collection[str] | None = None, *, folder: Path | None = None
) -> Iterator[Drawn]:
    """Draw every figure whose finished runs exist, in the order of the papers; what is up to date is left alone.

    On several cores the figures are drawn by worker processes, which import the main script anew: a script of
    your own then needs `if __name__ == "__main__":`.

    Args:
        outputs: holds `<experiment>-<protocol>/<data>/wd=<value>/seed=<k>/`, and `tau_clock/<data>/...`.
        protocol: quick, accelerated or paper; chooses the folders.
        only: names of figures; None: all.
        folder: where to write; None: `outputs/figures`.

    Yields:
        each file once it is there; `captions.md` and `captions.json` last.

    Example:
        for path, unchanged in draw_all(Path("outputs"), "quick", only=["prevalence"]):
            print(path, "(unchanged)" if unchanged else "")
    """
    outputs = Path(outputs)
    folder = Path(folder or outputs / "figures")
    wanted = figures() if only is None else {find(name).name for name in only}
    names = [name for name in figures() if name in wanted]
    runs = Runs(outputs, protocol)
    present = {name: _up_to_date(name, runs, folder) for name in names}
    jobs = [name for name in names if not present[name]]
    drawn = _draw_jobs(jobs, outputs, protocol, folder)
    count = 0
    for name in names:
        found = present[name] or [Drawn(folder / file, False) for file in next(drawn)]
        count += len(found)
        yield from found
    if not count:
        logger.info("no finished runs of the %s protocol below %s: nothing to draw", protocol, outputs)
        return
    for path in _write_captions(folder):
        yield Drawn(path, not jobs)


def save(drawing: Drawing, folder: Path) -> list[str]:
    """Write NAME.png, NAME.pdf and NAME.csv; equal numbers give equal bytes. Returns their names, csv last."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = drawing.figure.get_layout_engine()
    if layout is not None:  # placed once, not again for every file; "none" would still draw each file twice
        layout.execute(drawing.figure)
        drawing.figure.set_layout_engine(None)
    nothing = {"Creator": None, "Producer": None, "CreationDate": None}
    with atomic(folder / f"{drawing.name}.png") as tmp:
        drawing.figure.savefig(tmp, format="png", metadata={"Software": None})
    with atomic(folder / f"{drawing.name}.pdf") as tmp:
        drawing.figure.savefig(tmp, format="pdf", metadata=nothing)
    texts = drawing.extras | {f"{drawing.name}.csv": csv_text(drawing.table)}
    for name, text in texts.items():
        with atomic(folder / name) as tmp:
            tmp.write_text(text, encoding="utf-8")
    return [f"{drawing.name}.png", f"{drawing.name}.pdf", *texts]


def _draw(name: str, runs: Runs, folder: Path) -> list[str]:
    """Draw and save one figure and note what it was made from. Returns the names of its files."""
    made_from = fingerprint(name, runs)  # before: what changes meanwhile is seen next time
    entries, written = {}, []
    for drawing in find(name).drawings(runs):
        names = save(drawing, folder)
        written += names
        entries[drawing.name] = _entry(name, drawing, names, runs)
        logger.info("%s: %s", folder / names[0], drawing.title)
    state = folder / f"{name}.json"
    if entries:
        write_json(state, {"made_from": made_from, "drawings": entries})
    else:
        state.unlink(missing_ok=True)
    return written


@cache
def _runs_of_worker(outputs: Path, protocol: str) -> Runs:
    """Read once for all figures that a worker process draws."""
    return Runs(outputs, protocol)


def _draw_in_worker(name: str, outputs: Path, protocol: str, folder: Path) -> list[str]:
    return _draw(name, _runs_of_worker(outputs, protocol), folder)


def _draw_jobs(jobs: list[str], outputs: Path, protocol: str, folder: Path) -> Iterator[list[str]]:
    """Draw these, in this order; a worker must have a few figures to be worth its start."""
    workers = min(cores(), len(jobs) // 2)
    if workers < 2:
        runs = Runs(outputs, protocol)
        yield from (_draw(name, runs, folder) for name in jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), follow_parent) as pool:
        yield from pool.map(_draw_in_worker, jobs, repeat(outputs), repeat(protocol), repeat(folder))


def fingerprint(name: str, runs: Runs) -> str:
    """What a figure is made from, as one sha256: its runs' files, the code and the style.

    Records of runs count by their bytes; the larger files beside them by size and time of change.
    """
    digest = hashlib.sha256(f"{name} {runs.protocol} {runs.datasets or ''} {code()}".encode())
    for experiment in find(name).reads:
        for folder in (experiment, *(f"{experiment}-{p}" for p in PROTOCOLS)):
            add_runs(digest, runs, folder)
    return digest.hexdigest()


def add_runs(digest: Any, runs: Runs, folder: str) -> None:
    """Add all that the runs of a folder of experiments are known by."""
    for record in sorted((runs.outputs / folder).glob("*/**/run.json")):
        if record.parent in runs.pending:
            continue
        digest.update(f"{record.relative_to(runs.outputs)}\n".encode() + record.read_bytes())
        for file in ("metrics.csv", "snapshots.npz", "config.yaml"):
            if (record.parent / file).exists():
                facts = (record.parent / file).stat()
                digest.update(f"{file} {facts.st_size} {facts.st_mtime_ns}\n".encode())


@cache
def code(*more: str) -> str:
    """The code that makes a figure, and of these further parts of the package, as one sha256."""
    digest = hashlib.sha256(" ".join(version(library) for library in LIBRARIES).encode())
    package = Path(str(files("nrc")))
    for part in (*SOURCES, *more):
        place = package / part
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _up_to_date(name: str, runs: Runs, folder: Path) -> list[Drawn]:
    """The files of a figure if all are there and made from what is there now, else []."""
    state = read_json(folder / f"{name}.json")
    paths = [folder / file for entry in state.get("drawings", {}).values() for file in entry["files"]]
    if not paths or not all(path.exists() for path in paths):
        return []
    same = state["made_from"] == fingerprint(name, runs)
    return [Drawn(path, True) for path in paths] if same else []


def _entry(name: str, drawing: Drawing, names: list[str], runs: Runs) -> dict[str, Any]:
    made = find(name)
    return {
        "figure": made.name,
        "title": drawing.title,
        "caption": made.caption,
        "paper": f"{made.paper}, figure {' and '.join(map(str, made.numbers))}" if made.paper else "",
        "files": names,
        "csv": names[-1],
        "runs": sorted({str(run.path.relative_to(runs.outputs)) for run in drawing.runs}),
        "commands": commands(drawing.runs),
    }


def _write_captions(folder: Path) -> list[Path]:
    """All figures that are there in two files: for people and for programs."""
    entries: dict[str, dict[str, Any]] = {}
    for name in figures():
        entries |= read_json(folder / f"{name}.json").get("drawings", {})
    if not entries:
        return []
    lines = ["# Figures", "", "Each is there as PNG and PDF, with the csv of what is drawn.", ""]
    for name, entry in entries.items():
        lines += [f"## {name}: {entry['title']}", "", f"![{name}]({name}.png)", "", entry["caption"], ""]
        lines += [entry["paper"] + ".", ""] if entry["paper"] else []
        lines += [f"Numbers: `{entry['csv']}`. From {len(entry['runs'])} runs, made by:", ""]
        lines += [*(f"    {command}" for command in entry["commands"]), ""]
    with atomic(folder / "captions.md") as tmp:
        tmp.write_text("\n".join(lines), encoding="utf-8")
    write_json(folder / "captions.json", entries)
    return [folder / "captions.md", folder / "captions.json"]
