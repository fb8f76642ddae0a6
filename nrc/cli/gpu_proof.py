"""Prove the training of many networks as one program on this machine's GPU, and say how fast it is.

    python scripts/gpu_proof.py                 # on any CUDA card, within ten minutes

It must print, in this order:

    the card, torch, and "TF32 off" (a product in float32 agrees with float64 to 1e-5);
    six lines "steps ...: ok", each with the largest difference of parameters and velocity after 200 steps between
        members of a stack and the same members trained one by one on this device (at most 5e-5), and between the
        CUDA graph and the same steps without it (at most 1e-5);
    one line "runs ...: ok", with the largest relative difference of any metric between the run directories of `fit_stack`
        and of `fit`, and which metric that is (at most 1e-3; the share of metrics that are NaN on both sides is said);
    one line "resumed ...: ok": a stack that is interrupted and continued against one that is not (at most 1e-3);
    member-steps/s for 1, 5, 15 and 45 members of the 3x256 network, batch 256: separately, stacked without a graph,
        stacked as a CUDA graph, with the peak of the device's memory, and the share of the time in which the CPU draws
        the batches;
    a table of torch's profiler: the ten kernels that take most of the device's time;
    last "proved: ..." (exit status 0) or "NOT PROVED: ..." (exit status 1).

Without CUDA it says so in one line (exit status 2).
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from nrc.data import LowRank
from nrc.models import MLP
from nrc.runs.directory import read_run
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings, fit
from nrc.training.loop import LOOK, batch_order, train_steps
from nrc.training.members import Member
from nrc.training.stacked import fit_stack
from nrc.training.stacked_step import StackedStepper, stacked_order
from nrc.training.steppers import HandStepper

# the tolerances of the docstring; a ReLU unit whose input is 0 up to rounding may switch for one row, which moved a
# parameter by 2e-6 on a CPU, while a wrong decay, rate or batch moves it by more than 1e-3
PARAMETERS, GRAPHS, METRICS = 5e-5, 1e-5, 1e-3
DECAYS = (1e-2, 0.0, 1e-3)
# 1,000 training rows of 11 inputs and 2 targets, as Reacher has; the last batch of an epoch is short
DATA = LowRank(t=2, r=2, d=11, n=1250)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not torch.cuda.is_available():
        print(
            "gpu_proof: this torch sees no CUDA device, so nothing was proved; run it on a machine with one"
        )
        sys.exit(2)
    sys.exit(0 if prove("cuda") else 1)


def prove(
    device: str,
    width: int = 256,
    epochs: int = 50,
    members: tuple[int, ...] = (1, 5, 15, 45),
    seconds: float = 5.0,
) -> bool:
    """Print what the module's docstring says; whether all is within the tolerances.

    Args:
        device: "cuda", or "cpu", where there is no graph.
        width: of the networks.
        epochs: of 4 steps, for the comparisons; the default is 200 steps.
        members: numbers of networks to time.
        seconds: for each of the timings.
    """
    began, wrong = time.monotonic(), list[str]()

    def line(what: str, difference: float, tolerance: float, note: str = "") -> None:
        ok = difference <= tolerance  # NaN is not
        print(
            f"{what}: {'ok' if ok else 'WRONG'}, {difference:.1e} of at most {tolerance:g}{note}", flush=True
        )
        if not ok:
            wrong.append(what)

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(f"{card}, torch {torch.__version__}")
    line("TF32 off", rounding_of_products(device), 1e-5)
    for name, model, optim in cases(width):
        separate, eager, graph = (
            steps(model, optim, device, epochs, how) for how in ("separate", "eager", "graph")
        )
        line(f"steps of {name}, stacked - separate", apart(graph, separate), PARAMETERS)
        if device == "cuda":
            line(f"steps of {name}, graph - eager", apart(graph, eager), GRAPHS)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        difference, note = runs(place / "runs", device, width, epochs)
        line("runs, stacked - separate", difference, METRICS, note)
        difference, note = resumed(place / "resumed", device, width, epochs)
        line("resumed - uninterrupted", difference, METRICS, note)
    for count in members:
        print(speed(count, device, width, seconds), flush=True)
    print(kernels(max(members), device, width))
    minutes = (time.monotonic() - began) / 60
    print(
        f"NOT PROVED: {'; '.join(wrong)}"
        if wrong
        else f"proved: all within tolerances, {minutes:.1f} minutes"
    )
    return not wrong


def cases(width: int) -> list[tuple[str, MLP, Optim]]:
    """Networks and optimisers that between them take every branch of a step."""
    optim = Optim(lr=0.01, momentum=0.9, batch_size=256)
    linear = MLP(4, width, bias=False, feature_activation="none")
    return [
        ("3 layers with momentum", MLP(3, width), optim),
        ("3 layers, biases not decayed", MLP(3, width), replace(optim, decay_biases=False)),
        ("4 layers without biases and momentum", linear, replace(optim, momentum=0.0, milestones=[0.5])),
    ]


def rounding_of_products(device: str) -> float:
    """Largest relative difference of a product in float32 from float64; with TF32 it would be about 1e-3."""
    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(k)).to(device) for k in (0, 1))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.abs().max())


def steppers(model: MLP, optim: Optim, count: int, device: str) -> tuple[list[HandStepper], Tensor, Tensor]:
    """Members with seeds 0, 1, ... and weight decays in turn, and the training data."""
    data = DATA.load()
    x, y = (torch.from_numpy(part).to(device) for part in (data.x_train, data.y_train))
    optims = [replace(optim, weight_decay=DECAYS[k % len(DECAYS)]) for k in range(count)]
    networks = [model.build(x.shape[1], y.shape[1], seed).to(device) for seed in range(count)]
    return [HandStepper(network, one) for network, one in zip(networks, optims, strict=True)], x, y


def steps(model: MLP, optim: Optim, device: str, epochs: int, how: str) -> list[Tensor]:
    """Parameters and velocities of three members after these epochs: "separate", "eager" or "graph"."""
    made, x, y = steppers(model, optim, 3, device)
    clock = Clock.of(optim, Protocol(epochs=epochs), len(x))
    if how == "separate":
        for seed, stepper in enumerate(made):
            train_steps(stepper, x, y, batch_order(len(x), 256, seed), clock, 0, clock.total_steps)
    else:
        stack = StackedStepper(made, x, y, 256, graph=how == "graph" and device == "cuda")
        stack.advance(
            stacked_order(len(x), 256, [0, 1, 2]), [clock.lr_at(s) for s in range(clock.total_steps)]
        )
    return [part for stepper in made for part in (stepper.theta, stepper.velocity)]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference; NaN if anything is not finite."""
    return float(torch.stack([(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]).max())


def sweep(folder: Path, width: int, epochs: int) -> list[Member]:
    """Three runs, each measured some eight times."""
    optim = Optim(lr=0.01, momentum=0.9, batch_size=256)
    plan = Measure(log_spaced=4, evenly=4)
    return [
        Member(
            RunSettings(
                DATA, MLP(3, width), replace(optim, weight_decay=decay), Protocol(epochs=epochs), plan, seed
            ),
            folder / f"{seed}",
        )
        for seed, decay in enumerate(DECAYS)
    ]


def runs(folder: Path, device: str, width: int, epochs: int) -> tuple[float, str]:
    """Largest relative difference between the metrics of a stack and of separate runs, and a note on it."""
    together, alone = (sweep(folder / name, width, epochs) for name in ("stacked", "separate"))
    fit_stack(together, device=device)
    for member in alone:
        fit(member.settings, member.directory, device=device)
    return between(together, alone)


def resumed(folder: Path, device: str, width: int, epochs: int) -> tuple[float, str]:
    """The same between a stack that stops half-way and goes on, and one that does not."""
    whole, cut = (sweep(folder / name, width, epochs) for name in ("whole", "cut"))
    fit_stack(whole, device=device)

    def stop(done: int, total: int) -> None:
        if 0 < done < total:
            raise KeyboardInterrupt

    for watch in (stop, lambda done, total: None):
        try:
            fit_stack(cut, device=device, progress=watch, checkpoint_seconds=0)
        except KeyboardInterrupt:
            continue
    return between(cut, whole)


def between(ours: list[Member], theirs: list[Member]) -> tuple[float, str]:
    worst, note, nan, count = 0.0, "", 0, 0
    for one, other in zip(ours, theirs, strict=True):
        a, b = (read_run(member.directory)[1] for member in (one, other))
        labels = ["step", "split", "layer", "metric"]
        if not a[labels].equals(b[labels]):
            return math.nan, " (the rows differ)"
        for label, x, y in zip(a[labels].itertuples(index=False), a.value, b.value, strict=True):
            count += 1
            if math.isnan(x) and math.isnan(y):
                nan += 1
                continue
            difference = abs(x - y) / max(abs(y), 1e-6)
            if not difference <= worst:
                worst, note = (
                    difference,
                    f" ({label.metric} of {label.layer} at step {label.step}: {x:g}, {y:g})",
                )
    return worst, f"{note}, {nan} of {count} values NaN on both sides"


def speed(count: int, device: str, width: int, seconds: float) -> str:
    """One line on the speed of so many members: separately, stacked, as a graph."""
    optim = Optim(lr=0.01, momentum=0.9, batch_size=256)
    [alone], x, y = steppers(MLP(3, width), optim, 1, device)
    order, clock = batch_order(len(x), 256, 0), Clock.of(optim, Protocol(epochs=10**6), len(x))
    batches = stacked_order(len(x), 256, list(range(count)))

    def stacked(graph: bool) -> float:
        stack = StackedStepper(steppers(MLP(3, width), optim, count, device)[0], x, y, 256, graph)

        def work() -> None:
            stack.advance(batches, [optim.lr] * LOOK)
            stack.finite()

        return count * rate(work, seconds, device)

    found = {
        "separate": rate(lambda: train_steps(alone, x, y, order, clock, 1, LOOK + 1), seconds, device),
        "stacked": stacked(graph=False),
    }
    peak = ""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        found["graph"] = stacked(graph=True)
        peak = f", peak {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB"
    drawn = count * rate(lambda: [next(batches) for _ in range(LOOK)], seconds / 5, "cpu")
    words = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
    share = 100 * list(found.values())[-1] / drawn
    return f"{count} members: member-steps/s {words}{peak}, batches drawn in {share:.0f} % of the time"


def rate(work: Callable[[], object], seconds: float, device: str) -> float:
    """Steps per second of `work`, which takes LOOK of them; warmed up once."""
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    began, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - began < seconds:
        work()
        rounds += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return rounds * LOOK / (time.perf_counter() - began)


def kernels(count: int, device: str, width: int) -> str:
    """The profiler's table of LOOK steps."""
    made, x, y = steppers(MLP(3, width), Optim(lr=0.01, momentum=0.9, batch_size=256), count, device)
    stack, order = StackedStepper(made, x, y, 256), stacked_order(len(x), 256, list(range(count)))
    stack.advance(order, [0.01] * LOOK)
    gpu = [ProfilerActivity.CUDA] if device == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as seen:
        stack.advance(order, [0.01] * LOOK)
        stack.finite()
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=by, row_limit=10, max_name_column_width=60)
