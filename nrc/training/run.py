"""One run from settings to a finished run directory: load, train, measure, checkpoint, resume."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.runs.directory import RunDirectory, environment
from nrc.training import own
from nrc.training.clock import Clock
from nrc.training.loop import Diverged, batch_order, train_steps
from nrc.training.measuring import Measurer
from nrc.training.placement import Placed, check_resident, place
from nrc.training.settings import RunSettings
from nrc.training.steppers import make_stepper
from nrc.training.stopping import asked_to_stop, stop_signals
from nrc.training.tensorboard import mirrored
from nrc.training.trial import Trial

log = logging.getLogger(__name__)


def choose_device(device: str) -> str:
    """Resolve auto|cpu|cuda to a device that exists."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r}; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but this torch sees no GPU; use device=cpu or device=auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def ended(settings: RunSettings, directory: Path, loaded: dict[str, RegressionData]) -> str | None:
    """What `fit` would return at once for `directory`; None if there is something to run.

    Data sets are loaded once into `loaded`.
    """
    if not (directory / "run.json").exists():
        return None
    key = repr(settings.data)
    if key not in loaded:
        loaded[key] = own.load(settings.data)
    return outcome_of(RunDirectory.open(directory, identity_of(settings, loaded[key])))


def outcome_of(run: RunDirectory) -> str | None:
    """What `fit` returns for a run that has ended; None for one that goes on."""
    return {"finished": "skipped", "diverged": "diverged"}.get(run.info["status"])


@dataclass(frozen=True)
class Site:
    """What the runs of one data set on one device share."""

    device: str
    data: RegressionData
    placed: Placed
    clock: Clock


def prepare(settings: RunSettings, device: str, threads: int, resident: str = "auto") -> Site:
    """Load the data and put them on the device, and make torch compute as runs need it; arguments as for `fit`.

    Raises:
        UserError: bad settings or data, no such device.
    """
    device = choose_device(device)
    check_resident(resident)
    torch.set_num_threads(threads)
    threadpool_limits(threads, "blas")  # numpy's own, in which sums are made
    # reproduction runs are fp32: TF32 would round the products to 10 bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # a continued run must equal an uninterrupted one
    data = own.load(settings.data)
    clock = Clock.of(settings.optim, settings.protocol, len(data.x_train))
    _check_fit(settings, data)
    return Site(device, data, place(data, device, resident), clock)


def open_run(settings: RunSettings, directory: Path, site: Site, held: ExitStack) -> Trial | str:
    """Make the network and lock the directory until `held` ends; or how the run ended, if there is nothing to do.

    Raises:
        UserError: settings that do not fit the data; a directory that holds another run or is in use.
    """
    data, optim = site.data, settings.optim
    # made before the directory is: what is refused leaves nothing behind
    model = own.build(settings.model, data, settings.seed).to(site.device)
    _check_batches(model, len(data.x_train), optim.batch_size)
    own.check(model, settings.model, site.placed)
    measurer = Measurer(
        model, site.placed, settings.measure, site.clock, settings.seed, decay_biases=optim.decay_biases
    )
    stepper = make_stepper(model, optim)
    run = RunDirectory.open(directory, identity_of(settings, data))
    if not run.finished:
        held.enter_context(run.lock())
    outcome = outcome_of(run)
    if outcome is not None:
        log.info(
            f"{directory}: {'already finished, skipped' if outcome == 'skipped' else run.info['reason']}"
        )
        return outcome
    return Trial(run, site.clock, model, stepper, measurer, settings.keep_weights)


