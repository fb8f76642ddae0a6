"""What a run writes down about its network: metric rows at each measured step, snapshots at both ends.

Networks on tables are measured by a forward pass in float64, so that the metrics are those of the weights: the
rounding of a float32 pass alone gives an NRC1 of about 1e-14 (see `nrc.metrics.last_layer.nrc1_floor`). What counts
as a direction is still judged by the precision of the network's own type. Image networks run in their own type.
At the start and the end of a run on a table the rows are kept as well: they give the best affine map where the sums
of strongly collapsed features leave it undefined.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nrc.arrays import precision
from nrc.cone import one_sided
from nrc.errors import UserError
from nrc.features.collect import KEEP_BYTES, MAX_FEATURES, collect
from nrc.features.layers import OUT, reading_weight
from nrc.features.measure import layers_of
from nrc.features.modes import evaluating
from nrc.metrics import LAYERWISE, METRICS, Layer, Maker, Metrics, Undefined
from nrc.metrics.assemble import evaluate
from nrc.metrics.last_layer import nrc1_floor, nrc2_floor
from nrc.models.mlp import MLPNetwork
from nrc.moments import Moments
from nrc.training.clock import Clock
from nrc.training.loop import Diverged
from nrc.training.placement import Batches, Placed
from nrc.training.settings import Measure

log = logging.getLogger(__name__)
Row = tuple[float, int, float, str, str, str, float]
Collected = dict[str, Moments]
Rows = tuple[Tensor, Tensor]


class Pass(NamedTuple):
    """What one measurement reads off the data: the moments of all layers on both parts, and z = W h, the
    predictions without the output bias, of the train rows (N, n).

    `rows`: of some layers the features and targets (train, test) themselves, for what the sums leave undefined.
    """

    train: Collected
    test: Collected
    scores: Tensor
    rows: dict[str, tuple[Rows, Rows]]


CHUNK, IMAGES = 4096, 256  # rows, or images, per forward pass while measuring
EXTREMES = 10  # rows at either end of the mean direction among which a proof of two-sidedness is looked for
SNAPSHOT_ROWS = 256  # enough for the 3-D picture, small enough for every run directory
HIDDEN = [*LAYERWISE, *(f"evr_{k}" for k in range(1, 6))]
# an eigenproblem of its own, and compared at the end alone: not at every step
AT_ENDS = {"linear_mse_uncentred", "rankme"}
AFFINE = ("linear_mse",)
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
        decay_biases: whether training penalises biases as it does weights, for `balancedness`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Placed,
        plan: Measure,
        clock: Clock,
        seed: int,
        *,
        decay_biases: bool = True,
    ) -> None:
        self.model, self.clock = model, clock
        share = 1.0 if plan.samples is None else min(1.0, plan.samples / len(data.x_train))
        chunk = CHUNK if data.x_train.ndim == 2 else IMAGES
        self.train = Batches(data.x_train, data.y_train, chunk, _drawn(len(data.x_train), share, seed))
        self.test = Batches(data.x_test, data.y_test, chunk, _drawn(len(data.x_test), share, seed))
        self.positions = plan.positions
        self.exact = data.x_train.ndim == 2
        parameter = next(model.parameters())
        self.eps, self.itemsize = precision(parameter.dtype), parameter.itemsize
        self.modules: dict[str, nn.Module] = model.measured_layers()  # type: ignore[operator]
        self.head = list(self.modules)[-1]
        self.terms = _terms(model, self.modules[self.head])
        self.undefined: dict[str, str] = {}
        names = self._narrow() if plan.layers == "all" else [self.head]
        self.ranks = _allowed(plan.ranks, data.y_train.shape[1])
        self.layers = names + (
            [f"{name}{OUT}" for name in names if name != self.head] if plan.outputs else []
        )
        self.decay_biases = decay_biases
        self.last_step = -1
        self.wrong: list[Tensor] = []  # of each batch of a pass, whether W h + b was not the network's output
        self.last: Metrics | None = None
        self.first_nrc1 = math.nan
        self.start: dict[str, Tensor] = {}
        schedule = clock.measured_steps(plan)
        places = np.linspace(0, len(schedule) - 1, plan.frames).round().astype(int)
        self.frame_steps = {schedule[i] for i in places}
        self.frames: dict[int, dict[str, Tensor]] = {}

    def _narrow(self) -> list[str]:
        """The layers that are measured: sums of many features take hours. The head always is."""
        columns = {name: reading_weight(module)[0] for name, module in self.modules.items()}
        wide = {
            name: weight.shape[1]
            for name, weight in columns.items()
            if weight is not None and weight.shape[1] > MAX_FEATURES and name != self.head
        }
        for name, count in wide.items():
            self.undefined[name] = f"reads {count} features, more than {MAX_FEATURES}, and is not measured"
            log.warning(f"layer '{name}' {self.undefined[name]}")
        return [name for name in self.modules if name not in wide]

    def collect(self, *, keep: bool = False) -> Pass:
        """What is read off the train and the test part now; with `keep`, rows of tables too, as far as memory goes."""
        if self.exact:
            train, scores, kept = self._sums(self.train, last=True, keep=keep)
            test, _, held_out = self._sums(self.test, last=False, keep=keep)
            return Pass(
                train, test, scores, {name: (kept[name], held_out[name]) for name in held_out if name in kept}
            )
        outputs: list[Tensor] = []
        wrong = self.wrong
        handles = [
            self.modules[self.head].register_forward_hook(lambda _, args, out: outputs.append(out)),
            self.model.register_forward_hook(lambda _, args, out: wrong.append(unlike(out, outputs[-1]))),
        ]
        try:
            train = collect(
                self.model,
                self.train,
                self.layers,
                keep_bytes=KEEP_BYTES,
                positions=self.positions,
                trust=True,
            )
            scores = torch.cat(outputs).double()
            # errors alone: no second pass
            test = collect(
                self.model, self.test, self.layers, keep_bytes=0, positions=self.positions, trust=True
            )
        finally:
            for handle in handles:
                handle.remove()
        bias = reading_weight(self.modules[self.head])[1]
        assert bias is not None  # of the output layer
        return Pass(train, test, scores - bias.to(scores.device), {})

    def _sums(self, batches: Batches, *, last: bool, keep: bool) -> tuple[Collected, Tensor, dict[str, Rows]]:
        """Moments of all layers, z = W h, and of some layers the rows, by the network's numbers in float64.

        Args:
            last: also sum the directions of the last layer's features, which NRC1 and NRC2 are of.
            keep: return the rows of all layers if they fit into memory, else of none.
        """
        numbers = in_float64(self.model)
        weight, bias = reading_weight(self.modules[self.head])
        assert weight is not None and bias is not None  # of the output layer
        weight, bias = weight.detach().double(), bias.detach().double()
        sums = {name: Moments(directions=last and name == self.head) for name in self.layers}
        seen: dict[str, Tensor] = {}
        kept: list[Tensor] = []
        scores: list[Tensor] = []
        rows: dict[str, list[Tensor]] = {name: [] for name in self.layers if keep}
        versions: dict[str, int] = {}
        held = 0

        def reader(name: str) -> Callable[..., None]:
            def read(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
                seen[name] = out if name.endswith(OUT) else inputs[0]
                versions[name] = seen[name]._version

            return read

        hooks = [
            self.modules[name.removesuffix(OUT)].register_forward_hook(reader(name)) for name in self.layers
        ]
        fits = len(batches.targets) * weight.shape[1] * self.itemsize <= KEEP_BYTES
        try:
            with evaluating(self.model):
                for x, y in batches:
                    out = functional_call(self.model, numbers, (x.to(y.device).double(),))
                    for name, moments in sums.items():
                        if seen[name]._version != versions[name]:
                            raise UserError(
                                f"what layer '{name}' is measured by is overwritten in place after it has run "
                                "(inplace=True, +=); write the result to another tensor"
                            )
                        moments.update(seen[name], y)
                    scores.append(seen[self.head] @ weight.T)
                    self.wrong.append(unlike(out, scores[-1] + bias))
                    kept += [seen[self.head]] if last and fits else []
                    for name in rows:
                        rows[name].append(seen[name])
                        held += seen[name].nbytes
                    if held > KEEP_BYTES:
                        rows.clear()
        finally:
            for hook in hooks:
                hook.remove()
        if last:
            head = sums[self.head]
            head.centred_missing = f"the features exceed keep_bytes={KEEP_BYTES}, so no second pass was made"
            for features in kept:
                head.add_centred(features)
        for moments in sums.values():
            moments.feature_eps = self.eps
        y = batches.targets
        return sums, torch.cat(scores), {name: (torch.cat(parts), y) for name, parts in rows.items()}

    def rows(self, step: int) -> list[Row]:
        """Measure now; rows in the order of `nrc.runs.directory.COLUMNS`.

        Raises:
            Diverged: features or weights are not finite.
            UserError: the network's output is not that of its last layer.
        """
        ends = step in (0, self.clock.total_steps)
        train, test, scores, kept = self.collect(keep=ends)
        sums = [*train.values(), *test.values()]
        if not all(m.finite for m in sums) or not all(p.isfinite().all() for p in self.model.parameters()):
            raise Diverged(step)
        if torch.stack(self.wrong).any():  # a clamp may begin to act while it trains
            raise UserError(unlike_head(self.head))
        self.wrong.clear()
        when = (self.clock.epoch_at(step), step, self.clock.tau_at(step))
        left_out = {"mse", "r2"} | (set() if ends else AT_ENDS)
        rows: list[Row] = []
        for name in self.layers:
            is_head = name == self.head
            weight, bias = (None, None) if name.endswith(OUT) else reading_weight(self.modules[name])
            here, held_out = layers_of(
                [train[name], test[name]], weight, bias, maps_to_targets=is_head, maker=self._maker(name)
            )
            if name in kept and any("linear_mse" in evaluate(x, AFFINE).undefined for x in (here, held_out)):
                here, held_out = (
                    layer.with_rows(*part) for layer, part in zip((here, held_out), kept[name], strict=True)
                )
                held_out = replace(held_out, reference=here)
            wanted = [m for m in (METRICS if is_head else HIDDEN) if m not in left_out]
            values = evaluate(here, wanted)
            if is_head:
                self.last = values
                values = self._of_head(here, values, scores)
                for split, layer in (("train", here), ("test", held_out)):
                    fit = evaluate(layer, ("mse", "r2"))
                    rows += [(*when, split, "model", m, value) for m, value in fit.values.items()]
                    self.undefined |= {
                        f"{split}/model/{m}": f"step {step}: {why}" for m, why in fit.undefined.items()
                    }
            rows += [
                (*when, "train", name, m, value)
                for m, value in values.values.items()
                if is_head or m not in values.undefined
            ]
            affine = evaluate(held_out, AFFINE)
            rows.append((*when, "test", name, "linear_mse", affine["linear_mse"]))
            for rank in self.ranks:
                again = evaluate(replace(here, rank=rank), AT_RANK)
                rows += [
                    (*when, "train", name, f"{m}_r{rank}", again[m])
                    for m in AT_RANK
                    if m not in again.undefined
                ]
            for m, why in values.undefined.items():
                self.undefined[f"{name}/{m}"] = f"step {step}: {why}"
        if step == 0:
            self.start = self._snapshot("start")
            assert self.last is not None
            self.first_nrc1 = self.last["nrc1"]
        if step in self.frame_steps:
            self.frames[step] = self._snapshot("now")
        self.last_step = step
        return rows

    def _maker(self, name: str) -> Maker | str:
        """The Linear before this layer, if nothing or a ReLU stands between them; else why there is none."""
        if not isinstance(self.model, MLPNetwork):
            return "defined between layers of fully connected networks alone"
        if name.endswith(OUT):
            return "defined at the input of a layer, whose weight reads what the one before has made"
        made: nn.Linear | None = None
        between: list[nn.Module] = []
        for module in self.model.stack:
            if module is self.modules[name]:
                break
            made, between = (module, []) if isinstance(module, nn.Linear) else (made, [*between, module])
        if made is None:
            return "the inputs of the network are made by no weight"
        if any(not isinstance(module, nn.ReLU) for module in between):
            return "BatchNorm stands between the two weights: their balance is not kept"
        bias = made.bias.detach() if self.decay_biases and made.bias is not None else None
        return Maker(made.weight.detach(), bias, relu=bool(between))

    def _of_head(self, here: Layer, found: Metrics, scores: Tensor) -> Metrics:
        """The last layer's metrics, with what only a run knows: where rounding ends, and the signs of z = W h."""
        eps = torch.finfo(torch.float64).eps if self.exact else self.eps
        values, undefined = dict(found.values), dict(found.undefined)
        for name, floor in (("nrc1_floor", nrc1_floor), ("nrc2_floor", nrc2_floor)):
            try:
                values[name] = floor(here, eps, self.terms)
            except Undefined as why:
                values[name], undefined[name] = math.nan, str(why)
        try:
            values["one_sided"] = float(_one_sided(scores.cpu().numpy()))
        except ImportError:
            values["one_sided"], undefined["one_sided"] = math.nan, "scipy is not installed"
        return Metrics(values, undefined)

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
        """Feature layer and output weights at both ends, targets, Sigma, and mean of (W h)(W h)^T. Features and weights are of
        the network's type, the others float64."""
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


