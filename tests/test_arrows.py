"""No arrow points back: which parts of the package may know of which."""

import ast
from pathlib import Path

import pytest

NRC = Path(__file__).resolve().parents[1] / "nrc"
LATER = ("training", "figures", "report", "cli")
FORBIDDEN = {
    "data": ("models", "moments", "metrics", "runs", "theory", *LATER),
    "models": ("data", "moments", "metrics", "runs", "theory", *LATER),
    "rank.py": ("data", "models", "moments", "metrics", "runs", "theory", *LATER),
    "moments.py": ("data", "models", "metrics", "runs", "theory", *LATER),
    "metrics": ("data", "models", "runs", "theory", *LATER),
    "training": ("figures", "report", "cli"),
    "runs": ("data", "models", "metrics", "theory", *LATER),
    "figures": ("data", "models", "training", "report", "cli"),
    "report": ("data", "models", "training", "cli"),
}


def imported(file: Path) -> set[str]:
    """Full names of what a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_of_no_later_one(room: str) -> None:
    files = [NRC / room] if room.endswith(".py") else sorted((NRC / room).rglob("*.py"))
    assert files
    for file in files:
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("nrc.")}
        assert not parts & set(FORBIDDEN[room]), file


def test_hydra_lives_in_cli_alone() -> None:
    for file in NRC.rglob("*.py"):
        if file.relative_to(NRC).parts[0] == "cli":
            continue
        assert not any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported(file)), file
