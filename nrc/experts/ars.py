"""Augmented random search (Mania, Guy, Recht 2018): it trained the Swimmer and Hopper experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nrc.experts.policy import Policy
from nrc.experts.rollout import Episode, make_env, run_episode


@dataclass(frozen=True)
class Search:
    """What one ARS run needs.

    Algorithm 2 of Mania et al.: V1 = no normalisation and every direction used, V2-t = both on. The
    noise is in the loop: the policy must do its job with the exploration noise that the data will carry.
    """

    env_id: str
    hidden: tuple[int, ...] = (16,)
    iterations: int = 200
    step: float = 0.02
    perturb: float = 0.03
    directions: int = 16
    top: int = 8
    normalise: bool = True
    noise_std: tuple[float, ...] = (0.0,)
    noise_ramp: float = 0.3  # share of the iterations during which the noise grows from 0 to its full size
    survival_shift: float = 0.0  # subtracted from every reward, so that standing still earns nothing
    spread: tuple[float, ...] = ()  # wanted eigenvalues of the covariance of the mean actions, ascending
    spread_weight: float = 0.0
    seed_offset: int = 0  # stage seed = training seed + this


def fitness(episode: Episode, search: Search, steps: int) -> float:
    """Return minus the survival shift minus the spread penalty.

    Penalty: spread_weight * (T / steps) * sum_j |sqrt(l_j) - sqrt(wanted_j)|, l_j the eigenvalues of the
    covariance of the mean actions of this episode. It keeps the actions unsaturated and of the size of PPO's.
    """
    value = episode.total - search.survival_shift * len(episode.rewards)
    if search.spread and len(episode.rewards) > 50:
        tail = episode.means[20:]
        found = np.linalg.eigvalsh(np.cov(tail.T))
        gap = np.abs(np.sqrt(np.maximum(found, 0.0)) - np.sqrt(search.spread)).sum()
        value -= search.spread_weight * len(episode.rewards) / steps * float(gap)
    return value


def train(
    search: Search, seed: int, start: Policy | None = None, report: Callable[[int, float], None] | None = None
) -> Policy:
    """Run ARS from `seed` (or from the policy `start`) and return the last policy.

    report(iteration, mean fitness of the trials) is called after every iteration.
    """
    env, steps = make_env(search.env_id)
    rng = np.random.default_rng(seed)
    n_in, n_out = env.observation_space.shape[0], env.action_space.shape[0]
    policy = start or Policy.new(n_in, search.hidden, n_out, rng)
    theta = policy.flat()
    count, total, square = 0.0, np.zeros(n_in), np.zeros(n_in)
    if start is not None and search.normalise:
        count = 20_000.0
        total, square = count * start.shift, count * (start.scale**2 + start.shift**2)
    for i in range(search.iterations):
        ramp = min(1.0, (i + 1) / max(1.0, search.noise_ramp * search.iterations))
        std = np.array(search.noise_std) * ramp
        delta = rng.standard_normal((search.directions, theta.size))
        plus, minus, seen = np.empty(search.directions), np.empty(search.directions), []
        for k in range(search.directions):
            episode_seed = int(rng.integers(2**31))  # the same start and noise for both signs: less variance
            for sign, out in ((1, plus), (-1, minus)):
                trial = policy.with_flat(theta + sign * search.perturb * delta[k])
                episode = run_episode(env, trial, std, episode_seed, steps)
                out[k] = fitness(episode, search, steps)
                seen.append(episode.observations)
        best = np.argsort(-np.maximum(plus, minus))[: search.top]
        spread = np.concatenate([plus[best], minus[best]]).std() + 1e-8
        theta = theta + search.step / (search.top * spread) * ((plus - minus)[best] @ delta[best])
        if search.normalise:
            rows = np.concatenate(seen)
            count += len(rows)
            total += rows.sum(0)
            square += (rows**2).sum(0)
            shift = total / count
            policy = replace(policy, shift=shift, scale=np.sqrt(np.maximum(square / count - shift**2, 1e-8)))
        policy = policy.with_flat(theta)
        if report is not None:
            report(i, float(np.mean(np.concatenate([plus, minus]))))
    return policy
