"""Roll an expert out and write the transitions as a Minari data set with its provenance."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nrc.errors import UserError
from nrc.experts.policy import Policy
from nrc.experts.rollout import Episode, make_env, mean_return, run_episode
from nrc.experts.settings import Expert

log = logging.getLogger(__name__)
ACTIONS_NOTE = (
    "actions = policy mean + Gaussian noise, stored as executed and not clipped (the simulator clamps its "
    "controls to [-1, 1] itself), hence the unbounded action space"
)


def cut(episode: Episode, steps: int) -> Episode:
    """The first `steps` transitions of an episode (steps + 1 observations)."""
    if steps >= len(episode.rewards):
        return episode
    return Episode(
        episode.observations[: steps + 1],
        episode.means[:steps],
        episode.actions[:steps],
        episode.rewards[:steps],
        fell=False,
    )


def collect_part(
    expert: Expert, policy: Policy, noise_std: np.ndarray, size: int, first_seed: int
) -> list[Episode]:
    """Exactly `size` transitions, episode seeds first_seed, first_seed + 1, ...; the last is cut."""
    env, steps = make_env(expert.env_id)
    episodes: list[Episode] = []
    left = size
    while left > 0:
        episode = run_episode(env, policy, noise_std, first_seed + len(episodes), steps)
        episodes.append(cut(episode, left))
        left -= len(episodes[-1].rewards)
    return episodes


def facts(
    expert: Expert,
    policy: Policy,
    noise_std: np.ndarray,
    seed: int,
    train: list[Episode],
    test: list[Episode],
) -> dict[str, Any]:
    """The provenance written under the key `nrc` of the data set's metadata (plain JSON values)."""
    actions = np.concatenate([e.actions for e in train]).astype(np.float64)
    means = np.concatenate([e.means for e in train])
    sigma = np.cov(actions.T, bias=True)
    free = mean_return(expert.env_id, policy, 0.0, expert.bar_episodes)
    noisy = mean_return(expert.env_id, policy, noise_std, expert.bar_episodes)
    residual, total = ((actions - means) ** 2).sum(), ((actions - actions.mean(0)) ** 2).sum()
    return {
        "env_id": expert.env_id,
        "algorithm": expert.algorithm,
        "command": f"python scripts/make_expert_data.py {expert.name} --seed {seed}",
        "versions": {p: version(p) for p in ("gymnasium", "mujoco", "minari", "numpy")},
        "seed": seed,
        "noise_std": noise_std.tolist(),
        "policy_file": f"experts/{expert.policy_file.name}",
        "policy_sha256": policy.sha256(),
        "return_episodes": expert.bar_episodes,
        "return_noise_free": {"mean": free[0], "std": free[1], "mean_length": free[2]},
        "return_with_noise": {"mean": noisy[0], "std": noisy[1], "mean_length": noisy[2]},
        "train_transitions": int(sum(len(e.rewards) for e in train)),
        "test_transitions": int(sum(len(e.rewards) for e in test)),
        "train_episodes": len(train),
        "test_episodes": len(test),
        "sigma": sigma.tolist(),
        "sigma_eigenvalues": np.linalg.eigvalsh(sigma).tolist(),
        "policy_mean_eigenvalues": np.linalg.eigvalsh(np.cov(means.T, bias=True)).tolist(),
        "published_sigma_eigenvalues": list(expert.published),
        "explained_by_policy_mean": float(1 - residual / total),
        "actions_note": ACTIONS_NOTE,
    }


