"""Write the API reference from the docstrings as static pages: python scripts/docs.py [FOLDER]."""

import pkgutil
import sys
from pathlib import Path

import pdoc

import nrc


def main(folder: Path) -> None:
    # named one by one: pdoc follows __all__, which names functions and not modules
    found = [module.name for module in pkgutil.walk_packages(nrc.__path__, "nrc.")]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("nrc", *public, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/docs"))
