"""One run from settings to a finished run directory: load, train, measure, checkpoint, resume."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.record import RunDirectory, environment
from nrc.training.clock import Clock
from nrc.training.loop import Diverged, batch_order, train_steps
from nrc.training.measuring import Measurer, Row
from nrc.training.placement import place
from nrc.training.settings import RunSettings
from nrc.training.steppers import Stepper, make_stepper


def choose_device(device: str) -> str:
    """Resolve auto|cpu|cuda to a device that exists."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r}; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but this torch sees no GPU; use device=cpu or device=auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def is_finished(settings: RunSettings, directory: Path, loaded: dict[str, RegressionData]) -> bool:
    """Whether `directory` already holds this very run, finished; data sets are loaded once into `loaded`."""
    if not (directory / "run.json").exists():
        return False
    key = repr(settings.data)
    if key not in loaded:
        loaded[key] = settings.data.load()
    return RunDirectory.open(directory, _identity(settings, loaded[key])).finished


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Weights that the loss does not hold decay into denormal numbers, which CPUs handle ten times slower."""
    before = bool(torch.tensor(1e-40) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@_flushed_denormals()
def fit(
    settings: RunSettings,
    directory: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoint_seconds: float = 60.0,
) -> str:
    """Run to the end, continuing whatever `directory` already holds.

    Args:
        settings: what to run.
        directory: the run directory; a finished one is left alone, a half-done one continued.
        device: auto, cpu or cuda.
        threads: CPU threads; part of what makes a run bitwise repeatable.
        say: receives plain lines.
        progress: receives (steps done, steps in all) now and then.
        checkpoint_seconds: at most this much work is lost to a crash.

    Returns:
        "skipped", "finished", "diverged" or "interrupted".

    Raises:
        UserError: bad settings or data, or a directory that holds another run.
    """
    device = choose_device(device)
    torch.set_num_threads(threads)
    # reproduction runs are fp32: TF32 would round the products to 10 bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # a continued run must equal an uninterrupted one
    data = settings.data.load()
    identity = _identity(settings, data)
    run = RunDirectory.open(directory, identity)
    if run.finished:
        say(f"{directory}: already {run.info['status']}, skipped")
        return "skipped"

    clock = Clock.of(settings.optim, settings.protocol, len(data.x_train))
    _check_fit(settings, data)
    model = settings.model.build(data.sizes["inputs"], data.sizes["targets"], settings.seed).to(device)
    _check_batches(model, len(data.x_train), settings.optim.batch_size)
    placed = place(data, device, getattr(settings.data, "resident", "auto"))
    measurer = Measurer(model, placed, settings.measure, clock, settings.seed)
    stepper = make_stepper(model, settings.optim)
    schedule = clock.measured_steps(settings.measure)
    step, spent = _restore(run, model, stepper, measurer)
    facts = {"sha256": data.sha256, "kind": data.kind, "describe": data.describe()}
    run.start(settings.as_dict(), environment(device), facts)
    say(data.describe())
    say(
        f"{directory}: {'resumed at step ' + str(step) if step else 'started'}, {clock.total_steps} steps, "
        f"tau {clock.tau_at(clock.total_steps):g}, decay budget lambda*tau "
        f"{settings.optim.weight_decay * clock.tau_at(clock.total_steps):.3g}, on {device}, steps {stepper.name}"
    )

    x, y = placed.x_train, placed.y_train
    order = batch_order(len(x), settings.optim.batch_size, settings.seed, step)
    began = time.monotonic() - spent
    saved = paused = time.monotonic()

    def save() -> None:
        run.save_checkpoint(
            {
                "step": step,
                "model": model.state_dict(),
                "stepper": stepper.state_dict(),
                "measurer": measurer.state(),
                "seconds": time.monotonic() - began,
            }
        )

    with _stop_signals() as asked_to_stop:

        def pause() -> bool:
            return asked_to_stop() or time.monotonic() - paused > 1.0

        try:
            while True:
                if step in schedule and step > measurer.last_step:
                    run.append(_measured(measurer, step))
                if time.monotonic() - saved > checkpoint_seconds:
                    save()
                    saved = time.monotonic()
                progress(step, clock.total_steps)
                if asked_to_stop() or step >= clock.total_steps:
                    break
                target = next(s for s in schedule if s > step)
                paused = time.monotonic()
                step = train_steps(stepper, x, y, order, clock, step, target, pause)
        except Diverged as error:
            run.end(
                "diverged",
                f"{error}: the loss is not finite; use a smaller optim.lr",
                undefined=measurer.undefined,
            )
            say(f"{directory}: {run.info['reason']}")
            return "diverged"
    save()
    seconds = time.monotonic() - began
    result = {"steps": step, "tau": clock.tau_at(step), "seconds": seconds, "undefined": measurer.undefined}
    if step < clock.total_steps:
        run.end("interrupted", f"stopped by a signal at step {step}; the same command continues it", **result)
        say(f"{directory}: {run.info['reason']}")
        return "interrupted"
    run.save_snapshots(measurer.snapshots())
    run.end("finished", measurer.state_of_collapse(), **result)
    say(f"{directory}: finished in {seconds:.0f} s; {run.info['reason']}")
    return "finished"


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


def _identity(settings: RunSettings, data: RegressionData) -> dict[str, Any]:
    """What determines the numbers: the settings, with the data known by content and not by path."""
    identity = settings.as_dict()
    identity["data"] = {"name": data.name, "sha256": data.sha256}
    return identity


def _restore(run: RunDirectory, model: nn.Module, stepper: Stepper, measurer: Measurer) -> tuple[int, float]:
    state = run.load_checkpoint()
    if state is None:
        run.truncate(-1)
        return 0, 0.0
    model.load_state_dict(state["model"])
    stepper.load_state_dict(state["stepper"])
    measurer.restore(state["measurer"])
    run.truncate(measurer.last_step)
    return state["step"], state["seconds"]


def _measured(measurer: Measurer, step: int) -> list[Row]:
    try:
        return measurer.rows(step)
    except UserError:  # the features are no longer finite: the step after the last loss did it
        raise Diverged(step) from None


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only ask to stop, so a step is never cut in half."""
    asked: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(name, lambda number, frame: asked.append(number)) for name in names]
    except ValueError:  # not in the main thread: whoever owns the signals decides
        before = []
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in zip(names, before, strict=False):
            signal.signal(name, handler)
