"""The report: a page of answers and its explorer, from run directories and finished figures alone.

`index.html` links figures and runs in the folders beside it; `explorer.html` has its numbers and scripts inside. Both
open from disk without a network; their Content-Security-Policy forbids every request to one.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from nrc.figures import animation
from nrc.figures.output import add_runs, code
from nrc.figures.registry import figures as registered
from nrc.report import explorer
from nrc.report.published import comparisons
from nrc.report.registry import FAILS, HOLDS, NOT_RUN, NOT_YET, PENDING, UNTESTABLE, mean, value_range
from nrc.report.scorecard import Row, scorecard, table
from nrc.runs.archive import mark
from nrc.runs.directory import atomic, write_json
from nrc.runs.files import csv_text, read_json
from nrc.runs.read import Runs

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
MARKS = {
    HOLDS: ("✓", "holds"),
    FAILS: ("✗", "fails"),
    NOT_YET: ("○", "open"),
    UNTESTABLE: ("–", "open"),
    PENDING: ("…", "absent"),
    NOT_RUN: ("·", "absent"),
}


def write_report(
    outputs: Path, protocol: str = "quick", *, folder: Path | None = None, pending: Collection[Path] = ()
) -> list[Path]:
    """Judge the claims, draw the animation and write the pages.

    Args:
        outputs: the folder of experiments, with `figures/` as `draw_all` left it (may be missing).
        protocol: which runs to report on.
        folder: where to write; None: `outputs/report`.
        pending: directories of runs that are under way; what waits for them says so.

    Returns:
        `index.html`, `explorer.html`, `scorecard.csv`, and `collapse.gif` with its still if there are frames. They are
        left as they are where neither the runs and the figures have changed since, nor the code.

    Example:
        write_report(Path("outputs"), "quick")
    """
    outputs = Path(outputs)
    folder = Path(folder or outputs / "report")
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(outputs, protocol, pending=pending)
    state = folder / "made_from.json"
    before, now = read_json(state), _made_from(runs, folder)
    files = [folder / name for name in before.get("files", [])]
    if before.get("all") == now["all"] and files and all(file.exists() for file in files):
        return files
    rows = scorecard(runs)
    moving = animation.find(runs)
    gif = folder / "collapse.gif" if moving else None
    if moving and gif:
        now["animation"] = (
            f"{code()} {moving.path} {hashlib.sha256(json.dumps(moving.info).encode()).hexdigest()}"
        )
        if before.get("animation") != now["animation"] or not gif.exists():
            animation.animate(moving, gif)
    texts = {
        "index.html": render(runs, rows, folder, gif),
        "explorer.html": render_explorer(runs),
        "scorecard.csv": csv_text(table(rows, protocol)),
    }
    for name, text in texts.items():
        with atomic(folder / name) as tmp:
            tmp.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{n} {word}" for word, n in Counter(row.verdict for row in rows).items())
    log.info(f"{folder / 'index.html'}: {counts}")
    made = [*(folder / name for name in texts), *([gif, gif.with_suffix(".png")] if gif else [])]
    write_json(state, now | {"files": [file.name for file in made]})
    return made


def _made_from(runs: Runs, folder: Path) -> dict[str, Any]:
    """What the report is made from, as one sha256: all runs, the figures, the code, and which folder it links from."""
    place = os.path.relpath(folder.absolute(), runs.outputs.absolute())
    digest = hashlib.sha256(f"{runs.protocol} {place} {len(runs.pending)} {code('report')}".encode())
    if runs.outputs.is_dir():
        for experiment in sorted(path.name for path in runs.outputs.iterdir() if path.is_dir()):
            if experiment not in explorer.OTHER_FOLDERS:
                add_runs(digest, runs, experiment)
        for file in sorted((runs.outputs / "figures").glob("*")):
            if file.name == "captions.json":
                digest.update(file.read_bytes())
            elif file.suffix == ".png":
                digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    return {"all": digest.hexdigest()}


def _template(name: str) -> Any:
    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters |= {"mean": mean, "range": value_range}
    return templates.get_template(name)


def _inside(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def render(runs: Runs, rows: list[Row], folder: Path, gif: Path | None = None) -> str:
    """The report as text; links are relative to `folder`."""
    link = _Linker(folder)
    pictures = _pictures(runs, link)
    return str(
        _template("page.html").render(
            css=_inside("page.css"),
            script=_inside("page.js"),
            protocol=runs.protocol,
            facts=_facts(runs),
            answers=answers(rows, pictures),
            parts=_parts(rows, link, pictures),
            counts={
                word: sum(row.verdict == word for row in rows)
                for word in MARKS
                if word != PENDING or runs.pending
            },
            depending=sum(row.finding.depends_on_view for row in rows),
            marks=MARKS,
            figures=pictures,
            comparisons=comparisons(runs),
            moving=_moving(gif, link) if gif else None,
        )
    )


def render_explorer(runs: Runs) -> str:
    """The explorer as text: every curve of every run, and what draws it."""
    return str(
        _template("explorer.html").render(
            css=_inside("page.css"),
            plotly=Markup(get_plotlyjs()),
            script=_inside("explorer.js"),
            numbers=Markup(embedded_json(explorer.data(runs))),
        )
    )


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character that could end it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class _Linker:
    """Relative, quoted links from the page's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __call__(self, path: Path) -> str:
        return quote(Path(os.path.relpath(path.absolute(), self.folder)).as_posix(), safe="/=.-_")


