"""Every benchmark runs at toy size and says what it promises; how fast anything is, is not tested."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nrc.cli import bench
from nrc.cli.bench import images, measuring, tools, training

REPO = Path(__file__).resolve().parents[1]

TOY: dict[str, dict[str, Any]] = {
    "sweep": {"steps": 6, "members": (1,), "repeats": 1},
    "flops": {"nets": ((3, 8),), "widths": (4,), "batches": (2,), "repeats": 1, "work": 1.0},
    "collapse": {"widths": (16,), "threshold": 0.5, "plain_steps": 4, "repeats": 1},
    "layerwise": {"samples": (40, 80), "direct": (40,), "widths": (8, 16), "depth": 3, "repeats": 1},
    "measuring": {"data": ("swimmer",), "rows": 1, "repeats": 1},
    "monitor": {"epoch": 100, "subset": 50, "sample": 64, "size": 32, "repeats": 1},
    "images": {"count": 4, "size": (32, 32), "repeats": 1, "batch": 2},
    "images_memory": {"counts": (4, 8), "size": (32, 32)},
}
KEYS = {
    "sweep": {
        "ratio_with_start",
        "ratio_to_faster",
        "ratio_to_parallel",
        "plain_parallel",
        "plain_steps_per_s_one_thread",
        "plain_steps_per_s_all_threads",
    },
    "flops": {"gflops", "sgemm_gflops", "shares"},
    "collapse": {"ratio_all_cores", "ratio_own_steps", "tau", "steps", "paper_steps", "paper_seconds"},
    "layerwise": {"ratio_by_products", "memory_ratio", "memory_target", "direct_seconds", "direct_peak_mb"},
    "measuring": {"milliseconds_each", "share_deep"},
    "monitor": {"forward_images_per_s", "measured_images_per_s", "added_per_image", "metrics_seconds"},
    "images": {
        "points",
        "forward_images_per_s",
        "measured_images_per_s",
        "metrics_seconds",
        "epoch_ratio",
        "epoch_target",
        "training_images_per_s",
        "training_images_per_s_measured",
    },
    "images_memory": set(),
}
TABLES = {  # what grows, and what is said at each of its values
    "sweep": [("members", "member_steps_per_s")],
    "flops": [("nets", "shares"), ("widths", "share_at_width"), ("batches", "share_at_batch")],
    "collapse": [("widths", "ratio_at_width")],
    "layerwise": [("samples", "seconds"), ("samples", "peak_mb"), ("widths", "seconds_at_width")],
    "measuring": [("data", "share")],
    "monitor": [],
    "images": [],
    "images_memory": [("images", "peak_mb"), ("images", "peak_mb_nothing_kept")],
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", bench.BENCHES)
def test_a_benchmark_writes_what_it_promises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(function: Callable[..., Any], *arguments: Any, no_holes: bool = False) -> Any:
        return function(*arguments)

    for module in (measuring, images):  # starting a process takes seconds
        monkeypatch.setattr(module, "in_fresh_process", here)
    monkeypatch.setitem(bench.BENCHES, name, lambda whole=bench.BENCHES[name]: whole(**TOY[name]))
    monkeypatch.setattr(sys, "argv", ["bench.py", name, "--outputs", str(tmp_path)])
    bench.main()
    result = json.loads((tmp_path / "bench" / f"{name}.json").read_text())
    headline = {"ratio", "target"}
    assert KEYS[name] | headline | {"machine"} <= result.keys()
    assert result["machine"].keys() >= {"cores", "cpu", "torch", "load_average"}
    assert all(result[key] > 0 for key in headline)
    for grows, said in TABLES[name]:
        assert len(result[grows]) == len(result[said]) > 0
    assert capsys.readouterr().out.startswith(f"{name} (")


def test_the_products_of_the_yardstick_are_those_of_a_step() -> None:
    sizes = [8, 16, 16, 2]
    flops = training._gemms(sizes, batch=32)[1]
    forward = sum(2 * 32 * a * b for a, b in pairwise(sizes))
    assert flops == 3 * forward - 2 * 32 * 8 * 16  # no gradient at the inputs


def test_a_fresh_process_has_a_peak_of_its_own() -> None:
    held = torch.ones(1 << 26)  # 256 MB here, not there
    here = tools.peak_mb()
    assert tools.in_fresh_process(tools.peak_mb) < here - held.nbytes / 2**20 / 2


def test_the_other_cases_are_all_listed() -> None:
    assert bench.BENCHES.keys() == TOY.keys() == KEYS.keys() == TABLES.keys()
