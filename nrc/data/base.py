"""The one form in which every data set reaches the rest of the package, and the helpers to get it there."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nrc.data._arrays import Array, images, matrix, pixels_sha256
from nrc.errors import UserError

KINDS = ("paper", "own experts", "real", "synthetic", "stand-in")
STANDARDIZE = ("none", "x", "xy")
SPLITS = ("order", "random")


@dataclass(frozen=True, eq=False)
class RegressionData:
    """Inputs and targets of a regression problem, split, checked, with the facts that the theory needs.

    Args:
        name: short name, used in the run directory and on figures.
        x_train, y_train, x_test, y_test: (N, d) and (N, n), stored as float32, C-contiguous. Or x are images,
            (N, H, W, 3) uint8, kept as they are: a memory map is not read.
        input_names, target_names: one name per column; ("image",) for images.
        kind: one of "paper", "own experts", "real", "synthetic", "stand-in"; shown on figures.
        provenance: where the data come from; must be JSON-able. Three entries are read: `notes`, lines that
            describe() adds; `left_out`, files that run.json names; and `pixels_sha256`, of all pixels (train, then
            test), which spares hashing them.
        sha256: of the names, shapes and bytes of the arrays; computed. If given, it must agree.

    Raises:
        UserError: shapes disagree, a value is not finite, too few rows, or a target is constant.

    Example:
        >>> x, y = np.eye(4), np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> data = RegressionData("toy", x, y, x, y, ("a", "b", "c", "d"), ("y",), "synthetic")
        >>> float(data.lambda_min)
        1.25
    """

    name: str
    x_train: Array = field(repr=False)
    y_train: Array = field(repr=False)
    x_test: Array = field(repr=False)
    y_test: Array = field(repr=False)
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    kind: str
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"{self.name}: kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        for part in ("x_train", "y_train", "x_test", "y_test"):
            names = self.input_names if part.startswith("x") else self.target_names
            check = images if part.startswith("x") and np.ndim(getattr(self, part)) == 4 else matrix
            object.__setattr__(self, part, check(getattr(self, part), names, f"{self.name}: {part}"))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise UserError(
                f"{self.name}: train inputs have shape {self.x_train.shape[1:]}, test inputs "
                f"{self.x_test.shape[1:]}; give both the same"
            )
        for kind in ("input_names", "target_names"):
            object.__setattr__(self, kind, tuple(str(name) for name in getattr(self, kind)))
        for split, smallest in (("train", 2), ("test", 1)):
            rows = len(getattr(self, f"x_{split}")), len(getattr(self, f"y_{split}"))
            if rows[0] != rows[1]:
                raise UserError(
                    f"{self.name}: {rows[0]} {split} inputs but {rows[1]} {split} targets; give one per row"
                )
            if rows[0] < smallest:
                raise UserError(
                    f"{self.name}: {rows[0]} {split} rows; at least {smallest} needed: give more rows"
                )
        still = [
            n for n, column in zip(self.target_names, self.y_train.T, strict=True) if np.ptp(column) == 0
        ]
        if still:
            raise UserError(
                f"{self.name}: target {', '.join(map(repr, still))} is constant over the train rows; "
                "there is nothing to regress on: leave it out of the targets"
            )
        found = self._digest()
        if self.sha256 not in ("", found):
            raise UserError(
                f"{self.name}: sha256 is {found[:12]}, expected {self.sha256[:12]}; get the data again"
            )
        object.__setattr__(self, "sha256", found)

    def _digest(self) -> str:
        arrays: tuple[Array, ...] = (self.x_train, self.y_train, self.x_test, self.y_test)
        head = [list(self.input_names), list(self.target_names), [list(a.shape) for a in arrays]]
        digest = hashlib.sha256(json.dumps(head).encode())
        if self.is_image:
            pixels = self.provenance.get("pixels_sha256") or pixels_sha256(self.x_train, self.x_test)
            digest.update(pixels.encode())
            arrays = (self.y_train, self.y_test)
        for array in arrays:
            digest.update(array.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images, (N, H, W, 3) uint8, and not columns of numbers."""
        return self.x_train.ndim == 4

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of both splits and columns (numbers per image) of both sides: train, test, inputs, targets."""
        rows, n_in, n_out = len(self.x_test), math.prod(self.x_train.shape[1:]), self.y_train.shape[1]
        return {"train": len(self.x_train), "test": rows, "inputs": n_in, "targets": n_out}

    @cached_property
    def _centred(self) -> Array:
        y = self.y_train.astype(np.float64)
        return y - y.mean(axis=0)

    @cached_property
    def sigma(self) -> Array:
        """Sigma = (1/N) sum_i (y_i - ybar)(y_i - ybar)^T of the train targets, (n, n), fp64."""
        return self._centred.T @ self._centred / len(self._centred)

    @cached_property
    def eigenvalues(self) -> Array:
        """Eigenvalues of Sigma, largest first, (n,), fp64; what rounding made negative is 0."""
        return np.maximum(np.linalg.eigvalsh(self.sigma)[::-1], 0.0)

    @property
    def lambda_min(self) -> float:
        """Smallest eigenvalue of Sigma; gamma of NRC3 lives in [0, lambda_min]."""
        return float(self.eigenvalues[-1])

    @cached_property
    def target_rank(self) -> int:
        """Numerical rank of the centred train targets, by the rule of the metrics.

        Eigenvalues of Sigma count above 1e-10 of the largest, and above the rounding of float32 targets,
        (2 eps)^2 of their mean square.
        """
        rounding = 4 * np.finfo(np.float32).eps ** 2 * np.square(self.y_train, dtype=np.float64).sum(1).mean()
        return int((self.eigenvalues > max(1e-10 * self.eigenvalues[0], rounding)).sum())

    @property
    def papers_own(self) -> bool:
        """True when these are the rows that the paper itself used."""
        return self.kind == "paper"

    def describe(self) -> str:
        """A few lines: sizes, Sigma, its eigenvalues, the rank of the targets, sha256 and origin."""
        n = self.sizes["targets"]
        shown = ", ".join(self.target_names[:6]) + (", ..." if n > 6 else "")
        rows = [" ".join(f"{v:.4g}" for v in row) for row in self.sigma]
        sigma = "[" + (";\n    " if n > 4 else "; ").join(rows) + "]" if n <= 10 else f"a {n} x {n} matrix"
        values = [f"{v:.4g}" for v in self.eigenvalues]
        spectrum = " ".join(values if n <= 10 else [*values[:5], "...", values[-1]])
        inputs = f"{self.sizes['inputs']} inputs"
        if self.is_image:
            inputs = "images {} x {}".format(*self.x_train.shape[1:3])
        return "\n".join(
            (
                f"{self.name}: {self.sizes['train']} train and {self.sizes['test']} test rows, "
                f"{inputs} -> {n} targets ({shown})",
                f"  Sigma = {sigma}, predicting the mean gives MSE {self.sigma.trace() / n:.4g}",
                f"  eigenvalues {spectrum}, lambda_min {self.lambda_min:.4g}, "
                f"numerical rank of the targets {self.target_rank} of {n}",
                f"  sha256 {self.sha256[:12]}, kind: {self.kind}, "
                f"the paper's own data: {'yes' if self.papers_own else 'no'}",
                *(f"  {note}" for note in self.provenance.get("notes", ())),
            )
        )


def train_test_split_indices(n: int, test_size: float | int, seed: int) -> tuple[Array, Array]:
    """Indices (train, test) equal to scikit-learn's train_test_split(test_size=test_size, random_state=seed).

    Args:
        n: number of rows.
        test_size: a fraction in (0, 1), rounded up to whole rows, or a number of rows.
        seed: of numpy's RandomState, whose streams are frozen for ever.

    Example:
        >>> [part.tolist() for part in train_test_split_indices(5, 0.2, seed=42)]
        [[4, 2, 0, 3], [1]]
    """
    n_test = n_test_rows(n, test_size)
    order = np.random.RandomState(seed).permutation(n)
    return order[n_test:], order[:n_test]


def n_test_rows(n: int, test_size: float | int) -> int:
    """Rows in the test part: ceil(test_size * n) for a fraction, test_size itself for a number of rows."""
    n_test = math.ceil(test_size * n) if isinstance(test_size, float) else test_size
    if not 0 < n_test < n:
        raise UserError(
            f"{n} rows cannot be split with a test part of {test_size}; leave some rows on both sides"
        )
    return n_test


def standardise(x_train: Array, x_test: Array) -> tuple[Array, Array, Array, Array]:
    """Centre and scale each column by mean and standard deviation (divided by N) of the train part.

    Equal to scikit-learn's StandardScaler fitted on train; a constant column is divided by 1.

    Returns:
        x_train, x_test as fp64, and the mean (d,) and scale (d,) that were used.
    """
    train, test = np.asarray(x_train, np.float64), np.asarray(x_test, np.float64)
    mean, variance = train.mean(axis=0), train.var(axis=0)
    eps, n = np.finfo(np.float64).eps, len(train)
    # below the rounding error of a variance the column is constant, and scaling would only blow up noise
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    scale = np.where(constant, 1.0, np.sqrt(variance))
    return (train - mean) / scale, (test - mean) / scale, mean, scale


def standardised(
    mode: str, x_train: Array, y_train: Array, x_test: Array, y_test: Array
) -> tuple[tuple[Array, Array, Array, Array], dict[str, Any]]:
    """Apply mode none, x or xy; returns the four arrays and what was done (for provenance)."""
    done: dict[str, Any] = {"standardize": mode}
    if mode in ("x", "xy"):
        x_train, x_test, mean, scale = standardise(x_train, x_test)
        done |= {"x_mean": mean.tolist(), "x_scale": scale.tolist()}
    if mode == "xy":
        y_train, y_test, mean, scale = standardise(y_train, y_test)
        done |= {"y_mean": mean.tolist(), "y_scale": scale.tolist()}
    return (x_train, y_train, x_test, y_test), done


TARGET_SCALES = ("none", "minmax", "standard")


def scaled_targets(mode: str, y: Array, n_train: int) -> tuple[Array, dict[str, Any]]:
    """Targets (N, n), of which the first n_train are train rows, and what was done (for provenance).

    mode: "none"; "minmax", each column to [0, 1] over the train rows; "standard", to mean 0 and deviation 1.
    """
    done: dict[str, Any] = {"scale_targets": mode}
    if mode == "minmax":
        low, high = y[:n_train].min(axis=0), y[:n_train].max(axis=0)
        return (y - low) / np.where(high > low, high - low, 1), done | {
            "y_min": low.tolist(), "y_max": high.tolist(),
        }  # fmt: skip
    if mode == "standard":
        train, test, mean, scale = standardise(y[:n_train], y[n_train:])
        return np.concatenate((train, test)), done | {"y_mean": mean.tolist(), "y_scale": scale.tolist()}
    return y, done


def check_choice(option: str, value: Any, choices: Sequence[str]) -> None:
    """One readable line when a setting is not among its choices."""
    if value not in choices:
        raise UserError(f"{option} is {value!r}; expected one of {', '.join(choices)}")


def check_name(value: str | None) -> None:
    """A data set's name becomes a folder, so it must not lead elsewhere; None passes."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise UserError(f"data.name is {value!r}; expected letters, digits, - and _, e.g. reacher")


def check_range(option: str, value: float | None, low: float, high: float = math.inf) -> None:
    """One readable line when a number is outside [low, high]; None passes."""
    if value is not None and not low <= value <= high:
        raise UserError(f"{option} is {value}; expected {low} <= {option} <= {high:g}" if high < math.inf
                        else f"{option} is {value}; expected a number >= {low}")  # fmt: skip
