"""The one form in which every data set reaches the rest of the package, and the helpers to get it there."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nrc.errors import UserError, check_choices
from nrc.rank import rank_of_targets

Array = NDArray[Any]
Kind = Literal["paper", "own experts", "real", "synthetic", "stand-in"]
Standardize = Literal["none", "x", "xy"]
ScaleTargets = Literal["none", "minmax", "standard"]
EPS = float(np.finfo(np.float64).eps)
ROUNDING = 8 * EPS  # deviations below this share of the mean may be float64's rounding of one number
FAR = 1_000.0  # deviations from 0 beyond which float32 keeps less than 4 digits of a column's deviations


@dataclass(frozen=True, eq=False)
class RegressionData:
    """Inputs and targets of a regression problem, split, checked, with the facts that the theory needs.

    A column whose train mean is more than 1,000 standard deviations from 0 (seconds since 1970) would lose its
    digits in float32. That mean is subtracted in float64 first, from train and test, inputs and targets alike, and
    from whole numbers beyond 2^53 (nanoseconds since 1970) in whole numbers; `provenance["offset"]` and describe() say so.

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
        dataset: the name without what makes this a variant of the set; default: `name`.
        variant: what makes this a variant of the set, e.g. {"target_mean": 2.0}; {} for the set itself.

    Raises:
        UserError: shapes disagree, a value is no finite real number, too few rows, or a target is constant.

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
    kind: Kind
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    sha256: str = ""
    dataset: str = ""
    variant: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(attribute: str, value: Any) -> None:
            object.__setattr__(self, attribute, value)

        check_choices(self.name, self)
        offset: dict[str, dict[str, float]] = dict(self.provenance.get("offset", {}))
        notes = list[str]()
        for side, names in (("x", self.input_names), ("y", self.target_names)):
            train, test = getattr(self, f"{side}_train"), getattr(self, f"{side}_test")
            image = side == "x" and 4 in (np.ndim(train), np.ndim(test))
            check = _images if image else _matrix
            train, test = (
                check(a, names, f"{self.name}: {side}_{s}") for a, s in ((train, "train"), (test, "test"))
            )
            if not image:
                train, test, taken = _centred_if_far(train, test)
                single = [_single(a, names, f"{self.name}: {side}_{s}", taken)
                          for a, s in ((train, "train"), (test, "test"))]  # fmt: skip
                close = _too_close(train, names)
                if close and side == "y":
                    raise UserError(
                        f"{self.name}: the train rows of target {close} differ by less than float32 has digits for; use "
                        "other units, or data.standardize=xy"
                    )
                if close:
                    notes.append(
                        f"float32 has no digits for how little the train rows of input {close} differ"
                    )
                train, test = single
                offset[side] = _added(offset.get(side, {}), names, taken)
            elif train.shape[1:] != test.shape[1:]:
                raise UserError(
                    f"{self.name}: train inputs have shape {train.shape[1:]}, test inputs {test.shape[1:]}; "
                    "give both the same"
                )
            put(f"{side}_train", train)
            put(f"{side}_test", test)
        put("input_names", tuple(str(name) for name in self.input_names))
        put("target_names", tuple(str(name) for name in self.target_names))
        put("dataset", self.dataset or self.name)
        self._check_rows()
        if any(offset.values()):
            put("provenance", {**self.provenance, "offset": offset})
        if notes:
            put("provenance", {**self.provenance, "notes": [*self.provenance.get("notes", ()), *notes]})
        found = self._digest()
        if self.sha256 not in ("", found):
            raise UserError(
                f"{self.name}: sha256 is {found[:12]}, expected {self.sha256[:12]}; get the data again"
            )
        put("sha256", found)

    def _check_rows(self) -> None:
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
        still = [n for n, c in zip(self.target_names, self.y_train.T, strict=True) if np.ptp(c) == 0]
        if still:
            raise UserError(
                f"{self.name}: target {', '.join(map(repr, still))} is constant over the train rows (as float32); "
                "there is nothing to regress on: leave it out of the targets"
            )

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
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of the images in pixels; None where the inputs are columns of numbers."""
        return (self.x_train.shape[1], self.x_train.shape[2]) if self.is_image else None

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of both splits and columns (numbers per image) of both sides: train, test, inputs, targets."""
        rows, n_in, n_out = len(self.x_test), math.prod(self.x_train.shape[1:]), self.y_train.shape[1]
        return {"train": len(self.x_train), "test": rows, "inputs": n_in, "targets": n_out}

    @cached_property
    def sigma(self) -> Array:
        """Sigma = (1/N) sum_i (y_i - ybar)(y_i - ybar)^T of the train targets, (n, n), fp64."""
        centred = self.y_train.astype(np.float64)
        centred -= centred.mean(axis=0)
        return centred.T @ centred / len(centred)

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
        """Numerical rank of the centred train targets as float32, by the rule of the metrics; units do not count."""
        mean = self.y_train.mean(axis=0, dtype=np.float64)
        return rank_of_targets(self.sigma, mean, float(np.finfo(np.float32).eps))

    @cached_property
    def mean_in_deviations(self) -> float:
        """How far the train targets lie from 0: |ybar| / sqrt(trace(Sigma) / n), >= 0, without unit.

        The length of the mean over the root of the mean variance of the n targets; 0 for centred targets.
        """
        return mean_in_deviations(self.y_train)

    @cached_property
    def one_sided(self) -> bool:
        """Whether all train targets lie on one side of a hyperplane through 0 (`nrc.cone.one_sided`).

        A hint: exact collapse of non-negative (ReLU) features needs it of the predictions without their bias, which the
        targets mostly decide while biases decay.
        """
        from nrc.cone import one_sided

        return one_sided(self.y_train).holds

    @property
    def papers_own(self) -> bool:
        """True when these are the rows that the paper itself used."""
        return self.kind == "paper"

    def facts(self) -> dict[str, Any]:
        """The `data` block of run.json: which set, what makes this a variant of it, sizes and statistics.

        Keys: name, variant, kind, sha256, describe, train, test, inputs, targets, image_size ([H, W] or None),
        target_names, eigenvalues, lambda_min, target_rank, mean_in_deviations, one_sided; `offset` where a column
        was centred, `left_out` where files were.
        """
        found = {
            "name": self.dataset, "variant": self.variant, "kind": self.kind, "sha256": self.sha256,
            "describe": self.describe(), **self.sizes, "image_size": self.image_size and list(self.image_size),
            "target_names": list(self.target_names), "eigenvalues": self.eigenvalues.tolist(),
            "lambda_min": self.lambda_min, "target_rank": self.target_rank,
            "mean_in_deviations": self.mean_in_deviations, "one_sided": self.one_sided,
        }  # fmt: skip
        return found | {
            key: self.provenance[key] for key in ("offset", "left_out") if self.provenance.get(key)
        }

    def describe(self) -> str:
        """A few lines: sizes, Sigma, its eigenvalues, rank and mean of the targets, sha256 and origin."""
        n = self.sizes["targets"]
        shown = ", ".join(self.target_names[:6]) + (", ..." if n > 6 else "")
        rows = [" ".join(f"{v:.4g}" for v in row) for row in self.sigma]
        sigma = "[" + (";\n    " if n > 4 else "; ").join(rows) + "]" if n <= 10 else f"a {n} x {n} matrix"
        values = [f"{v:.4g}" for v in self.eigenvalues]
        spectrum = " ".join(values if n <= 10 else [*values[:5], "...", values[-1]])
        d, count = self.sizes["inputs"], self.sizes["train"]
        inputs = f"{d} inputs" if self.image_size is None else "images {} x {}".format(*self.image_size)
        moved = {
            f"{name} {v:.6g}"
            for names in self.provenance.get("offset", {}).values()
            for name, v in names.items()
        }
        side = "yes" if self.one_sided else "no"
        return "\n".join(
            (
                f"{self.name}: {count} train and {self.sizes['test']} test rows, "
                f"{inputs} -> {n} targets ({shown})",
                f"  Sigma = {sigma}, predicting the mean gives MSE {self.sigma.trace() / n:.4g}",
                f"  eigenvalues {spectrum}, lambda_min {self.lambda_min:.4g}, "
                f"numerical rank of the targets {self.target_rank} of {n}",
                f"  mean of the targets {self.mean_in_deviations:.3g} deviations from 0, targets one-sided: {side} "
                "(a hint: ReLU features collapse exactly only where predictions without bias are)",
                f"  sha256 {self.sha256[:12]}, kind: {self.kind}, "
                f"the paper's own data: {'yes' if self.papers_own else 'no'}",
                *([f"  more inputs ({d}) than train rows ({count}): any targets can be fitted exactly"]
                  if d > count and not self.is_image else []),
                *([f"  offsets that float32 cannot carry were subtracted: {', '.join(sorted(moved)[:6])}"] if moved else []),
                *(f"  {note}" for note in self.provenance.get("notes", ())),
            )
        )  # fmt: skip


