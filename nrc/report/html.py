"""The report: one self-contained HTML page, from run directories and finished figures alone.

The page opens from disk without a network: style, scripts, pictures and numbers are in it. Its
Content-Security-Policy forbids every request.
"""

import base64
import io
import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from nrc.figures import animation
from nrc.report import explorer
from nrc.report.findings import FAILS, HOLDS, NOT_RUN, NOT_YET, UNTESTABLE, mean, value_range
from nrc.report.published import comparisons
from nrc.report.scorecard import Row, as_table, as_text, scorecard
from nrc.runs.directory import atomic
from nrc.runs.read import Run, Runs

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
MARKS = {
    HOLDS: ("✓", "holds"),
    FAILS: ("✗", "fails"),
    NOT_YET: ("○", "open"),
    UNTESTABLE: ("–", "open"),
    NOT_RUN: ("·", "absent"),
}


def write_report(
    outputs: Path,
    protocol: str = "quick",
    *,
    folder: Path | None = None,
) -> list[Path]:
    """Judge the claims, draw the animation and write the page.

    Args:
        outputs: the folder of experiments, with `figures/` as `draw_all` left it (may be missing).
        protocol: which runs to report on.
        folder: where to write; None: `outputs/report`.

    Returns:
        `index.html`, `scorecard.csv`, and `collapse.gif` with its still if there are frames.

    Example:
        write_report(Path("outputs"), "quick")
    """
    outputs = Path(outputs)
    folder = Path(folder or outputs / "report")
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(outputs, protocol)
    rows = scorecard(runs)
    moving = animation.find(runs)
    written = [folder / "index.html", folder / "scorecard.csv"]
    if moving is not None:
        gif = animation.animate(moving, folder / "collapse.gif")
        written += [gif, gif.with_suffix(".png")]
    with atomic(written[1]) as tmp:
        as_table(rows).to_csv(tmp, index=False, lineterminator="\n")
    page = render(runs, rows, folder, moving)
    with atomic(written[0]) as tmp:
        tmp.write_text(page, encoding="utf-8")
    log.info(as_text(rows))
    log.info(f"{written[0]}: {len(page.encode()) / 1e6:.1f} MB, {len(rows)} verdicts")
    return written


def render(runs: Runs, rows: list[Row], folder: Path, moving: Run | None = None) -> str:
    """The page as text; links are relative to `folder`."""
    link = _Linker(folder)
    figures = _figures(runs, link)
    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters |= {"mean": mean, "range": value_range}
    return templates.get_template("page.html").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
        script=Markup((HERE / "explorer.js").read_text(encoding="utf-8")),
        numbers=Markup(embedded_json(explorer.data(runs))),
        protocol=runs.protocol,
        facts=_facts(runs),
        parts=_parts(rows, link),
        counts={word: sum(row.verdict == word for row in rows) for word in MARKS},
        depending=sum(row.finding.depends_on_view for row in rows),
        marks=MARKS,
        figures=figures,
        figure_names={figure["name"] for figure in figures},
        comparisons=comparisons(runs),
        moving=_moving(moving, folder),
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

    def runs(self, runs: list[Run]) -> list[dict[str, str]]:
        return [
            {"href": self(run.path) + "/", "text": f"λ={run.weight_decay:g} seed {run.seed}"} for run in runs
        ]


def _facts(runs: Runs) -> list[str]:
    """Where the numbers come from: how many runs, versions, commits."""
    found = [
        run for folder in explorer.folders(runs) for d in explorer.runs_in(runs, folder).values() for run in d
    ]
    if not found:
        return ["no finished runs"]
    kinds = sorted({run.kind for run in found})
    environments = [run.info.get("environment", {}) for run in found]
    versions = sorted({f"torch {e['torch']}" for e in environments if e.get("torch")})
    commits = sorted({e["git_commit"] for e in environments if e.get("git_commit")})
    return [
        f"{len(found)} finished runs",
        "data: " + ", ".join(kinds),
        *versions,
        *([f"commit {', '.join(commits[:3])}"] if commits else []),
    ]


def _parts(rows: list[Row], link: _Linker) -> list[dict[str, Any]]:
    """The matrix (claims by settings) and the tables, by part of the papers."""
    parts = []
    for part in dict.fromkeys(row.claim.part for row in rows):
        here = [row for row in rows if row.claim.part == part]
        settings = list(dict.fromkeys(row.setting for row in here))
        claims = []
        for claim in dict.fromkeys(row.claim.id for row in here):
            mine = [row for row in here if row.claim.id == claim]
            cells = {row.setting: row for row in mine}
            claims.append(
                {
                    "claim": mine[0].claim,
                    "cells": [cells.get(setting) for setting in settings],
                    "rows": [_row(row, link) for row in mine],
                }
            )
        slug = part.replace(" ", "-")
        columns = {row.setting: row.facts for row in here if row.facts}
        parts.append({"name": part, "slug": slug, "settings": settings, "claims": claims, "columns": columns})
    return parts


def _row(row: Row, link: _Linker) -> dict[str, Any]:
    return {"row": row, "finding": row.finding, "id": row_id(row), "runs": link.runs(row.runs)}


def row_id(row: Row) -> str:
    return f"{row.claim.id}-{row.experiment}-{row.data}"


def _figures(runs: Runs, link: _Linker) -> list[dict[str, Any]]:
    """Every figure of `captions.json` whose picture exists."""
    home = runs.outputs / "figures"
    if not (home / "captions.json").exists():
        return []
    found = []
    for name, entry in json.loads((home / "captions.json").read_text(encoding="utf-8")).items():
        picture = home / f"{name}.png"
        if not picture.exists():
            continue
        width, height = _size(picture)
        files = [f for f in entry["files"] if not f.endswith(".png") and (home / f).exists()]
        found.append(
            entry
            | {
                "name": name,
                "src": data_uri(picture),
                "href": link(picture),
                "width": width,
                "height": height,
                "links": [{"href": link(home / file), "text": file} for file in files],
                "runs": [
                    {"href": link(runs.outputs / run) + "/", "text": run}
                    for run in entry["runs"]
                    if (runs.outputs / run).exists()
                ],
            }
        )
    return found


def _moving(run: Run | None, folder: Path) -> dict[str, Any] | None:
    if run is None:
        return None
    gif, still = folder / "collapse.gif", folder / "collapse.png"
    width, height = _size(still)
    return {
        "src": data_uri(gif),
        "still": data_uri(still),
        "caption": animation.CAPTION,
        "width": width,
        "height": height,
    }


def data_uri(picture: Path) -> str:
    """A PNG or GIF file as text; a PNG with 256 colours, which is a third of the size and looks the same."""
    raw = picture.read_bytes()
    if picture.suffix == ".png":
        small = io.BytesIO()
        with Image.open(picture) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG")
        raw = small.getvalue()
    return f"data:image/{picture.suffix[1:]};base64,{base64.b64encode(raw).decode()}"


def _size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size
