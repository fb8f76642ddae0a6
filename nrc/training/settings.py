"""What a training run is told: plain frozen values, checked when they are made."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from typing import Protocol as Interface

from torch import nn

from nrc.data import RegressionData
from nrc.errors import UserError, check_choices

MOST_MEASURED = 10_000_000  # steps at which a run may measure: their list must fit into memory


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


@dataclass(frozen=True)
class Optim:
    """Stochastic gradient descent with (heavy-ball) momentum and an L2 penalty.

    Attributes:
        lr: learning rate.
        momentum: heavy-ball factor in [0, 1); 0 is plain SGD.
        weight_decay: lambda >= 0, the strength of the penalty.
        penalty: what it is on. "all": the loss gains lambda/2 times the squared norm of ALL parameters.
            "ufm": lambda_H = lambda_W = lambda of the unconstrained feature model, on the features (input of
            the last layer) and the last weight alone: lambda/2 (|H_batch|^2 / B + |W|^2).
        decay_biases: with penalty "all", whether biases are penalised, too, as in both papers; false: all
            parameters but those named bias (of BatchNorm, its shift). "ufm" never penalises a bias.
        batch_size: samples per step; the last partial batch of an epoch is kept. A size above the number of
            train rows takes all of them at every step.
        loss_scale: factor on the mean squared error (over batch and outputs); 0.5 in the NeurIPS
            2024 paper's code, 1 in the CPAL 2026 paper.
        milestones: fractions of the run at which the learning rate is divided by 10.
    """

    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 256
    loss_scale: float = 0.5
    milestones: list[float] = field(default_factory=list)
    penalty: Literal["all", "ufm"] = "all"
    decay_biases: bool = True

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optim.lr is {self.lr:g}; it must be positive and finite")
        _require(0 <= self.momentum < 1, f"optim.momentum is {self.momentum:g}; it must lie in [0, 1)")
        _require(
            0 <= self.weight_decay < math.inf,
            f"optim.weight_decay is {self.weight_decay:g}; it must be >= 0 (0 switches it off)",
        )
        check_choices("optim", self)
        for option in ("momentum", "weight_decay"):  # -0 and 0 are one run
            object.__setattr__(self, option, abs(getattr(self, option)))
        _require(self.batch_size > 0, f"optim.batch_size is {self.batch_size}; it must be at least 1")
        _require(
            0 < self.loss_scale < math.inf,
            f"optim.loss_scale is {self.loss_scale:g}; it must be positive and finite",
        )
        _require(
            all(0 < m < 1 for m in self.milestones) and sorted(self.milestones) == list(self.milestones),
            f"optim.milestones is {list(self.milestones)}; give increasing fractions of the run in (0, 1)",
        )


@dataclass(frozen=True)
class Protocol:
    """How long to train: up to a gradient-flow time `tau`, or for a number of `epochs`.

    Attributes:
        name: "paper", "accelerated" or "quick"; printed on figures.
        tau: sum of lr / (1 - momentum) over the steps.
        epochs: passes over the training set; give exactly one of the two.
    """

    name: Literal["quick", "accelerated", "paper"] = "quick"
    tau: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        check_choices("protocol", self)
        _require(
            (self.tau is None) != (self.epochs is None),
            f"protocol.tau is {self.tau} and protocol.epochs is {self.epochs}; "
            "give exactly one and set the other to null",
        )
        for option, length in (("tau", self.tau), ("epochs", self.epochs)):
            _require(
                length is None or 0 < length < math.inf,
                f"protocol.{option} is {length}; the length of the run must be positive and finite",
            )


@dataclass(frozen=True)
class Measure:
    """When and what to measure; training does not depend on it.

    Attributes:
        every: measure every so many epochs (null: not by epochs).
        log_spaced: number of steps spaced evenly in log(step).
        evenly: number of steps spaced evenly over the run.
        samples: measure on this many fixed training samples and on as large a share of the test samples, drawn
            once with the run's seed (null: all of both).
        positions: features of a convolution: "pool", their mean over the image (the CPAL 2026 paper's code), or
            "all", every position as a sample with its image's targets (that paper's text).
        layers: "last" for the input of the output layer alone, "all" for every named layer.
        outputs: also measure each layer's output before the activation (rows named `fc3:out`).
        ranks: also measure noise and alignments for these numbers of target directions (rows named `noise_r1`).
        frames: keep features and last weight at so many of the measured steps, for an animation (0: none).
    """

    every: int | None = None
    log_spaced: int = 20
    evenly: int = 10
    samples: int | None = None
    positions: Literal["pool", "all"] = "pool"
    layers: Literal["last", "all"] = "all"
    outputs: bool = False
    ranks: list[int] = field(default_factory=list)
    frames: int = 0

    def __post_init__(self) -> None:
        _require(
            self.every is None or self.every > 0,
            f"measure.every is {self.every}; it must be at least 1 or null",
        )
        for option in ("log_spaced", "evenly"):
            value = getattr(self, option)
            _require(
                0 <= value <= MOST_MEASURED,
                f"measure.{option} is {value}; give a number of steps from 0 to {MOST_MEASURED}",
            )
        _require(
            self.samples is None or self.samples > 1,
            f"measure.samples is {self.samples}; it must be at least 2, or null for all",
        )
        check_choices("measure", self)
        _require(
            all(r > 0 for r in self.ranks), f"measure.ranks is {list(self.ranks)}; give whole numbers >= 1"
        )
        _require(
            self.frames == 0 or 1 < self.frames <= MOST_MEASURED,
            f"measure.frames is {self.frames}; it must be from 2 to {MOST_MEASURED}, or 0 for none",
        )


class DataSettings(Interface):
    """Anything that loads a data set."""

    def load(self) -> RegressionData: ...


class ModelSettings(Interface):
    """Anything that builds a network for given input and output sizes."""

    def build(self, n_in: int, n_out: int, seed: int) -> nn.Module: ...


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run, as plain values, and what the run is for.

    Attributes:
        experiment: name of the experiment it belongs to; None for a run by itself.
        headline: the weight decay that the experiment's figures show first; it decides the run's `role`.
        overrides: the settings that were typed, e.g. ("data=reacher", "seed=1"); the run can be made again from them.
        keep_weights: whether the finished run keeps the network.

    Example:
        RunSettings(LowRank(), MLP(), Optim(lr=0.1, momentum=0.9), Protocol(tau=100.0), Measure(), seed=0)
    """

    data: DataSettings
    model: ModelSettings
    optim: Optim
    protocol: Protocol
    measure: Measure
    seed: int = 0
    # what the run is for, recorded in run.json, and what it leaves; no part of what determines its numbers
    experiment: str | None = field(default=None, compare=False, repr=False)
    headline: float | None = field(default=None, compare=False, repr=False)
    overrides: tuple[str, ...] = field(default=(), compare=False, repr=False)
    keep_weights: bool = field(default=True, compare=False, repr=False)

    @property
    def role(self) -> str | None:
        """The part that the run plays in its experiment: "headline", "control" or "sweep"; None outside of one."""
        if self.experiment is None:
            return None
        if self.headline is not None and math.isclose(self.optim.weight_decay, self.headline, rel_tol=1e-9):
            return "headline"
        return "control" if self.optim.weight_decay == 0 else "sweep"

    def purpose(self) -> dict[str, Any]:
        """What run.json says of what the run is for: experiment, role, protocol and overrides."""
        return {
            "experiment": self.experiment,
            "role": self.role,
            "protocol": self.protocol.name,
            "overrides": list(self.overrides),
        }

    def as_dict(self) -> dict[str, Any]:
        """All settings that determine the numbers, as plain values."""
        return {
            "data": {"kind": kind_of(self.data), **asdict(self.data)},  # type: ignore[call-overload]
            "model": {"kind": kind_of(self.model), **asdict(self.model)},  # type: ignore[call-overload]
            "optim": asdict(self.optim),
            "protocol": asdict(self.protocol),
            "measure": asdict(self.measure),
            "seed": self.seed,
        }


def kind_of(settings: object) -> str:
    """The name of a class of settings, with its module if it is not of this package."""
    cls = type(settings)
    return cls.__name__ if cls.__module__.startswith("nrc.") else f"{cls.__module__}.{cls.__name__}"