def in_float64(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, as copies in float64 where they are floats, for `functional_call`."""
    numbers = {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}
    return {
        name: t.to(torch.float64 if t.is_floating_point() else t.dtype, copy=True)
        for name, t in numbers.items()
    }


def unlike(out: Any, made: Tensor, size: Tensor | None = None) -> Tensor:
    """Whether the network's output is another than the predictions (N, n) that its last layer makes, beyond rounding.

    size: of the terms that the predictions are sums of, where they may cancel out; None: of the predictions.
    """
    if not isinstance(out, Tensor) or out.shape != made.shape:
        return torch.ones((), dtype=torch.bool, device=made.device)
    return (out - made).abs().amax() > 1e-5 * (made if size is None else size).abs().amax()


def unlike_head(head: str) -> str:
    """What is wrong with such a network, and the remedy."""
    return (
        f"the network's output is not W h + b of its last measured layer '{head}', so mse, r2 and NRC2 would be those of "
        "another network; let forward return what that layer makes, or measure the network in a loop of your own "
        "(nrc.CollapseMonitor)"
    )


def _one_sided(z: np.ndarray) -> bool:
    """`nrc.cone.one_sided(z).holds`, by a certificate that is easily found, else by linear programmes on few rows.

    The mean direction proves that all rows lie to one side, and few rows of which a combination with weights >= 0 is
    zero prove that they do not. Else rows that are not one-sided settle it, and a direction for them is tried on all.
    """
    length = np.linalg.norm(z, axis=1)
    if z.shape[1] > 1 and (length > 1e-12 * np.sqrt((length**2).mean())).all():
        units = z / length[:, None]
        mean = units.mean(0)
        along = units @ mean
        if (along > 1e-12 * np.linalg.norm(mean)).all():
            return True
        from scipy.optimize import nnls

        ends = [units.argmin(0), units.argmax(0), np.argsort(along)[:EXTREMES], np.argsort(along)[-EXTREMES:]]
        few = units[np.unique(np.concatenate(ends))]
        # weights m >= 0 that add up to 1, with sum_i m_i u_i = 0 to rounding: then no v has v'u_i > 1e-12 for all i
        equations = np.vstack([few.T, np.ones(len(few))])
        with suppress(RuntimeError):  # too many rounds: undecided
            if nnls(equations, np.eye(len(equations))[-1])[1] < 1e-13:
                return False
    part = np.arange(min(len(z), 100))
    while True:
        found = one_sided(z[part])
        if not found.holds:
            return False
        along = z @ found.direction - 1e-12 * length
        wrong = np.setdiff1d(np.flatnonzero(along <= 0), part)
        if not len(wrong):
            return True
        part = np.concatenate([part, wrong[np.argsort(along[wrong])[:100]]])


def _terms(model: nn.Module, head: nn.Module) -> int:
    """How many products each entry of the last features is the sum of; 0 where the features are the inputs."""
    terms = 0
    for module in model.modules():
        if module is head:
            break
        if isinstance(module, nn.Linear | nn.Conv2d):
            terms = module.weight.shape[1:].numel()
    return terms


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
