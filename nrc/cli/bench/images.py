"""What measuring a convolutional network layer by layer costs, in time and in memory, beside its training."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from nrc.cli.bench.tools import best_of, in_fresh_process, peak_mb
from nrc.features.collect import collect
from nrc.features.measure import measure_layers
from nrc.models import ResNet
from nrc.training import Optim
from nrc.training.run import choose_device
from nrc.training.steppers import make_stepper

Batch = tuple[torch.Tensor, torch.Tensor]


def image_batches(images: int, size: tuple[int, int], batch: int, device: str = "cpu") -> Iterator[Batch]:
    """(uint8 images, two targets) at random, made when asked for."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, batch):
        rows = min(batch, images - start)
        x = torch.randint(0, 256, (rows, *size, 3), dtype=torch.uint8, generator=generator)
        yield x.to(device), torch.randn(rows, 2, generator=generator).to(device)


def images(
    count: int = 256,
    size: tuple[int, int] = (88, 200),
    repeats: int = 3,
    epoch: int = 5000,
    batch: int = 64,
    device: str = "auto",
) -> dict[str, Any]:
    """All 17 points of ResNet18 over images: one pass of measuring, a plain forward pass, an epoch of training.

    Each is timed on `count` images. `ratio`: the pass that makes the moments over the forward pass, by image.
    `epoch_ratio`: for a set of `epoch` images the whole measurement over one forward pass, `metrics_seconds` (from
    moments to all metrics, once, whatever the number of images) included. `training_images_per_s` is of steps in
    batches of `batch`, `.._measured` of the same with the whole measurement after every such epoch.
    """
    device = choose_device(device)
    model = ResNet().build(0, 2, seed=0).to(device).eval()
    batches = list(image_batches(count, size, batch=batch, device=device))

    @torch.no_grad()
    def forward() -> None:
        for x, _ in batches:
            model(x)

    learner = ResNet().build(0, 2, seed=0).to(device).train()
    stepper = make_stepper(learner, Optim(lr=1e-4, momentum=0.9, weight_decay=1e-3, batch_size=batch))

    def train() -> None:
        for x, y in batches:
            stepper.step(x, y, 1e-4)

    plain, measured, trained = (
        seconds / count for seconds in best_of(repeats, forward, lambda: collect(model, batches), train)
    )
    moments = collect(model, batches)
    (metrics,) = best_of(min(repeats, 2), lambda: measure_layers(model, moments))
    whole = epoch * measured + metrics
    return {
        "ratio": measured / plain, "target": 1.6, "epoch_ratio": whole / (epoch * plain), "epoch_target": 1.5,
        "images": count, "size": list(size), "epoch_images": epoch, "points": len(moments),
        "forward_images_per_s": 1 / plain, "measured_images_per_s": 1 / measured, "metrics_seconds": metrics,
        "training_images_per_s": 1 / trained,
        "training_images_per_s_measured": epoch / (epoch * trained + whole),
    }  # fmt: skip


def images_memory(
    counts: tuple[int, ...] = (256, 1024, 4096), size: tuple[int, int] = (32, 72)
) -> dict[str, Any]:
    """Peak memory of a process that measures ResNet18 on more and more images, streamed in batches of 64.

    With the last layer's features kept (2 kB an image up to 256 MB; `nrc1_centred` needs them) and without.
    """
    kept, nothing = ([in_fresh_process(_peak, n, size, keep) for n in counts] for keep in (256 << 20, 0))
    return {
        "ratio": nothing[-1] / nothing[0], "target": 1.1, "images": list(counts), "size": list(size),
        "peak_mb": kept, "peak_mb_nothing_kept": nothing,
    }  # fmt: skip


def _peak(count: int, size: tuple[int, int], keep: int) -> float:
    torch.set_num_threads(1)
    collect(ResNet().build(0, 2, seed=0), image_batches(count, size, batch=64), keep_bytes=keep)
    return peak_mb()


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {"images": images, "images_memory": images_memory}
