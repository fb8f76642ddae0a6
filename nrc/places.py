"""Where conf/, scripts/ and data/ lie: beside the package in a source tree, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CARRIED = PACKAGE / "_project"  # pyproject.toml puts it into the wheel, laid out like the repository
ROOT = CARRIED if CARRIED.is_dir() else PACKAGE.parent
