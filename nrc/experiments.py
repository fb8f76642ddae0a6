"""What the files of conf/experiment say of themselves. Read without Hydra, which only the command line needs."""

from functools import cache
from typing import Any

import yaml

from nrc.places import ROOT

FOLDER = ROOT / "conf" / "experiment"


@cache
def experiments() -> dict[str, dict[str, Any]]:
    """File of conf/experiment -> its `experiment` block, in alphabetical order.

    The settings in it are those of `nrc.cli.config.Experiment`; the headline is not yet looked up.
    """
    return {file.stem: _block(file.stem) for file in sorted(FOLDER.glob("*.yaml"))}


def _block(name: str) -> dict[str, Any]:
    """The block of one file, on top of those of the files that its defaults list names."""
    file = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    parents = [entry for entry in file.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return {k: v for part in [*map(_block, parents), file.get("experiment", {})] for k, v in part.items()}
