"""The documentation: docstrings, links, commands, and a site that is whole and asks no network."""

import importlib
import inspect
import math
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, opened

import nrc
from nrc.cli.config import members_of
from nrc.metrics import METRICS

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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


def test_the_page_of_metrics_names_each() -> None:
    told = set(re.findall(r"`(\w+)`", (REPO / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert set(METRICS) <= told


# --- links and commands

PAGES = {
    file.relative_to(REPO).as_posix(): file.read_text(encoding="utf-8")
    for file in (
        REPO / "README.md",
        REPO / "CONTRIBUTING.md",
        REPO / "data" / "README.md",
        *(REPO / "docs").rglob("*.md"),
    )
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """The names that a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_anchor_leads_somewhere(name: str) -> None:
    for link in LINK.findall(FENCE.sub("", PAGES[name])):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        file = (REPO / name).parent / place if place else REPO / name
        assert file.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(LINK.findall(PAGES["README.md"]))
    for name in PAGES:
        if name.startswith("docs/") and "/reference/" not in name:
            assert name in linked, name


def commands() -> list[str]:
    """What a reader is told to type: in blocks, and in a line of text."""
    found: list[str] = []
    for text in PAGES.values():
        typed = [
            line.split("   #")[0]
            for kind, block in FENCE.findall(text)
            if not kind
            for line in block.splitlines()
        ]
        typed += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        found += [line.strip() for line in typed if re.match(r"(make|python|pip) ", line)]
    return list(dict.fromkeys(found))


TRAINING = [c for c in commands() if re.match(r"python scripts/(train|sweep).py", c)]
NO_SETTINGS = {  # of scripts/train.py: not a command by itself, or tried elsewhere
    "python scripts/train.py --help": "tests/test_config.py",
    "python scripts/train.py -m": "docs/figures.md, with the settings of its table",
    "python scripts/train.py -m experiment=NAME data=SET": "docs/figures.md, likewise",
    "python scripts/sweep.py ... device=cuda": "tests/test_fake_gpu.py",
    "python scripts/train.py data=mine recipe=default/quick": "tests/test_extending.py",
}
TARGETS = {  # of make: what runs them
    "install": ".ci/run, by `make test`",
    "test": ".ci/run",
    "test-slow": "once for each edition",
    "test-slurm": "once for each edition (tests/slurm)",
    "docs": "this file",
    "demo": "tests/test_demo.py",
    "figures": "tests/test_archive.py",
    "archive": "tests/test_archive.py",
    "clean-cache": "once for each edition",
    "reproduce-figures": "once for each edition (docs/findings.md); tests/test_reproduce.py on small runs",
    "report": "tests/test_report.py",
    "check": "tests/test_scorecard.py",
    "bench": "once for each edition (docs/benchmarks.md); tests/test_bench.py on small sizes",
    "experts": "once for each edition (data/README.md)",
}


@pytest.mark.parametrize("command", [c for c in TRAINING if c not in NO_SETTINGS])
def test_the_settings_of_every_training_command_are_accepted(command: str) -> None:
    if "hydra/launcher=slurm" in command:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'nrc[slurm]'")
    settings = [word for word in shlex.split(command)[2:] if word != "-m"]
    found = members_of(settings)
    swept = [word.partition("=")[2].split(",") for word in settings if "," in word and "[" not in word]
    assert len(found) == math.prod(map(len, swept)) or "experiment=" in command


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [c for c in TRAINING if c not in NO_SETTINGS and not re.search("cuda|slurm|resnet|experiment=", c)],
)
def test_every_training_command_trains(command: str, tmp_path: Path) -> None:
    """The others: experiment= by the reproduction, resnet by tests/test_data_images_*.py, cuda by test_fake_gpu.py."""
    np.savetxt(
        tmp_path / "numbers.csv",
        np.random.default_rng(0).normal(size=(50, 6)),
        "%g",
        ",",
        header="a,b,c,d,e,f",
    )
    short = ["protocol.epochs=1", "protocol.tau=null", "measure.log_spaced=0", "measure.evenly=0"]
    script, *settings = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, str(REPO / script), *settings, *short],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.glob("outputs/**/run.json")]


@pytest.mark.parametrize("command", [c for c in commands() if c not in TRAINING])
def test_every_other_command_names_what_is_there(command: str) -> None:
    words = shlex.split(command.replace("<", "").replace(">", ""))
    if words[0] == "make":
        assert words[1] in TARGETS, "say in TARGETS what runs it"
        makefile = (REPO / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.M)
        for variable in re.findall(r"^(\w+)=", "\n".join(words[2:]), re.M):
            assert (
                f"$({variable})" in makefile or f"$({variable}," in makefile or f"{variable} ?=" in makefile
            )
    elif words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", command)
        assert set(extras) <= set(PROJECT["optional-dependencies"])
    else:
        script = (REPO / words[1]).read_text(encoding="utf-8")
        module = re.search(r'run\("(\w+)"\)', script) or re.search(r"from nrc.cli.early import (\w+)", script)
        code = (
            script
            if module is None
            else (REPO / "nrc" / "cli" / f"{module[1]}.py").read_text(encoding="utf-8")
        )
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in code, command


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
