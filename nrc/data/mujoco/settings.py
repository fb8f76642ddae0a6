"""Expert rollouts of MuJoCo environments: observations in, actions out."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nrc.data.base import (
    Array,
    Kind,
    RegressionData,
    Standardize,
    mean_in_deviations,
    standardised,
    train_test_split_indices,
)
from nrc.data.mujoco import sources
from nrc.data.settings import INF, SEEDS, DataSource
from nrc.errors import UserError


@dataclass(frozen=True)
class Published:
    """What the NeurIPS 2024 paper and its logs tell of its own train set.

    Attributes:
        source: `source` of `Mujoco` that has its rows.
        rows: the first so many of them.
        eigenvalues: of Sigma, largest first, recovered from the paper's NRC3 curves.
        mean: range of `mean_in_deviations`, inferred from the error before training; the paper does not state it.
    """

    source: str
    rows: int
    eigenvalues: tuple[float, ...]
    mean: tuple[float, float]


PAPER = {
    "reacher": Published("jat", 1_000, (0.012383, 0.009745), (0.0, 0.4)),
    "swimmer": Published("jat", 1_000, (0.46588, 0.27564), (1.97, 2.46)),  # a length of 1.2 to 1.5
    "hopper": Published("d4rl", 10_000, (0.44190, 0.37735, 0.21485), (0.0, 0.5)),
}


# what the mirror image of a swimmer, across the direction it swims in, does to each observation and each action:
# angles, their speeds, torques and the sideways speed turn round, the forward speed does not
MIRROR = {"swimmer": ((-1, -1, -1, 1, -1, -1, -1, -1), (-1, -1))}


@dataclass(frozen=True)
class Mujoco(DataSource):
    """The first transitions of an expert's rollouts, neither scaled nor clipped (NeurIPS 2024, experiments).

    Args:
        name: reacher, swimmer or hopper (any other needs a dataset_id or path).
        source: "embedded" (this project's expert sets), "minari" (remote Minari sets), "jat" (the JAT data
            set, the paper's Reacher and Swimmer), "d4rl" (a local D4RL file, the paper's Hopper).
        root: folder of Minari sets; default: this project's for embedded, Minari's own for minari.
        train_size, test_size: rows.
        split: "order": the first train_size rows train, the next test_size rows test (jat: the first of the
            test file). "random": the first train_size + test_size rows, split as scikit-learn's
            train_test_split with random_state=split_seed (CPAL 2026).
        standardize: "none", "x" or "xy", fitted on the train rows.
        limit: use at most this many train rows, and test rows in proportion.
        dataset_id: Minari id; default nrc/<name>-expert-v0 (embedded), mujoco/<name>/expert-v0 (minari).
        revision: commit, tag or branch on the hub; default: the commit pinned in nrc/data/mujoco/hub.py.
        mirrored: swimmer only: after each part's rows, their mirror images across the direction of travel, which are
            as good an expert's. The targets then lie on both sides of 0, with mean 0.
        path: jat: a folder with train*.parquet and test*.parquet, or one file; d4rl: the HDF5 file.

    The kind is "paper" only where the source is the paper's, Sigma over the paper's rows has the published
    eigenvalues within 1 %, and the mean of the targets lies where the paper's must have been.

    Raises:
        UserError: a setting out of range; on load: no such data, no network, damaged files, too few rows.

    Example:
        >>> Mujoco("hopper", train_size=10_000, test_size=2_000, limit=500).rows
        (500, 100)
    """

    name: str = "reacher"
    source: Literal["embedded", "minari", "jat", "d4rl"] = "embedded"
    root: str | None = None
    train_size: int = 1_000
    test_size: int = 200
    split: Literal["order", "random"] = "order"
    split_seed: int = 42
    standardize: Standardize = "none"
    limit: int | None = None
    dataset_id: str | None = None
    revision: str | None = None
    path: str | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        self.check(train_size=(2, INF), test_size=(1, INF), limit=(2, INF), split_seed=SEEDS)
        if self.dataset_id and not re.fullmatch(r"[\w-]+(/[\w-]+)*", self.dataset_id):
            raise UserError(
                f"data.dataset_id is {self.dataset_id!r}; expected an id such as mujoco/reacher/expert-v0"
            )
        if self.mirrored and self.name not in MIRROR:
            raise UserError(f"data.mirrored is for {', '.join(MIRROR)}, not for {self.name}; leave it out")
        if self.path and self.source in ("embedded", "minari"):
            raise UserError(
                f"data.path does not go with data.source={self.source}; set data.root (a folder of Minari "
                "sets), data.source=jat or d4rl, or data=table"
            )

    @property
    def dataset(self) -> str:
        """The environment."""
        return self.name

    @property
    def origin(self) -> dict[str, str]:
        """The source, if it is not this project's own set, and whether there are mirror images."""
        found = {} if self.source == "embedded" else {"source": self.source}
        return found | ({"rows": "mirrored"} if self.mirrored else {})

    @property
    def expected_rows(self) -> int:
        """The train rows."""
        return self.rows[0] * (1 + self.mirrored)

    @property
    def rows(self) -> tuple[int, int]:
        """Train and test rows after `limit`."""
        if self.limit is None or self.limit >= self.train_size:
            return self.train_size, self.test_size
        return self.limit, -(-self.test_size * self.limit // self.train_size)

    def load(self) -> RegressionData:
        """Read, split and standardise."""
        n_train, n_test = self.rows
        found = self._read(n_train, n_test)
        x, y = found.x, found.y
        if self.name in PAPER and y.shape[1] != len(PAPER[self.name].eigenvalues):
            raise UserError(
                f"{found.where} has {y.shape[1]} actions, {self.name} has {len(PAPER[self.name].eigenvalues)}; "
                "give the rollouts of that environment"
            )
        _enough(found.where, len(y), n_train + (0 if self._test_file(found) else n_test))
        if self.split == "random":
            train, held_out = train_test_split_indices(n_train + n_test, n_test, self.split_seed)
            parts = x[train], y[train], x[held_out], y[held_out]
        elif found.test is not None:
            _enough(f"the test file of {found.where}", len(found.test[1]), n_test)
            parts = x[:n_train], y[:n_train], found.test[0][:n_test], found.test[1][:n_test]
        else:
            both = n_train + n_test
            parts = x[:n_train], y[:n_train], x[n_train:both], y[n_train:both]
        kind, fingerprint = self._kind(y)
        if self.mirrored:
            parts = _mirrored(parts, *MIRROR[self.name])
        arrays, done = standardised(self.standardize, *parts)
        provenance = {
            "source": self.source, "where": found.where, **found.facts, "split": self.split,
            "split_seed": self.split_seed if self.split == "random" else None, **fingerprint, **done,
        }  # fmt: skip
        names = (
            tuple(f"obs_{i}" for i in range(x.shape[1])),
            tuple(f"action_{i}" for i in range(y.shape[1])),
        )
        return self.finished(arrays, *names, kind, provenance)

    def _test_file(self, found: sources.Rollouts) -> bool:
        return found.test is not None and self.split == "order"

    def _read(self, n_train: int, n_test: int) -> sources.Rollouts:
        paper = self._published
        # the paper's rows are needed for the comparison with its Sigma, however few are asked for
        rows = max(n_train + n_test, paper.rows if paper else 0)
        if self.source == "embedded":
            return sources.embedded(self.name, self.root, self.dataset_id, rows)
        if self.source == "minari":
            return sources.minari(self.name, self.root, self.dataset_id, self.revision, rows)
        if self.source == "jat":
            return sources.jat(self.name, self.path, self.revision, rows, n_test)
        return sources.d4rl(self.path, rows)

    @property
    def _published(self) -> Published | None:
        """What the paper tells of this set, if the source is the paper's."""
        paper = PAPER.get(self.name)
        return paper if paper and paper.source == self.source else None

    def _kind(self, actions: Array) -> tuple[Kind, dict[str, Any]]:
        """The kind of data, and the comparison with the published statistics where the source is the paper's."""
        if self.source == "embedded":
            return "own experts", {}
        paper = self._published
        if paper is None or len(actions) < paper.rows:
            return "real", {}
        first = actions[: paper.rows]
        found = np.linalg.eigvalsh(np.cov(first.T, bias=True))[::-1]
        mean, (low, high) = mean_in_deviations(first), paper.mean
        same = bool(np.allclose(found, paper.eigenvalues, rtol=0.01))
        note = (
            f"the paper's rows: eigenvalues {' '.join(f'{v:.4g}' for v in found)} (published "
            f"{' '.join(f'{v:.4g}' for v in paper.eigenvalues)}), mean {mean:.3g} deviations (published {low:g} to {high:g})"
        )
        facts = {"eigenvalues": found.tolist(), "published": list(paper.eigenvalues), "mean": mean,
                 "published_mean": [low, high], "notes": [note]}  # fmt: skip
        return "paper" if same and low <= mean <= high else "real", facts


def _mirrored(
    parts: tuple[Array, Array, Array, Array], observations: tuple[int, ...], actions: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """Each of x_train, y_train, x_test, y_test followed by its mirror images."""
    signs = observations, actions, observations, actions
    first, second, third, fourth = (
        np.concatenate([rows, rows * np.asarray(sign, rows.dtype)])
        for rows, sign in zip(parts, signs, strict=True)
    )
    return first, second, third, fourth


def _enough(where: str, have: int, needed: int) -> None:
    if have < needed:
        raise UserError(
            f"{where} holds {have} transitions, {needed} needed; lower data.train_size and data.test_size, "
            "or set data.limit"
        )