def mean_in_deviations(y: Array) -> float:
    """|ybar| / sqrt(trace(Sigma) / n) of targets (N, n); infinite where they are constant.

    Example:
        >>> round(mean_in_deviations(np.array([[1.0], [3.0]])), 6)
        2.0
    """
    y = np.asarray(y, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.linalg.norm(y.mean(axis=0)) / np.sqrt(y.var(axis=0).mean()))


def _matrix(values: Any, names: Sequence[str], what: str) -> Array:
    """`values` if they are real numbers (N, columns)."""
    _unmasked(values, what)
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{what} holds {array.dtype}, not real numbers; encode or leave out such columns")
    if array.ndim != 2 or array.shape[1] != len(names) or not len(names):
        raise UserError(f"{what} has shape {array.shape}; expected (N, {len(names)}), one column per name")
    return array


def _unmasked(values: Any, what: str) -> None:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(
            f"{what}: a masked array with {np.ma.count_masked(values)} masked entries, whose mask would be lost; "
            "leave these rows out, or fill them by .filled(...)"
        )


def beyond_float64(array: Array) -> dict[int, Array]:
    """The columns of (N, d), by number, that hold whole numbers of more digits than float64 has."""
    if array.dtype.kind not in "iuO" or array.dtype.itemsize < 8 or not len(array):
        return {}
    low, high = array.min(axis=0).tolist(), array.max(axis=0).tolist()
    return {i: array[:, i] for i in range(array.shape[1]) if max(-low[i], high[i]) > 2**53}


