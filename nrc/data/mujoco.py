"""Expert rollouts of MuJoCo environments: observations in, actions out."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrc.data import _sources
from nrc.data.base import (
    SPLITS,
    STANDARDIZE,
    Array,
    RegressionData,
    check_choice,
    check_name,
    check_range,
    standardised,
    train_test_split_indices,
)
from nrc.errors import UserError

SOURCES = ("embedded", "minari", "jat", "d4rl")

# NeurIPS 2024: origin, rows and eigenvalues of Sigma (from its NRC3 curves) of the paper's own train sets.
PAPER: dict[str, tuple[str, int, tuple[float, ...]]] = {
    "reacher": ("jat", 1_000, (0.012383, 0.009745)),
    "swimmer": ("jat", 1_000, (0.46588, 0.27564)),
    "hopper": ("d4rl", 10_000, (0.44190, 0.37735, 0.21485)),
}


@dataclass(frozen=True)
class Mujoco:
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
        target_mean: shift each target so that its mean over the train rows is this many standard deviations; None:
            as recorded. Sigma stays as it is, so by the unconstrained feature model nothing should change.
        limit: use at most this many train rows, and test rows in proportion.
        dataset_id: Minari id; default nrc/<name>-expert-v0 (embedded), mujoco/<name>/expert-v0 (minari).
        revision: commit, tag or branch on the hub; default: the commit pinned in nrc/data/_hub.py.
        path: jat: a folder with train*.parquet and test*.parquet, or one file; d4rl: the HDF5 file.

    The kind is "paper" only where the source is the paper's and Sigma over the paper's rows has the published
    eigenvalues within 1 %.

    Raises:
        UserError: a setting out of range; on load: no such data, no network, damaged files, too few rows.

    Example:
        >>> Mujoco("hopper", train_size=10_000, test_size=2_000, limit=500).rows
        (500, 100)
    """

    name: str = "reacher"
    source: str = "embedded"
    root: str | None = None
    train_size: int = 1_000
    test_size: int = 200
    split: str = "order"
    split_seed: int = 42
    standardize: str = "none"
    target_mean: float | None = None
    limit: int | None = None
    dataset_id: str | None = None
    revision: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.dataset_id and not re.fullmatch(r"[\w-]+(/[\w-]+)*", self.dataset_id):
            raise UserError(
                f"data.dataset_id is {self.dataset_id!r}; expected an id such as mujoco/reacher/expert-v0"
            )
        check_choice("data.source", self.source, SOURCES)
        check_choice("data.split", self.split, SPLITS)
        check_choice("data.standardize", self.standardize, STANDARDIZE)
        check_range("data.train_size", self.train_size, 2)
        check_range("data.test_size", self.test_size, 1)
        check_range("data.limit", self.limit, 2)
        check_range("data.split_seed", self.split_seed, 0, 2**32 - 1)
        check_range("data.target_mean", self.target_mean, -100, 100)  # beyond, float32 targets lose digits
        if self.path and self.source in ("embedded", "minari"):
            raise UserError(
                f"data.path does not go with data.source={self.source}; set data.root (a folder of Minari "
                "sets), data.source=jat or d4rl, or data=table"
            )

    @property
    def data_name(self) -> str:
        """The name that goes into the run directory; other sources and shifted targets are told apart."""
        name = self.name if self.source == "embedded" else f"{self.name}-{self.source}"
        return name if self.target_mean is None else f"{name}-mean{self.target_mean:g}"

    @property
    def variant(self) -> dict[str, Any]:
        """What makes this a variant of the embedded set; in run.json."""
        found: dict[str, Any] = {} if self.source == "embedded" else {"source": self.source}
        return found if self.target_mean is None else found | {"target_mean": self.target_mean}

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
        if self.name in PAPER and y.shape[1] != len(PAPER[self.name][2]):
            raise UserError(
                f"{found.where} has {y.shape[1]} actions, {self.name} has {len(PAPER[self.name][2])}; "
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
        (x_train, y_train, x_test, y_test), done = standardised(self.standardize, *parts)
        if self.target_mean is not None:
            shift = self.target_mean * y_train.std(axis=0) - y_train.mean(axis=0)
            y_train, y_test = y_train + shift, y_test + shift
            done |= {
                "target_shift": shift.tolist(),
                "notes": [f"targets shifted to a mean of {self.target_mean:g} standard deviations"],
            }
        provenance = {
            "source": self.source, "where": found.where, **found.facts, "split": self.split,
            "split_seed": self.split_seed if self.split == "random" else None, **fingerprint, **done,
        }  # fmt: skip
        names = (
            tuple(f"obs_{i}" for i in range(x.shape[1])),
            tuple(f"action_{i}" for i in range(y.shape[1])),
        )
        arrays = x_train, y_train, x_test, y_test
        return RegressionData(self.data_name, *arrays, *names, kind, provenance)

    def _test_file(self, found: _sources.Rollouts) -> bool:
        return found.test is not None and self.split == "order"

    def _read(self, n_train: int, n_test: int) -> _sources.Rollouts:
        origin, paper_rows, _ = PAPER.get(self.name, ("", 0, ()))
        # the paper's rows are needed for the comparison with its Sigma, however few are asked for
        rows = max(n_train + n_test, paper_rows if origin == self.source else 0)
        if self.source == "embedded":
            return _sources.embedded(self.name, self.root, self.dataset_id, rows)
        if self.source == "minari":
            return _sources.minari(self.name, self.root, self.dataset_id, self.revision, rows)
        if self.source == "jat":
            return _sources.jat(self.name, self.path, self.revision, rows, n_test)
        return _sources.d4rl(self.path, rows)

    def _kind(self, actions: Array) -> tuple[str, dict[str, Any]]:
        """The kind of data, and the comparison with the published Sigma where the source is the paper's."""
        if self.source == "embedded":
            return "own experts", {}
        origin, rows, published = PAPER.get(self.name, ("", 0, ()))
        if origin != self.source or len(actions) < rows:
            return "real", {}
        found = np.linalg.eigvalsh(np.cov(actions[:rows].T, bias=True))[::-1]
        same = bool(np.allclose(found, published, rtol=0.01))
        return "paper" if same else "real", {"eigenvalues": found.tolist(), "published": list(published)}


def _enough(where: str, have: int, needed: int) -> None:
    if have < needed:
        raise UserError(
            f"{where} holds {have} transitions, {needed} needed; lower data.train_size and data.test_size, "
            "or set data.limit"
        )
