"""What the site has beside docs/: README.md is its front page, data/README.md a page, outputs/gallery its pictures.

The links of these files are those of the repository, so that they also work on a forge. Here they are turned round.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"index.md": "README.md", "data.md": "data/README.md"}
GALLERY = "outputs/gallery/"
LINK = re.compile(r"(\]\(|src=\")([^)\s\"]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the pictures."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "CITATION.cff", abs_src_path=str(ROOT / "CITATION.cff")))
    for picture in sorted(file for file in (ROOT / GALLERY).rglob("*") if file.is_file()):
        files.append(
            File.generated(
                config, f"gallery/{picture.relative_to(ROOT / GALLERY).as_posix()}", abs_src_path=str(picture)
            )
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages."""
    source = ROOT / PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def inside(match: re.Match[str]) -> str:
        target, mark, anchor = match[2].partition("#")
        if not target or ":" in target:
            return match[0]
        path = (source.parent / target).resolve().relative_to(ROOT).as_posix()
        known = {file: page for page, file in PAGES.items()}
        name = known.get(path) or path.replace(GALLERY, "gallery/").removeprefix("docs/")
        up = "../" * page.file.src_uri.count("/")
        return f"{match[1]}{up}{name}{mark}{anchor}"

    return LINK.sub(inside, markdown)
