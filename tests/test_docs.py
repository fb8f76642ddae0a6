"""The documentation: docstrings say what they must, and the site is whole and asks no network."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, opened

import nrc
from nrc.metrics import METRICS

REPO = Path(__file__).resolve().parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(nrc.__path__, "nrc.")
    if not any(part.startswith("_") for part in module.name.split("."))
    and not module.name.startswith("nrc.cli")
]  # commands describe themselves


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_what_it_offers_is_described(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    if name.startswith(("nrc.figures", "nrc.report")):
        return  # commands call these; a reader of the library does not
    for attribute, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and not attribute.startswith("_")
        if own and (inspect.isfunction(value) or inspect.isclass(value)):
            assert inspect.getdoc(value), f"{name}.{attribute}"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_states_its_range_and_its_source(name: str) -> None:
    function = getattr(METRICS[name], "func", METRICS[name])
    text = inspect.getdoc(function) or ""
    source = text + (inspect.getdoc(sys.modules[function.__module__]) or "")
    assert any(mark in text for mark in ("[0", "[1", "(-inf", "0..")), f"{name}: no range"
    assert any(mark in source for mark in ("NeurIPS 2024", "CPAL 2026")), f"{name}: no source"


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds; mkdocs.yml makes every warning an error."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install 'nrc[docs]')")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=REPO, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_a_page_for_each_file_and_every_metric_in_the_reference(site: Path) -> None:
    for source in (REPO / "docs").rglob("*.md"):
        assert (site / source.relative_to(REPO / "docs").with_suffix(".html")).is_file(), source
    assert "The papers' data may not be shipped" in (site / "index.html").read_text(encoding="utf-8")
    reference = (site / "reference" / "metrics.html").read_text(encoding="utf-8")
    for name, metric in METRICS.items():
        function = getattr(metric, "func", metric)
        assert f'id="{function.__module__}.{function.__name__}"' in reference, name
    assert 'id="nrc.CollapseMonitor' in (site / "reference" / "measuring.html").read_text(encoding="utf-8")


FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//[^>]*>"
    r"|<link[^>]*rel=\"?(?:stylesheet|preconnect|preload|icon)[^>]*href=\"?(?:https?:)?//[^>]*>"
    r"|(?:url\(|@import)[\s\"']*(?:https?:)?//[^)]*"
)


def test_what_would_be_fetched_is_seen() -> None:
    assert FETCHED.search('<script async src="https://cdn.example/x.js">')
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example/css">')
    assert FETCHED.search("@import url(//fonts.example/css)")
    assert not FETCHED.search('<a href="https://example.org"><script src="site/iframe-worker.js">')


def test_no_page_of_the_site_fetches_anything_from_a_network(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 15
    for page in pages:
        assert FETCHED.findall(page.read_text(encoding="utf-8")) == [], page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium) to open the page")
def test_the_search_works_from_disk_where_a_page_may_start_no_worker(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    found = "[...document.querySelectorAll('.md-search-result__item h1')].map(title => title.textContent)"
    with opened(browser, site / "index.html") as page:
        page.value("document.querySelector('.md-search__input').focus()")
        end = time.monotonic() + 30
        while not page.value(found) and time.monotonic() < end:
            page.call(
                "Input.insertText", text="" if page.value("document.activeElement.value") else "lambda_min"
            )
            page.call("Input.dispatchKeyEvent", type="keyUp", key="n")
            time.sleep(0.2)
        assert "Glossary" in page.value(found)
        assert page.complaints() == []
    browser.close()
