"""Moments of every named layer of a network in one forward pass, for any `nn.Module`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from nrc.errors import UserError
from nrc.features import ranks
from nrc.features.hooks import FeatureHooks, Read, finish
from nrc.features.inputs import Placing, called, other_types, unpack, wanted
from nrc.features.layers import OUT, default_layers, head_among, measured_layers, unwrapped
from nrc.features.modes import evaluating
from nrc.features.plan import Plan
from nrc.features.prediction import Prediction, with_other_targets
from nrc.features.probe import by_type, probe, spot
from nrc.features.rows import CHANNELS_FIRST
from nrc.features.samples import left_alone, same_random_numbers
from nrc.features.spot import Spot
from nrc.features.weights import Applied
from nrc.moments import Moments

KEEP_BYTES = 256 << 20
MAX_FEATURES = 4096
POSITIONS = ("pool", "all")
KNOWN = Applied()
Output = str | int | Callable[[Any], Tensor]


class Collected(dict[str, Moments]):
    """label -> Moments in forward order, with what the pass showed of the whole network.

    Attributes:
        skipped: label -> why a layer is not among them.
        head: label of the layer whose W h + b is the network's output, or that was named as such; None: none is.
        error: mean |output - y|^2 of the network where that is not the head's W h + b; None: it is, or there is no
            prediction.
        no_prediction: why there is none; empty where there is.
        weights: label -> the weight and bias that the layer applied.
        outputs: the rows of the head's weight that predict the targets; None: all.
        groups: name of a group -> the same of its rows alone.
        rows: label of the last measured layer -> its features (N, d) and targets (N, n), if they were kept (`keep_bytes`).
    """

    def __init__(
        self,
        moments: Mapping[str, Moments],
        skipped: Mapping[str, str],
        head: str | None,
        error: float | None,
        *,
        no_prediction: str = "",
        weights: Mapping[str, Applied] | None = None,
        outputs: Sequence[int] | None = None,
        groups: Mapping[Hashable, Collected] | None = None,
        rows: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(moments)
        self.skipped, self.head, self.error = dict(skipped), head, error
        self.no_prediction, self.weights, self.outputs = no_prediction, dict(weights or {}), outputs
        self.groups, self.rows = dict(groups or {}), dict(rows or {})


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Sequence[str] | None = None,
    *,
    head: str | None = None,
    output: Output | None = None,
    outputs: Sequence[int] | None = None,
    channels: Mapping[str, int] | None = None,
    groups: Any = None,
    max_features: int = MAX_FEATURES,
    keep_bytes: int = KEEP_BYTES,
    positions: str = "pool",
    all_ranks: bool = True,
    trust: bool = False,
) -> Collected:
    """Moments of all layers in one forward pass over the data, in evaluation mode, without gradients.

    Before it a few samples of the first batch are run in two orders: that tells which axis of a layer holds the
    samples, whether it sees them in the order of the targets, and whether the output is random. A few of batches
    2, 4, 8, ... are run alone, to be compared with the whole batch.

    Args:
        model: any module; its training mode is restored afterwards and nothing stays attached to it. Inside
            DataParallel, DistributedDataParallel or torch.compile the network itself is run, by its own names.
        batches: pairs (inputs, targets) or triples with a mask, tensors or arrays. inputs: (B, ...), a tuple or
            list of them, or a dict that the model takes by keyword (or as its one argument). They keep their type
            where the network takes it, else they get that of its parameters. targets: (B, n) or (B,); for features at
            every position, (B, T, d), targets (B, T, n). mask: bool, the targets' shape without n, True where a
            row counts.
        layers: names as in `named_modules()` (or the model's own labels); a layer is measured at its input,
            with suffix ':out' at its output. None: the model's `measured_layers()`, else every Linear,
            convolution, self-attention (at its fused in-projection) and module that acts as one linear layer.
        head: the layer whose weight counts as the last one, W. None: the layer whose output is the prediction, bit
            by bit, found by comparing the two.
        output: which part of the network's output is the prediction: a key, an attribute, an index, or a function of
            the output. None: the tensor of the targets' shape, if there is one alone.
        outputs: the columns of the prediction and rows of W that belong to the targets, say [0, 1] of a head that
            puts out two means and two variances. None: all.
        channels: label -> axis of its features, where that cannot be told from the modules around it.
        groups: labels of the samples: (N,) in the order of the batches, or a function of a batch that gives (B,).
            Each group gets moments of its own: `Collected.groups`.
        max_features: a wider layer is left out unless `layers` or `head` names it; d features take 16 d^2 bytes.
        keep_bytes: the last layer's features are kept up to this size, for `nrc1_centred`, which needs their mean
            first, and for what the sums of strongly collapsed features leave undecided, as in `linear_mse`.
        positions: "pool" averages maps (B, c, h, w) over positions; "all" takes every position as a sample,
            with its image's targets.
        all_ranks: inside torch.distributed put the moments of all ranks together, each over its own batches; every
            rank must call. False: this rank alone.
        trust: take sizes and stored weights as they are, without the passes beside (for networks known to be plain).

    Returns:
        label -> Moments, in forward order.

    Raises:
        UserError: unknown layers, no batches; and with `layers` given a layer that does not run in every batch,
            runs twice or does not fit the targets. With layers=None such layers are left out and a warning
            names them.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> moments = collect(model, [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)])
        >>> {label: (m.count, m.d) for label, m in moments.items()}, moments.head
        ({'0': (48, 4), '2': (48, 8)}, '2')
    """
    reader = Reader(
        model, layers, head=head, output=output, outputs=outputs, channels=channels, max_features=max_features,
        positions=positions, all_ranks=all_ranks, trust=trust,
    )  # fmt: skip
    found = reader.collect(batches, keep_bytes=keep_bytes, groups=groups)
    if found.skipped:
        named = [f"'{label}' {reason}" for label, reason in found.skipped.items()]
        more = f"; and {len(named) - 3} more: CollapseMonitor.skipped lists all" if len(named) > 3 else ""
        warnings.warn("not measured: " + "; ".join(named[:3]) + more, stacklevel=2)
    return found


class Reader:
    """Collects again and again from one model; what the first pass showed of its layers is kept. See `collect`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        head: str | None = None,
        output: Output | None = None,
        outputs: Sequence[int] | None = None,
        channels: Mapping[str, int] | None = None,
        max_features: int = MAX_FEATURES,
        positions: str = "pool",
        all_ranks: bool = True,
        trust: bool = False,
    ) -> None:
        if positions not in POSITIONS:
            raise UserError(f"positions is {positions!r}; choose pool or all")
        self.model, self.layers = model, layers
        self.output, self.outputs = output, _columns(outputs)
        self.channels = dict(channels or {})
        self.max_features, self.every_position = max_features, positions == "all"
        self.all_ranks, self.trust = all_ranks, trust
        self.chosen = measured_layers(model, layers, head)  # a wrong name fails here, before training starts
        self.head = head_among(model, self.chosen, head)
        if unknown := [label for label in self.channels if label not in self.chosen]:
            raise UserError(
                f"channels names '{unknown[0]}', which is not measured; name it in layers=[...], too"
            )
        self.plan: Plan | None = None
        self._modules: dict[str, nn.Module] = {}  # the plan is theirs
        self._few = False  # samples, for it
        self._cast: bool | None = None
        self._mask_of_targets: tuple[int, ...] = ()  # the shape of both, where that may be a mistake

    def collect(
        self, batches: Iterable[Any], *, keep_bytes: int = KEEP_BYTES, groups: Any = None
    ) -> Collected:
        """One pass over these batches, without a warning."""
        try:
            batches = iter(batches)
        except TypeError:
            what = type(batches).__name__
            raise UserError(
                f"batches is {what}; give a list or a DataLoader of pairs (inputs, targets)"
            ) from None
        several = self.all_ranks and ranks.several()
        self.chosen = measured_layers(self.model, self.layers, self.head)
        hooks: FeatureHooks | None = None
        try:
            hooks = self._pass(batches, keep_bytes, groups)
        except Exception as error:
            if not several:
                raise
            ranks.raise_together(error)
        if several:
            ranks.raise_together(None)
        assert hooks is not None
        read, prediction, centre = hooks.read, hooks.prediction, None
        if several:
            read, centre = ranks.merge(read)
            codes = prediction.merge(ranks.gathered(prediction.summary(hooks.group_codes)))
        else:
            codes = hooks.group_codes
        skipped = self._leave_out(read)
        moments = finish(read, keep_bytes, centre)
        if several and read.last in moments:
            ranks.add_centred(moments[read.last])
        made = prediction.maker
        if made in moments and (why := prediction.doubt(moments[made], read.weights.get(made, KNOWN))):
            read.weights[made] = Applied(reason=why)
        if made not in moments or read.weights.get(made, KNOWN).reason:
            made = None  # its W h + b is not the output, or there is no such W
        head = made if self.head is None else self.head
        own = head is not None and head == made  # mse is then that of W h + b
        shared: dict[str, Any] = {
            "no_prediction": prediction.reason, "weights": read.weights, "outputs": self.outputs,
        }  # fmt: skip
        parts = {
            name: Collected(
                {label: _named_missing(found[label]) for label in moments if label in found},
                {}, head, None if own else prediction.error_of(codes[name]), **shared,
            )
            for name, found in read.groups.items()
        }  # fmt: skip
        rows = {}
        if read.kept and read.last in moments and not several:  # each rank has its own alone
            rows[read.last] = torch.cat([h for h, _ in read.kept]), torch.cat([y for _, y in read.kept])
        of_network = None if own else prediction.error
        return Collected(moments, skipped, head, of_network, groups=parts, rows=rows, **shared)

    def _pass(self, batches: Iterable[Any], keep_bytes: int, groups: Any) -> FeatureHooks:
        network = unwrapped(self.model)
        like = next((p for p in network.parameters() if p.is_floating_point()), None)
        sharded = any(hasattr(p, "full_tensor") for p in network.parameters()) or any(
            hasattr(module, "_fsdp_wrapped_module") for module in network.modules()
        )
        labels = _Labels(groups)
        hooks: FeatureHooks | None = None
        try:
            with evaluating(network):
                for number, batch in enumerate(batches, start=1):
                    args, kwargs, y, mask = self._unpacked(network, batch, like)
                    beside, fresh = self._looked(network, number, args, kwargs, y, sharded)
                    if hooks is None:
                        plan = self.plan
                        assert plan is not None
                        named = {
                            label for label in self.chosen if self.layers is not None or label == self.head
                        }
                        others = None
                        if not self.trust and self.output is None:
                            with same_random_numbers(), left_alone(network):
                                others = with_other_targets(network, args, kwargs, y)
                        hooks = FeatureHooks(
                            self.chosen, plan,
                            Prediction(
                                self.head, self.output, self.outputs, plan.random, plan.disordered, others,
                                any(isinstance(module, CHANNELS_FIRST) for module in network.modules()),
                            ),
                            named=named, head=self.head, keep_bytes=keep_bytes, max_features=self.max_features,
                            every_position=self.every_position, check_weights=not self.trust,
                            copy_weights=sharded,
                        ).__enter__()  # fmt: skip
                    elif fresh is not None:
                        hooks.learn(fresh)
                    hooks.run(network, args, kwargs, y, mask, labels.of(batch, len(y)), beside)
                    unclear = beside is not None and (beside.unclear or beside.changed)
                    if (
                        unclear and fresh is None
                    ):  # did the batch change them, or chance, or are they sorted, too?
                        hooks.learn(self._probed(network, args, kwargs, y, sharded))
        finally:
            if hooks is not None:
                hooks.__exit__()
        if hooks is None:
            raise UserError(
                "batches gave nothing: it is empty, or an iterator that is used up; give a list or a DataLoader"
            )
        labels.end()
        return hooks

    def _unpacked(
        self, network: nn.Module, batch: Any, like: Tensor | None
    ) -> tuple[tuple[Any, ...], dict[str, Any], Tensor, Tensor | None]:
        copy = not self.trust
        cast = self.trust or bool(self._cast)
        wants = wanted(network)
        given, names, y, mask = unpack(batch, Placing.on(like, cast=cast, copy=copy), wants)
        args, kwargs = called(network, given, names)
        if mask is not None and y.ndim > 2 and y.ndim > getattr(batch[1], "ndim", y.ndim):
            self._mask_of_targets = tuple(mask.shape)
        if self._cast is None and not self.trust and other_types(args, kwargs, like):
            again = unpack(batch, Placing.on(like, cast=False, copy=True), wants)[:2]
            with same_random_numbers(), left_alone(network):
                try:  # as the network gets them in training
                    network(*called(network, *again)[0], **called(network, *again)[1])
                    self._cast = False
                except Exception:
                    self._cast = True
            return self._unpacked(network, batch, like)
        return args, kwargs, y, mask

    def _looked(
        self, network: nn.Module, number: int, args: Any, kwargs: Any, y: Tensor, sharded: bool
    ) -> tuple[Spot | None, Plan | None]:
        """Some samples of this batch that ran alone, and a new plan, if one was made.

        The first batch is looked at, and then ever fewer of those that come: 2, 4, 8, ...
        """
        if number == 1 and self._modules != self.chosen:
            self.plan, self._modules = None, dict(self.chosen)  # other modules may stand under the same names
        if self.trust:
            self.plan = self.plan or by_type(self.chosen, self.channels)
            return None, None
        due = number.bit_count() == 1 or (self._few and len(y) > 2)
        if self.plan is not None and (not due or (sharded and self.plan.complete)):
            return None, None
        if self.plan is not None and self.plan.complete:
            with same_random_numbers():
                return spot(network, self.chosen, self.plan, args, kwargs, y), None
        if self.plan is not None and sharded and number > 1:
            return None, None
        fresh = self._probed(network, args, kwargs, y, sharded)
        if self.plan is None or number == 1:
            self.plan = fresh
        self._few = len(y) < 3
        beside, fresh.spot = fresh.spot, None
        if self._few and not sharded:  # of two, one alone says more than both in the other order
            with same_random_numbers():
                beside = spot(network, self.chosen, fresh, args, kwargs, y)
        return beside, fresh

    def _probed(self, network: nn.Module, args: Any, kwargs: Any, y: Tensor, sharded: bool) -> Plan:
        with same_random_numbers():
            plan = probe(network, self.chosen, args, kwargs, y, self.channels, sharded=sharded)
        reasons = default_layers(self.model)[1]
        # a module that might have been one linear layer, and is none: why it is not measured is known by then
        plan.left_out = {
            label: why
            or reasons.get(label, "is not affine in its input, so it has no weight; its parts are measured")
            for label, why in plan.left_out.items()
        }
        return plan

    def _leave_out(self, read: Read) -> dict[str, str]:
        """Layers that did not run in every batch, and all that are not measured with the reasons.

        Raises:
            UserError: no layer is left, or one that the user named.
        """
        skipped = default_layers(self.model)[1]
        named = {label for label in self.chosen if self.layers is not None or label == self.head}
        for label in self.chosen:
            times = read.ran[label]
            if label in read.skipped or times >= read.batches:
                continue
            never = skipped.get(label.removesuffix(OUT), "did not run in the forward pass")
            reason = f"ran in {times} of {read.batches} batches" if times else never
            if label in named:
                raise UserError(f"layer '{label}' {reason}; or leave it out of layers=[...]")
            read.skipped[label] = reason
            read.moments.pop(label, None)
        if not read.moments and self._mask_of_targets:
            raise UserError(
                f"the mask has the shape of the targets, {self._mask_of_targets}, so each of them is read as the one target "
                "of a position, and no layer has such positions; to mask single targets, measure one at a time: "
                "outputs=[k], targets y[..., k:k+1] and the mask mask[..., k]"
            )
        if not read.moments:
            # what is wrong with a layer says more than that another one is none
            why = sorted(read.skipped.items(), key=lambda entry: entry[0] in skipped)
            raise UserError(
                f"no layer could be measured: '{why[0][0]}' {why[0][1]}"
                if why
                else "no row of the batches counts: they are empty or masked"
            )
        if self.layers is not None:
            return {}
        for label, reason in skipped.items():
            # seen but not read as a layer: what to measure instead is in the first reason
            if read.skipped.get(label, "").startswith("sees "):
                read.skipped[label] = reason
        return {
            label: reason for label, reason in (skipped | read.skipped).items() if label not in read.moments
        }


