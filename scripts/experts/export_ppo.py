"""Sample Factory checkpoints -> plain arrays that nrc.experts.policy reads: export_ppo.py CHECKPOINT.pth ... FOLDER.

Runs in the experts' own environment, not in the project's. Give only checkpoints that you made: they are pickles.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch

STATS = "obs_normalizer.running_mean_std.running_mean_std.obs.running_"
HIDDEN, HEAD = "encoder.encoders.obs.mlp_head.", "action_parameterization."
NAMES = {
    "obs_mean": f"{STATS}mean",
    "obs_var": f"{STATS}var",
    "w0": f"{HIDDEN}0.weight",
    "b0": f"{HIDDEN}0.bias",
    "w1": f"{HIDDEN}2.weight",
    "b1": f"{HIDDEN}2.bias",
    "w_mean": f"{HEAD}distribution_linear.weight",
    "b_mean": f"{HEAD}distribution_linear.bias",
    "log_std": f"{HEAD}learned_stddev",
}

*files, folder = map(Path, sys.argv[1:])
folder.mkdir(parents=True, exist_ok=True)
for file in files:
    model = torch.load(file, map_location="cpu", weights_only=False)["model"]
    run = file.parent.name if file.parent.name != "checkpoint_p0" else file.parent.parent.name
    steps = int(re.findall(r"_(\d+)\.pth$", file.name)[0])
    arrays = {key: model[name].numpy().astype(np.float32) for key, name in NAMES.items()}
    np.savez(folder / f"{run}_{steps:08d}.npz", **arrays)
