"""What every data set can be told, whatever its rows come from, and the checks of settings."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from nrc.data.base import Array, Kind, RegressionData
from nrc.errors import UserError, check_choices

INF = math.inf
SEEDS = (0, 2**32 - 1)  # of numpy's RandomState
FRACTIONS = (1e-6, 0.99)
ROWS = 1_000  # guessed where only the file says how many


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Base of the settings of all data sets: `load()` gives the rows, `data_name` their folder.

    Args:
        target_mean: move the targets so that their mean over the train rows is this many standard deviations from
            0; a number (for each target alike) or a list, one number for each target. null: as recorded.
        target_mean_along: what the numbers of target_mean count along. "targets": each target, in its own standard
            deviations. "sigma": the eigenvectors of Sigma, largest eigenvalue first, each in the root of its
            eigenvalue, and each turned so that its largest entry is positive.
        target_scale: factor on the centred targets; deviations are those after it.

    All three are taken from the train rows and applied to train and test alike, after any other scaling. They
    leave Sigma as it is, but for the square of target_scale, so the unconstrained feature model with signed
    features predicts the same collapse; with ReLU features the mean decides (`nrc.theory.nonnegative`).
    """

    target_mean: Any = None
    target_mean_along: Literal["targets", "sigma"] = "targets"
    target_scale: float = 1.0

    def load(self) -> RegressionData:
        """Read, split and scale."""
        raise NotImplementedError

    @property
    def dataset(self) -> str:
        """Name of the set, whatever was made of it."""
        raise NotImplementedError

    @property
    def origin(self) -> dict[str, str]:
        """Where the rows come from, if not from the set's own place; {} if they do."""
        return {}

    @property
    def variant(self) -> dict[str, Any]:
        """What makes this a variant of the set; in run.json. {} for the set itself."""
        found: dict[str, Any] = dict(self.origin)
        if self.target_mean is not None:
            found["target_mean"] = self.target_mean
            found |= {"target_mean_along": "sigma"} if self.target_mean_along == "sigma" else {}
        return found | ({"target_scale": self.target_scale} if self.target_scale != 1 else {})

    @property
    def data_name(self) -> str:
        """The folder in which its runs lie: other for every variant. Nothing is read back out of it."""
        parts = [self.dataset, *self.origin.values()]
        if self.target_mean is not None:
            axes = "" if self.target_mean_along == "targets" else "sigma"
            numbers = self.target_mean if isinstance(self.target_mean, Sequence) else [self.target_mean]
            parts.append(f"{axes}mean{'_'.join(f'{v:g}' for v in numbers)}")
        if self.target_scale != 1:
            parts.append(f"scale{self.target_scale:g}")
        return "-".join(parts)

    @property
    def expected_rows(self) -> int:
        """Train rows as far as the settings tell, for a guess of how long a run takes."""
        return ROWS

    def check(self, **ranges: tuple[float, float]) -> None:
        """Refuse a setting that is not among its choices or outside its range [low, high]; None passes.

        Raises:
            UserError: one line that names the setting.
        """
        check_choices("data", self)
        for option, (low, high) in ranges.items():
            value = getattr(self, option)
            if value is not None and not low <= value <= high:
                wanted = f"{low} <= data.{option} <= {high:g}" if high < INF else f"a number >= {low}"
                raise UserError(f"data.{option} is {value}; expected {wanted}")
        name: str | None = getattr(self, "name", None)
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", name):  # it becomes a folder
            raise UserError(f"data.name is {name!r}; expected letters, digits, - and _, e.g. reacher")
        mean = self.target_mean
        numbers = list(mean) if isinstance(mean, list | tuple) else [0 if mean is None else mean]
        # beyond 100 deviations float32 targets lose digits
        if not numbers or not all(_is_number(v) and abs(v) <= 100 for v in numbers):
            raise UserError(
                f"data.target_mean is {mean!r}; expected a number from -100 to 100, or a list with one for each "
                "target, e.g. [0,2]"
            )
        if not _is_number(self.target_scale) or not 1e-6 <= self.target_scale <= 1e6:
            raise UserError(f"data.target_scale is {self.target_scale!r}; expected a number from 1e-6 to 1e6")

    def finished(
        self,
        arrays: tuple[Array, Array, Array, Array],
        input_names: tuple[str, ...],
        target_names: tuple[str, ...],
        kind: Kind,
        provenance: dict[str, Any],
    ) -> RegressionData:
        """The data of x_train, y_train, x_test, y_test after target_scale and target_mean."""
        x_train, y_train, x_test, y_test = arrays
        if self.target_mean is not None or self.target_scale != 1:
            y_train, y_test, done = moved_targets(
                y_train, y_test, self.target_mean, self.target_mean_along, self.target_scale
            )
            notes = [*provenance.get("notes", ()), *done.pop("notes")]
            provenance = {**provenance, **done, "notes": notes}
        return RegressionData(
            self.data_name, x_train, y_train, x_test, y_test, input_names, target_names, kind, provenance,
            dataset=self.dataset, variant=self.variant,
        )  # fmt: skip


def moved_targets(
    y_train: Array, y_test: Array, mean: Any, along: str, scale: float
) -> tuple[Array, Array, dict[str, Any]]:
    """Targets with another mean and scale, by the train rows; arguments as in `DataSource`.

    Example:
        >>> y = np.array([[0.0], [2.0]])
        >>> moved_targets(y, y, 3.0, "targets", 2.0)[0].tolist()
        [[4.0], [8.0]]
    """
    y_train, y_test = np.asarray(y_train, np.float64), np.asarray(y_test, np.float64)
    n, centre = y_train.shape[1], y_train.mean(axis=0)
    new, notes = centre, []
    if mean is not None:
        if isinstance(mean, Sequence) and len(mean) != n:
            raise UserError(
                f"data.target_mean has {len(mean)} numbers for {n} targets; give {n}, or one for all"
            )
        numbers = np.broadcast_to(np.asarray(mean, np.float64), n)
        axes = np.diag(y_train.std(axis=0)) if along == "targets" else principal_deviations(y_train)
        new = scale * axes @ numbers
        where = "each target" if along == "targets" else "the eigenvectors of Sigma"
        said = " ".join(f"{v:g}" for v in (numbers if isinstance(mean, Sequence) else numbers[:1]))
        notes.append(f"targets moved to a mean of {said} standard deviations along {where}")
    if scale != 1:
        notes.append(f"centred targets times {scale:g}")
    done = {"target_mean": np.asarray(mean).tolist(), "target_mean_along": along, "target_scale": scale,
            "target_shift": (new - centre).tolist(), "notes": notes}  # fmt: skip
    return new + scale * (y_train - centre), new + scale * (y_test - centre), done


def principal_deviations(y: Array) -> Array:
    """Eigenvectors of Sigma as columns, largest eigenvalue first, each as long as the root of its eigenvalue.

    Each is turned so that its entry of largest magnitude is positive. (n, n), in the units of the targets.
    """
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(y.T, bias=True)))
    vectors = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    largest = vectors[np.abs(vectors).argmax(axis=0), range(len(vectors))]
    return vectors * np.where(largest < 0, -1, 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
