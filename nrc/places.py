"""Where things lie: conf/, scripts/ and data/ beside the package in a source tree, inside it in an installed wheel; runs
in folders named after their experiment and protocol."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CARRIED = PACKAGE / "_project"  # pyproject.toml puts it into the wheel, laid out like the repository
ROOT = CARRIED if CARRIED.is_dir() else PACKAGE.parent
PROTOCOLS = ("quick", "accelerated", "paper")  # outputs/EXPERIMENT-PROTOCOL/...
