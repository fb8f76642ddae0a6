"""Expert rollouts from every source, with small sets made here."""

import json
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer
from sklearn.model_selection import train_test_split

from nrc.data import Mujoco
from nrc.data.mujoco import PAPER
from nrc.data.mujoco import hub as _hub
from nrc.data.mujoco.settings import MIRROR
from nrc.errors import UserError

STEPS = 10


def episodes(count: int, d: int = 11, n: int = 2, extra: int = 1, seed: int = 0) -> list[tuple[Any, Any]]:
    """Rollouts of 10 steps with `extra` more observations than actions; all values float32."""
    rng = np.random.default_rng(seed)
    shapes = ((STEPS + extra, d), (STEPS, n))
    return [tuple(rng.uniform(-1, 1, s).astype(np.float32) for s in shapes) for _ in range(count)]  # type: ignore[misc]


def flat(rollouts: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([o[:STEPS] for o, _ in rollouts]), np.concatenate([a for _, a in rollouts])


def write_minari(root: Path, dataset_id: str, rollouts: list[tuple[Any, Any]]) -> None:
    """A real Minari set; Minari writes only to the folder that its environment variable names."""
    box = gym.spaces.Box(-np.inf, np.inf, (rollouts[0][0].shape[1],), np.float32)
    buffers = [
        EpisodeBuffer(
            observations=o, actions=a, rewards=[0.0] * len(a), terminations=[False] * len(a),
            truncations=[False] * (len(a) - 1) + [True], infos={},
        )
        for o, a in rollouts
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author, a permalink and so on
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        create_dataset_from_buffers(
            dataset_id, buffers, observation_space=box,
            action_space=gym.spaces.Box(-1, 1, (rollouts[0][1].shape[1],), np.float32), algorithm_name="test",
        )  # fmt: skip


def write_jat(path: Path, rollouts: list[tuple[Any, Any]]) -> None:
    """One parquet row per episode, as in jat-project/jat-dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "continuous_observations": [o.tolist() for o, _ in rollouts],
        "continuous_actions": [a.tolist() for _, a in rollouts],
        "rewards": [[0.0] * len(a) for _, a in rollouts],
    }
    pq.write_table(pa.table(table), path, row_group_size=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_minari(folder, "nrc/reacher-expert-v0", episodes(12))
    write_minari(folder, "mujoco/reacher/expert-v0", episodes(12, seed=1))
    return folder


def small(**changes: Any) -> Mujoco:
    return Mujoco(**({"name": "reacher", "train_size": 80, "test_size": 16} | changes))


def test_embedded_in_order(root: Path) -> None:
    before = dict(os.environ)
    data = small(root=str(root)).load()
    x, y = flat(episodes(12))
    np.testing.assert_array_equal(data.x_train, x[:80])
    np.testing.assert_array_equal(data.y_train, y[:80])
    np.testing.assert_array_equal(data.x_test, x[80:96])
    np.testing.assert_array_equal(data.y_test, y[80:96])
    assert (data.name, data.kind, data.papers_own) == ("reacher", "own experts", False)
    assert data.provenance["metadata"]["algorithm_name"] == "test"
    assert "main_data.hdf5" in data.provenance["files"]
    json.dumps(data.provenance)
    assert dict(os.environ) == before


def test_random_split_is_scikit_learns_of_the_first_rows(root: Path) -> None:
    data = small(root=str(root), split="random", standardize="xy", train_size=80, test_size=20).load()
    x, y = flat(episodes(12))
    expected = train_test_split(x[:100], y[:100], test_size=0.2, random_state=42)
    mean, std = expected[2].astype(float).mean(0), expected[2].astype(float).std(0)
    np.testing.assert_allclose(data.y_test, (expected[3] - mean) / std, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(0), 1, atol=1e-5)


def test_limit_keeps_the_proportion(root: Path) -> None:
    assert small(limit=40).rows == (40, 8)
    assert small(limit=2).rows == (2, 1)
    assert small(limit=1000).rows == (80, 16)
    data = small(root=str(root), limit=40).load()
    np.testing.assert_array_equal(data.x_test, flat(episodes(12))[0][40:48])


def test_shifted_targets_keep_sigma_and_get_a_folder_of_their_own() -> None:
    plain, shifted = Mujoco("swimmer"), Mujoco("swimmer", target_mean=1.5)
    before, after = plain.load(), shifted.load()
    deviation = before.y_train.astype(float).std(0)
    assert after.y_train.mean(0) == pytest.approx(1.5 * deviation, rel=1e-5)
    assert after.sigma == pytest.approx(before.sigma, rel=1e-5)
    assert after.y_test - before.y_test == pytest.approx(
        np.tile(after.y_train[0] - before.y_train[0], (len(before.y_test), 1)), abs=1e-5
    )
    assert (plain.data_name, shifted.data_name, after.name) == (
        "swimmer",
        "swimmer-mean1.5",
        "swimmer-mean1.5",
    )
    assert "mean of 1.5 standard deviations" in after.describe()


def test_the_mirror_image_of_a_swimmer_is_a_swimmer() -> None:
    """By the simulator: from the mirrored state the mirrored torques lead to the mirrored state."""
    env = gym.make("Swimmer-v4")
    rng = np.random.default_rng(0)
    seen, done = np.array(MIRROR["swimmer"][0]), np.array(MIRROR["swimmer"][1])
    state = np.array([1, -1, -1, -1, -1])  # forward position; sideways position and three angles turn round
    env.reset(seed=0)
    start, speed, torque = rng.normal(size=5), rng.normal(size=5), rng.uniform(-1, 1, (30, 2))
    ends = []
    for sign_state, sign_action in ((1, 1), (state, done)):
        env.unwrapped.set_state(start * sign_state, speed * sign_state)  # type: ignore[attr-defined]
        for action in torque * sign_action:
            observation = env.step(action)[0]
        ends.append(observation)
    np.testing.assert_allclose(ends[1], ends[0] * seen, atol=1e-8)
    assert np.abs(ends[0]).min() > 1e-3  # every sign is tested


def test_mirrored_rows_follow_the_rows_themselves() -> None:
    plain, both = Mujoco("swimmer", limit=50).load(), Mujoco("swimmer", limit=50, mirrored=True)
    data = both.load()
    assert (both.expected_rows, both.data_name, both.variant) == (
        100,
        "swimmer-mirrored",
        {"rows": "mirrored"},
    )
    np.testing.assert_array_equal(data.y_train, np.concatenate([plain.y_train, -plain.y_train]))
    np.testing.assert_array_equal(data.x_train[:50], plain.x_train)
    np.testing.assert_array_equal(data.x_train[50:, 3], plain.x_train[:, 3])
    np.testing.assert_array_equal(data.x_test[10:, 0], -plain.x_test[:, 0])
    with pytest.raises(UserError, match=r"data\.mirrored is for swimmer, not for hopper"):
        Mujoco("hopper", mirrored=True)


def test_minari_already_there_touches_no_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("nrc.data.mujoco.sources.download", refuse)
    data = small(source="minari", root=str(root)).load()
    np.testing.assert_array_equal(data.x_train, flat(episodes(12, seed=1))[0][:80])
    assert (data.name, data.kind) == ("reacher-minari", "real")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert small(source="minari").load().sha256 == data.sha256


def fake_hub(monkeypatch: pytest.MonkeyPatch, fill: Any = None, error: Exception | None = None) -> list[Any]:
    """A huggingface_hub that writes files itself, or fails as told; returns the list of its calls."""
    calls: list[Any] = []

    class HfApi:
        def dataset_info(self, repo: str, *, revision: str, timeout: float) -> Any:
            calls.append(("info", repo, revision))
            if error is not None:
                raise error
            return types.SimpleNamespace(sha="f" * 40)

    def snapshot_download(repo: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        calls.append(("download", repo, options))
        return str(fill(options))

    module = types.ModuleType("huggingface_hub")
    module.HfApi, module.snapshot_download = HfApi, snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_minari_downloads_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(options: dict[str, Any]) -> Path:
        write_minari(tmp_path, "mujoco/swimmer/expert-v0", episodes(12, d=8))
        note = (
            options["local_dir"] / ".cache/huggingface/download/swimmer/expert-v0/data/metadata.json.metadata"
        )
        note.parent.mkdir(parents=True)
        note.write_text("f" * 40 + "\netag\n0\n")
        return options["local_dir"]

    calls = fake_hub(monkeypatch, fill)
    data = small(name="swimmer", source="minari", root=str(tmp_path)).load()
    assert calls[0] == ("info", "farama-minari/mujoco", _hub.PINNED["minari", "swimmer"])
    options = calls[1][2]
    assert options["allow_patterns"] == "swimmer/expert-v0/*" and options["revision"] == "f" * 40
    assert options["local_dir"] == tmp_path / "mujoco" and options["repo_type"] == "dataset"
    assert data.provenance["revision_found"] == "f" * 40
    small(name="swimmer", source="minari", root=str(tmp_path)).load()
    assert len(calls) == 2  # the second load found the files


def test_revision_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, lambda options: options["local_dir"])
    with pytest.raises(UserError, match=r"at v1.0 holds no mujoco/reacher/expert-v0"):
        small(source="minari", root=str(tmp_path), revision="v1.0").load()
    assert calls[0][2] == "v1.0"


class ConnectError(Exception):
    """Like httpx2.ConnectError: no OSError."""


class RevisionNotFoundError(Exception):
    """Named as the hub's."""


@pytest.mark.parametrize("source", ["minari", "jat"])
@pytest.mark.parametrize(
    ("error", "message"),
    [(ConnectError("no route\nto host"), "no network"), (RevisionNotFoundError("404"), "set data.revision")],
)
def test_no_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, error: Exception, message: str
) -> None:
    fake_hub(monkeypatch, error=error)
    with pytest.raises(UserError, match=message) as caught:
        small(source=source, root=str(tmp_path)).load()
    assert "data.source=embedded" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_hub_client_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for source in ("minari", "jat"):
        with pytest.raises(UserError, match=r"pip install 'minari\[hf\]'"):
            small(source=source, root=str(tmp_path)).load()


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("nested", [True, False])
def test_jat_folder(tmp_path: Path, extra: int, nested: bool) -> None:
    folder = tmp_path / "mujoco-reacher" if nested else tmp_path
    write_jat(folder / "train-00000-of-00002-abc.parquet", episodes(5, extra=extra))
    write_jat(folder / "train-00001-of-00002-def.parquet", episodes(5, extra=extra, seed=1))
    write_jat(folder / "test-00000-of-00001.parquet", episodes(3, extra=extra, seed=2))
    data = small(source="jat", path=str(tmp_path)).load()
    x, y = flat(episodes(5, extra=extra) + episodes(5, extra=extra, seed=1))
    np.testing.assert_array_equal(data.x_train, x[:80])
    np.testing.assert_array_equal(data.y_train, y[:80])
    np.testing.assert_array_equal(data.x_test, flat(episodes(3, extra=extra, seed=2))[0][:16])
    assert data.name == "reacher-jat" and len(data.provenance["files"]) == 3
    assert data.kind == "real"  # too short to be compared with the paper's Sigma
    both = small(source="jat", path=str(tmp_path), split="random").load()
    assert set(map(tuple, np.vstack([both.x_train, both.x_test]))) == set(
        map(tuple, x[:96].astype(np.float32))
    )


def test_jat_single_file(tmp_path: Path) -> None:
    write_jat(tmp_path / "t.parquet", episodes(10, extra=0))
    data = small(source="jat", path=str(tmp_path / "t.parquet")).load()
    np.testing.assert_array_equal(data.x_test, flat(episodes(10, extra=0))[0][80:96])


def test_jat_downloads_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: dict[str, Any]) -> Path:
        write_jat(tmp_path / "mujoco-reacher" / "train-0.parquet", episodes(10))
        write_jat(tmp_path / "mujoco-reacher" / "test-0.parquet", episodes(2, seed=2))
        return tmp_path

    calls = fake_hub(monkeypatch, fill)
    data = small(source="jat").load()
    assert calls[0] == ("info", "jat-project/jat-dataset", _hub.PINNED["jat", "reacher"])
    assert calls[1][2]["allow_patterns"] == "mujoco-reacher/*"
    assert data.provenance["revision"] == _hub.PINNED["jat", "reacher"]


