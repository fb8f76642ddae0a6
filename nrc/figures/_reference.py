"""Published curves, kept as small csv files in `nrc/reference`: facts to draw beside our own, thin and grey."""

from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def published(name: str) -> pd.DataFrame:
    """One of prevalence_published, deep_published, gamma_minima; its first comment lines name the source."""
    with (files("nrc") / "reference" / f"{name}.csv").open() as handle:
        return pd.read_csv(handle, comment="#")


def curve(name: str, data: str, metric: str) -> pd.DataFrame:
    """Rows of one published curve; empty when there is none."""
    table = published(name)
    return table[(table["dataset"] == data) & (table["metric"] == metric)]


def published_sets(name: str = "deep_published") -> set[str]:
    """Data sets that have published curves in this file."""
    return set(published(name)["dataset"])
