"""Benchmarks of measuring: all layers of a deep network, the share of a run, an image network's epoch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nrc.cli.bench.tools import CORES, best_of, cpu_threads, in_fresh_process, peak_mb
from nrc.cli.bench.training import headline
from nrc.features.collect import collect
from nrc.features.measure import measure_layers
from nrc.features.monitor import CollapseMonitor
from nrc.metrics import LAYERWISE
from nrc.models import MLP, MLPNetwork
from nrc.training import Clock
from nrc.training.loop import batch_order, train_steps
from nrc.training.measuring import Measurer
from nrc.training.placement import place
from nrc.training.steppers import make_stepper

N_IN, N_OUT, BATCH = 20, 4, 4096


def _network(depth: int, width: int) -> MLPNetwork:
    return MLP(depth, width, bias=False).build(N_IN, N_OUT, seed=0)


def _batches(samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets at random, made when asked for."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, samples, BATCH):
        rows = min(BATCH, samples - start)
        yield torch.randn(rows, N_IN, generator=generator), torch.randn(rows, N_OUT, generator=generator)


def _one_pass(samples: int, depth: int, width: int) -> None:
    model = _network(depth, width)
    # nothing kept: only the last layer's nrc1_centred, no layer-wise metric, needs a second pass
    measure_layers(model, collect(model, _batches(samples), keep_bytes=0), only=LAYERWISE)


@torch.no_grad()
def _per_layer(samples: int, depth: int, width: int, name: str, matrices: bool) -> None:
    """One layer the direct way: a forward pass of its own, the centred feature matrix, N x N kernels; float64.

    The kernels are centred by their means or, if asked, by products with I - 11'/N, as the definition of HSIC reads.
    """
    model, seen, targets = _network(depth, width), [], []
    layer = model.measured_layers()[name]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    for x, y in _batches(samples):
        model(x)
        targets.append(y.double())
    h, y = torch.cat(seen), torch.cat(targets)
    h, y = h - h.mean(0), y - y.mean(0)
    spectrum, right = torch.linalg.svd(h, full_matrices=False)[1:]
    noise = 1 - spectrum[:N_OUT].square().sum() / spectrum.square().sum()
    ranks = [(s / s[0]).square().sum() for s in (spectrum, spectrum.square())]
    weight = torch.linalg.svd(layer.weight.double(), full_matrices=False)  # type: ignore[operator,union-attr]
    reads = torch.linalg.svdvals(weight[2][:N_OUT] @ right[:N_OUT].T).mean()
    carries = torch.linalg.svdvals(
        torch.linalg.svd(h.T @ y, full_matrices=False)[2] @ torch.linalg.svd(y)[2].T
    )
    residual = y - h @ torch.linalg.lstsq(h, y).solution
    kernels = [_centred(m @ m.T, matrices) for m in (h, y)]
    cka = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    del noise, ranks, reads, carries, residual, cka


def _centred(kernel: Tensor, matrices: bool) -> Tensor:
    if matrices:
        centring = torch.eye(len(kernel), dtype=kernel.dtype) - 1 / len(kernel)
        return centring @ kernel @ centring
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def _timed(function: Callable[..., None], repeats: int, *arguments: Any) -> tuple[float, float]:
    """Seconds of a call on all cores, best of several, and the peak memory in MB of this process."""
    torch.set_num_threads(CORES)
    (seconds,) = best_of(repeats, lambda: function(*arguments))
    return seconds, peak_mb()


def layerwise(
    samples: tuple[int, ...] = (1000, 4000, 16000, 200000),
    direct: tuple[int, ...] = (1000, 4000),
    widths: tuple[int, ...] = (128, 256, 512),
    depth: int = 8,
    repeats: int = 2,
) -> dict[str, Any]:
    """All layer-wise metrics of an 8x512 network: seconds and peak memory of one pass, against a pass and N x N
    kernels for each layer. Every case in a fresh process, on all cores, best of as many repeats on both sides.

    The direct way is timed for the first layer and for one inner layer, which counts for the others. `ratio` is
    against kernels centred by their means, the cheapest way to the same numbers; `ratio_by_products` against the
    same centred by products with I - 11'/N, as HSIC is written. Both are for the largest of `direct`.
    `memory_ratio`: peak memory at the most samples over that at the fewest, of further processes, that hold some 0.4 GB;
    the features of one layer at 200,000 would add 0.8 GB. Then seconds against width.
    """
    width, ours = widths[-1], {}
    theirs: dict[int, list[tuple[float, float]]] = {}  # seconds of all layers and peak memory, both ways
    for n in samples:
        tries = repeats if n <= direct[-1] else 1
        seconds, _ = in_fresh_process(_timed, _one_pass, tries, n, depth, width)
        ours[n] = seconds, in_fresh_process(_timed, _one_pass, 1, n, depth, width, no_holes=True)[1]
        if n in direct:
            theirs[n] = [_all_layers(tries, n, depth, width, matrices) for matrices in (False, True)]
    n = direct[-1]
    slow = [[theirs[n][way][0] for n in direct] for way in (0, 1)]
    by_width = [in_fresh_process(_timed, _one_pass, repeats, n, depth, w)[0] for w in widths[:-1]]
    return {
        "ratio": slow[0][-1] / ours[n][0], "target": 30.0, "ratio_by_products": slow[1][-1] / ours[n][0],
        "memory_ratio": ours[samples[-1]][1] / ours[samples[0]][1], "memory_target": 1.5,
        "samples": list(samples), "seconds": [s for s, _ in ours.values()], "peak_mb": [m for _, m in ours.values()],
        "direct_samples": list(direct), "direct_seconds": slow[0], "direct_seconds_by_products": slow[1],
        "direct_peak_mb": [max(m for _, m in theirs[n]) for n in direct],
        "widths": list(widths), "seconds_at_width": [*by_width, ours[n][0]],
    }  # fmt: skip


def _all_layers(repeats: int, samples: int, depth: int, width: int, matrices: bool) -> tuple[float, float]:
    """Seconds of the direct way through all layers, and the most memory that one of them takes."""
    first, inner = (
        in_fresh_process(_timed, _per_layer, repeats, samples, depth, width, name, matrices)
        for name in ("fc1", f"fc{depth - 1}")
    )
    return first[0] + (depth - 1) * inner[0], max(first[1], inner[1])


def _measuring_share(
    data: str, experiment: str, measurements: int, rows: int, repeats: int
) -> tuple[float, float]:
    """Share of so many measurements in a whole accelerated run, and milliseconds of one."""
    settings = headline(data, experiment)
    found, optim = settings.data.load(), settings.optim
    clock = Clock.of(optim, settings.protocol, len(found.x_train))
    model = settings.model.build(found.x_train.shape[1], found.y_train.shape[1], 0)
    stepper = make_stepper(model, optim)
    measurer = Measurer(model, place(found, "cpu"), settings.measure, clock, 0)
    x, y = torch.from_numpy(found.x_train), torch.from_numpy(found.y_train)
    order = batch_order(len(x), optim.batch_size, 0)
    measurer.rows(0)  # the null values, drawn once in a run
    steps = min(100, clock.total_steps)

    def measure() -> None:
        for _ in range(rows):
            measurer.rows(1)

    trained, measured = best_of(repeats, lambda: train_steps(stepper, x, y, order, clock, 0, steps), measure)
    one = measured / rows
    return measurements * one / (trained / steps * clock.total_steps), 1e3 * one


def measuring(
    data: tuple[str, ...] = ("reacher", "swimmer", "hopper"),
    measurements: int = 300,
    rows: int = 5,
    repeats: int = 4,
) -> dict[str, Any]:
    """What 300 measurements (training and test set) of the 3x256 network's last layer cost beside all steps of
    its accelerated run, on one thread.

    Steps and measurements are timed in turn on short stretches and multiplied. `ratio` is the largest share.
    `share_deep`: the same for all layers of the 8x256 network, whose runs are shorter and measure 20 times.
    """
    with cpu_threads(1):
        found = [_measuring_share(name, "prevalence", measurements, rows, repeats) for name in data]
        deep = _measuring_share("swimmer", "deep_swimmer", measurements, rows, repeats)
    return {
        "ratio": max(share for share, _ in found), "target": 0.1, "measurements": measurements, "data": list(data),
        "share": [share for share, _ in found], "milliseconds_each": [ms for _, ms in found],
        "share_deep": deep[0], "milliseconds_each_deep": deep[1],
    }  # fmt: skip


def monitor(
    epoch: int = 5000, subset: int = 512, sample: int = 256, size: int = 64, repeats: int = 3
) -> dict[str, Any]:
    """`nrc.CollapseMonitor` on torchvision's ResNet18 after an epoch: all convolutions and the last layer
    measured on a subset of the training images, against one forward pass over the epoch, on one thread.

    The forward pass is timed on `sample` images and multiplied, and so is the part of the measurement that
    grows with the subset; `metrics_seconds`, from moments to metrics, does not. `added_per_image` is what the
    moments add to an image's forward pass.
    """
    from nrc.models._torchvision import torchvision

    model = torchvision.models.resnet18(num_classes=2).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(64, 3, size, size, generator=generator), torch.randn(64, 2, generator=generator))
        for _ in range(-(-sample // 64))
    ]
    watcher = CollapseMonitor(model)

    @torch.no_grad()
    def forward() -> None:
        for x, _ in batches:
            model(x)

    with cpu_threads(1):
        plain, collected, whole = best_of(
            repeats, forward, lambda: collect(model, batches), lambda: watcher.measure(batches)
        )
    images, metrics = 64 * len(batches), max(whole - collected, 0.0)
    forward_seconds = plain / images * epoch
    overhead = collected / images * subset + metrics
    return {
        "ratio": overhead / forward_seconds, "target": 0.6, "epoch_images": epoch, "subset_images": subset,
        "size": size, "layers": len(watcher.undefined), "forward_images_per_s": images / plain,
        "measured_images_per_s": images / collected, "added_per_image": collected / plain - 1,
        "metrics_seconds": metrics,
    }  # fmt: skip


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "layerwise": layerwise,
    "measuring": measuring,
    "monitor": monitor,
}
