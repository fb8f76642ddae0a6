"""What a run writes down about its network: metric rows at each measured step, snapshots at both ends."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nrc.errors import UserError
from nrc.features.collect import KEEP_BYTES, collect
from nrc.features.layers import OUT, reading_weight
from nrc.features.modes import evaluating
from nrc.metrics import LAYERWISE, METRICS, Layer, Metrics
from nrc.metrics.assemble import evaluate
from nrc.metrics.layerwise import linear_mse
from nrc.moments import Moments
from nrc.training.clock import Clock
from nrc.training.loop import Diverged
from nrc.training.placement import Batches, Placed
from nrc.training.settings import Measure

Row = tuple[float, int, float, str, str, str, float]
Collected = dict[str, Moments]

CHUNK, IMAGES = 4096, 256  # rows, or images, per forward pass while measuring
SNAPSHOT_ROWS = 256  # enough for the 3-D picture, small enough for every run directory
HIDDEN = [*LAYERWISE, *(f"evr_{k}" for k in range(1, 6))]
# an eigenproblem of its own, and compared at the end alone: not at every step
AT_ENDS = {"linear_mse_uncentred"}
AT_RANK = (  # what depends on the number of target directions
    "noise",
    "noise_abs",
    "feature_weight_alignment",
    "feature_weight_alignment_k",
    "feature_weight_alignment_null",
    "feature_target_alignment_features",
)


class Measurer:
    """Measures a model on the train and the test part of its data.

    Args:
        model: has `measured_layers()`, in forward order; the last one is the output layer.
        data: what it is trained on, where it lies.
        plan: which layers, how many samples.
        clock: turns a step into epoch and tau.
        seed: draws the fixed samples when the plan asks for fewer than all.
    """

    def __init__(self, model: nn.Module, data: Placed, plan: Measure, clock: Clock, seed: int) -> None:
        self.model, self.clock = model, clock
        share = 1.0 if plan.samples is None else min(1.0, plan.samples / len(data.x_train))
        chunk = CHUNK if data.x_train.ndim == 2 else IMAGES
        self.train = Batches(data.x_train, data.y_train, chunk, _drawn(len(data.x_train), share, seed))
        self.test = Batches(data.x_test, data.y_test, chunk, _drawn(len(data.x_test), share, seed))
        self.positions = plan.positions
        self.modules: dict[str, nn.Module] = model.measured_layers()  # type: ignore[operator]
        self.head = list(self.modules)[-1]
        names = list(self.modules) if plan.layers == "all" else [self.head]
        self.ranks = _allowed(plan.ranks, data.y_train.shape[1])
        self.layers = names + (
            [f"{name}{OUT}" for name in names if name != self.head] if plan.outputs else []
        )
        self.last_step = -1
        self.undefined: dict[str, str] = {}
        self.last: Metrics | None = None
        self.first_nrc1 = math.nan
        self.start: dict[str, Tensor] = {}
        schedule = clock.measured_steps(plan)
        places = np.linspace(0, len(schedule) - 1, plan.frames).round().astype(int)
        self.frame_steps = {schedule[i] for i in places}
        self.frames: dict[int, dict[str, Tensor]] = {}

    def collect(self) -> tuple[Collected, Collected]:
        """The moments of all layers now, on the train and on the test part."""
        train = collect(self.model, self.train, self.layers, keep_bytes=KEEP_BYTES, positions=self.positions)
        # errors alone: no second pass
        return train, collect(self.model, self.test, self.layers, keep_bytes=0, positions=self.positions)

    def rows(self, step: int, moments: tuple[Collected, Collected] | None = None) -> list[Row]:
        """Measure now; rows in the order of `record.COLUMNS`.

        Args:
            moments: of the network as it is now, where `collect` need not make them.

        Raises:
            Diverged: features or weights are not finite.
        """
        train, test = moments or self.collect()
        sums = [*train.values(), *test.values()]
        if not all(m.finite for m in sums) or not all(p.isfinite().all() for p in self.model.parameters()):
            raise Diverged(step)
        when = (self.clock.epoch_at(step), step, self.clock.tau_at(step))
        left_out = {"mse", "r2"} | (AT_ENDS if 0 < step < self.clock.total_steps else set())
        rows: list[Row] = []
        for name in self.layers:
            is_head = name == self.head
            weight, bias = (None, None) if name.endswith(OUT) else reading_weight(self.modules[name])
            here = Layer.of(train[name], weight, bias, maps_to_targets=is_head)
            # the held-out layer is asked for three numbers alone: no eigenproblem of its own
            held_out = Layer.of(test[name], here.weight, bias, maps_to_targets=is_head, linear_map_from=here)
            wanted = [m for m in (METRICS if is_head else HIDDEN) if m not in left_out]
            found = evaluate(here, wanted)
            if is_head:
                self.last = found
                for split, layer in (("train", here), ("test", held_out)):
                    fit = evaluate(layer, ("mse", "r2"))
                    rows += [(*when, split, "model", m, value) for m, value in fit.values.items()]
                    self.undefined |= {
                        f"{split}/model/{m}": f"step {step}: {why}" for m, why in fit.undefined.items()
                    }
            rows += [
                (*when, "train", name, m, found[m]) for m in wanted if is_head or m not in found.undefined
            ]
            rows.append((*when, "test", name, "linear_mse", linear_mse(held_out)))
            for rank in self.ranks:
                again = evaluate(replace(here, rank=rank), AT_RANK)
                rows += [
                    (*when, "train", name, f"{m}_r{rank}", again[m])
                    for m in AT_RANK
                    if m not in again.undefined
                ]
            for m in wanted:
                if m in found.undefined:
                    self.undefined[f"{name}/{m}"] = f"step {step}: {found.undefined[m]}"
        if step == 0:
            self.start = self._snapshot("start")
            assert self.last is not None
            self.first_nrc1 = self.last["nrc1"]
        if step in self.frame_steps:
            self.frames[step] = self._snapshot("now")
        self.last_step = step
        return rows

    def _snapshot(self, when: str) -> dict[str, Tensor]:
        seen: list[Tensor] = []
        handle = self.modules[self.head].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with evaluating(self.model):
            self.model(self.train.first(SNAPSHOT_ROWS)[0])
        handle.remove()
        weight = self.modules[self.head].weight.detach()  # type: ignore[union-attr,operator]
        return {f"features_{when}": seen[0].cpu().clone(), f"weight_{when}": weight.cpu().clone()}

    def _prediction_moment(self) -> Tensor:
        """Mean over the train rows of (W h)(W h)^T (n, n): the prediction without its bias."""
        bias = reading_weight(self.modules[self.head])[1]
        assert bias is not None  # of the output layer
        bias = bias.to(self.train.y.device)  # zeros that stand for none may be elsewhere
        with evaluating(self.model):
            outputs = torch.cat([(self.model(x.to(y.device)) - bias).double() for x, y in self.train])
        return (outputs.T @ outputs / len(outputs)).cpu()

    def snapshots(self) -> dict[str, np.ndarray]:
        """Feature layer and output weights at both ends, targets, Sigma, and mean of (W h)(W h)^T, all in fp64."""
        y = self.train.targets.cpu().double()
        centred = y - y.mean(0)
        arrays = self.start | self._snapshot("end")
        arrays |= {"targets": y[:SNAPSHOT_ROWS], "sigma": centred.T @ centred / len(y)}
        arrays["prediction_moment"] = self._prediction_moment()
        if self.frames:
            steps, seen = list(self.frames), list(self.frames.values())
            arrays["frame_steps"] = torch.tensor(steps)
            arrays |= {
                f"frame_{k}": torch.stack([s[f"{k}_now"] for s in seen]) for k in ("features", "weight")
            }
        return {name: value.numpy() for name, value in arrays.items()}

    def state_of_collapse(self) -> str:
        """One line on how the run ended; vanished features are called that."""
        if self.last is None:
            return "nothing was measured"
        reason = self.last.undefined.get("nrc1")
        if reason is not None:
            return f"NRC1 is undefined: {reason}"
        line = f"NRC1 {self.first_nrc1:.2e} -> {self.last['nrc1']:.2e}"
        if "nrc2" in self.last.undefined:
            return f"{line}, but {self.last.undefined['nrc2']}"
        return line + f", NRC2 {self.last['nrc2']:.2e}"

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue."""
        return {
            "last_step": self.last_step,
            "undefined": self.undefined,
            "first_nrc1": self.first_nrc1,
            "last": None if self.last is None else asdict(self.last),
            "start": self.start,
            "frames": self.frames,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.last_step, self.undefined = state["last_step"], state["undefined"]
        self.first_nrc1, self.start = state["first_nrc1"], state["start"]
        self.last = None if state["last"] is None else Metrics(**state["last"])
        self.frames = state["frames"]


def _drawn(n: int, share: float, seed: int) -> Tensor | None:
    """Numbers of this share of n rows, the same for every step; None for all."""
    if share == 1:
        return None
    draw = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return draw[: math.ceil(round(share * n, 6))].sort().values


def _allowed(ranks: list[int], n_targets: int) -> list[int]:
    if any(rank > n_targets for rank in ranks):
        raise UserError(
            f"measure.ranks is {list(ranks)}, but there are {n_targets} targets; give at most that"
        )
    return list(ranks)