def _columns(outputs: Any) -> list[int] | None:
    if outputs is None:
        return None
    columns: list[int] = []
    with suppress(TypeError):  # something is no whole number
        given = outputs.tolist() if hasattr(outputs, "tolist") else outputs
        given = [given] if hasattr(given, "__index__") else list(given)
        columns = [index(k) for k in given if not isinstance(k, bool)]
        columns = columns if len(columns) == len(given) and all(k >= 0 for k in columns) else []
    if not columns:
        raise UserError(
            f"outputs is {outputs!r}; give the numbers of the columns that predict the targets, say [0, 1]"
        )
    return columns


def _named_missing(moments: Moments) -> Moments:
    moments.centred_missing = "a group's features are not kept for a second pass"
    return moments


@dataclass
class _Labels:
    """The labels of the samples, a batch at a time."""

    groups: Any
    at: int = 0

    def of(self, batch: Any, rows: int) -> Any:
        if self.groups is None or callable(self.groups):
            return None if self.groups is None else self.groups(batch)
        part = self.groups[self.at : self.at + rows]
        if len(part) != rows:
            raise UserError(
                f"groups has {len(self.groups)} labels, fewer than there are samples; give one for each, in the order of "
                "the batches"
            )
        self.at += rows
        return part

    def end(self) -> None:
        if self.groups is not None and not callable(self.groups) and self.at < len(self.groups):
            raise UserError(f"groups has {len(self.groups)} labels for {self.at} samples; give one for each")
