"""A trained expert as plain numpy: its network, and the distribution its actions are drawn from.

By hand rather than by the training libraries, because these need other versions of numpy and Gymnasium.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nrc.errors import UserError

EPSILON, CLIP = 1e-5, 5.0  # of Sample Factory's normalisation of observations
LOG_STD = (-20.0, 2.0)  # the range in which Stable-Baselines3's SAC keeps its log standard deviation
HEADS = ("w_mean", "b_mean")


@dataclass(frozen=True)
class Policy:
    """A Gaussian policy: a ~ N(mu(s), std(s)^2), drawn and not clipped; squashed, a = tanh of such a draw.

    Two kinds of arrays are known. Sample Factory's PPO: observations normalised and clipped to [-5, 5], tanh layers,
    a standard deviation that does not depend on the state (`log_std`, (n,)). Stable-Baselines3's SAC: ReLU layers, the
    standard deviation a second head (`w_log_std`, `b_log_std`), the draw squashed by tanh.

    Attributes:
        arrays: w0 (h, d), b0 (h,), w1, ... of the hidden layers; w_mean (n, h), b_mean (n,); `log_std` or the second
            head; `obs_mean`, `obs_var` (d,) where observations are normalised.
        noise: factor on the standard deviation; 1 is the policy as it was trained.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> arrays = {"w0": np.eye(3), "b0": np.zeros(3), "w_mean": np.ones((2, 3)), "b_mean": np.zeros(2)}
        >>> policy = Policy(arrays | {"log_std": np.zeros(2)})
        >>> policy.squashed, policy.act(np.zeros(3), rng.standard_normal(2)).shape
        (False, (2,))
    """

    arrays: Mapping[str, np.ndarray]
    noise: float = 1.0

    @property
    def squashed(self) -> bool:
        """Whether actions are tanh of a Gaussian draw (SAC)."""
        return "w_log_std" in self.arrays

    @property
    def actions(self) -> int:
        """The number n of action dimensions."""
        return len(self.arrays["b_mean"])

    def distribution(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (..., n) of the Gaussian at observations (..., d), before any squashing."""
        a, x = self.arrays, observations
        if "obs_mean" in a:
            x = np.clip((x - a["obs_mean"]) / np.sqrt(a["obs_var"] + EPSILON), -CLIP, CLIP)
        for k in range(sum(name[1:].isdigit() and name[0] == "w" for name in a)):
            x = x @ a[f"w{k}"].T + a[f"b{k}"]
            x = np.maximum(x, 0.0) if self.squashed else np.tanh(x)
        mean = x @ a["w_mean"].T + a["b_mean"]
        if self.squashed:
            log_std = np.clip(x @ a["w_log_std"].T + a["b_log_std"], *LOG_STD)
        else:
            log_std = np.broadcast_to(a["log_std"], mean.shape)
        return mean, self.noise * np.exp(log_std)

    def act(self, observation: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """The action (n,) for one standard normal draw (n,), as float32: what is stored is what is executed."""
        mean, std = self.distribution(observation)
        action = mean + std * draw
        return (np.tanh(action) if self.squashed else action).astype(np.float32)

    def with_noise(self, factor: float) -> Policy:
        """The same policy with its standard deviation multiplied by `factor`."""
        return replace(self, noise=factor)

    def sha256(self) -> str:
        """Fingerprint of all arrays, rounded to float32 as they are stored."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode() + np.ascontiguousarray(self.arrays[name], np.float32).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write an npz file of float32 arrays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # the names of the file's arrays are this class's; allow_pickle is no array
        np.savez(path, allow_pickle=False, **{k: np.asarray(v, np.float32) for k, v in self.arrays.items()})

    @staticmethod
    def load(path: Path, noise: float = 1.0) -> Policy:
        """Read a policy file, as float64 (exactly the stored float32 values).

        Raises:
            UserError: there is no such file, or it lacks arrays.
        """
        if not path.is_file():
            raise UserError(f"no expert policy at {path}; 'make experts' trains one")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float64) for name in file.files}
        layers = sum(name[1:].isdigit() and name[0] == "w" for name in arrays)
        needed = [*HEADS, *(f"{kind}{k}" for k in range(layers) for kind in "wb")]
        absent = [name for name in needed if name not in arrays]
        if absent or not {"log_std", "w_log_std"} & set(arrays):
            raise UserError(
                f"{path} is no expert policy: it has {', '.join(arrays) or 'no arrays'}"
                f"{f' and lacks {absent[0]}' if absent else ''}"
            )
        return Policy(arrays, noise)
