"""A run while it trains, seen from its directory: continue, measure, save, and say how it ended."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nrc.data import RegressionData
from nrc.runs.directory import RunDirectory
from nrc.theory.deep_linear import thresholds
from nrc.theory.nonnegative import from_trainer, optimum
from nrc.training.clock import Clock
from nrc.training.loop import Diverged
from nrc.training.measuring import Measurer, Row
from nrc.training.settings import RunSettings
from nrc.training.steppers import Stepper

log = logging.getLogger(__name__)


PREDICTED_ROWS = 1_000  # of the train targets, evenly spaced, that the convex model is solved for


def predicted(settings: RunSettings, data: RegressionData) -> dict[str, float] | None:
    """What the convex model of non-negative features says of this run before it starts.

    Of networks whose last hidden layer is a ReLU; None for others. See `nrc.theory.nonnegative` for what the model
    leaves out (depth above all). With optim.penalty=ufm the layers below are as free as the model takes them to be.

    Returns:
        nrc1, nrc2, nrc1_centred (NaN where they are undefined), and the certificate of optimality.
    """
    optim, n = settings.optim, data.sizes["targets"]
    relu = getattr(settings.model, "feature_activation", "") == "relu"
    if not relu or optim.weight_decay == 0 or not 0 < n <= 3:
        return None
    rows = data.y_train[:: -(-len(data.y_train) // PREDICTED_ROWS)]
    biases = optim.decay_biases and optim.penalty == "all"  # "ufm" never penalises a bias
    best = optimum(rows, *from_trainer(optim.weight_decay, n, optim.loss_scale, biases))
    return {
        "nrc1": best.nrc1,
        "nrc2": best.nrc2,
        "nrc1_centred": best.nrc1_centred,
        "certificate": best.certificate,
    }


@dataclass(eq=False)
class Trial:
    """One run, alone or in a stack, in its open and locked directory."""

    run: RunDirectory
    clock: Clock
    model: nn.Module
    stepper: Stepper
    measurer: Measurer
    keep_weights: bool = True
    append: Callable[[list[Row]], None] = field(init=False)
    began: float = field(init=False)
    resumed: bool = field(init=False, default=False)
    images: float = 0.0  # that this process trained on, and the seconds it took
    training: float = 0.0

    def __post_init__(self) -> None:
        self.append = self.run.append

    def restore(self) -> int:
        """Take up the newest usable checkpoint, if there is one; the step to go on from."""
        state = self.run.load_checkpoint()
        self.began = time.monotonic() - (0.0 if state is None else state["seconds"])
        self.resumed = state is not None
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["stepper"])
        self.measurer.restore(state["measurer"])
        return state["step"]

    def start(self, settings: RunSettings, environment: dict[str, Any], data: RegressionData) -> None:
        """Record what is about to run, where and how.

        `vanishing` of the data: an estimate of the weight decays that kill its signals in an MLP. `predicted`: what the
        convex model of non-negative features says of this run. `path` of the
        environment: the one taken, after those that an interrupted run took before.
        """
        before = self.run.info.get("environment", {}).get("path", "") if self.resumed else ""
        if before and before.split("; then ")[-1] != environment["path"]:
            environment = environment | {"path": f"{before}; then {environment['path']}"}
        facts = data.facts()
        layers = getattr(settings.model, "num_layers", 0)
        if settings.optim.penalty == "all" and layers >= 2:
            facts["vanishing"] = thresholds(data.x_train, data.y_train, layers, settings.optim.loss_scale)
        facts["predicted"] = predicted(settings, data)
        self.run.start(settings.as_dict(), environment, facts, settings.purpose())

    def measure(self, step: int) -> None:
        """Write the metric rows of this step, unless an earlier attempt did.

        Raises:
            Diverged: the step after the last look at the loss did it.
        """
        if step > self.measurer.last_step:
            self.append(self.measurer.rows(step))

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        self.run.save_checkpoint(
            {
                "step": step,
                # copies: a view would bring the parameters of the whole stack along
                "model": {name: value.clone() for name, value in self.model.state_dict().items()},
                "stepper": self.stepper.state_dict(),
                "measurer": self.measurer.state(),
                "seconds": time.monotonic() - self.began,
            }
        )

    def diverged(self, error: Diverged) -> str:
        """Record that; returns "diverged"."""
        self.run.end(
            "diverged",
            f"{error}: the loss is not finite; use a smaller optim.lr",
            undefined=self.measurer.undefined,
        )
        log.info(f"{self.run.path}: {self.run.info['reason']}")
        return "diverged"

    def end(self, step: int) -> str:
        """Record a run whose last checkpoint is of `step`; returns "finished" or "interrupted"."""
        seconds = time.monotonic() - self.began
        result = {
            "steps": step,
            "tau": self.clock.tau_at(step),
            "seconds": seconds,
            "undefined": self.measurer.undefined,
        }
        words = f"finished in {seconds:.0f} s"
        if self.images:
            result["images_per_second"] = round(self.images / self.training, 1)
            words += f", {result['images_per_second']:.0f} images/s while training"
        if self.run.info["data"]["kind"] == "stand-in":
            words += ", on stand-in data"
        if step < self.clock.total_steps:
            self.run.end(
                "interrupted",
                f"stopped by a signal at step {step}; the same command continues it",
                **result,
            )
            log.info(f"{self.run.path}: {self.run.info['reason']}")
            return "interrupted"
        self.run.save_snapshots(self.measurer.snapshots())
        self.run.slim(self.keep_weights)  # before: whoever finds the run finished leaves its directory alone
        self.run.end("finished", self.measurer.state_of_collapse(), **result)
        log.info(f"{self.run.path}: {words}; {self.run.info['reason']}")
        return "finished"
