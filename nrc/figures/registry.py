"""The list of figures: each is a function of the runs, with its place in a paper and a fixed caption.

A new figure is a new module in this package; importing the package registers it:

    @figure("my_figure", reads=["my_experiment"], caption="What is drawn and how to read it.")
    def my_figure(runs):
        for data, found in runs.of("my_experiment").items():
            drawing = Drawing(f"my_figure_{data}", "One line for the list", rows=1, columns=1, height=2.5)
            ...
            drawing.runs += found
            yield drawing
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from nrc.errors import UserError
from nrc.figures.curves import Drawing
from nrc.figures.style import style
from nrc.runs.read import Runs

Paper = Literal["NeurIPS 2024", "CPAL 2026", ""]
PAPERS: list[Paper] = ["NeurIPS 2024", "CPAL 2026", ""]
_registered: dict[str, "Figure"] = {}


@dataclass(frozen=True)
class Figure:
    """A registered figure; one per data set or feature layer where its function yields several."""

    name: str
    function: Callable[[Runs], Iterator[Drawing]]
    caption: str
    reads: tuple[str, ...]
    paper: Paper
    numbers: tuple[int, ...]

    @property
    def shows(self) -> str:
        """One line for a list of figures: what the function says of itself."""
        return " ".join((self.function.__doc__ or "").split())

    @property
    def order(self) -> tuple[int, tuple[int, ...], str]:
        """Papers in order of their year, figures by number; those of no paper last."""
        return PAPERS.index(self.paper), self.numbers, self.name

    def drawings(self, runs: Runs) -> list[Drawing]:
        """What can be drawn from these runs, with small print, not yet saved."""
        with style():
            found = list(self.function(runs))
            for drawing in found:
                drawing.footer()
        return found


def figure(
    name: str, *, reads: Iterable[str], caption: str, paper: Paper = "", numbers: Sequence[int] = ()
) -> Callable[[Callable[[Runs], Iterator[Drawing]]], Figure]:
    """Register a function that yields drawings; its docstring says in one line what they show.

    Args:
        name: as in `draw(name, ...)`; the files may have longer names.
        reads: the experiments whose runs it uses: when these change it is drawn anew.
        caption: fixed sentences; numbers are in the csv.
        paper: where the figure comes from, "" for one of ours.
        numbers: of the figures there.
    """

    def register(function: Callable[[Runs], Iterator[Drawing]]) -> Figure:
        _registered[name] = Figure(name, function, caption, tuple(reads), paper, tuple(numbers))
        return _registered[name]

    return register


def figures() -> dict[str, Figure]:
    """All figures by name, in the order of the papers."""
    package = import_module("nrc.figures")
    for module in iter_modules(package.__path__, "nrc.figures."):
        import_module(module.name)
    return {f.name: f for f in sorted(_registered.values(), key=lambda f: f.order)}


def figure_of(drawing: str) -> Figure | None:
    """The figure that makes a drawing: `sweep` makes sweep_relu; None for what is no figure, as the animation."""
    made = [f for name, f in figures().items() if drawing == name or drawing.startswith(f"{name}_")]
    return max(made, key=lambda figure: len(figure.name), default=None)


def find(name: str) -> Figure:
    """The figure of this name.

    Raises:
        UserError: there is none.
    """
    known = figures()
    if name not in known:
        raise UserError(f"there is no figure {name!r}; choose from {', '.join(known)}")
    return known[name]
