"""Published curves, kept as small csv files in `nrc/reference`: facts to draw beside our own, thin and grey."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import pandas as pd

from nrc.figures._load import Run


@cache
def published(name: str) -> pd.DataFrame:
    """One of prevalence_published, deep_published, gamma_minima; its first comment lines name the source."""
    with (files("nrc") / "reference" / f"{name}.csv").open() as handle:
        return pd.read_csv(handle, comment="#")


def base(data: str) -> str:
    """The set's own name; one that was read from a file has the file's name after a dash."""
    return data.partition("-")[0]


def curve(name: str, data: str, metric: str) -> pd.DataFrame:
    """Rows of one published curve; empty when there is none."""
    table = published(name)
    return table[(table["dataset"] == base(data)) & (table["metric"] == metric)]


def on_which_data(runs: Sequence[Run]) -> str:
    """Whether published numbers are of the data of these runs, in words that follow "on" or "for"."""
    same = {run.kind == "paper" for run in runs}
    if same == {False}:
        return "the paper's data, not ours"
    return "the same data" if same == {True} else "the paper's data, which only some of ours are"


def published_sets(name: str = "deep_published") -> set[str]:
    """Data sets that have published curves in this file."""
    return set(published(name)["dataset"])