def paper_like(name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up rollouts whose Sigma has exactly the published eigenvalues."""
    rng = np.random.default_rng(0)
    eigenvalues = np.array(PAPER[name].eigenvalues)
    paper_rows = PAPER[name].rows
    y = rng.normal(size=(rows, len(eigenvalues)))
    head = y[:paper_rows] - y[:paper_rows].mean(0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(head.T, bias=True))).T
    y[:paper_rows] = head @ whitening * np.sqrt(eigenvalues)
    return rng.normal(size=(rows, 11)), y


def test_paper_kind_needs_the_papers_sigma(tmp_path: Path) -> None:
    x, y = paper_like("hopper", 12_000)
    path = str(tmp_path / "hopper.hdf5")
    setting = Mujoco("hopper", source="d4rl", path=path, train_size=10_000, test_size=2_000)
    for factor, kind in ((1.0, "paper"), (1.05, "real")):
        with h5py.File(path, "w") as file:
            file["observations"], file["actions"], file["rewards"] = x, y * factor, np.zeros(len(x))
        data = setting.load()
        assert data.kind == kind and data.sizes["train"] == 10_000 and data.sizes["test"] == 2_000
        np.testing.assert_allclose(data.x_test, x[10_000:12_000].astype(np.float32))
        assert len(data.provenance["published"]) == 3
        # a quick look at the first rows says the same
        assert Mujoco("hopper", source="d4rl", path=path, limit=50).load().kind == kind


def test_paper_kind_needs_the_papers_mean(tmp_path: Path) -> None:
    """Swimmer's published rows lie two deviations from 0: the same Sigma around another mean is other data."""
    x, y = paper_like("swimmer", 1_000)
    direction = np.array([1.35, 0.0])
    for mean, kind in ((direction, "paper"), (0 * direction, "real")):
        for part in ("train", "test"):
            write_jat(tmp_path / f"{part}.parquet", [(x, y - y.mean(0) + mean)])
        data = Mujoco("swimmer", source="jat", path=str(tmp_path)).load()
        assert data.kind == kind and "(published 1.97 to 2.46)" in data.describe()


def test_paper_kind_of_jat(tmp_path: Path) -> None:
    x, y = paper_like("reacher", 1200)
    for part, rows in (("train", slice(0, 1000)), ("test", slice(1000, 1200))):
        write_jat(tmp_path / f"{part}.parquet", [(x[rows], y[rows])])
    data = Mujoco("reacher", source="jat", path=str(tmp_path)).load()
    assert data.kind == "paper" and "paper's own data: yes" in data.describe()


def hdf5(path: Path, **arrays: Any) -> str:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return str(path)


def test_bad_d4rl_files(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    zeros = np.zeros((100, 3))
    for arrays, message in (
        ({"observations": zeros}, "has no actions [(]it has observations[)]"),
        ({}, "it has nothing"),
        ({"observations": zeros, "actions": zeros[:50]}, "expected [(]N, d[)]"),
        ({"observations": zeros, "actions": np.zeros((100, 2))}, "2 actions, hopper has 3"),
        ({"observations": zeros, "actions": zeros}, "100 transitions, 1200 needed"),
        ({"observations": np.full((1200, 3), np.nan), "actions": np.random.rand(1200, 3)}, "not finite"),
        ({"observations": np.zeros((1200, 3)), "actions": np.ones((1200, 3))}, "constant"),
    ):
        with pytest.raises(UserError, match=message):
            Mujoco("hopper", source="d4rl", path=hdf5(path, **arrays)).load()
    path.write_bytes(path.read_bytes()[:500])
    for file, message in ((path, "cannot be read as HDF5"), (tmp_path / "no.hdf5", "does not exist")):
        with pytest.raises(UserError, match=message):
            Mujoco("hopper", source="d4rl", path=str(file)).load()
    with pytest.raises(UserError, match=r"data.source=d4rl needs data.path"):
        Mujoco("hopper", source="d4rl").load()


def test_bad_jat_files(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for rollouts, message in (
        (episodes(10, extra=2), "12 observations for 10 actions"),
        (episodes(10, n=3), "3 actions, reacher has 2"),
        (episodes(2) + episodes(8, d=8), "episode 2 has another number"),
        ([(np.zeros((0, 11)), np.zeros((0, 2)))], "episode 0: observations [(]0,[)]"),
        (episodes(3), "30 transitions, 96 needed"),
    ):
        write_jat(path, rollouts)
        with pytest.raises(UserError, match=message):
            small(source="jat", path=str(path)).load()
    pq.write_table(pa.table({"observation": [1.0]}), path)
    with pytest.raises(UserError, match="has no column continuous_actions and continuous_observations"):
        small(source="jat", path=str(path)).load()
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        small(source="jat", path=str(path)).load()
    with pytest.raises(UserError, match="holds 0 train"):
        small(source="jat", path=str(tmp_path)).load()
    with pytest.raises(UserError, match="does not exist"):
        small(source="jat", path=str(tmp_path / "nowhere")).load()
    write_jat(tmp_path / "train.parquet", episodes(10))
    write_jat(tmp_path / "test.parquet", episodes(1))
    with pytest.raises(UserError, match=r"the test file of .* holds 10 transitions, 16 needed"):
        small(source="jat", path=str(tmp_path)).load()


def test_bad_minari_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make_expert_data"):
        small(root=str(tmp_path)).load()
    with pytest.raises(UserError, match="expected an id such as"):
        small(source="minari", root=str(tmp_path), dataset_id="reacher-v0").load()
    write_minari(tmp_path, "nrc/reacher-expert-v0", episodes(3))
    with pytest.raises(UserError, match=r"30 transitions, 96 needed; lower data.train_size"):
        small(root=str(tmp_path)).load()
    data = tmp_path / "nrc/reacher-expert-v0/data"
    content = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        small(root=str(tmp_path)).load()
    (data / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a Minari set"):
        small(root=str(tmp_path)).load()
    (data / "main_data.hdf5").unlink()  # what an interrupted download leaves
    with pytest.raises(UserError, match="there is no expert set"):
        small(root=str(tmp_path)).load()


def test_observations_that_are_no_vectors_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    box, act = gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-1, 1, (2,))
    spaces = {"dict": gym.spaces.Dict(state=box, goal=box), "tuple": gym.spaces.Tuple((box, box))}
    for kind, line in (("dict", "a Dict of goal, state"), ("tuple", "a Tuple of 0, 1")):
        parts = [rng.normal(size=(STEPS + 1, 4)).astype(np.float32) for _ in range(2)]
        seen: Any = dict(zip(("state", "goal"), parts, strict=True)) if kind == "dict" else tuple(parts)
        buffer = EpisodeBuffer(
            observations=seen, actions=rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32), rewards=[0.0] * STEPS,
            terminations=[False] * STEPS, truncations=[False] * (STEPS - 1) + [True], infos={},
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
            create_dataset_from_buffers(
                f"mine/{kind}-v0",
                [buffer],
                observation_space=spaces[kind],
                action_space=act,
                algorithm_name="test",
            )
        with pytest.raises(UserError, match=f"observations are {line}, not vectors; record it with"):
            small(source="minari", root=str(tmp_path), dataset_id=f"mine/{kind}-v0").load()


def test_a_minari_set_with_links_to_other_files_is_refused(tmp_path: Path) -> None:
    write_minari(tmp_path, "nrc/reacher-expert-v0", episodes(12))
    data = tmp_path / "nrc/reacher-expert-v0/data/main_data.hdf5"
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = np.ones((STEPS, 2))
    with h5py.File(data, "r+") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "a")
    with pytest.raises(UserError, match="episode_0/actions is a link to another file"):
        small(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"source": "web"}, "data.source is 'web'; choose one of embedded, minari, jat, d4rl"),
        ({"name": "../x"}, "data.name"),
        ({"split": "no"}, "data.split"),
        ({"standardize": "y"}, "data.standardize"),
        ({"train_size": 1}, "data.train_size is 1"),
        ({"test_size": 0}, "data.test_size is 0"),
        ({"limit": 1}, "data.limit"),
        ({"split_seed": -1}, "data.split_seed"),
        ({"path": "x.csv"}, "data=table"),
    ],
)
def test_bad_settings(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**bad)
