"""The sweep as one program on a GPU: how fast, how it grows with its members, and what bounds it."""

import io
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nrc.cli import config
from nrc.cli.bench.tools import best_of
from nrc.models.mlp import MLPNetwork
from nrc.training import Clock, RunSettings
from nrc.training.placement import place
from nrc.training.pool import Member, run_all
from nrc.training.stacked import LOOK
from nrc.training.stacked_order import StackedOrder
from nrc.training.stacked_step import StackedStepper

SEEDS = 3
DATA = ("reacher", "swimmer", "hopper")
# in the names of kernels that multiply matrices (gemm, sgemm, bmm, ...)
PRODUCTS = ("mm", "cutlass", "cublas")


def sweep_of(data: str, protocol: str) -> list[RunSettings]:
    """The weight decays of the sweep figure, each in three seeds."""
    found = [m.settings for m in config.sweep_members("sweep", data, protocol, Path("outputs"))]
    return [replace(settings, seed=seed) for settings in found for seed in range(SEEDS)]


class Stack:
    """So many members of one sweep on the device, which train and do nothing else.

    Args:
        settings: of a sweep; repeated when there are more members than settings.
        members: how many.
        device: "cuda", or "cpu", where the steps run one by one.
    """

    def __init__(self, settings: list[RunSettings], members: int, device: str) -> None:
        chosen = [settings[k % len(settings)] for k in range(members)]
        data = chosen[0].data.load()
        placed = place(data, device)
        sizes, self.optim = data.sizes, chosen[0].optim
        models = [s.model.build(sizes["inputs"], sizes["targets"], s.seed).to(device) for s in chosen]
        assert all(isinstance(model, MLPNetwork) for model in models)
        rows = min(self.optim.batch_size, len(placed.x_train))
        self.stepper = StackedStepper(models, [s.optim for s in chosen], placed.x_train, placed.y_train, rows)  # type: ignore[arg-type]
        self.order = StackedOrder(len(placed.x_train), rows, [s.seed for s in chosen])
        self.members, self.rows = members, rows
        weights = [weight[0].numel() for weight, _ in self.stepper.weights]
        self.flops = members * 2.0 * rows * (3 * sum(weights) - weights[0])  # of the products of a step

    def run(self, steps: int) -> None:
        """Train, with the look at the errors that a run takes now and then."""
        for first in range(0, steps, LOOK):
            index, rows = self.order.take(min(LOOK, steps - first))
            self.stepper.advance(index, rows, torch.full((len(index),), self.optim.lr))
            self.stepper.finite()


def stacked(
    graph_steps: int = 100_000,
    members: tuple[int, ...] = (1, 5, 15, 45),
    growth_steps: int = 10_000,
    profiled_steps: int = 256,
    sweeps: tuple[str, ...] = DATA,
    device: str = "cuda",
) -> dict[str, Any]:
    """The 15 members of the Reacher sweep at protocol=paper (5 weight decays x 3 seeds) as one program on a GPU.

    `minutes`: its 6.0e6 steps, extrapolated from `graph_steps` of them, without measuring. `minutes_accelerated`: the
    same sweep of all three sets at protocol=accelerated, from call to return, measured and written to disk. Then
    member-steps/s against the number of members, FLOP/s of the matrix products beside those of one large product, and
    from torch's profiler the share of the time in which a kernel runs, how many there are to a step, how long one
    takes and which take most.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return {
            "skipped": "this torch sees no GPU; on a CPU a sweep is not stacked (see the benchmark sweep)"
        }
    settings = sweep_of("reacher", "paper")
    clock = Clock.of(settings[0].optim, settings[0].protocol, 1000)
    stack = Stack(settings, len(settings), device)
    stack.run(LOOK)  # whatever is set up at the first call
    (seconds,) = best_of(1, lambda: stack.run(graph_steps))
    growth = [_rate(settings, count, growth_steps, device) for count in members]
    return {
        "minutes": clock.total_steps * seconds / graph_steps / 60, "target_minutes": 20.0,
        "minutes_accelerated": _accelerated(sweeps, device), "target_minutes_accelerated": 2.0,
        "card": torch.cuda.get_device_name() if device == "cuda" else "none",
        "path": stack.stepper.name, "graph_steps": graph_steps, "total_steps": clock.total_steps,
        "member_steps_per_s": len(settings) * graph_steps / seconds,
        "members": list(members), "member_steps_per_s_at": growth,
        "tflops": stack.flops * graph_steps / seconds / 1e12, "tflops_of_one_product": _one_product(device),
        **_profile(stack, profiled_steps, device),
    }  # fmt: skip


def _rate(settings: list[RunSettings], count: int, steps: int, device: str) -> float:
    stack = Stack(settings, count, device)
    stack.run(LOOK)
    (seconds,) = best_of(1, lambda: stack.run(steps))
    return count * steps / seconds


def _one_product(device: str, size: int = 4096) -> float:
    """TFLOP/s of one large product in float32, without TF32, as the training has it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size = size if device == "cuda" else 256
    a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
    torch.mm(a, b, out=out)
    (seconds,) = best_of(3, lambda: torch.mm(a, b, out=out))
    return 2.0 * size**3 / seconds / 1e12


def _accelerated(sweeps: tuple[str, ...], device: str) -> float:
    """Minutes of the sweeps of these sets at protocol=accelerated, through the command's own path."""
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        members = [
            Member(settings, Path(folder) / data / f"{number}")
            for data in sweeps
            for number, settings in enumerate(sweep_of(data, "accelerated"))
        ]
        began = time.perf_counter()
        outcomes = run_all(members, device=device) if members else {}
        minutes = (time.perf_counter() - began) / 60
    ended = Counter(outcomes.values())
    assert ended["finished"] == len(members), ended
    return minutes


def _profile(stack: Stack, steps: int, device: str) -> dict[str, Any]:
    """What the time of a step is spent on, by the profiler's record of the device."""
    gpu = device == "cuda"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        began = time.perf_counter()
        stack.run(steps)  # ends with a look at the errors, which waits for the device
        wall = 1e6 * (time.perf_counter() - began)
    spent = {e.key: (e.self_device_time_total if gpu else e.self_cpu_time_total) for e in seen.key_averages()}
    count = sum(e.count for e in seen.key_averages() if spent[e.key])
    busy = sum(spent.values())
    products = sum(t for name, t in spent.items() if any(part in name.lower() for part in PRODUCTS))
    longest = sorted(spent, key=lambda name: -spent[name])[:5]
    return {
        "busy_share": busy / wall, "products_share_of_busy": products / max(busy, 1e-9),
        "kernels_per_step": count / steps, "microseconds_per_kernel": busy / max(count, 1),
        "longest_kernels": [f"{name[:60]}: {100 * spent[name] / max(busy, 1e-9):.0f} %" for name in longest],
    }  # fmt: skip


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {"stacked": stacked}