def fit(
    settings: RunSettings,
    directory: Path,
    *,
    device: str = "auto",
    resident: str = "auto",
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
) -> str:
    """Run to the end, continuing whatever `directory` already holds.

    On a CPU a run that was killed at any moment and continued ends in the same metrics.csv and the same
    parameters, to the last bit, as one that was not, and so does the same run in another directory. That is
    promised for one machine, one number of threads and one set of versions. It is not promised between
    machines or kinds of CPU, numbers of threads, devices, or versions of torch and numpy, nor on a GPU, whose
    sums change their order from run to run: there, curves agree while single digits do not.

    Args:
        settings: what to run.
        directory: the run directory; a finished one is left alone, a half-done one continued.
        device: auto, cpu or cuda.
        resident: whether a GPU holds the images: "device", "stream" (from their memory map) or "auto", as they fit.
        threads: CPU threads; part of what makes a run bitwise repeatable.
        progress: receives (steps done, steps in all) now and then.
        checkpoint_seconds: at most this much work is lost to a crash.
        tensorboard: also write the metrics as TensorBoard curves.

    Returns:
        "finished", "interrupted" (by Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2, after a checkpoint), "diverged" (also when it
        had diverged before) or "skipped" (it was finished before).

    Raises:
        UserError: bad settings or data, a directory that holds another run or is in use, a full disk.
    """
    if asked_to_stop():
        log.info(f"{directory}: not started, as this process was asked to stop")
        return "interrupted"
    site = prepare(settings, device, threads, resident)
    data, clock, x, y = site.data, site.clock, site.placed.x_train, site.placed.y_train
    with no_denormals(), ExitStack() as held:
        trial = open_run(settings, directory, site, held)
        if isinstance(trial, str):
            return trial
        stepper, start = trial.stepper, trial.restore()
        if tensorboard:
            curves = mirrored(trial.run.append, directory, trial.measurer.last_step)
            trial.append = held.enter_context(curves)
        trial.start(settings, environment(site.device) | {"path": f"separate, {stepper.name}"}, data)
        log.info(data.describe())
        tau = clock.tau_at(clock.total_steps)
        log.info(
            f"{directory}: {'resumed at step ' + str(start) if start else 'started'}, {clock.total_steps} steps, "
            f"tau {tau:g}, decay budget lambda*tau {settings.optim.weight_decay * tau:.3g}, on {site.device}, "
            f"steps {stepper.name}"
        )
        order = batch_order(len(x), settings.optim.batch_size, settings.seed, start)

        def advance(step: int, target: int, asked: Callable[[], bool]) -> tuple[int, list[Trial]]:
            paused = time.monotonic()

            def pause() -> bool:
                return asked() or time.monotonic() - paused > 1.0

            try:
                reached = train_steps(stepper, x, y, order, clock, step, target, pause)
            except Diverged as error:
                return error.step + 1, [trial]
            if data.is_image:
                trial.images += (reached - step) * len(x) / clock.steps_per_epoch
                trial.training += time.monotonic() - paused
            return reached, []

        schedule = clock.measured_steps(settings.measure)
        return train_to_end([trial], advance, start, schedule, progress, checkpoint_seconds)[directory]


def train_to_end(
    trials: list[Trial],
    advance: Callable[[int, int, Callable[[], bool]], tuple[int, list[Trial]]],
    step: int,
    schedule: list[int],
    progress: Callable[[int, int], None],
    checkpoint_seconds: float,
    each: Callable[..., Iterable[Any]] = map,
) -> dict[Path, str]:
    """From `step` to the last one of `schedule`, or to a signal: train, measure, save, end.

    Args:
        trials: restored and started, all at `step`.
        advance: takes (step, target, asked) and trains all of them from `step` on, to `target` or to a step where it
            looks up (at least once a second, and when `asked()`); returns that step and those that have diverged.
        schedule: steps at which to measure.
        each: as `map`, for measuring the trials.

    Returns:
        directory -> as `fit` returns.
    """
    outcomes: dict[Path, str] = {}
    saved = time.monotonic()

    def measure(trial: Trial) -> Diverged | None:
        try:
            trial.measure(step)
        except Diverged as error:
            return error
        return None

    def end(trial: Trial, error: Diverged) -> None:
        outcomes[trial.run.path] = trial.diverged(error)

    def going() -> list[Trial]:
        return [trial for trial in trials if trial.run.path not in outcomes]

    with ExitStack() as held:
        for trial in trials:
            held.enter_context(trial.run.failing())
        asked = held.enter_context(stop_signals())
        while True:
            if step in schedule:
                for trial, error in zip(going(), each(measure, going()), strict=True):
                    if error is not None:
                        end(trial, error)
            if time.monotonic() - saved > checkpoint_seconds:
                for trial in going():
                    trial.save(step)
                saved = time.monotonic()
            progress(step, schedule[-1])
            if asked() or step >= schedule[-1] or not going():
                break
            step, diverged = advance(step, next(s for s in schedule if s > step), asked)
            for trial in diverged:
                if trial in going():
                    end(trial, Diverged(step - 1))
        for trial in going():
            trial.save(step)
            outcomes[trial.run.path] = trial.end(step)
    return outcomes


@contextmanager
def no_denormals() -> Iterator[None]:
    """Weights that the loss does not hold decay into denormal numbers, which CPUs handle ten times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # it would change the arithmetic of the caller


def _check_fit(settings: RunSettings, data: RegressionData) -> None:
    takes_images = getattr(settings.model, "takes_images", False)
    if data.is_image != takes_images:
        given, wanted = ("images", "a table") if data.is_image else ("a table", "images")
        better = "model=resnet18 or resnet34" if data.is_image else "model=mlp"
        raise UserError(f"{data.name} holds {given}, but this model takes {wanted}; use {better}")


def _check_batches(model: nn.Module, rows: int, batch_size: int) -> None:
    # 1x1 maps of one image have no variance over the batch
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if normed and (rows % batch_size or batch_size) == 1:
        raise UserError(
            f"the last batch of {rows} rows in batches of {batch_size} holds one row, and BatchNorm needs two; "
            "use another optim.batch_size"
        )


def identity_of(settings: RunSettings, data: RegressionData) -> dict[str, Any]:
    """What determines the numbers: the settings, with the data known by content and not by path."""
    identity = settings.as_dict()
    identity["data"] = {"name": data.name, "sha256": data.sha256}
    return identity