def _facts(runs: Runs) -> list[str]:
    """Where the numbers come from: how many runs, versions, commits."""
    found = [run for folder in explorer.folders(runs) for d in runs.in_folder(folder).values() for run in d]
    if not found:
        return ["no finished runs"]
    environments = [run.info.get("environment", {}) for run in found]
    versions = sorted({f"torch {e['torch']}" for e in environments if e.get("torch")})
    commits = sorted({e["git_commit"] for e in environments if e.get("git_commit")})
    kinds = "data: " + ", ".join(sorted({run.kind for run in found}))
    told = mark(runs.outputs)
    return [
        *(
            [f"ARCHIVED RUNS of {told['date']}, made on {told['processor']}, not on this machine"]
            if told
            else []
        ),
        f"{len(found)} finished runs",
        kinds,
        *versions,
        *([f"commit {', '.join(commits[:3])}"] * bool(commits)),
        *([f"{len(runs.pending)} runs are under way"] * bool(runs.pending)),
    ]


def answers(rows: list[Row], pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each figure of the papers: whether the claims that it shows hold in all runs that are there."""
    places: dict[str, list[str]] = {}  # a figure of a paper may be drawn in several
    for figure in registered().values():
        if figure.paper:
            many = "s" * (len(figure.numbers) > 1)
            where = f"{figure.paper}, figure{many} {' and '.join(map(str, figure.numbers))}"
            places.setdefault(where, []).append(figure.name)
    found = []
    for where, names in places.items():
        mine = [row for row in rows if row.claim.figure in names]
        words = [row.verdict for row in mine if row.verdict not in (NOT_RUN, PENDING, UNTESTABLE)]
        held = words.count(HOLDS)
        if not words:
            waits = any(row.verdict == PENDING for row in mine)
            tried = PENDING if waits else UNTESTABLE if any(row.runs for row in mine) else NOT_RUN
            word, look = (tried if mine else "no claim"), "absent"
        elif held == len(words):
            word, look = "yes", "holds"
        elif FAILS not in words:
            word, look = f"not yet: {held} of {len(words)}", "open"
        else:
            word, look = f"in part: {held} of {len(words)}" if held else "no", "fails"
        claims = []
        for claim in dict.fromkeys(row.claim.id for row in mine):
            told = Counter(MARKS[row.verdict][0] for row in mine if row.claim.id == claim)
            title = next(row.claim.title for row in mine if row.claim.id == claim)
            claims.append((title, claim, " ".join(f"{n}{mark}" for mark, n in told.items())))
        picture = next((p for p in pictures if p["figure"] in names), None)
        found.append({"where": where, "picture": picture, "word": word, "look": look, "claims": claims})
    return found


def _parts(rows: list[Row], link: _Linker, pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The matrix (claims by settings) and the tables, by part of the papers."""
    parts = []
    for part in dict.fromkeys(row.claim.part for row in rows):
        here = [row for row in rows if row.claim.part == part]
        settings = list(dict.fromkeys(row.setting for row in here))
        claims = []
        for claim in dict.fromkeys(row.claim.id for row in here):
            mine = [row for row in here if row.claim.id == claim]
            cells = {row.setting: row for row in mine}
            entries = [_row(row, link, pictures) for row in mine]
            cell = [cells.get(setting) for setting in settings]
            claims.append({"claim": mine[0].claim, "cells": cell, "rows": entries})
        columns = {row.setting: row.facts for row in here if row.facts}
        slug = part.replace(" ", "-")
        parts.append({"name": part, "slug": slug, "settings": settings, "claims": claims, "columns": columns})
    return parts


def _row(row: Row, link: _Linker, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [p["name"] for p in pictures if p["figure"] == row.claim.figure]
    own = [name for name in mine if row.data in name]  # a figure may be drawn once for each data set
    return {
        "row": row,
        "finding": row.finding,
        "id": f"{row.claim.id}-{row.experiment}-{row.data}",
        "figure": next(iter(own or mine), ""),
        "runs": [
            {"href": link(run.path) + "/", "text": f"λ={run.weight_decay:g} seed {run.seed}"} for run in row.runs
        ],
    }  # fmt: skip


def _pictures(runs: Runs, link: _Linker) -> list[dict[str, Any]]:
    """Every figure of `captions.json` whose picture exists."""
    home = runs.outputs / "figures"
    if not (home / "captions.json").exists():
        return []
    found = []
    for name, entry in json.loads((home / "captions.json").read_text(encoding="utf-8")).items():
        picture = home / f"{name}.png"
        if not picture.exists():
            continue
        files = [f for f in entry["files"] if not f.endswith(".png") and (home / f).exists()]
        made = [run for run in entry["runs"] if (runs.outputs / run).exists()]
        found.append(
            entry
            | _measures(picture, link)
            | {
                "name": name,
                "links": [{"href": link(home / file), "text": file} for file in files],
                "runs": [{"href": link(runs.outputs / run) + "/", "text": run} for run in made],
            }
        )
    return found


def _moving(gif: Path, link: _Linker) -> dict[str, Any]:
    still = _measures(gif.with_suffix(".png"), link)
    return {"caption": animation.CAPTION, "gif": link(gif), **still}


def _measures(picture: Path, link: _Linker) -> dict[str, Any]:
    with Image.open(picture) as image:
        width, height = image.size
    return {"href": link(picture), "width": width, "height": height}
