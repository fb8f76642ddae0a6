"""Benchmarks of training: a sweep, a single step, the way to collapse."""

import io
import math
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nrc.cli import config
from nrc.cli.bench.tools import CORES, best_of, cpu_threads
from nrc.models import MLP
from nrc.runs.directory import read_info
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings
from nrc.training.loop import batch_order, train_steps
from nrc.training.measuring import Measurer
from nrc.training.placement import place
from nrc.training.pool import Member, run_all
from nrc.training.steppers import make_stepper

EVALUATIONS = 3  # in each run of the sweep benchmark, on both sides


def headline(data: str, experiment: str = "prevalence", protocol: str = "accelerated") -> RunSettings:
    """The run behind a headline figure, as the sweep composes it."""
    return config.sweep_members(experiment, data, protocol, Path("outputs"))[0].settings


def plain_loop(settings: RunSettings, steps: int, at_most: float = 6.0) -> float:
    """The usual way: DataLoader, autograd, torch.optim.SGD, a loop over train and test set now and then.

    Returns steps/s, without loading the data; ends early after `at_most` seconds, as on a busy machine.
    """
    data, optim = settings.data.load(), settings.optim
    began = time.perf_counter()
    model = settings.model.build(data.x_train.shape[1], data.y_train.shape[1], settings.seed)
    sets = [(data.x_train, data.y_train), (data.x_test, data.y_test)]
    tensors = [TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in sets]
    train, test = (DataLoader(t, optim.batch_size, shuffle=i == 0) for i, t in enumerate(tensors))
    sgd = torch.optim.SGD(model.parameters(), optim.lr, optim.momentum, weight_decay=optim.weight_decay)
    due = evaluate_every = max(1, steps // EVALUATIONS)
    done, total = 0, 0.0
    while done < steps and time.perf_counter() - began < at_most:
        for x, y in train:
            loss = optim.loss_scale * nn.functional.mse_loss(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += loss.item()
            done += 1
            if done >= steps:
                break
        if done >= due:
            due += evaluate_every
            with torch.no_grad():
                for loader in (train, test):
                    sum(float(nn.functional.mse_loss(model(x), y, reduction="sum")) for x, y in loader)
    return done / (time.perf_counter() - began)


def _plain_rates(settings: RunSettings, steps: int) -> list[float]:
    """Steps/s of the plain loop with one thread and with one a core; on a busy machine the second is slower."""
    found = []
    for threads in (1, CORES):
        with cpu_threads(threads):
            found.append(plain_loop(settings, steps))
    return found


def _one_thread(settings: RunSettings, steps: int) -> float:
    torch.set_num_threads(1)
    plain_loop(settings, 1, at_most=math.inf)  # a fresh process imports half of torch at its first step
    return plain_loop(settings, steps)


def _plain_side_by_side(pool: Pool, settings: RunSettings, steps: int) -> float:
    """Steps/s together of plain loops of one thread, one in each process of the pool."""
    return sum(pool.starmap(_one_thread, [(settings, steps)] * CORES, chunksize=1))


def _run_sweep(settings: RunSettings, count: int, steps: int) -> float:
    """Run so many seeds as a sweep; member-steps/s by the runs' own clocks, without starting the processes."""
    tau = steps * settings.optim.lr / (1 - settings.optim.momentum)
    run = replace(
        settings,
        protocol=Protocol("accelerated", tau=tau),
        measure=Measure(log_spaced=0, evenly=EVALUATIONS, layers="last"),
    )
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        places = [Path(folder) / f"seed={seed}" for seed in range(count)]
        run_all([Member(replace(run, seed=seed), place) for seed, place in enumerate(places)], device="cpu")
        seconds = [read_info(place)["seconds"] for place in places]
    return min(CORES, count) * count * steps / sum(seconds)


def sweep(
    steps: int = 1000, members: tuple[int, ...] = (1, CORES, 2 * CORES), repeats: int = 2
) -> dict[str, Any]:
    """Member-steps/s of a sweep of the 3x256 network on Swimmer on the CPU: one single-threaded process a core
    (`scripts/gpu_proof.py` times the sweep on a GPU).

    `ratio`, of which at least 5 was asked: against a plain DataLoader loop as the released code has it, one run
    after the other in one process with torch's default, as many threads as cores. It holds two gains, the faster
    step and the cores put to use; `ratio_to_parallel` has the first alone, against such loops on all cores side by
    side, one thread each. `ratio_to_faster`: against one plain loop with one thread or all, whichever is faster; on
    a busy machine threads wait for each other.

    These take the processes' own clocks, as in a sweep of minutes; `ratio_with_start` is `ratio` with all that
    passes from call to return, loading of the processes (2 to 4 s) included.
    """
    settings = headline("swimmer")
    steady, walls = dict.fromkeys(members, 0.0), dict.fromkeys(members, math.inf)
    rates, parallel = [0.0, 0.0], 0.0
    with get_context("spawn").Pool(CORES) as pool:
        pool.map(math.sqrt, range(CORES))  # the processes have started
        for _ in range(repeats):
            rates = list(map(max, rates, _plain_rates(settings, steps)))
            parallel = max(parallel, _plain_side_by_side(pool, settings, steps))
            for count in members:
                began = time.perf_counter()
                steady[count] = max(steady[count], _run_sweep(settings, count, steps))
                walls[count] = min(walls[count], time.perf_counter() - began)
    with_start = [count * steps / walls[count] for count in members]
    return {
        "ratio": steady[members[-1]] / rates[1], "target": 5.0, "ratio_with_start": with_start[-1] / rates[1],
        "ratio_to_faster": steady[members[-1]] / max(rates), "ratio_to_parallel": steady[members[-1]] / parallel,
        "steps": steps, "plain_steps_per_s_one_thread": rates[0], "plain_steps_per_s_all_threads": rates[1],
        "plain_parallel": parallel,
        "members": list(members), "member_steps_per_s": list(steady.values()),
        "member_steps_per_s_with_start": with_start,
    }  # fmt: skip


def _gemms(sizes: list[int], batch: int) -> tuple[Callable[[], None], float]:
    """The matrix products of one step alone, into preallocated buffers, and their floating-point operations."""
    acts, deltas = ([torch.randn(batch, d) for d in sizes] for _ in range(2))
    weights = [torch.randn(b, a) for a, b in pairwise(sizes)]
    grads = [torch.empty_like(w) for w in weights]

    def products() -> None:
        for k, w in enumerate(weights):
            torch.mm(acts[k], w.T, out=acts[k + 1])
        for k in range(len(weights) - 1, -1, -1):
            torch.mm(deltas[k + 1].T, acts[k], out=grads[k])
            if k:
                torch.mm(deltas[k + 1], weights[k], out=deltas[k])

    layers = [2.0 * batch * a * b for a, b in pairwise(sizes)]
    return products, 3 * sum(layers) - layers[0]


def _flops_of(layers: int, width: int, batch: int, repeats: int, work: float) -> tuple[float, float]:
    """FLOP/s of training steps as the loop takes them, and of their matrix products alone."""
    n_in, n_out = 8, 2
    products, flops = _gemms([n_in, *[width] * (layers - 1), n_out], batch)
    optim = Optim(lr=1e-6, momentum=0.9, weight_decay=1e-3, batch_size=batch)
    stepper = make_stepper(MLP(layers, width).build(n_in, n_out, 0), optim)
    x, y = torch.randn(4 * batch, n_in), torch.randn(4 * batch, n_out)
    calls = max(1, math.ceil(work / flops))
    clock = Clock.of(optim, Protocol(epochs=1), len(x))
    order = batch_order(len(x), batch, 0)

    def steps() -> None:
        train_steps(stepper, x, y, order, clock, 0, calls)

    def alone() -> None:
        for _ in range(calls):
            products()

    ours, gemm = best_of(repeats, steps, alone)
    return calls * flops / ours, calls * flops / gemm


def flops(
    nets: tuple[tuple[int, int], ...] = ((4, 256), (8, 256), (10, 1024)),
    widths: tuple[int, ...] = (64, 128, 512),
    batches: tuple[int, ...] = (64, 1024),
    repeats: int = 5,
    work: float = 1e10,
) -> dict[str, Any]:
    """FLOP/s of the training step on one thread of the CPU (batch drawing, ReLU, decay and update included) as a share of
    the machine's sgemm: the same products and transposed products, preallocated and nothing else.

    `nets` are (Linear layers, width); 4 x 256 is the papers' 3x256. Then the share of 4 layers against width
    and of 4 x 256 against batch size.
    """
    with cpu_threads(1):
        found = [_flops_of(layers, width, 256, repeats, work) for layers, width in nets]
        by_width = [_flops_of(4, width, 256, repeats, work) for width in widths]
        by_batch = [_flops_of(4, 256, batch, repeats, work) for batch in batches]
    shares = [ours / gemm for ours, gemm in found]
    return {
        "ratio": min(shares), "target": 0.5, "nets": [f"{layers}x{width}" for layers, width in nets],
        "shares": shares, "gflops": [ours / 1e9 for ours, _ in found], "sgemm_gflops": [g / 1e9 for _, g in found],
        "widths": list(widths), "share_at_width": [ours / gemm for ours, gemm in by_width],
        "batches": list(batches), "share_at_batch": [ours / gemm for ours, gemm in by_batch],
    }  # fmt: skip


def _collapse(settings: RunSettings, threshold: float, seed: int, every: int = 20) -> tuple[float, int]:
    """Seconds of training and steps of an accelerated run until NRC1, looked at every few steps, is below."""
    data, optim = settings.data.load(), settings.optim
    clock = Clock.of(optim, settings.protocol, len(data.x_train))
    model = settings.model.build(data.x_train.shape[1], data.y_train.shape[1], seed)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stepper = make_stepper(model, optim)
    measurer = Measurer(model, place(data, "cpu"), settings.measure, clock, seed)
    order, seconds = batch_order(len(x), optim.batch_size, seed), 0.0
    for step in range(0, clock.total_steps, every):
        measurer.rows(step)
        if measurer.last is not None and measurer.last["nrc1"] < threshold:
            return seconds, step
        began = time.perf_counter()
        train_steps(stepper, x, y, order, clock, step, step + every)
        seconds += time.perf_counter() - began
    return math.inf, clock.total_steps


def collapse(
    widths: tuple[int, ...] = (256, 64), threshold: float = 1e-3, plain_steps: int = 300, repeats: int = 3
) -> dict[str, Any]:
    """Time of the Swimmer headline with the linear feature layer (ReLU features do not collapse on the embedded
    data) to NRC1 < threshold: protocol=accelerated against protocol=paper, both without measuring.

    `ratio` is one run against one run, each alone in its process. The paper's is extrapolated: the steps that its
    rate needs to the same tau, times the seconds of a step of the plain loop with one thread or all, whichever is
    faster. `ratio_all_cores`: of two sweeps, as many accelerated runs side by side as there are cores, against the
    same number of plain ones after each other. `ratio_own_steps`: the paper's steps taken by this project's own
    loop, which is what the tau clock alone gains.
    """
    ours = headline("swimmer", "prevalence_linear")
    paper = headline("swimmer", "prevalence_linear", "paper").optim
    alone: dict[int, tuple[float, int]] = {}  # seconds and steps of one run
    together = dict.fromkeys(widths, math.inf)  # seconds of the slowest of CORES runs
    plain = dict.fromkeys(widths, 0.0)
    with get_context("spawn").Pool(CORES) as pool:
        pool.map(math.sqrt, range(CORES))  # the processes have started
        for width in widths * repeats:
            net = replace(ours, model=replace(ours.model, width=width))  # type: ignore[type-var]
            plain[width] = max(plain[width], *_plain_rates(replace(net, optim=paper), plain_steps))
            alone[width] = min(alone.get(width, (math.inf, 0)), pool.apply(_collapse, (net, threshold, 0)))
            runs = pool.starmap(_collapse, [(net, threshold, seed) for seed in range(CORES)], chunksize=1)
            together[width] = min(together[width], max(seconds for seconds, _ in runs))
    seconds, steps = alone[widths[0]]
    saved = _tau_per_step(ours.optim) / _tau_per_step(paper)
    cost = {w: saved * alone[w][1] / plain[w] for w in widths}  # of protocol=paper, seconds
    return {
        "ratio": cost[widths[0]] / seconds, "target": 300.0,
        "ratio_all_cores": CORES * cost[widths[0]] / together[widths[0]],
        "ratio_own_steps": saved, "threshold": threshold, "tau": steps * _tau_per_step(ours.optim),
        "steps": steps, "paper_steps": saved * steps, "seconds": seconds, "paper_seconds": cost[widths[0]],
        "widths": list(widths), "ratio_at_width": [cost[w] / alone[w][0] for w in widths],
    }  # fmt: skip


def _tau_per_step(optim: Optim) -> float:
    return optim.lr / (1 - optim.momentum)


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {"sweep": sweep, "flops": flops, "collapse": collapse}
