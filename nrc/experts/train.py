"""Train an expert from fixed seeds, keep the best, store it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from nrc.errors import UserError
from nrc.experts import ars
from nrc.experts.policy import Policy
from nrc.experts.rollout import mean_return
from nrc.experts.settings import Expert, ReacherTraining


def progress(label: str, total: int) -> Callable[[int, float], None]:
    """A reporter `report(iteration, fitness)`: a bar on a terminal, ten lines elsewhere."""
    import sys

    from tqdm import tqdm

    bar = tqdm(total=total, desc=label, disable=not sys.stderr.isatty())
    start, tenth = time.monotonic(), max(1, total // 10)

    def report(i: int, fitness: float) -> None:
        bar.update(1)
        bar.set_postfix_str(f"fitness {fitness:.4g}")
        if bar.disable and (i + 1) % tenth == 0:
            print(
                f"{label}: {i + 1}/{total} fitness {fitness:.4g} ({time.monotonic() - start:.0f} s)",
                flush=True,
            )
        if i + 1 == total:
            bar.close()

    return report


def train_once(expert: Expert, seed: int) -> Policy:
    """One training run of this expert from this seed, all stages."""
    if isinstance(expert.training, ReacherTraining):
        from nrc.experts import reacher

        how = expert.training
        report = progress(f"{expert.name} seed {seed}", how.iterations)
        noise = (expert.noise_std[0], expert.noise_std[1])
        return reacher.train(seed, noise, how.action_cost, how.iterations, report=report)
    policy: Policy | None = None
    for k, search in enumerate(expert.training):
        label = f"{expert.name} seed {seed} stage {k + 1}"
        policy = ars.train(
            search, seed + search.seed_offset, policy, progress(label, search.iterations)
        ).rounded()
    assert policy is not None
    return policy.scaled(expert.gain)


def train_expert(expert: Expert, force: bool, seeds: tuple[int, ...] | None = None) -> Policy:
    """Train from every seed (default: the settings'), keep the best noise-free return, write its file."""
    if expert.policy_file.exists() and not force:
        raise UserError(f"{expert.policy_file} exists; give --force to replace it by a newly trained policy")
    best: tuple[float, Policy] | None = None
    for seed in seeds or expert.training_seeds:
        policy = train_once(expert, seed)
        free, _, _ = mean_return(expert.env_id, policy, 0.0, expert.bar_episodes)
        noisy, _, length = mean_return(expert.env_id, policy, np.array(expert.noise_std), expert.bar_episodes)
        print(
            f"{expert.name} seed {seed}: return {free:.2f}, with noise {noisy:.2f} (mean length {length:.0f})"
        )
        if best is None or free > best[0]:
            best = (free, policy)
    assert best is not None
    if best[0] < expert.bar:
        raise UserError(
            f"the best {expert.name} policy returns {best[0]:.2f}, wanted at least {expert.bar}: "
            "nothing written; try other --training-seeds"
        )
    temporary = expert.policy_file.with_name(f".{expert.name}.npz")
    best[1].save(temporary)
    temporary.replace(expert.policy_file)
    return best[1]
