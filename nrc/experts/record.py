"""Roll an expert out and write the transitions as a Minari data set with its provenance."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nrc.errors import UserError
from nrc.experts.choose import Candidate, Statistics
from nrc.experts.policy import Policy
from nrc.experts.rollout import Episode, first_transitions, run_until
from nrc.experts.settings import Expert

ACTIONS_NOTE = (
    "actions are drawn from the policy's distribution and stored as executed, not clipped (the simulator clamps its "
    "controls to [-1, 1] itself), hence the unbounded action space"
)


def provenance(
    expert: Expert, chosen: Candidate, policy: Policy, episodes: tuple[int, int]
) -> dict[str, Any]:
    """What is written under the key `nrc` of the data set's metadata (plain JSON values)."""
    return {
        "env_id": expert.env_id,
        "algorithm": expert.algorithm,
        "command": f"python scripts/make_expert_data.py {expert.name}",
        "versions": {p: version(p) for p in ("gymnasium", "mujoco", "minari", "numpy")},
        "seed": chosen.first_seed,
        "noise": chosen.noise,
        "policy_file": f"experts/{expert.policy_file.name}",
        "policy_sha256": policy.sha256(),
        "train_transitions": expert.train_transitions,
        "test_transitions": expert.test_transitions,
        "train_episodes": episodes[0],
        "test_episodes": episodes[1],
        "statistics": asdict(chosen.statistics),
        "published": asdict(expert.published),
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
    facts: dict[str, Any],
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
            made.storage.update_metadata({"nrc": facts})
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


def read_choice(expert: Expert) -> Candidate:
    """The committed choice of policy, noise and episodes.

    Raises:
        UserError: nothing has been chosen yet.
    """
    if not expert.choice_file.is_file():
        raise UserError(f"there is no {expert.choice_file}; choose with --candidates FOLDER")
    chosen = json.loads(expert.choice_file.read_text(encoding="utf-8"))["chosen"]
    found: dict[str, Any] = chosen.pop("statistics")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Candidate(**chosen, statistics=Statistics(**values))


def write_choice(expert: Expert, found: list[Candidate], folder: Path) -> None:
    """Make the first candidate the committed one: its policy, and the whole list beside it.

    What was tried before and has no file any more stays on the list.

    Raises:
        UserError: the policy committed so far is not among the candidates, so that it could not win again.
    """
    tried, before = {c.policy for c in found}, []
    if expert.choice_file.is_file():
        record = json.loads(expert.choice_file.read_text(encoding="utf-8"))
        before = [c for c in record["candidates"] if c["policy"] not in tried]
        if record["chosen"]["policy"] not in tried:
            raise UserError(
                f"{folder} lacks {record['chosen']['policy']}.npz, the choice so far; copy {expert.policy_file} there"
            )
    Policy.load(folder / f"{found[0].policy}.npz").save(expert.policy_file)
    lines = [json.dumps(c) for c in (*map(asdict, found), *before)]  # one a line: there are hundreds
    listed = ",\n".join(lines)
    text = f'{{"chosen": {json.dumps(asdict(found[0]))},\n"candidates": [\n{listed}\n]}}\n'
    expert.choice_file.write_text(text, encoding="utf-8")


def make(expert: Expert, out: Path, force: bool) -> Path:
    """Roll out the committed policy and write its set, the train episodes first.

    The train rows are those of the chosen block of episodes, the test rows those of the episodes after it.

    Raises:
        UserError: the set exists, or nothing has been chosen.
    """
    final = out / expert.dataset_id
    if final.exists() and not force:
        raise UserError(f"{final} exists; give --force to replace it or --out for another folder")
    chosen = read_choice(expert)
    final.parent.mkdir(
        parents=True, exist_ok=True
    )  # a place that cannot be written fails here, not at the end
    policy = Policy.load(expert.policy_file, chosen.noise)
    block = run_until(expert.env_id, policy, chosen.first_seed, expert.train_transitions)
    after = chosen.first_seed + len(block)
    train = first_transitions(block, expert.train_transitions)
    test = first_transitions(
        run_until(expert.env_id, policy, after, expert.test_transitions), expert.test_transitions
    )
    facts = provenance(
        expert,
        replace(chosen, statistics=Statistics.of(block, expert.train_transitions)),
        policy,
        (len(train), len(test)),
    )
    return write(expert, train, test, facts, chosen.first_seed, out)
