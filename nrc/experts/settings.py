"""What each of the three experts is: environment, exploration noise, sizes, how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nrc.errors import UserError
from nrc.experts.ars import Search

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class ReacherTraining:
    """Arguments of `nrc.experts.reacher.train` (back-propagation through the arm)."""

    iterations: int = 600
    action_cost: float = 1.6


@dataclass(frozen=True)
class Expert:
    """One expert. noise_std: (n,) standard deviations of the Gaussian exploration noise, in action units.

    published: eigenvalues of the covariance of the papers' train targets, ascending; bar: the least mean return
    of the noise-free policy over bar_episodes episodes.
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
    seed: int = 0
    training_seeds: tuple[int, ...] = field(default=(1, 2, 3))

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
    training_seeds=(0, 1),
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
    training=(),
)
HOPPER = Expert(
    name="hopper",
    env_id="Hopper-v5",
    algorithm="augmented random search V2-t, tanh MLP 16",
    noise_std=(0.32, 0.32, 0.32),
    train_transitions=10_000,
    test_transitions=2_000,
    published=(0.21485, 0.37735, 0.44190),
    bar=3000.0,
    bar_episodes=10,
    training=(),
)
EXPERTS = {e.name: e for e in (REACHER, SWIMMER, HOPPER)}


def expert(name: str) -> Expert:
    """The expert called `name`; UserError for another name."""
    if name not in EXPERTS:
        raise UserError(f"no expert is called {name!r}; choose one of {', '.join(EXPERTS)}")
    return EXPERTS[name]
