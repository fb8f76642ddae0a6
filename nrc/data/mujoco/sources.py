"""Where the rollouts of `Mujoco` come from: one function per source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nrc.data.base import Array
from nrc.data.mujoco.hub import cached, commit_of, download, pinned
from nrc.data.mujoco.rollouts import minari_complete, read_d4rl, read_minari, read_parquet
from nrc.data.reading import expanded, sha256
from nrc.errors import UserError
from nrc.places import ROOT

EMBEDDED = ROOT / "data" / "minari"
JAT_REPO, MINARI_OWNER = "jat-project/jat-dataset", "farama-minari"


@dataclass(frozen=True)
class Rollouts:
    """Transitions in recorded order, x (N, d) and y (N, n), those of a test file if any, and their origin."""

    where: str
    x: Array
    y: Array
    test: tuple[Array, Array] | None
    facts: dict[str, Any]


def embedded(name: str, root: str | None, dataset_id: str | None, rows: int) -> Rollouts:
    """This project's own expert sets."""
    dataset_id = dataset_id or f"nrc/{name}-expert-v0"
    folder = (expanded(root) if root else EMBEDDED) / dataset_id
    if not minari_complete(folder):
        raise UserError(
            f"there is no expert set {dataset_id} in {folder}; make it with "
            "'python scripts/make_expert_data.py', or set data.root to a folder of Minari sets"
        )
    return _minari(folder, rows, {"dataset_id": dataset_id})


def minari(name: str, root: str | None, dataset_id: str | None, revision: str | None, rows: int) -> Rollouts:
    """A remote Minari set, downloaded once into Minari's own folder (or root)."""
    from minari.storage.datasets_root_dir import get_dataset_path

    dataset_id = dataset_id or f"mujoco/{name}/expert-v0"
    repo, _, inner = dataset_id.partition("/")
    if not inner:
        raise UserError(f"data.dataset_id is {dataset_id!r}; expected an id such as mujoco/reacher/expert-v0")
    sets = expanded(root) if root else get_dataset_path()
    if not minari_complete(sets / dataset_id):
        revision = pinned("minari", name, revision)
        # minari's own download takes the newest revision and cannot be told another
        remedy = f"download it where there is one ('minari download {dataset_id}') and copy it into {sets}"
        download(f"{MINARI_OWNER}/{repo}", f"{inner}/*", revision, remedy, local_dir=sets / repo)
        if not minari_complete(sets / dataset_id):
            raise UserError(
                f"{MINARI_OWNER}/{repo} at {revision} holds no {dataset_id}; check data.dataset_id"
            )
    found = commit_of(sets / repo, f"{inner}/data/metadata.json")
    facts = {"dataset_id": dataset_id, "revision": revision, "revision_found": found}
    return _minari(sets / dataset_id, rows, facts)


def _minari(folder: Path, rows: int, facts: dict[str, Any]) -> Rollouts:
    x, y, metadata = read_minari(folder, rows)
    files = {file.name: sha256(file) for file in sorted((folder / "data").iterdir()) if file.is_file()}
    return Rollouts(facts["dataset_id"], x, y, None, {**facts, "files": files, "metadata": metadata})


def jat(name: str, path: str | None, revision: str | None, rows: int, test_rows: int) -> Rollouts:
    """The parquet layout of jat-project/jat-dataset, from a local folder or file, or downloaded."""
    facts: dict[str, Any] = {}
    if path:
        where, place = path, expanded(path)
    else:
        where, pattern = f"{JAT_REPO} mujoco-{name}", f"mujoco-{name}/*"
        revision = pinned("jat", name, revision)
        place = cached(JAT_REPO, pattern, revision) or Path()
        if not _parts(place / f"mujoco-{name}")[1]:
            remedy = "set data.path to a folder with its parquet files"
            place = download(JAT_REPO, pattern, revision, remedy)
        facts = {"revision": revision, "revision_found": place.name}
    if place.is_dir():
        folder = place / f"mujoco-{name}" if (place / f"mujoco-{name}").is_dir() else place
        train, test = _parts(folder)
        if not train or not test:
            raise UserError(
                f"{folder} holds {len(train)} train*.parquet and {len(test)} test*.parquet; set data.path "
                "to a folder with both, or to one parquet file"
            )
    else:
        train, test = [place], []
    x, y = read_parquet(train, rows)
    facts["files"] = {file.name: sha256(file) for file in train + test}
    return Rollouts(where, x, y, read_parquet(test, test_rows) if test else None, facts)


def _parts(folder: Path) -> tuple[list[Path], list[Path]]:
    return sorted(folder.glob("train*.parquet")), sorted(folder.glob("test*.parquet"))


def d4rl(path: str | None, rows: int) -> Rollouts:
    """A local HDF5 file with the keys of D4RL; its test rows follow the train rows."""
    if not path:
        raise UserError(
            "data.source=d4rl needs data.path: an HDF5 file such as hopper_expert-v2.hdf5 from "
            "rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2 (or use data.source=embedded)"
        )
    file = expanded(path)
    x, y = read_d4rl(file, rows)
    return Rollouts(path, x, y, None, {"files": {file.name: sha256(file)}})
