"""Write the API reference from the docstrings as static pages: python scripts/docs.py [--folder FOLDER]."""

import pkgutil
from pathlib import Path

import pdoc

import nrc
from nrc.cli import console


def main() -> None:
    parser = console.Options(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/docs"), help="where to write")
    folder = parser.parse_args().folder
    # named one by one: pdoc follows __all__, which names functions and not modules; commands describe themselves (--help)
    found = [m.name for m in pkgutil.walk_packages(nrc.__path__, "nrc.") if not m.name.startswith("nrc.cli")]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("nrc", *public, output_directory=folder)
    print(folder / "index.html")


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
