"""The figures of docs/figures.md: small pictures, and the table, both from the registry and the finished runs."""

import io
import itertools
import json
import re
from pathlib import Path

from PIL import Image

from nrc.errors import UserError
from nrc.experiments import FOLDER, experiments
from nrc.figures.registry import Figure, figure_of, figures
from nrc.places import ROOT
from nrc.runs.files import atomic, between

PAGE, THUMBNAILS = Path("docs/figures.md"), Path("outputs/gallery/thumbnails")
SIZE, MOST_BYTES = (640, 480), 60_000  # of a thumbnail: at most so many pixels and bytes
HEAD = "| | figure | paper | what it shows | command | minutes |\n|---|---|---|---|---|---|"
MADE_BY = re.compile(r"# python scripts/train.py (?:-m )?(experiment=.*)")


def write_gallery(outputs: Path, root: Path = ROOT) -> list[Path]:
    """Make the small pictures of the figures that are drawn, and the table of docs/figures.md anew.

    Args:
        outputs: the folder of experiments, with `figures/` as `draw_all` left it.
        root: the source tree that holds docs/ and outputs/gallery.

    Returns:
        the files written; a figure that is not drawn keeps the picture and the time it had.

    Raises:
        UserError: there are no figures, or `root` has no docs/figures.md.
    """
    captions, page = outputs / "figures" / "captions.json", root / PAGE
    for needed, remedy in ((captions, "'make reproduce-figures' draws them"), (page, "run this in a clone")):
        if not needed.exists():
            raise UserError(f"{needed} is missing; {remedy}")
    drawn = json.loads(captions.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    minutes, written = times(text), []
    (root / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    for name in figures():
        entries = {file: entry for file, entry in drawn.items() if entry["figure"] == name}
        if not entries:
            continue
        picture = root / THUMBNAILS / f"{name}.png"
        with atomic(picture) as tmp:
            tmp.write_bytes(thumbnail(outputs / "figures" / f"{next(iter(entries))}.png"))
        written.append(picture)
        made_from = {run for entry in entries.values() for run in entry["runs"]}
        records = [json.loads((outputs / run / "run.json").read_text(encoding="utf-8")) for run in made_from]
        minutes[name] = f"{sum(record['seconds'] for record in records) / 60:.2g}"
    with atomic(page) as tmp:
        tmp.write_text(between(text, "gallery", table(minutes, root)), encoding="utf-8")
    return [*written, page]


def thumbnail(picture: Path) -> bytes:
    """A picture as a PNG of at most `SIZE` and `MOST_BYTES`, with as many colours as fit; of half that size if none do."""
    with Image.open(picture) as image:
        small = image.convert("RGBA")
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small).convert("RGB")
    width, height = SIZE
    for size, colours in itertools.product((SIZE, (width // 2, height // 2)), (128, 64, 32, 16, 8)):
        small.thumbnail(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.quantize(colours, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()


def table(minutes: dict[str, str], root: Path = ROOT) -> str:
    """The table as Markdown: a line for each registered figure, in the order of the papers.

    Args:
        minutes: name of a figure -> how long its runs train on one core.
        root: holds the small pictures; a figure without one has an empty cell.
    """
    lines = [HEAD]
    for name, made in figures().items():
        picture = THUMBNAILS / f"{name}.png"
        shown = f"![{name}](../{picture.as_posix()})" if (root / picture).exists() else ""
        paper = f"{made.paper.split()[0]} {', '.join(map(str, made.numbers))}" if made.paper else "ours"
        made_by = "<br>".join(f"`{command}`" for command in commands(made)) or "–"
        lines.append(
            f"| {shown} | `{name}` | {paper} | {made.shows} | {made_by} | {minutes.get(name, '–')} |"
        )
    return "\n".join(lines)


def times(text: str) -> dict[str, str]:
    """Name of a figure -> its minutes in the table of this page."""
    found = (
        line.strip("|").split("|") for line in text.splitlines() if re.match(r"\|[^|]*\| `\w+` \|", line)
    )
    return {cells[1].strip(" `"): cells[-1].strip() for cells in found if cells[-1].strip() != "–"}


def commands(made: Figure) -> list[str]:
    """What stands after `python scripts/train.py -m` for each experiment that declares a drawing of this figure.

    Those that need a file are left out where there are others. In the order in which the figure reads them.
    """
    found = {}
    for name, declared in experiments().items():
        if made in map(figure_of, declared.get("figures", ())):
            file = FOLDER / f"{name}.yaml"
            command = MADE_BY.search(file.read_text(encoding="utf-8"))
            assert command, f"{file} does not begin with its command"
            found[command[1]] = made.reads.index(declared["name"])
    in_order = sorted(found, key=lambda command: found[command])
    return [command for command in in_order if "data.path=" not in command] or in_order
