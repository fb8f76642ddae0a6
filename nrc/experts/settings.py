"""What each of the three experts is: environment, exploration noise, sizes, how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nrc.errors import UserError
from nrc.experts.ars import Search
from nrc.places import ROOT

DATA = ROOT / "data"


@dataclass(frozen=True)
class ReacherTraining:
    """Arguments of `nrc.experts.reacher.train` (back-propagation through the arm)."""

    iterations: int = 600
    action_cost: float = 1.6


@dataclass(frozen=True)
class Expert:
    """One expert. noise_std: (n,) standard deviations of the Gaussian exploration noise, in action units.

    published: eigenvalues of the covariance of the papers' train targets, ascending; bar: the least mean
    return of the noise-free policy over bar_episodes episodes.
    """

    name: str
    env_id: str
    algorithm: str
    noise_std: tuple[float, ...]
    train_transitions: int
    test_transitions: int
    published: tuple[float, ...]
    bar: float
    bar_episodes: int
    training: ReacherTraining | tuple[Search, ...]
    gain: float = 1.0  # the trained mean action is multiplied by this
    seed: int = 0
    training_seeds: tuple[int, ...] = (1,)  # the seed of the committed policy

    @property
    def dataset_id(self) -> str:
        """Minari id of the embedded set."""
        return f"nrc/{self.name}-expert-v0"

    @property
    def policy_file(self) -> Path:
        """The committed noise-free policy."""
        return DATA / "experts" / f"{self.name}.npz"


REACHER = Expert(
    name="reacher",
    env_id="Reacher-v4",
    algorithm="back-propagation through a model of the arm, tanh MLP 64-64",
    noise_std=(0.066, 0.066),
    train_transitions=1_000,
    test_transitions=200,
    published=(0.009745, 0.012383),
    bar=-5.0,
    bar_episodes=100,
    training=ReacherTraining(),
    training_seeds=(0,),
)
# The stages are the very runs that made the committed policies; each starts where the last one ended.
SWIMMER_FIRST = Search(
    env_id="Swimmer-v5",
    iterations=150,
    step=0.03,
    directions=4,
    top=4,
    normalise=False,
    noise_std=(0.37, 0.37),
    spread=(0.14, 0.25),
    spread_weight=150.0,
)
SWIMMER_SECOND = replace(
    SWIMMER_FIRST,
    step=0.02,
    directions=6,
    top=6,
    noise_std=(0.38, 0.38),
    noise_ramp=0.01,
    spread=(0.12, 0.5),
    spread_weight=250.0,
)
HOPPER_FIRST = Search(
    env_id="Hopper-v5",
    iterations=160,
    noise_std=(0.32, 0.32, 0.32),
    noise_ramp=0.6,
    survival_shift=1.0,
    spread=(0.11, 0.27, 0.34),
    spread_weight=600.0,
)
HOPPER_SECOND = replace(HOPPER_FIRST, iterations=130, noise_ramp=0.01, seed_offset=1)
HOPPER_THIRD = replace(
    HOPPER_SECOND,
    iterations=25,
    directions=12,
    noise_std=(0.3, 0.3, 0.3),
    spread_weight=200.0,
    seed_offset=10,
)
HOPPER_FIFTH = replace(
    HOPPER_THIRD,
    iterations=45,
    perturb=0.025,
    directions=10,
    top=6,
    noise_std=(0.25, 0.25, 0.25),
    survival_shift=0.5,
    spread=(0.11, 0.27, 0.6),
    spread_weight=100.0,
    seed_offset=20,
)

SWIMMER = Expert(
    name="swimmer",
    env_id="Swimmer-v5",
    algorithm="augmented random search V1, tanh MLP 16",
    noise_std=(0.38, 0.38),
    train_transitions=1_000,
    test_transitions=200,
    published=(0.27564, 0.46588),
    bar=300.0,
    bar_episodes=5,
    training=(SWIMMER_FIRST, SWIMMER_SECOND),
    gain=1.17,
)
HOPPER = Expert(
    name="hopper",
    env_id="Hopper-v5",
    algorithm="augmented random search V2-t, tanh MLP 16",
    noise_std=(0.28, 0.28, 0.28),
    train_transitions=10_000,
    test_transitions=2_000,
    published=(0.21485, 0.37735, 0.44190),
    bar=3000.0,
    bar_episodes=10,
    training=(HOPPER_FIRST, HOPPER_SECOND, HOPPER_THIRD, replace(HOPPER_THIRD, seed_offset=11), HOPPER_FIFTH),
)
EXPERTS = {e.name: e for e in (REACHER, SWIMMER, HOPPER)}


def expert(name: str) -> Expert:
    """The expert called `name`; UserError for another name."""
    if name not in EXPERTS:
        raise UserError(f"no expert is called {name!r}; choose one of {', '.join(EXPERTS)}")
    return EXPERTS[name]
