"""What each of the three experts is: environment, sizes, and the statistics of the papers' own data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nrc.data.mujoco.settings import PAPER
from nrc.errors import UserError
from nrc.places import ROOT

DATA = ROOT / "data"


@dataclass(frozen=True)
class Published:
    """Statistics of the papers' train rows; where they come from stands in data/README.md.

    Attributes:
        returns: mean return of the published expert, and how far another may be from it.
        eigenvalues: of Sigma, ascending, and the ratio that counts as one tolerance.
        correlations: between the targets (the sign of Swimmer's depends on which way it is turned), tolerance 0.15.
        mean: length of the mean of the targets, and its tolerance. For Reacher and Hopper only a bound is known, in
            root mean variances.
    """

    returns: tuple[float, float]
    eigenvalues: tuple[float, ...]
    ratio: float
    correlations: tuple[float, ...]
    mean: tuple[float, float] | None = None
    mean_below: float | None = None


@dataclass(frozen=True)
class Expert:
    """One expert: its environment, how it was trained, and how many transitions (and episodes) are kept."""

    name: str
    env_id: str
    algorithm: str
    train_transitions: int
    test_transitions: int
    train_episodes: int
    published: Published

    @property
    def dataset_id(self) -> str:
        """Minari id of the embedded set."""
        return f"nrc/{self.name}-expert-v0"

    @property
    def policy_file(self) -> Path:
        """The committed policy."""
        return DATA / "experts" / f"{self.name}.npz"

    @property
    def choice_file(self) -> Path:
        """Which policy, noise and episodes were chosen, among which candidates."""
        return DATA / "experts" / f"{self.name}.json"


PPO = "Sample Factory 2.1.1 PPO, MuJoCo settings, tanh MLP 64-64"
EXPERTS = {
    expert.name: expert
    for expert in (
        Expert(
            "reacher", "Reacher-v4", PPO, 1_000, 200, 20,
            Published((-5.68, 1.0), PAPER["reacher"].eigenvalues[::-1], 1.15, (-0.00933,), mean_below=0.4),
        ),
        Expert(
            "swimmer", "Swimmer-v4", PPO, 1_000, 200, 1,
            Published((92.18, 25.0), PAPER["swimmer"].eigenvalues[::-1], 1.15, (-0.244,), mean=(1.35, 0.15)),
        ),
        Expert(
            "hopper", "Hopper-v4", "Stable-Baselines3 SAC", 10_000, 2_000, 10,
            Published(
                (3500.0, 500.0), PAPER["hopper"].eigenvalues[::-1], 1.2, (-0.215, -0.090, 0.059), mean_below=0.5,
            ),
        ),
    )
}  # fmt: skip


def expert(name: str) -> Expert:
    """The expert called `name`; UserError for another name."""
    if name not in EXPERTS:
        raise UserError(f"no expert is called {name!r}; choose one of {', '.join(EXPERTS)}")
    return EXPERTS[name]
