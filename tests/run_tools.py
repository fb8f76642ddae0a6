"""Run directories that a test changes by hand."""

from pathlib import Path
from typing import Any

from nrc.runs.directory import RunDirectory, read_info


def sealed(path: Path, **facts: Any) -> None:
    """Record the results that lie in `path` as those that the run ended with, and other facts of it."""
    run = RunDirectory(path, read_info(path))
    run.end(run.info["status"], run.info["reason"], **facts)
