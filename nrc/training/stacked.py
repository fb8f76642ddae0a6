"""Members of a sweep trained as one program, each in a run directory of its own."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import torch

from nrc.errors import UserError
from nrc.runs.directory import environment
from nrc.training.loop import LOOK
from nrc.training.members import Member
from nrc.training.run import Site, no_denormals, open_run, prepare, train_to_end
from nrc.training.stacked_step import StackedStepper, stacked_order
from nrc.training.steppers import HandStepper
from nrc.training.stopping import asked_to_stop, stop_signals
from nrc.training.trial import Trial
from nrc.worker import cores

log = logging.getLogger(__name__)


def fit_stack(
    members: list[Member],
    *,
    device: str = "auto",
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoint_seconds: float = 60.0,
) -> dict[Path, str]:
    """Run members that `stacks` put together to the end, continuing whatever their directories hold.

    Each directory is what `fit` makes, and either continues the other's runs. The numbers are those of separate runs
    on the same device, up to rounding. Members whose checkpoints are of one step train together; where there are
    several such steps, one group trains after the other. A member that has diverged is no longer recorded, and the
    others go on. The recorded seconds are those of the whole group.

    The code for a GPU has not been run on one yet; `scripts/gpu_proof.py` does that.

    Args:
        members: alike but for weight decay and seed.
        device, threads, progress, checkpoint_seconds: as for `fit`.

    Returns:
        directory -> as `fit` returns, or "error: ..." for one that is in use or holds another run.

    Raises:
        UserError: bad settings or data, a full disk.
    """
    if asked_to_stop():
        log.info(f"{len(members)} runs: not started, as this process was asked to stop")
        return {member.directory: "interrupted" for member in members}
    site = prepare(members[0].settings, device, threads)
    outcomes: dict[Path, str] = {}
    opened: list[tuple[int, Member, Trial]] = []
    with no_denormals(), stop_signals(), ExitStack() as held:
        for member in members:
            try:
                found = open_run(member.settings, member.directory, site, held)
            except UserError as error:  # in use, or another run
                found = f"error: {error}"
                log.info(f"{member.directory}: {found}")
            if isinstance(found, str):
                outcomes[member.directory] = found
            else:
                opened.append((found.restore(), member, found))
        helpers = held.enter_context(_helpers(site.device, threads))
        log.info(site.data.describe())
        opened.sort(key=lambda one: one[0])
        for start, group in groupby(opened, key=lambda one: one[0]):
            _, chosen, trials = map(list, zip(*group, strict=True))
            outcomes |= _train(chosen, trials, start, site, helpers, progress, checkpoint_seconds)
    return outcomes


def _train(
    members: list[Member],
    trials: list[Trial],
    start: int,
    site: Site,
    helpers: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
    checkpoint_seconds: float,
) -> dict[Path, str]:
    """Train members that have come to the step `start`."""
    clock, x, y = site.clock, site.placed.x_train, site.placed.y_train
    shared, batch = members[0].settings, min(members[0].settings.optim.batch_size, len(x))
    steppers = [
        trial.stepper for trial in trials if isinstance(trial.stepper, HandStepper)
    ]  # as `stacks` sees to
    stack = StackedStepper(steppers, x, y, batch)
    order = stacked_order(len(x), batch, [member.settings.seed for member in members], start)
    for member, trial in zip(members, trials, strict=True):
        trial.start(member.settings, environment(site.device) | {"path": stack.name}, site.data)
    log.info(
        f"{stack.name}, on {site.device}: {'resumed at step ' + str(start) if start else 'started'}, "
        f"{clock.total_steps} steps, tau {clock.tau_at(clock.total_steps):g}"
    )

    def advance(step: int, target: int, asked: Callable[[], bool]) -> tuple[int, list[Trial]]:
        last = min(-(-step // LOOK) * LOOK + 1, target)
        stack.advance(order, [clock.lr_at(s) for s in range(step, last)])
        return last, [trial for trial, finite in zip(trials, stack.finite(), strict=True) if not finite]

    schedule = clock.measured_steps(shared.measure)
    return train_to_end(trials, advance, start, schedule, progress, checkpoint_seconds, helpers.map)


def _helpers(device: str, threads: int) -> ThreadPoolExecutor:
    """Threads that measure: what takes time there are small eigenproblems on the CPU, one network at a time."""
    gpu = torch.cuda.current_device() if device == "cuda" else None
    spare = threads if gpu is None else cores() // torch.cuda.device_count()
    return ThreadPoolExecutor(max(1, spare), initializer=_begin, initargs=(gpu,))


def _begin(gpu: int | None) -> None:
    """A new thread has neither setting of the one that starts it."""
    torch.set_flush_denormal(True)
    if gpu is not None:
        torch.cuda.set_device(gpu)