def to_buffer(episode: Episode, seed: int) -> Any:
    """Minari's buffer of one episode, float32; one that did not fall is marked truncated at its end."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    steps = len(episode.rewards)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        seed=seed,
        observations=episode.observations.astype(np.float32),  # type: ignore[arg-type]
        actions=episode.actions.astype(np.float32),  # type: ignore[arg-type]
        rewards=episode.rewards.astype(np.float32),  # type: ignore[arg-type]
        terminations=last & episode.fell,  # type: ignore[arg-type]
        truncations=last & (not episode.fell),  # type: ignore[arg-type]
        infos={},  # None breaks Minari's repr
    )


def write(
    expert: Expert,
    train: list[Episode],
    test: list[Episode],
    provenance: dict[str, Any],
    seed: int,
    out: Path,
) -> Path:
    """Write the set below the Minari root `out`, train episodes first, replacing what is there."""
    from gymnasium.spaces import Box
    from minari import create_dataset_from_buffers

    final = out / expert.dataset_id
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{expert.name}-", dir=out))
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(temporary)  # Minari has no argument for the root
    try:
        buffers = [to_buffer(e, seed + k) for k, e in enumerate(train)]
        buffers += [to_buffer(e, seed + len(train) + k) for k, e in enumerate(test)]
        d, n = train[0].observations.shape[1], train[0].actions.shape[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari's hints about optional fields, and v4's deprecation
            made = create_dataset_from_buffers(
                expert.dataset_id,
                buffers,
                env=expert.env_id,
                eval_env=expert.env_id,
                observation_space=Box(-np.inf, np.inf, (d,), np.float32),
                action_space=Box(-np.inf, np.inf, (n,), np.float32),
                algorithm_name=expert.algorithm,
                description=f"Transitions of this project's own {expert.env_id} expert. {ACTIONS_NOTE}.",
                data_format="hdf5",
            )
            made.storage.update_metadata({"nrc": provenance})
        if final.exists():
            shutil.rmtree(final)
        (temporary / expert.dataset_id).rename(final)
        for extra in (temporary / "nrc").glob("*.json"):
            extra.replace(final.parent / extra.name)
    finally:
        shutil.rmtree(temporary)
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
    return final


def make(
    expert: Expert,
    noise: tuple[float, ...] | None,
    seed: int,
    out: Path,
    force: bool,
) -> Path:
    """Roll out the committed policy and write its set (`scripts/make_expert_data.py` without --train)."""
    final = out / expert.dataset_id
    if final.exists() and not force:
        raise UserError(f"{final} exists; give --force to replace it or --out for another folder")
    n = len(expert.noise_std)
    wanted = expert.noise_std if noise is None else noise
    if len(wanted) not in (1, n) or not all(0 <= size < np.inf for size in wanted):
        raise UserError(f"--noise {wanted}: give one size or {n} sizes, each >= 0 and finite")
    if seed < 0:
        raise UserError(f"--seed {seed}: give a whole number >= 0")
    final.parent.mkdir(
        parents=True, exist_ok=True
    )  # a place that cannot be written fails here, not at the end
    noise_std = np.broadcast_to(np.array(wanted, dtype=float), (n,)).copy()
    policy = Policy.load(expert.policy_file)
    train = collect_part(expert, policy, noise_std, expert.train_transitions, seed)
    test = collect_part(expert, policy, noise_std, expert.test_transitions, seed + len(train))
    provenance = facts(expert, policy, noise_std, seed, train, test)
    write(expert, train, test, provenance, seed, out)
    eigenvalues = ", ".join(f"{v:.4g}" for v in provenance["sigma_eigenvalues"])
    published = ", ".join(f"{v:.4g}" for v in expert.published)
    log.info(
        f"{expert.dataset_id}: {provenance['train_transitions']} + {provenance['test_transitions']} "
        f"transitions in {final}"
    )
    log.info(
        f"  return {provenance['return_noise_free']['mean']:.2f} without noise, "
        f"{provenance['return_with_noise']['mean']:.2f} with noise {noise_std.tolist()}"
    )
    log.info(f"  eigenvalues of Sigma {eigenvalues} (papers' data: {published})")
    log.info(
        "  share of the target variance that the policy mean explains: "
        f"{provenance['explained_by_policy_mean']:.3f}"
    )
    return final
