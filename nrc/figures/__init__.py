"""Figures of both papers, drawn from run directories alone.

Each is a function of the finished runs with a fixed caption (`nrc.figures.registry`). `draw` draws one, `draw_all`
every one whose runs exist: PNG, PDF and the csv of exactly what is drawn, and `captions.md` with what to see.
"""

from nrc.figures.curves import Drawing
from nrc.figures.output import Drawn, draw, draw_all
from nrc.figures.registry import Figure, figure, figures
from nrc.runs.read import Runs

__all__ = ["Drawing", "Drawn", "Figure", "Runs", "draw", "draw_all", "figure", "figures"]
