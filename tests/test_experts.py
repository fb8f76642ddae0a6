"""The embedded expert sets: what they hold, that their policies make them again, and the rule that chose them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nrc.errors import UserError
from nrc.experts.choose import Candidate, Statistics, choose, distance, noise_factor
from nrc.experts.policy import Policy
from nrc.experts.record import make, read_choice, write_choice
from nrc.experts.rollout import Episode, first_transitions, make_env, run_episode
from nrc.experts.settings import DATA, EXPERTS, Expert, Published
from nrc.experts.tables import README, write_tables

NAMES = sorted(EXPERTS)
ROOT = DATA / "minari"
PUBLISHED = Published((10.0, 2.0), (0.1, 0.4), 1.2, (-0.3,), mean=(1.0, 0.5))


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
def test_the_rows_have_the_statistics_that_were_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, facts = EXPERTS[name], metadata(EXPERTS[name])["nrc"]
    actions = np.concatenate([e.actions for e in episodes(expert, monkeypatch)])
    actions = actions[: expert.train_transitions].astype(np.float64)
    sigma = np.cov(actions.T, bias=True)
    chosen = read_choice(expert)
    np.testing.assert_allclose(np.linalg.eigvalsh(sigma), facts["statistics"]["eigenvalues"], rtol=1e-6)
    # another simulator may round contacts differently; the choice is of the same policy and episodes
    np.testing.assert_allclose(facts["statistics"]["eigenvalues"], chosen.statistics.eigenvalues, rtol=0.02)
    assert np.linalg.norm(actions.mean(0)) == pytest.approx(chosen.statistics.mean, abs=0.02)
    assert chosen.distance == pytest.approx(distance(chosen.statistics, expert.published), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_chosen_candidate_is_the_nearest_of_all(name: str) -> None:
    record = json.loads(EXPERTS[name].choice_file.read_text())
    assert record["chosen"] == record["candidates"][0]
    raised = record["chosen"]["noise"] != 1  # step 4 of the rule, or not: a round before may have had it
    alike = [c["distance"] for c in record["candidates"] if raised or c["noise"] == 1]
    assert record["chosen"]["distance"] == min(alike)


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_draws_of_the_policy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, facts = EXPERTS[name], metadata(EXPERTS[name])["nrc"]
    policy = Policy.load(expert.policy_file, facts["noise"])
    draws = []
    for episode in episodes(expert, monkeypatch):
        mean, std = policy.distribution(episode.observations[:-1].astype(np.float64))
        actions = episode.actions.astype(np.float64)
        if policy.squashed:
            inside = (np.abs(actions) < 0.999).all(1)  # beyond, float32 has lost the draw
            mean, std, actions = mean[inside], std[inside], np.arctanh(actions[inside])
        draws.append((actions - mean) / std)
    draws = np.concatenate(draws)
    tolerance = 5 / math.sqrt(len(draws))
    assert len(draws) > 100
    if not policy.squashed:  # leaving out saturated actions leaves out large draws
        assert np.all(np.abs(draws.std(0) - 1) < tolerance)
        assert np.all(np.abs(draws.mean(0)) < tolerance)
    assert np.all(np.abs(draws) < 6)


@pytest.mark.parametrize("name", NAMES)
def test_provenance_is_complete(name: str) -> None:
    expert, everything = EXPERTS[name], metadata(EXPERTS[name])
    facts, chosen = everything["nrc"], read_choice(expert)
    assert everything["dataset_id"] == expert.dataset_id and everything["data_format"] == "hdf5"
    assert facts["env_id"] == expert.env_id and facts["algorithm"] == expert.algorithm
    assert set(facts["versions"]) == {"gymnasium", "mujoco", "minari", "numpy"}
    assert facts["policy_sha256"] == Policy.load(expert.policy_file).sha256()
    assert (facts["seed"], facts["noise"]) == (chosen.first_seed, chosen.noise)


@pytest.mark.parametrize("name", ["reacher", "swimmer"])
def test_rolling_out_again_gives_the_committed_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    expert, chosen = EXPERTS[name], read_choice(EXPERTS[name])
    first = episodes(expert, monkeypatch)[0]
    env, _ = make_env(expert.env_id)
    again = run_episode(env, Policy.load(expert.policy_file, chosen.noise), chosen.first_seed, 50)
    np.testing.assert_allclose(again.actions, first.actions[:50], atol=1e-4)
    np.testing.assert_allclose(again.observations, first.observations[:51], atol=1e-3)


def test_the_set_is_written_once_and_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    small = replace(EXPERTS["reacher"], train_transitions=120, test_transitions=60, train_episodes=3)
    make(small, tmp_path, force=False)
    found = episodes(small, monkeypatch, tmp_path)
    assert [len(e.actions) for e in found] == [50, 50, 20, 50, 10]
    assert [int(e.truncations.sum()) for e in found] == [1] * 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nrc"]
    with pytest.raises(UserError, match="--force"):
        make(small, tmp_path, force=False)


# --- the policy


def gaussian(rng: np.random.Generator) -> Policy:
    shapes = {"w0": (8, 5), "b0": (8,), "w1": (7, 8), "b1": (7,), "w_mean": (2, 7), "b_mean": (2,)}
    shapes |= {"log_std": (2,), "obs_mean": (5,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return Policy(arrays | {"obs_var": rng.uniform(0.5, 2, 5)})


def squashed(rng: np.random.Generator) -> Policy:
    shapes = {
        "w0": (8, 5),
        "b0": (8,),
        "w_mean": (2, 8),
        "b_mean": (2,),
        "w_log_std": (2, 8),
        "b_log_std": (2,),
    }
    return Policy({name: rng.standard_normal(shape) for name, shape in shapes.items()})


def test_the_forward_pass_is_that_of_the_training_libraries() -> None:
    """Against torch modules: normalised tanh layers for PPO, ReLU layers with two heads for SAC."""
    rng = np.random.default_rng(0)
    x = 4 * rng.standard_normal((20, 5))
    for policy in (gaussian(rng), squashed(rng)):
        a = {name: torch.tensor(value) for name, value in policy.arrays.items()}
        h = torch.tensor(x)
        if not policy.squashed:
            h = ((h - a["obs_mean"]) / torch.sqrt(a["obs_var"] + 1e-5)).clamp(-5, 5)
        for k in range(2 if "w1" in a else 1):
            h = torch.nn.functional.linear(h, a[f"w{k}"], a[f"b{k}"])
            h = h.relu() if policy.squashed else h.tanh()
        mean, std = policy.distribution(x)
        np.testing.assert_allclose(mean, torch.nn.functional.linear(h, a["w_mean"], a["b_mean"]), rtol=1e-12)
        log_std = (
            torch.nn.functional.linear(h, a["w_log_std"], a["b_log_std"]).clamp(-20, 2)
            if policy.squashed
            else a["log_std"].expand(20, 2)
        )
        np.testing.assert_allclose(std, log_std.exp(), rtol=1e-12)
        twice = policy.with_noise(2.0).distribution(x)
        np.testing.assert_allclose(twice[0], mean)
        np.testing.assert_allclose(twice[1], 2 * std)
        draw = rng.standard_normal(2)
        wanted = mean[0] + std[0] * draw
        np.testing.assert_allclose(
            policy.act(x[0], draw), np.tanh(wanted) if policy.squashed else wanted, rtol=1e-6
        )


def test_policy_file_round_trip_is_exact(tmp_path: Path) -> None:
    policy = gaussian(np.random.default_rng(1))
    policy.save(tmp_path / "p.npz")
    again = Policy.load(tmp_path / "p.npz")
    assert again.sha256() == policy.sha256()
    again.save(tmp_path / "q.npz")
    x = np.random.default_rng(2).standard_normal((7, 5))
    np.testing.assert_array_equal(
        Policy.load(tmp_path / "q.npz").distribution(x)[0], again.distribution(x)[0]
    )
    with pytest.raises(UserError, match="make experts"):
        Policy.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz is no expert policy"):
        Policy.load(tmp_path / "other.npz")
    second = {k: v for k, v in policy.arrays.items() if k != "w0"} | {"w7": np.zeros((2, 2))}
    Policy(second).save(tmp_path / "gap.npz")
    with pytest.raises(UserError, match=r"gap\.npz is no expert policy: .* and lacks w0"):
        Policy.load(tmp_path / "gap.npz")


# --- the rule


def test_statistics_against_their_definitions() -> None:
    rng = np.random.default_rng(3)
    y = rng.standard_normal((40, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]]) + [1.0, -2.0]
    whole = Episode(np.zeros((41, 3)), y.astype(np.float32), np.ones(40), False)
    found = Statistics.of([whole], 30)
    z = y[:30].astype(np.float32).astype(float)
    centred = z - z.mean(0)
    sigma = sum(np.outer(row, row) for row in centred) / 30
    trace, determinant = np.trace(sigma), np.linalg.det(sigma)
    root = math.sqrt(trace**2 / 4 - determinant)
    assert found.eigenvalues == pytest.approx((trace / 2 - root, trace / 2 + root), rel=1e-9)
    assert found.correlations[0] == pytest.approx(np.corrcoef(z.T)[0, 1], rel=1e-9)
    assert found.mean == pytest.approx(math.hypot(*z.mean(0)))
    assert found.deviations == pytest.approx(math.hypot(*z.mean(0)) / math.sqrt(trace / 2))
    assert found.returns == 40.0


def test_distance_counts_deviations_in_tolerances() -> None:
    exact = Statistics(10.0, (0.1, 0.4), (-0.3,), 1.0, 2.0)
    assert distance(exact, PUBLISHED) == pytest.approx(0, abs=1e-12)
    assert distance(replace(exact, correlations=(0.3,)), PUBLISHED) == pytest.approx(0, abs=1e-12)
    assert distance(replace(exact, returns=14.0), PUBLISHED) == pytest.approx(2)
    assert distance(replace(exact, eigenvalues=(0.12, 0.4)), PUBLISHED) == pytest.approx(1)
    both = replace(exact, correlations=(0.0,), mean=2.0)
    assert distance(both, PUBLISHED) == pytest.approx(math.sqrt(2**2 + 2**2))
    bounded = replace(PUBLISHED, mean=None, mean_below=0.4)
    assert distance(replace(exact, deviations=0.3), bounded) == pytest.approx(0, abs=1e-12)
    assert distance(replace(exact, deviations=1.2), bounded) == pytest.approx(2)


def test_first_transitions_cut_the_last_episode() -> None:
    made = [Episode(np.zeros((6, 1)), np.zeros((5, 1)), np.arange(5.0), True) for _ in range(3)]
    found = first_transitions(made, 7)
    assert [len(e.rewards) for e in found] == [5, 2] and [e.fell for e in found] == [True, False]
    assert len(found[1].observations) == 3
    with pytest.raises(UserError, match="hold 15 transitions, 16"):
        first_transitions(made, 16)


def test_the_noise_brings_the_smallest_eigenvalue_to_the_published_one() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    arrays = {"w0": np.zeros((4, 11)), "b0": np.zeros(4), "w_mean": np.zeros((2, 4)), "b_mean": np.zeros(2)}
    still = Policy(arrays | {"log_std": np.log([0.05, 0.2])})
    small = replace(EXPERTS["reacher"], train_transitions=100, train_episodes=2)
    factor = noise_factor(small, still, 0)
    # the actions of a policy that ignores its observations are the noise alone: Sigma grows as its square
    assert factor == pytest.approx(math.sqrt(small.published.eigenvalues[0]) / 0.05, rel=0.2)
    loud = Policy(arrays | {"log_std": np.log([0.5, 0.5])})
    assert noise_factor(small, loud, 0) == 1.0


def test_the_nearest_candidate_is_chosen_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed: no roll-out")
    arrays = {"w0": np.zeros((4, 11)), "b0": np.zeros(4), "w_mean": np.zeros((2, 4)), "b_mean": np.zeros(2)}
    for number, std in enumerate((0.02, 0.105, 0.4)):
        Policy(arrays | {"log_std": np.log([std, std])}).save(tmp_path / f"reacher_seed{number}_1.npz")
    small = replace(EXPERTS["reacher"], train_transitions=200, train_episodes=4)
    found = choose(small, sorted(tmp_path.glob("*.npz")))
    assert found[0].policy == "reacher_seed1_1" and found[0].noise == 1.0
    assert [c.distance for c in found] == sorted(c.distance for c in found) and len(found) == 15


def test_a_choice_is_read_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nrc.experts.settings.DATA", tmp_path)
    expert = EXPERTS["swimmer"]
    with pytest.raises(UserError, match="--candidates"):
        read_choice(expert)
    gaussian(np.random.default_rng(0)).save(tmp_path / "from" / "swimmer_seed7_1.npz")
    (tmp_path / "experts").mkdir()
    statistics = Statistics(1.0, (0.1, 0.2), (0.3,), 1.4, 2.0)
    one = Candidate("swimmer_seed7_1", 3, 1.5, statistics, 0.7)
    write_choice(expert, [one], tmp_path / "from")
    assert read_choice(expert) == one
    assert Policy.load(expert.policy_file).squashed is False
    other = replace(one, policy="swimmer_seed8_1", distance=0.5)
    gaussian(np.random.default_rng(1)).save(tmp_path / "from" / "swimmer_seed8_1.npz")
    with pytest.raises(UserError, match=r"lacks swimmer_seed7_1\.npz"):
        write_choice(expert, [other], tmp_path / "from")
    write_choice(expert, [other, one], tmp_path / "from")
    write_choice(
        expert, [replace(other, noise=2.0)], tmp_path / "from"
    )  # the seed before is gone, not forgotten
    record = json.loads(expert.choice_file.read_text())
    assert [c["policy"] for c in record["candidates"]] == ["swimmer_seed8_1", "swimmer_seed7_1"]


def test_the_tables_of_the_data_are_those_of_the_choices(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_bytes(README.read_bytes())
    write_tables(copy)
    assert copy.read_bytes() == README.read_bytes()
    for expert in EXPERTS.values():
        assert f"| {expert.name} | {read_choice(expert).statistics.returns:.3g} / " in copy.read_text()
