"""Run a policy with Gaussian exploration noise in a Gymnasium environment."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrc.errors import UserError
from nrc.experts.policy import Policy


@dataclass(frozen=True)
class Episode:
    """T transitions: observations (T+1, d), means (T, n), actions = means + noise (T, n), rewards (T,)."""

    observations: np.ndarray
    means: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    fell: bool

    @property
    def total(self) -> float:
        """Return of the episode (undiscounted sum of rewards)."""
        return float(self.rewards.sum())


def make_env(env_id: str) -> tuple[Any, int]:
    """The bare environment (no wrappers, they cost half the time) and its episode length."""
    try:
        import gymnasium
        import mujoco  # noqa: F401  (gymnasium's own error for a missing mujoco names a wrong remedy)
    except ImportError as error:
        raise UserError(f"{env_id} needs {error.name}: pip install 'gymnasium[mujoco]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Reacher-v4 is meant: v5 has 10 observations, not 11
        env = gymnasium.make(env_id, disable_env_checker=True)
    assert env.spec is not None
    return env.unwrapped, int(env.spec.max_episode_steps or 1000)


def run_episode(
    env: Any,
    policy: Policy,
    noise_std: np.ndarray | float,
    seed: int,
    steps: int,
) -> Episode:
    """One episode of at most `steps` steps, actions a_t = mu(s_t) + noise_std * z_t, z_t ~ N(0, I).

    The action is passed on unclipped; the simulator clamps its controls to [-1, 1] itself. Seed fixes
    both the start state and the noise. noise_std: scalar or (n,).
    """
    rng = np.random.default_rng([seed, 1])
    obs, _ = env.reset(seed=seed)
    n = env.action_space.shape[0]
    noise = rng.standard_normal((steps, n)) * noise_std
    observations, means, actions, rewards = [obs], [], [], []
    fell = False
    for t in range(steps):
        mean = policy.mean(obs)
        action = (mean + noise[t]).astype(
            np.float32
        )  # float32 first: what is stored is exactly what is executed
        obs, reward, fell, _, _ = env.step(action)
        observations.append(obs)
        means.append(mean)
        actions.append(action)
        rewards.append(reward)
        if fell:
            break
    return Episode(np.array(observations), np.array(means), np.array(actions), np.array(rewards), bool(fell))


def mean_return(
    env_id: str, policy: Policy, noise_std: np.ndarray | float, episodes: int, seed: int = 10_000
) -> tuple[float, float, float]:
    """Mean and deviation of the return and mean length over full episodes, seeds seed, seed + 1, ..."""
    env, steps = make_env(env_id)
    done = [run_episode(env, policy, noise_std, seed + k, steps) for k in range(episodes)]
    totals = np.array([e.total for e in done])
    return float(totals.mean()), float(totals.std()), float(np.mean([len(e.rewards) for e in done]))
