"""The installed commands: each runs the script of the same name, so that there is one entry point and not two."""

import runpy
import sys

from nrc.places import ROOT


def _run(script: str) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))  # as Python does for a script; they import each other
    runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")


def train() -> None:
    """nrc-train = python scripts/train.py"""
    _run("train")


def sweep() -> None:
    """nrc-sweep = python scripts/sweep.py"""
    _run("sweep")


def reproduce_figures() -> None:
    """nrc-reproduce-figures = python scripts/reproduce_figures.py"""
    _run("reproduce_figures")


def check() -> None:
    """nrc-check = python scripts/check.py"""
    _run("check")


def report() -> None:
    """nrc-report = python scripts/report.py"""
    _run("report")
