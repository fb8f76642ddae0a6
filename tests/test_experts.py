"""The embedded expert sets: sizes, statistics and noise against their metadata, returns against the bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nrc.errors import UserError
from nrc.experts.policy import Policy
from nrc.experts.settings import DATA, EXPERTS, Expert

NAMES = sorted(EXPERTS)
ROOT = DATA / "minari"


def metadata(expert: Expert) -> dict[str, Any]:
    return json.loads((ROOT / expert.dataset_id / "data" / "metadata.json").read_text())


def episodes(expert: Expert, monkeypatch: pytest.MonkeyPatch, root: Path = ROOT) -> list[Any]:
    minari = pytest.importorskip("minari", reason="minari is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return list(minari.load_dataset(expert.dataset_id))


def test_all_sets_together_stay_small() -> None:
    files = [p for folder in ("minari", "experts") for p in (DATA / folder).rglob("*") if p.is_file()]
    assert len(files) >= 9
    assert sum(p.stat().st_size for p in files) <= 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_episode_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, facts = EXPERTS[name], metadata(EXPERTS[name])["nrc"]
    found = episodes(expert, monkeypatch)
    lengths = [len(e.actions) for e in found]
    assert [len(e.observations) for e in found] == [t + 1 for t in lengths]
    assert all(e.observations.dtype == np.float32 and e.actions.dtype == np.float32 for e in found)
    assert sum(lengths[: facts["train_episodes"]]) == facts["train_transitions"] == expert.train_transitions
    assert sum(lengths[facts["train_episodes"] :]) == facts["test_transitions"] == expert.test_transitions
    ends = [bool(e.terminations[-1]) + bool(e.truncations[-1]) for e in found]
    assert ends == [1] * len(found)
    assert not any(e.terminations[:-1].any() or e.truncations[:-1].any() for e in found)


@pytest.mark.parametrize("name", NAMES)
def test_covariance_matches_the_metadata_and_the_band(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, facts = EXPERTS[name], metadata(EXPERTS[name])["nrc"]
    actions = np.concatenate([e.actions for e in episodes(expert, monkeypatch)]).astype(np.float64)
    sigma = np.cov(actions[: expert.train_transitions].T, bias=True)
    np.testing.assert_allclose(sigma, facts["sigma"], rtol=1e-6, atol=1e-9)
    eigenvalues = np.linalg.eigvalsh(sigma)
    np.testing.assert_allclose(eigenvalues, facts["sigma_eigenvalues"], rtol=1e-6)
    assert abs(eigenvalues[0] / expert.published[0] - 1) <= 0.25


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_policy_mean_plus_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, facts = EXPERTS[name], metadata(EXPERTS[name])["nrc"]
    policy = Policy.load(expert.policy_file)
    found = episodes(expert, monkeypatch)
    noise = np.concatenate([e.actions - policy.mean(e.observations[:-1].astype(np.float64)) for e in found])
    std = np.array(facts["noise_std"])
    tolerance = 4.0 / np.sqrt(len(noise))
    assert np.all(np.abs(noise.std(0) / std - 1) < tolerance)
    assert np.all(np.abs(noise.mean(0) / std) < tolerance)
    assert np.all(np.abs(np.corrcoef(noise.T) - np.eye(len(std))) < tolerance)
    actions = np.concatenate([e.actions for e in found])
    train = slice(0, expert.train_transitions)
    share = 1 - (noise[train] ** 2).sum() / ((actions[train] - actions[train].mean(0)) ** 2).sum()
    assert share == pytest.approx(facts["explained_by_policy_mean"], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_provenance_is_complete(name: str) -> None:
    expert, everything = EXPERTS[name], metadata(EXPERTS[name])
    facts = everything["nrc"]
    assert everything["dataset_id"] == expert.dataset_id and everything["data_format"] == "hdf5"
    assert facts["env_id"] == expert.env_id
    assert set(facts["versions"]) == {"gymnasium", "mujoco", "minari", "numpy"}
    assert facts["policy_sha256"] == Policy.load(expert.policy_file).sha256()
    assert facts["noise_std"] == list(expert.noise_std) and facts["seed"] == expert.seed
    assert facts["return_noise_free"]["mean"] >= expert.bar
    assert facts["return_episodes"] >= {"reacher": 20, "swimmer": 5, "hopper": 10}[name]


@pytest.mark.parametrize("name", ["reacher", "swimmer", pytest.param("hopper", marks=pytest.mark.slow)])
def test_noise_free_policy_is_an_expert(name: str) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    from nrc.experts.rollout import mean_return

    expert = EXPERTS[name]
    few = {"reacher": 20, "swimmer": 2, "hopper": 3}[name]
    mean, _, _ = mean_return(expert.env_id, Policy.load(expert.policy_file), 0.0, few)
    assert mean >= expert.bar


def test_rolling_out_again_gives_the_committed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    from nrc.experts.rollout import make_env, run_episode

    expert = EXPERTS["reacher"]
    first = episodes(expert, monkeypatch)[0]
    env, _ = make_env(expert.env_id)
    again = run_episode(env, Policy.load(expert.policy_file), np.array(expert.noise_std), expert.seed, 50)
    np.testing.assert_allclose(again.actions, first.actions, atol=1e-4)
    np.testing.assert_allclose(again.observations, first.observations, atol=1e-3)


def test_make_writes_once_and_refuses_to_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    from dataclasses import replace

    from nrc.experts.record import make

    small = replace(EXPERTS["reacher"], train_transitions=120, test_transitions=60, bar_episodes=2)
    make(small, (0.1, 0.2), 5, tmp_path, force=False)
    found = episodes(small, monkeypatch, tmp_path)
    assert [len(e.actions) for e in found] == [50, 50, 20, 50, 10]
    assert [int(e.truncations.sum()) for e in found] == [1] * 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nrc"]
    with pytest.raises(UserError, match="--force"):
        make(small, None, 5, tmp_path, force=False)
    with pytest.raises(UserError, match="--noise"):
        make(small, (0.1, 0.1, 0.1), 5, tmp_path, force=True)


def test_policy_file_round_trip_is_exact(tmp_path: Path) -> None:
    policy = Policy.load(EXPERTS["hopper"].policy_file)
    policy.save(tmp_path / "p.npz")
    again = Policy.load(tmp_path / "p.npz")
    assert again.sha256() == policy.sha256()
    states = np.random.default_rng(0).standard_normal((7, 11))
    np.testing.assert_array_equal(again.mean(states), policy.mean(states))
    np.testing.assert_array_equal(policy.with_flat(policy.flat()).mean(states), policy.mean(states))
    with pytest.raises(UserError, match="--train"):
        Policy.load(tmp_path / "absent.npz")


def test_arm_model_follows_the_simulator() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: nothing to compare with")
    import torch

    from nrc.experts.reacher import arm_step, observe
    from nrc.experts.rollout import make_env

    env, _ = make_env("Reacher-v4")
    obs, _ = env.reset(seed=3)
    angle, speed = (torch.tensor(v[None, :2]) for v in (env.data.qpos, env.data.qvel))
    target = torch.tensor(env.data.qpos[None, 2:].copy())
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-0.2, 0.2, 2)
        obs, *_ = env.step(action)
        angle, speed = arm_step(angle, speed, torch.tensor(action[None]))
    np.testing.assert_allclose(observe(angle, speed, target)[0].numpy()[0], obs, atol=2e-2)


def test_search_improves_a_policy() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no search")
    from nrc.experts import ars

    seen: list[float] = []
    search = ars.Search(
        "Reacher-v4", hidden=(4,), iterations=8, step=0.05, directions=4, top=4, noise_std=(0.0, 0.0)
    )
    policy = ars.train(search, 0, report=lambda i, f: seen.append(f))
    again = ars.train(search, 0)
    assert len(seen) == 8 and policy.sha256() == again.sha256()
    assert np.any(policy.weights[-1] != 0)
