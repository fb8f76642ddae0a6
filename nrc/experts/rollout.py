"""Run a policy in its Gymnasium environment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrc.errors import UserError
from nrc.experts.policy import Policy


@dataclass(frozen=True)
class Episode:
    """T transitions: observations (T+1, d), actions (T, n), rewards (T,)."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    fell: bool

    @property
    def total(self) -> float:
        """Return of the episode (undiscounted sum of rewards)."""
        return float(self.rewards.sum())

    def first(self, steps: int) -> Episode:
        """The first `steps` transitions; the whole episode where it is no longer."""
        if steps >= len(self.rewards):
            return self
        return Episode(self.observations[: steps + 1], self.actions[:steps], self.rewards[:steps], fell=False)


def make_env(env_id: str) -> tuple[Any, int]:
    """The bare environment and its episode length (no checks, no time limit: `run_episode` counts)."""
    try:
        import gymnasium
    except ImportError as error:
        raise UserError("rolling out an expert needs Gymnasium: pip install 'gymnasium[mujoco]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the v4 environments of the papers are called outdated
        env = gymnasium.make(env_id, disable_env_checker=True)
    assert env.spec is not None
    return env.unwrapped, int(env.spec.max_episode_steps or 1000)


def run_episode(env: Any, policy: Policy, seed: int, steps: int) -> Episode:
    """One episode of at most `steps` steps. The seed fixes the start state and the draws of the actions.

    Actions are passed on as they are drawn; the simulator clamps its controls to [-1, 1] itself.
    """
    draws = np.random.default_rng([seed, 1]).standard_normal((steps, policy.actions))
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, fell = [observation], [], [], False
    for draw in draws:
        actions.append(policy.act(observation, draw))
        observation, reward, fell, _, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        if fell:
            break
    return Episode(np.array(observations), np.array(actions), np.array(rewards), bool(fell))


def run_until(env_id: str, policy: Policy, first_seed: int, rows: int) -> list[Episode]:
    """Whole episodes with seeds first_seed, first_seed + 1, ... until they hold `rows` transitions.

    Raises:
        UserError: the policy falls so early that four times the episodes of full length do not hold them.
    """
    env, steps = make_env(env_id)
    most = 4 * -(-rows // steps)
    found: list[Episode] = []
    while (held := sum(len(e.rewards) for e in found)) < rows:
        if len(found) == most:
            raise UserError(f"{most} episodes hold {held} transitions, {rows} are needed")
        found.append(run_episode(env, policy, first_seed + len(found), steps))
    return found


def first_transitions(episodes: Sequence[Episode], size: int) -> list[Episode]:
    """The leading episodes that hold `size` transitions, the last one cut to fit.

    Raises:
        UserError: together they hold fewer.
    """
    found: list[Episode] = []
    left = size
    for episode in episodes:
        if left <= 0:
            break
        found.append(episode.first(left))
        left -= len(found[-1].rewards)
    if left > 0:
        raise UserError(f"{len(episodes)} episodes hold {size - left} transitions, {size} are needed")
    return found
