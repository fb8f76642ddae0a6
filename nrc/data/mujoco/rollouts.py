"""Readers of recorded rollouts: Minari sets, the parquet layout of the JAT data set, the HDF5 keys of D4RL.

Each returns observations (N, d) and actions (N, n) of the first N transitions, in the recorded order.
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nrc.data.base import Array
from nrc.data.reading import array_of, existing, one_line, open_hdf5, require_pyarrow
from nrc.errors import UserError

OBSERVATIONS, ACTIONS = "continuous_observations", "continuous_actions"
SPACES = ("observation_space", "action_space")


def aligned(observations: Any, actions: Any, where: str) -> tuple[Array, Array]:
    """One episode as pairs: of T + 1 observations for T actions the last has no action and is dropped."""
    for what, values in (("observations", observations), ("actions", actions)):
        parts = (
            sorted(map(str, values))
            if isinstance(values, dict)
            else range(len(values) if isinstance(values, tuple) else 0)
        )
        if parts or isinstance(values, dict | tuple):
            space = "Dict" if isinstance(values, dict) else "Tuple"
            raise UserError(
                f"{where}: the {what} are a {space} of {', '.join(map(str, parts)) or 'nothing'}, not vectors; record it "
                "with gymnasium.wrappers.FlattenObservation, or save the arrays you want as x.npy,y.npy for data=table"
            )
    x, y = np.asarray(observations, np.float64), np.asarray(actions, np.float64)
    if x.ndim != 2 or y.ndim != 2:
        raise UserError(
            f"{where}: observations {x.shape}, actions {y.shape}; expected vectors at each step (no images, and no "
            "single numbers of a Discrete space)"
        )
    if len(x) not in (len(y), len(y) + 1):
        raise UserError(f"{where}: {len(x)} observations for {len(y)} actions; expected as many, or one more")
    return x[: len(y)], y


def first_rows(episodes: Iterable[tuple[Any, Any]], rows: int, where: str) -> tuple[Array, Array]:
    """The first `rows` transitions of a stream of episodes (fewer if it ends before); reads no further."""
    xs: list[Array] = []
    ys: list[Array] = []
    found = 0
    for number, (observations, actions) in enumerate(episodes):
        try:
            x, y = aligned(observations, actions, f"{where}: episode {number}")
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{where}: episode {number} is not a list of equally long vectors of numbers"
            ) from error
        if xs and (x.shape[1], y.shape[1]) != (xs[0].shape[1], ys[0].shape[1]):
            raise UserError(
                f"{where}: episode {number} has another number of observations or actions than episode 0"
            )
        xs.append(x)
        ys.append(y)
        found += len(y)
        if found >= rows:
            break
    if not found:
        raise UserError(f"{where} holds no transitions; get or record it again")
    return np.concatenate(xs)[:rows], np.concatenate(ys)[:rows]


def minari_complete(folder: Path) -> bool:
    """True when a Minari set with its metadata and its arrays lies in the folder."""
    data = folder / "data"
    return (data / "metadata.json").is_file() and any(
        f.name != "metadata.json" for f in data.iterdir() if f.is_file()
    )


def read_minari(folder: Path, rows: int) -> tuple[Array, Array, dict[str, Any]]:
    """The first rows of a Minari set, and what its metadata say about it."""
    from minari import MinariDataset

    # opened by folder: minari.load_dataset would look only where MINARI_DATASETS_PATH points
    with one_line(folder, "a Minari set"):
        raw = json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))
        if not all(isinstance(raw.get(key), str) for key in SPACES):
            # Minari would then make the environment that the metadata name, and so run code that they name
            raise UserError(
                f"{folder}: metadata.json lacks {' or '.join(SPACES)}, which every Minari set states; "
                "get or record it again"
            )
        for file in sorted((folder / "data").glob("*.hdf5")):
            with open_hdf5(file):  # before Minari opens it, which would follow its links
                pass
        dataset = MinariDataset(folder / "data")
        episodes = ((e.observations, e.actions) for e in dataset.iterate_episodes())
        x, y = first_rows(episodes, rows, str(folder))
    skipped = (*SPACES, "env_spec", "eval_env_spec")
    facts = {key: value for key, value in raw.items() if key not in skipped}
    facts["environment"] = dataset.env_spec.id if dataset.env_spec is not None else None
    return x, y, facts


def read_parquet(files: list[Path], rows: int) -> tuple[Array, Array]:
    """The first rows of the JAT layout: one parquet row per episode, each column a list of vectors."""
    require_pyarrow(files[0])
    import pyarrow.parquet as pq

    def episodes() -> Iterable[tuple[Any, Any]]:
        for file in files:
            archive = pq.ParquetFile(existing(file))
            missing = {OBSERVATIONS, ACTIONS} - set(archive.schema_arrow.names)
            if missing:
                raise UserError(
                    f"{file} has no column {' and '.join(sorted(missing))} (it has "
                    f"{', '.join(archive.schema_arrow.names[:8])}); expected the layout of jat-dataset"
                )
            # a few episodes at a time: the published files have up to 400 MB, a subset needs the first few
            for batch in archive.iter_batches(batch_size=4, columns=[OBSERVATIONS, ACTIONS]):
                both = batch.to_pydict()
                yield from zip(both[OBSERVATIONS], both[ACTIONS], strict=True)

    with one_line(files[0], "parquet"):
        return first_rows(episodes(), rows, str(files[0]))


def read_d4rl(file: Path, rows: int) -> tuple[Array, Array]:
    """The first rows of a D4RL file: aligned HDF5 arrays `observations` and `actions`."""
    with open_hdf5(existing(file)) as archive:
        missing = [key for key in ("observations", "actions") if key not in archive]
        if missing:
            raise UserError(
                f"{file} has no {' and '.join(missing)} "
                f"(it has {', '.join(islice(archive, 8)) or 'nothing'}); expected the keys of D4RL"
            )
        x, y = (array_of(file, archive, key) for key in ("observations", "actions"))
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise UserError(
                f"{file}: observations {x.shape}, actions {y.shape}; expected (N, d) and (N, n) with N > 0"
            )
        return x[:rows].astype(np.float64), y[:rows].astype(np.float64)
