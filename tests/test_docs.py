"""The API reference: every public module has a page, and public functions say what they are."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_one_command_writes_a_page_for_each(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed (pip install 'nrc[dev]')")
    subprocess.run([sys.executable, str(REPO / "scripts" / "docs.py"), "--folder", str(tmp_path)], check=True)
    for name in MODULES:
        assert (tmp_path / f"{name.replace('.', '/')}.html").is_file(), name
    assert "gamma_star" in (tmp_path / "nrc/metrics/last_layer.html").read_text()
    assert "CollapseMonitor" in (tmp_path / "nrc.html").read_text()