def without_offset(train: Array, test: Array) -> tuple[Array, Array, int]:
    """Two parts (N,) of a column of whole numbers as float64, and what was subtracted from both before.

    That is the whole number below the train mean where the rows lie far from 0, else 0.

    Example:
        >>> train, test, offset = without_offset(np.array([2**62, 2**62 + 2]), np.array([2**62 + 5]))
        >>> train.tolist(), test.tolist(), offset == 2**62 + 1
        ([-1.0, 1.0], [4.0], True)
    """
    train, test = train.astype(object), test.astype(object)  # Python's whole numbers have any length
    low, high = min(train), max(train)
    far = 0 < FAR * (high - low) < max(-low, high)
    offset = sum(train) // len(train) if far else 0
    return (train - offset).astype(np.float64), (test - offset).astype(np.float64), offset


def _centred_if_far(train: Array, test: Array) -> tuple[Array, Array, list[float]]:
    """Both parts without the train mean of the columns that float32 cannot carry, and what was subtracted, (d,)."""
    offset: list[float] = [0] * train.shape[1]
    if not len(train):
        return train, test, offset
    whole = beyond_float64(train)
    if whole:
        raw, train, test = test, train.astype(np.float64), test.astype(np.float64)
        for i, column in whole.items():
            train[:, i], test[:, i], offset[i] = without_offset(column, raw[:, i])
    with np.errstate(all="ignore"):
        mean, deviation = _mean_and_deviation(train)
        far = (deviation > ROUNDING * abs(mean)) & (abs(mean) > FAR * deviation) & np.isfinite(mean)
        if not far.any():
            return train, test, offset
        means = np.where(far, mean, 0.0)
        return train - means, test - means, [a or b for a, b in zip(offset, means.tolist(), strict=True)]


