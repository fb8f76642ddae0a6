"""Members of a sweep trained as one program, each in a run directory of its own."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.models.mlp import MLPNetwork
from nrc.runs.directory import RunDirectory, environment
from nrc.training.clock import Clock
from nrc.training.loop import Diverged
from nrc.training.measuring import Measurer
from nrc.training.members import Member, cores
from nrc.training.placement import Placed, place
from nrc.training.run import choose_device, identity_of, no_denormals, outcome_of
from nrc.training.stacked_measuring import collect_stacked
from nrc.training.stacked_order import StackedOrder
from nrc.training.stacked_step import StackedStepper
from nrc.training.stopping import asked_to_stop, stop_signals
from nrc.training.trial import Trial

log = logging.getLogger(__name__)
LOOK = 64  # steps between two looks at the errors, as in `train_steps`


def fit_stack(
    members: list[Member],
    *,
    device: str = "auto",
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoint_seconds: float = 60.0,
) -> dict[Path, str]:
    """Run members that `stacks` put together to the end, continuing whatever their directories hold.

    Each directory is what `fit` makes, and either continues the other's runs. On a CPU the numbers are those of
    separate runs, up to rounding. A member that has diverged is
    no longer recorded, and the others go on. A member whose checkpoint is later than those of the others waits
    until they have come there. The recorded seconds are those of the whole stack.

    The code for a GPU has not been run on one yet.

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
    device = choose_device(device)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # it would round the products to 10 bits
    shared = members[0].settings
    data = shared.data.load()
    clock = Clock.of(shared.optim, shared.protocol, len(data.x_train))
    # made before the directories are: what is refused leaves nothing behind
    placed = place(data, device)
    lanes = [_Lane(member, data, placed, clock) for member in members]
    outcomes: dict[Path, str] = {}
    with no_denormals(), ExitStack() as held:
        for lane in lanes:
            outcome = lane.open(data, held)
            if outcome is not None:
                outcomes[lane.directory] = outcome
        lanes = [lane for lane in lanes if lane.directory not in outcomes]
        if not lanes:
            return outcomes
        x, y = placed.x_train, placed.y_train
        stack = StackedStepper(
            [lane.model for lane in lanes],
            [lane.settings.optim for lane in lanes],
            x, y, min(shared.optim.batch_size, len(x)),
        )  # fmt: skip
        where = environment(device) | {"path": stack.name}
        for number, lane in enumerate(lanes):
            lane.join(stack, number, clock)
            lane.trial.start(lane.settings, where, data)
            held.enter_context(lane.run.failing())
        first = min(lane.start for lane in lanes)
        log.info(data.describe())
        log.info(
            f"{stack.name}, on {device}: {'resumed at step ' + str(first) if first else 'started'}, "
            f"{clock.total_steps} steps, tau {clock.tau_at(clock.total_steps):g}"
        )
        seeds = [lane.settings.seed for lane in lanes]
        order = StackedOrder(len(x), shared.optim.batch_size, seeds, first)
        schedule = clock.measured_steps(shared.measure)
        spare = threads if device == "cpu" else cores() // torch.cuda.device_count()
        helpers = ThreadPoolExecutor(max(1, spare), initializer=torch.set_flush_denormal, initargs=(True,))
        held.enter_context(helpers)
        return outcomes | _train(lanes, stack, order, clock, schedule, helpers, progress, checkpoint_seconds)


class _Lane:
    """One member, and its place in the stack.

    Attributes:
        start: the step of its checkpoint.
        state: its parameters and velocity there.
    """

    def __init__(self, member: Member, data: RegressionData, placed: Placed, clock: Clock) -> None:
        self.settings, self.directory = member.settings, member.directory
        chosen, sizes = self.settings, data.sizes
        model = chosen.model.build(sizes["inputs"], sizes["targets"], chosen.seed).to(placed.device)
        assert isinstance(model, MLPNetwork)  # as `stacks` sees to
        self.model = model
        self.measurer = Measurer(self.model, placed, chosen.measure, clock, chosen.seed)

    def open(self, data: RegressionData, held: ExitStack) -> str | None:
        """Lock the directory; how the run ended if there is nothing to do."""
        try:
            self.run = RunDirectory.open(self.directory, identity_of(self.settings, data))
            if not self.run.finished:
                held.enter_context(self.run.lock())
            outcome = outcome_of(self.run)
        except UserError as error:  # in use, or another run
            outcome = f"error: {error}"
        if outcome is not None:
            log.info(f"{self.directory}: {outcome}")
        return outcome

    def join(self, stack: StackedStepper, place: int, clock: Clock) -> None:
        """Take this place, with the state of the checkpoint if there is one."""
        self.place = place
        self.trial = Trial(self.run, clock, self.model, stack.stepper(place), self.measurer)
        self.start = self.trial.restore()
        self.state = stack.state(place)


def _train(
    lanes: list[_Lane],
    stack: StackedStepper,
    order: StackedOrder,
    clock: Clock,
    schedule: list[int],
    helpers: Executor,
    progress: Callable[[int, int], None],
    checkpoint_seconds: float,
) -> dict[Path, str]:
    """From the earliest checkpoint to the end, or to a signal; directory -> how it ended."""
    outcomes: dict[Path, str] = {}

    def end_as_diverged(lane: _Lane, error: Diverged) -> None:
        outcomes[lane.directory] = lane.trial.diverged(error)
        lanes.remove(lane)

    def under_way(step: int) -> list[_Lane]:  # the others wait
        return [lane for lane in lanes if lane.start <= step]

    measurers = [lane.measurer for lane in lanes]

    def measure(step: int) -> None:
        due = [lane for lane in under_way(step) if lane.measurer.last_step < step]
        moments = collect_stacked(stack, measurers) if due else []
        begun = [(lane, helpers.submit(lane.trial.measure, step, moments[lane.place])) for lane in due]
        for lane, written in begun:
            try:
                written.result()
            except Diverged as error:
                end_as_diverged(lane, error)

    marks = sorted({*schedule, *(lane.start for lane in lanes)})
    step, saved = min(lane.start for lane in lanes), time.monotonic()
    with stop_signals() as asked:
        while True:
            for lane in lanes:
                if lane.start == step:
                    stack.put(lane.place, lane.state)
            if step in schedule:
                measure(step)
            if time.monotonic() - saved > checkpoint_seconds:
                for lane in under_way(step):
                    lane.trial.save(step)
                saved = time.monotonic()
            progress(step, clock.total_steps)
            if asked() or step >= clock.total_steps or not lanes:
                break
            look = -(-step // LOOK) * LOOK + 1
            last = min(look, next(mark for mark in marks if mark > step))
            index, rows = order.take(last - step)
            stack.advance(index, rows, torch.tensor([clock.lr_at(s) for s in range(step, last)]))
            step = last
            finite = stack.finite()
            for lane in under_way(step - 1):
                if not finite[lane.place]:
                    end_as_diverged(lane, Diverged(step - 1))
        for lane in lanes:
            if lane.start > step:  # its place was trained on without it
                stack.put(lane.place, lane.state)
            else:
                lane.trial.save(step)
            outcomes[lane.directory] = lane.trial.end(max(step, lane.start))
    return outcomes
