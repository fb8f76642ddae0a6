"""Where collapse begins in a run, by the rule of `nrc.metrics.depth`: one answer for figures and report."""

import numpy as np

from nrc.metrics.depth import first_collapsed_layer
from nrc.runs.read import Run


def first_collapsed(run: Run, end: str = "", when: str = "end") -> int | None:
    """Number of the first collapsed layer, counted from 1, or None.

    The affine map is fitted on the train rows and judged on the held-out ones where those were measured: on its own
    rows any layer of as many features as rows predicts everything, a random one too.

    Args:
        end: "_r1" counts one direction only.
        when: "start" asks the untrained network, held against the trained one's error.
    """
    held_out = any(len(run.series("linear_mse", "test", name)) for name in run.layers)
    split = "test" if held_out else "train"

    def at(metric: str, layer: str, part: str = "train") -> float:
        series = run.series(metric, part, layer)
        return float(series.iloc[-1 if when == "end" else 0]) if len(series) else float("nan")

    rows = [
        {
            "noise": at(f"noise{end}", layer),
            "feature_weight_alignment": at(f"feature_weight_alignment{end}", layer),
            "linear_mse": at("linear_mse", layer, split),
        }
        for layer in run.layers
    ]
    sigma = run.snapshots["sigma"]
    return first_collapsed_layer(rows, run.last("mse", split=split), float(np.trace(sigma)) / len(sigma))