def _mean_and_deviation(rows: Array) -> tuple[Array, Array]:
    """Of each column, in float64."""
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    far = np.flatnonzero(abs(mean) > FAR * deviation)
    if len(far):  # the rounding of a sum of many such numbers would be a good part of the deviation
        first = rows[0, far].astype(np.float64)
        near = rows[:, far] - first
        mean[far], deviation[far] = first + near.mean(axis=0), near.std(axis=0)
    return mean, deviation


def _added(before: dict[str, float], names: Sequence[str], taken: Sequence[float]) -> dict[str, float]:
    """The offsets by name, of what was subtracted before and now; a name that is not alone is told by its column."""
    named = [str(n) if list(names).count(n) == 1 else f"{n} (column {i})" for i, n in enumerate(names)]
    total = {name: before.get(name, 0) + v for name, v in zip(named, taken, strict=True)}
    return {name: v for name, v in total.items() if v}


def _too_close(train: Array, names: Sequence[str]) -> str:
    """The columns whose train rows lie so close to each other that float32 keeps less than 4 digits of that."""
    if train.dtype.kind != "f" or not len(train):
        return ""
    spread = train.max(axis=0) - train.min(axis=0)
    least = FAR * float(np.finfo(np.float32).smallest_subnormal)
    return ", ".join(f"{n!r} ({v:.3g})" for n, v in zip(names, spread, strict=True) if 0 < v < least)


def _single(array: Array, names: Sequence[str], what: str, offset: Sequence[float]) -> Array:
    """(N, columns) as float32, C-contiguous and finite; `offset` was subtracted before."""
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(single))
    if len(bad):
        row, column = bad[0]
        raise UserError(
            f"{what} row {row + 1}, column {names[column]!r} is {array[row, column] + offset[column]}, not finite "
            "as float32; drop or rescale such values"
        )
    return single


def _images(values: Any, names: Sequence[str], what: str) -> Array:
    """The array itself, if it is images (N, H, W, 3) of uint8."""
    _unmasked(values, what)
    array = np.asanyarray(values)
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[3] != 3 or tuple(names) != ("image",):
        raise UserError(
            f"{what} has shape {array.shape}, {array.dtype} and names {tuple(names)}; expected images "
            "(N, H, W, 3) of uint8 with the single name 'image'"
        )
    return array


def pixels_sha256(*arrays: Array) -> str:
    """sha256 of the pixels of image arrays (N, H, W, 3) uint8, one after the other, in bounded memory."""
    digest = hashlib.sha256()
    for array in arrays:
        for start in range(0, len(array), 256):
            digest.update(array[start : start + 256].tobytes())
    return digest.hexdigest()


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

    Equal to scikit-learn's StandardScaler fitted on train; a constant column is divided by 1. (For many rows far from 0
    scikit-learn's takes more columns for constant.)

    Returns:
        x_train, x_test as fp64, and the mean (d,) and scale (d,) that were used.
    """
    train, test = np.asarray(x_train, np.float64), np.asarray(x_test, np.float64)
    mean, scale = _mean_and_deviation(train)
    # within the rounding of its numbers the column is constant, and scaling would only blow up noise
    scale = np.where(scale <= ROUNDING * abs(mean), 1.0, scale)
    return (train - mean) / scale, (test - mean) / scale, mean, scale


def standardised(
    mode: Standardize, x_train: Array, y_train: Array, x_test: Array, y_test: Array
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


def scaled_targets(mode: ScaleTargets, y: Array, n_train: int) -> tuple[Array, dict[str, Any]]:
    """Targets (N, n), of which the first n_train are train rows, and what was done (for provenance).

    mode: "none"; "minmax", each column to [0, 1] over the train rows; "standard", to mean 0 and deviation 1.
    """
    done: dict[str, Any] = {"scale_targets": mode}
    if mode == "minmax":
        low, high = y[:n_train].min(axis=0), y[:n_train].max(axis=0)
        done |= {"y_min": low.tolist(), "y_max": high.tolist()}
        return (y - low) / np.where(high > low, high - low, 1), done
    if mode == "standard":
        train, test, mean, scale = standardise(y[:n_train], y[n_train:])
        return np.concatenate((train, test)), done | {"y_mean": mean.tolist(), "y_scale": scale.tolist()}
    return y, done
