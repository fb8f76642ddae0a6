"""A small tanh network as a plain numpy policy: the mean action of every expert."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nrc.errors import UserError


@dataclass(frozen=True)
class Policy:
    """Mean action mu(s) = W_L tanh(... tanh(W_1 (s - shift) / scale + b_1) ...) + b_L.

    weights[k] is (out, in), biases[k] is (out,), shift and scale are (d,), the constants of the
    observation normalisation (0 and 1 where none was used).

    Example:
        >>> p = Policy.new(4, (8,), 2, np.random.default_rng(0))
        >>> p.mean(np.zeros(4)).shape, p.mean(np.zeros((5, 4))).shape
        ((2,), (5, 2))
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    shift: np.ndarray
    scale: np.ndarray

    @staticmethod
    def new(n_in: int, hidden: Sequence[int], n_out: int, rng: np.random.Generator) -> Policy:
        """A policy with small random hidden weights and a zero last layer (it starts by doing nothing)."""
        sizes = [n_in, *hidden, n_out]
        weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]
        weights[-1][:] = 0.0
        return Policy(tuple(weights), tuple(np.zeros(b) for b in sizes[1:]), np.zeros(n_in), np.ones(n_in))

    def mean(self, obs: np.ndarray) -> np.ndarray:
        """Mean action (..., n) of observations (..., d); deterministic, not clipped."""
        x = (obs - self.shift) / self.scale
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(x @ w.T + b)
        return x @ self.weights[-1].T + self.biases[-1]

    def flat(self) -> np.ndarray:
        """All weights and biases as one vector (the search space of ARS)."""
        return np.concatenate(
            [a.ravel() for pair in zip(self.weights, self.biases, strict=True) for a in pair]
        )

    def with_flat(self, theta: np.ndarray) -> Policy:
        """The same architecture and normalisation with parameters theta (the inverse of `flat`)."""
        weights, biases, k = [], [], 0
        for w, b in zip(self.weights, self.biases, strict=True):
            weights.append(theta[k : k + w.size].reshape(w.shape))
            biases.append(theta[k + w.size : k + w.size + b.size])
            k += w.size + b.size
        return Policy(tuple(weights), tuple(biases), self.shift, self.scale)

    def rounded(self) -> Policy:
        """The same policy with every number rounded to float32, as its file holds it."""

        def f32(a: np.ndarray) -> np.ndarray:
            return a.astype(np.float32).astype(np.float64)

        return Policy(
            tuple(map(f32, self.weights)), tuple(map(f32, self.biases)), f32(self.shift), f32(self.scale)
        )

    def scaled(self, gain: float) -> Policy:
        """The same policy with its mean action multiplied by `gain`."""
        return Policy(
            (*self.weights[:-1], self.weights[-1] * gain),
            (*self.biases[:-1], self.biases[-1] * gain),
            self.shift,
            self.scale,
        )

    def sha256(self) -> str:
        """Fingerprint of all arrays, rounded to float32 as they are stored."""
        digest = hashlib.sha256()
        for a in (*self.weights, *self.biases, self.shift, self.scale):
            digest.update(np.ascontiguousarray(a, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write an npz file of float32 arrays: w0, b0, w1, ..., shift, scale."""
        arrays = {f"w{k}": w for k, w in enumerate(self.weights)} | {
            f"b{k}": b for k, b in enumerate(self.biases)
        }
        arrays |= {"shift": self.shift, "scale": self.scale}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **{k: np.asarray(v, dtype=np.float32) for k, v in arrays.items()})

    @staticmethod
    def load(path: Path) -> Policy:
        """Read what `save` wrote, as float64 (exactly the stored float32 values)."""
        if not path.is_file():
            raise UserError(f"no expert policy at {path}; make one: scripts/make_expert_data.py NAME --train")
        with np.load(path, allow_pickle=False) as f:
            a = {k: f[k].astype(np.float64) for k in f.files}
        depth = sum(k.startswith("w") for k in a)
        return Policy(
            tuple(a[f"w{k}"] for k in range(depth)),
            tuple(a[f"b{k}"] for k in range(depth)),
            a["shift"],
            a["scale"],
        )
