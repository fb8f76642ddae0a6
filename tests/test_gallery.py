"""The table of docs/figures.md and its small pictures: from the figure registry and the finished runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import in_process
from PIL import Image

from nrc.errors import UserError
from nrc.figures.registry import figures
from nrc.report.gallery import (
    MOST_BYTES,
    PAGE,
    SIZE,
    THUMBNAILS,
    between,
    commands,
    table,
    thumbnail,
    times,
    write_gallery,
)

REPO = Path(__file__).resolve().parents[1]


def test_the_page_has_the_table_that_the_registry_gives() -> None:
    text = (REPO / PAGE).read_text(encoding="utf-8")
    assert between(text, "gallery", table(times(text), REPO)) == text, (
        "a figure has changed: python scripts/report.py --gallery writes the table anew"
    )


@pytest.mark.parametrize("name", figures())
def test_a_figure_says_what_it_shows_and_which_command_makes_it(name: str) -> None:
    made = figures()[name]
    assert re.fullmatch(r"[A-Z].{20,100}[.]", made.shows)
    line = next(line for line in table({}).splitlines() if f"`{name}`" in line)
    assert "`experiment=" in line
    for number in made.numbers:
        assert re.search(rf"\| {made.paper.split()[0]} [\d, ]*\b{number}\b", line)


@pytest.mark.parametrize("name", figures())
def test_the_small_pictures_are_small(name: str) -> None:
    picture = REPO / THUMBNAILS / f"{name}.png"
    if all("data.path=" in command for command in commands(figures()[name])):
        pytest.skip(f"{picture.name} needs a file of the user's")
    assert picture.stat().st_size <= MOST_BYTES
    assert sum(file.stat().st_size for file in picture.parent.glob("*")) <= 1_000_000


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_any_picture_becomes_a_small_one(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(900, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "large.png")
    small = thumbnail(tmp_path / "large.png")
    (tmp_path / "small.png").write_bytes(small)
    with Image.open(tmp_path / "small.png") as image:
        assert image.size == (SIZE[0] // 2, 192) and len(small) <= MOST_BYTES
    assert thumbnail(tmp_path / "large.png") == small


def drawn(outputs: Path) -> None:
    """A figure of two runs, and a picture of it."""
    seconds = {"prevalence-quick/a/wd=0.01/seed=0": 60.0, "prevalence-quick/a/wd=0/seed=0": 30.0}
    for run, value in seconds.items():
        (outputs / run).mkdir(parents=True)
        (outputs / run / "run.json").write_text(json.dumps({"seconds": value}))
    (outputs / "figures").mkdir()
    entry = {"figure": "evr", "runs": list(seconds)}
    (outputs / "figures" / "captions.json").write_text(json.dumps({"evr_relu": entry, "evr_linear": entry}))
    Image.new("RGB", (700, 340), "white").save(outputs / "figures" / "evr_relu.png")


def test_what_is_drawn_gets_its_picture_and_its_minutes_and_the_rest_stays(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    drawn(outputs)
    with pytest.raises(UserError, match=r"figures.md is missing; run this in a clone"):
        write_gallery(outputs, tmp_path)
    (tmp_path / PAGE).parent.mkdir()
    (tmp_path / PAGE).write_text(f"# A\n<!-- gallery -->\n{table({'gamma': '7'})}\n<!-- /gallery -->\nB\n")
    write_gallery(outputs, tmp_path)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert text.startswith("# A\n") and text.endswith("-->\nB\n")
    assert times(text) == {"evr": "1.5", "gamma": "7"}
    assert [line[:47] for line in text.splitlines() if "![" in line] == [
        "| ![evr](../outputs/gallery/thumbnails/evr.png)"
    ]
    assert [file.name for file in (tmp_path / THUMBNAILS).iterdir()] == ["evr.png"]


def test_without_figures_one_line_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    result = in_process("report.py", ["--gallery"], tmp_path)
    assert result.status == 2
    assert (
        result.err == "error: outputs/figures/captions.json is missing; 'make reproduce-figures' draws them\n"
    )
