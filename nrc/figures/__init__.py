"""Figures of both papers, drawn from run directories alone.

`draw_all` looks for the runs of each experiment and draws every figure whose runs exist, as PNG and PDF with
the csv of exactly what is drawn, and `captions.md` (for people) and `captions.json` (for programs).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from nrc.figures import (
    deep,
    evr,
    gamma,
    geometry,
    phase,
    prevalence,
    published,
    sgemm,
    sweep,
    target_mean,
    tau_clock,
    theory,
    ufm,
    ufm_residuals,
)
from nrc.figures._style import Drawing, save, style
from nrc.runs.directory import atomic, write_json
from nrc.runs.read import Runs, commands

FIGURES: list[Callable[[Runs], list[Drawing]]] = [
    prevalence.draw,
    evr.draw,
    gamma.draw,
    sweep.draw,
    target_mean.draw,
    phase.draw,
    geometry.draw,
    published.draw,
    deep.draw,
    sgemm.draw,
    tau_clock.draw,
    ufm.draw,
    ufm_residuals.draw,
    theory.draw,
]

__all__ = ["FIGURES", "Drawing", "Runs", "draw_all"]


def draw_all(
    outputs: Path,
    protocol: str = "quick",
    say: Callable[[str], None] = print,
    *,
    datasets: Sequence[str] | None = None,
    folder: Path | None = None,
) -> list[Path]:
    """Draw every figure whose finished runs exist below `outputs`.

    Args:
        outputs: holds `<experiment>-<protocol>/<data>/wd=<value>/seed=<k>/`, and `tau_clock/<data>/...`.
        protocol: quick, accelerated or paper; chooses the folders.
        say: receives plain lines.
        datasets: draw these alone; None: all that are present.
        folder: where to write; None: `outputs/figures`.

    Returns:
        The files written, captions last. [] when there is nothing to draw.

    Example:
        draw_all(Path("outputs"), "quick")
    """
    outputs = Path(outputs)
    folder = Path(folder or outputs / "figures")
    runs = Runs(outputs, protocol, datasets, say)
    written: list[Path] = []
    captions: dict[str, dict] = {}
    with style():
        for figures in FIGURES:
            for drawing in figures(runs):
                files = save(drawing, folder)
                written += files
                captions[drawing.name] = _entry(drawing, outputs, files)
                say(f"{files[0]}: {drawing.title}")
    if not written:
        say(f"no finished runs of the {protocol} protocol below {outputs}: nothing to draw")
        return []
    write_json(folder / "captions.json", captions)
    with atomic(folder / "captions.md") as tmp:
        tmp.write_text(_markdown(captions))
    return [*written, folder / "captions.md", folder / "captions.json"]


def _entry(drawing: Drawing, outputs: Path, files: list[Path]) -> dict:
    return {
        "title": drawing.title,
        "caption": drawing.caption,
        "files": [file.name for file in files],
        "csv": files[-1].name,
        "runs": sorted({str(run.path.relative_to(outputs)) for run in drawing.runs}),
        "commands": commands(drawing.runs),
    }


def _markdown(captions: dict[str, dict]) -> str:
    lines = ["# Figures", "", "Each is there as PNG and PDF, with the csv of what is drawn.", ""]
    for name, entry in captions.items():
        commands = "".join(f"\n    {command}" for command in entry["commands"])
        lines += [f"## {name}: {entry['title']}", "", f"![{name}]({name}.png)", "", entry["caption"], ""]
        lines += [f"Numbers: `{entry['csv']}`. From {len(entry['runs'])} runs, made by:", commands, ""]
    return "\n".join(lines)
