"""Measure what measuring costs, and write each result to outputs/bench/NAME.json.

python scripts/bench.py                 # all
python scripts/bench.py layerwise_cost  # one

A ratio compares two things run in turn in one process, best of several repeats each, so that a busy machine
slows both.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a source tree

import torch

from nrc.collect import collect, measure_layers
from nrc.models import ResNet
from nrc.record import environment, write_json
from nrc.training.run import choose_device


def best_of(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Seconds of the fastest of several calls of each function, called in turn."""
    found = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[i] = min(found[i], time.perf_counter() - began)
    return found


def image_batches(
    images: int, size: tuple[int, int], batch: int, device: str = "cpu"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(uint8 images, two targets) at random, made when asked for."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, batch):
        rows = min(batch, images - start)
        x = torch.randint(0, 256, (rows, *size, 3), dtype=torch.uint8, generator=generator)
        yield x.to(device), torch.randn(rows, 2, generator=generator).to(device)


def layerwise_cost(
    device: str = "auto", images: int = 256, size: tuple[int, int] = (88, 200), repeats: int = 3
) -> dict[str, Any]:
    """All 17 points of ResNet18 in one pass over images, against a plain forward pass over the same images.

    `metrics_seconds` is what turning the moments into all metrics takes, once, whatever the number of images.
    """
    device = choose_device(device)
    model = ResNet().build(0, 2, seed=0).to(device).eval()
    batches = list(image_batches(images, size, batch=64, device=device))

    @torch.no_grad()
    def forward() -> None:
        for x, _ in batches:
            model(x)

    plain, measured = best_of(repeats, forward, lambda: collect(model, batches))
    moments = collect(model, batches)
    (metrics,) = best_of(1, lambda: measure_layers(model, moments))
    return {
        "images": images, "size": list(size), "points": len(moments), "forward_images_per_s": images / plain,
        "measured_images_per_s": images / measured, "ratio": measured / plain, "metrics_seconds": metrics,
    }  # fmt: skip


def layerwise_memory(
    counts: tuple[int, ...] = (256, 1024, 4096), size: tuple[int, int] = (32, 72)
) -> dict[str, Any]:
    """Peak memory of a process that measures ResNet18 on more and more images, streamed in batches of 64.

    With the last layer's features kept (2 kB an image up to 256 MB; `nrc1_centred` needs them) and without.
    """
    context = get_context("spawn")
    table = {}
    for name, keep in (("peak_mb", 256 << 20), ("peak_mb_nothing_kept", 0)):
        peaks = []
        for count in counts:
            with context.Pool(1) as pool:  # a new process, because a peak never falls
                peaks.append(pool.apply(_peak, (count, size, keep)))
        table[name] = peaks
    return {"images": list(counts), "size": list(size), **table}


def _peak(images: int, size: tuple[int, int], keep: int) -> float:
    torch.set_num_threads(1)
    collect(ResNet().build(0, 2, seed=0), image_batches(images, size, batch=64), keep_bytes=keep)
    # not getrusage: its peak is inherited from the process that started this one
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 1024


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "layerwise_cost": layerwise_cost,
    "layerwise_memory": layerwise_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.outputs / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or BENCHES:
        result = {**BENCHES[name](), "environment": environment(choose_device("auto"))}
        write_json(folder / f"{name}.json", result)
        print(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in result.items() if k != "environment"))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
