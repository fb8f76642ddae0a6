"""One SAC expert for Hopper-v4: train_sac.py SEED STEPS FOLDER. The actor as plain arrays every 20,000 steps.

Runs in an environment of its own. The algorithm is Stable-Baselines3's SAC with its defaults, in its edition on JAX (sbx-rl),
which makes three times as many steps a second on a CPU. Layers of 64 (actor) and 128 (critics) instead of 256, for the same reason.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from sbx import SAC
from stable_baselines3.common.callbacks import BaseCallback

seed, steps, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)


class Keep(BaseCallback):
    """Writes the actor down."""

    def _on_step(self) -> bool:
        if self.num_timesteps % 20_000 == 0:
            p = self.model.policy.actor_state.params
            p = p.get("params", p)
            names = sorted(p, key=lambda k: int(k.split("_")[-1]))
            dense = [(np.asarray(p[k]["kernel"]).T, np.asarray(p[k]["bias"])) for k in names]
            a = {}
            for k, (w, b) in enumerate(dense[:-2]):
                a[f"w{k}"], a[f"b{k}"] = w, b
            (a["w_mean"], a["b_mean"]), (a["w_log_std"], a["b_log_std"]) = dense[-2:]
            np.savez(out / f"hopper_seed{seed}_{self.num_timesteps:08d}.npz", allow_pickle=False, **a)
        return True


m = SAC(
    "MlpPolicy",
    gym.make("Hopper-v4"),
    seed=seed,
    verbose=1,
    learning_starts=5_000,
    policy_kwargs=dict(net_arch=dict(pi=[64, 64], qf=[128, 128])),
)
m.learn(steps, callback=Keep(), log_interval=25)
