"""Measure the project's speed side by side with the plain way, and write outputs/bench/NAME.json.

python scripts/bench.py               # all
python scripts/bench.py sweep flops   # some

Absolute numbers depend on how busy the machine is; ratios less so, because both sides are timed in turn, best of
several repeats. What a ratio compares, which part of it was run and which was extrapolated from a shorter stretch, in
which process and on how many threads, stands in the docstring of the benchmark's function.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nrc.cli import console
from nrc.cli.bench import images, measuring, training
from nrc.cli.bench.tools import machine
from nrc.runs.directory import write_json

BENCHES: dict[str, Callable[[], dict[str, Any]]] = training.BENCHES | measuring.BENCHES | images.BENCHES


def main() -> None:
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # as a run of a sweep has it; a benchmark that wants more says so
    folder = args.outputs / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or BENCHES:
        began = time.perf_counter()
        result = BENCHES[name]()
        if "skipped" in result:
            print(f"{name}: skipped, {result['skipped']}")
            continue
        write_json(folder / f"{name}.json", {**result, "machine": machine()})
        print(
            f"{name} ({time.perf_counter() - began:.0f} s): {', '.join(f'{k} {short(v)}' for k, v in result.items())}"
        )
        sys.stdout.flush()


def short(value: Any) -> str:
    """A result as it is printed: four digits, lists with slashes."""
    if isinstance(value, list):
        return "/".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


command = console.command(main)
