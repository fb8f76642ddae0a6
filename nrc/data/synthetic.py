"""Synthetic targets of a chosen rank (CPAL 2026, section on low-rank targets)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nrc.data.base import Array, RegressionData, Standardize, n_test_rows, standardised
from nrc.data.settings import FRACTIONS, INF, SEEDS, DataSource
from nrc.errors import UserError

ATTEMPTS = 10_000


@dataclass(frozen=True)
class LowRank(DataSource):
    """X ~ N(0, I_d), Y = f0(X) with targets in a min(t, r, d)-dimensional subspace of R^t.

    linear: f0(x) = A B x with Gaussian A (t, r) and B (r, d).
    relu: f0 = a bias-free MLP d -> r -> r -> t, Gaussian (He scaled) weights, ReLU after both hidden layers.

    Generators are drawn from the seed until the target directions are all alive: the smallest of the
    k = min(t, r, d) leading eigenvalues of Sigma is at least `min_ratio` times the largest (narrow ReLU nets
    are often dead). Targets are scaled by one number so that their mean variance over the train rows is 1;
    noise is added after that.

    Args:
        t, r, d: targets, rank (width) of the generator, inputs.
        n: samples; the first 1 - test_fraction of them are the train rows.
        generator: "linear" or "relu".
        seed: of the inputs, the generator and the noise.
        noise: standard deviation of Gaussian noise on the targets (0: exact rank).
        min_ratio: in [0, 1), what counts as alive.

    Example:
        >>> LowRank(t=10, r=2, n=1000).load().target_rank
        2
    """

    name: str = "low_rank"
    t: int = 10
    r: int = 2
    d: int = 20
    n: int = 10_000
    generator: Literal["linear", "relu"] = "relu"
    seed: int = 0
    noise: float = 0.0
    min_ratio: float = 0.5
    test_fraction: float = 0.2
    standardize: Standardize = "none"
    limit: int | None = None

    def __post_init__(self) -> None:
        some = (1, INF)
        self.check(
            t=some, r=some, d=some, n=(3, INF), limit=(3, INF), seed=SEEDS, noise=(0, 1e30), min_ratio=(0, 0.99),
            test_fraction=FRACTIONS,
        )  # fmt: skip

    @property
    def dataset(self) -> str:
        """Its name, by which draws of other shapes are told apart."""
        return self.name

    @property
    def expected_rows(self) -> int:
        """Rows in all, a few more than the train rows."""
        return min(self.n, self.limit or self.n)

    @property
    def rank(self) -> int:
        """k = min(t, r, d), the dimension of the target subspace."""
        return min(self.t, self.r, self.d)

    def load(self) -> RegressionData:
        """Draw the set."""
        n = min(self.n, self.limit or self.n)
        n_train = n - n_test_rows(n, float(self.test_fraction))
        # RandomState: its streams never change, so a seed names the same set in every numpy
        random = np.random.RandomState(self.seed)
        x = random.standard_normal((n, self.d))
        for attempt in range(1, ATTEMPTS + 1):  # noqa: B007 (recorded below)
            y = self._generate(random, x)
            eigenvalues = np.linalg.eigvalsh(np.cov(y[:n_train].T, bias=True).reshape(self.t, self.t))[::-1]
            if eigenvalues[0] > 0 and eigenvalues[self.rank - 1] >= max(
                self.min_ratio * eigenvalues[0], 1e-300
            ):
                break
        else:
            raise UserError(
                f"{self.name}: none of {ATTEMPTS} {self.generator} draws had {self.rank} directions alive "
                f"(eigenvalues at least {self.min_ratio} of the largest); lower data.min_ratio"
            )
        y = y / np.sqrt(eigenvalues.sum() / self.t)
        if self.noise:
            y = y + self.noise * random.standard_normal(y.shape)
        arrays, done = standardised(self.standardize, x[:n_train], y[:n_train], x[n_train:], y[n_train:])
        provenance: dict[str, Any] = {
            "source": "synthetic", "t": self.t, "r": self.r, "d": self.d, "n": n, "generator": self.generator,
            "seed": self.seed, "noise": self.noise, "min_ratio": self.min_ratio, "attempts": attempt, **done,
        }  # fmt: skip
        names = tuple(f"x{i}" for i in range(self.d)), tuple(f"y{i}" for i in range(self.t))
        return self.finished(arrays, *names, "synthetic", provenance)

    def _generate(self, random: np.random.RandomState, x: Array) -> Array:
        """One draw of f0 and its values on x, (n, t)."""
        if self.generator == "linear":
            return x @ (random.standard_normal((self.t, self.r)) @ random.standard_normal((self.r, self.d))).T
        h = x
        for width in (self.r, self.r):
            weight = random.standard_normal((width, h.shape[1])) * np.sqrt(2 / h.shape[1])
            h = np.maximum(h @ weight.T, 0)
        return h @ random.standard_normal((self.t, self.r)).T
