"""The hooks that read the measured layers of a network, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nrc.errors import UserError
from nrc.features.layers import CONVOLUTIONS, OUT, is_layer, may_be_linear
from nrc.features.passes import input_of, output_of, outputs
from nrc.features.plan import Plan
from nrc.features.prediction import Prediction
from nrc.features.rows import LATER, MIXED, ORDER, Arrangement, Unmeasurable, arrange
from nrc.features.samples import samples_in
from nrc.features.spot import Spot
from nrc.features.tensors import plain
from nrc.features.weights import Applied, applied_weight, sample, still_applies
from nrc.metrics.groups import coded, labels_of
from nrc.moments import Moments


@dataclass
class Read:
    """What a pass read, before it is merged with that of other ranks.

    Attributes:
        moments: label -> moments, in forward order.
        groups: name of a group -> label -> moments.
        weights: label -> the weight that it applied.
        skipped: label -> why it has no moments.
        kept: the last layer's features and targets, batch by batch, for what sums do not tell; None: too many.
    """

    moments: dict[str, Moments] = field(default_factory=dict)
    groups: dict[Hashable, dict[str, Moments]] = field(default_factory=dict)
    weights: dict[str, Applied] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    last: str = ""
    kept: list[tuple[Tensor, Tensor]] | None = field(default_factory=list)


class FeatureHooks:
    """A context manager: inside it, `run` sends a batch through the network and adds what the layers see to `read`.

    Args:
        layers: label -> module; with the suffix ':out' its output is read.
        plan: how to read them.
        named: labels that the user asked for: no limit of width, and an error where one cannot be measured.
        head: the label named as the last layer, whose features are kept.
        check_weights: compare W h + b with the layers' outputs in the first batch, and take what they apply.
        copy_weights: the weights are gone after the pass (they are gathered for it alone).
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        plan: Plan,
        prediction: Prediction,
        *,
        named: set[str],
        head: str | None,
        keep_bytes: int,
        max_features: int,
        every_position: bool,
        check_weights: bool = True,
        copy_weights: bool = False,
    ) -> None:
        self.read = Read()
        self.prediction = prediction
        self._layers, self._plan, self._named, self._head = layers, plan, named, head
        self._budget, self._max_features, self._every_position = keep_bytes, max_features, every_position
        self._check_weights, self._copy_weights = check_weights, copy_weights
        self._busy = True  # until `run`
        self._first_batch = True
        self._handles: list[Any] = []
        self._group_names: dict[Hashable, int] = {}
        # label -> the one position that goes out, where it is always the same
        self._token: dict[str, int | None] = {}
        self._batch = _Batch(torch.empty(0, 0, dtype=torch.float32, device="cpu"), None, None)

    def __enter__(self) -> FeatureHooks:
        for label, module in self._layers.items():
            if (reason := self._plan.left_out.get(label)) is not None and label not in self._named:
                self.read.skipped[label] = reason
                continue
            if label.endswith(OUT):
                self._handles.append(module.register_forward_hook(self._after(label), with_kwargs=True))
                continue
            # before the module runs: it may overwrite its input
            self._handles.append(module.register_forward_pre_hook(self._before(label), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._made(label)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self,
        network: nn.Module,
        args: Any,
        kwargs: Any,
        y: Tensor,
        mask: Tensor | None,
        groups: Any = None,
        spot: Spot | None = None,
    ) -> None:
        """Send one batch through, with its targets (B, ..., n), the rows of them that count and their groups.

        spot: some of its samples that ran alone.
        """
        codes = None if groups is None else self._codes(groups, y, mask)
        fold, samples = self._plan.fold, samples_in((args, kwargs)) if self._plan.fold else 0
        unfolded = [t if t is None or fold is None else fold.unfold(t, samples) for t in (y, mask, codes)]
        self._batch = _Batch(*unfolded)  # type: ignore[arg-type]
        self._batch.spot = spot
        self._busy = False
        try:
            out = network(*args, **kwargs)
        finally:
            self._busy = True
        batch = self._batch
        if spot is not None:
            spot.check_outputs(outputs(out))
            self.prediction.learn(frozenset(), frozenset(spot.displaced))
        found = self.prediction.add(out, y, mask, batch.made, codes, batch.later_made(y))
        for label in list(batch.later):
            self._guarded(label, partial(self._late, label, found, y, mask, codes))
        self._first_batch = self._first_batch and not self.read.moments
        self.read.batches += 1
        self.read.ran.update(batch.ran)

    def _before(self, label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._busy or label in self.read.skipped:
                return
            self._guarded(label, lambda: self._input(label, module, input_of(module, args, kwargs)))

        return hook

    def _after(self, label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if self._busy or label in self.read.skipped:
                return
            self._guarded(label, lambda: self._take(label, output_of(out)))

        return hook

    def _made(self, label: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if not self._busy and label not in self.read.skipped:
                self._guarded(label, lambda: self._output(label, module, out))

        return hook

    def _guarded(self, label: str, read: Callable[[], None]) -> None:
        """An error in reading one layer leaves this layer out."""
        try:
            read()
        except Unmeasurable as reason:
            self.refuse(label, str(reason).replace("'NAME'", repr(label)))
        except Exception as error:
            self.refuse(label, f"could not be read ({type(error).__name__}: {error})")

    def _input(self, label: str, module: nn.Module, x: Any) -> None:
        if isinstance(module, nn.MultiheadAttention) and isinstance(x, dict):
            raise Unmeasurable("attends to another input than its own, so its in-projection has no one input")
        if label in self._batch.ran:
            raise Unmeasurable("ran twice in one forward pass (a shared module), so it has no one input")
        attention = isinstance(module, nn.MultiheadAttention)
        reads = not attention and self._may_read(label, module)
        # in some of the later batches again: a weight may depend on the batch
        again = self.read.batches < 8 or self.read.batches.bit_count() == 1
        checked = not self._check_weights or (label in self.read.weights and not again)
        if (
            reads
            and not checked
            and isinstance(x, Tensor)
            and x.ndim > 1
            and x.numel()
            and x.is_floating_point()
        ):
            self._batch.samples[label] = x, sample(module, plain(x))
        try:
            self._take(label, x)
        except Unmeasurable as reason:
            # its rows may yet be told by the output that they make
            apart = isinstance(x, Tensor) and (x.ndim > 2 or str(reason) in (ORDER, MIXED))
            if not apart or not reads or isinstance(module, CONVOLUTIONS):
                raise
            self._batch.later[label] = plain(x).clone(), None
            self._batch.reasons[label] = str(reason)

    def _may_read(self, label: str, module: nn.Module) -> bool:
        """Whether a module may apply one weight to its input: by its kind, or because the user named it."""
        if is_layer(module) or may_be_linear(module):
            return True
        small = 0 < sum(p.ndim > 1 for p in module.parameters()) <= 4
        return small and (label == self._head or label in self._named)

    def _take(self, label: str, x: Any) -> None:
        if isinstance(x, tuple | list) and x:
            x = x[0]
        if not isinstance(x, Tensor):
            raise Unmeasurable(f"passes {type(x).__name__}, not a tensor; measure a layer inside it")
        if x.is_complex():
            raise Unmeasurable(f"passes complex numbers ({x.dtype}); measure a layer whose features are real")
        how = self._plan.arrangements.get(label, Arrangement())
        batch = self._batch
        rows, many = arrange(plain(x), tuple(batch.y.shape), how, self._every_position)
        if batch.spot is not None:
            try:
                batch.spot.check(label, rows, tuple(batch.y.shape), self._every_position)
            except Unmeasurable:
                if label in self.read.moments:
                    raise Unmeasurable(LATER) from None
                raise
        self._add(label, rows, *batch.rows(many))

    def _output(self, label: str, module: nn.Module, out: Any) -> None:
        batch = self._batch
        if label in batch.samples:
            x, rows = batch.samples.pop(label)
            known = self.read.weights.get(label)
            self._busy = True  # the layer may be run on other rows
            try:
                if known is None:
                    applied = applied_weight(module, x, rows, out)
                else:
                    same = still_applies(module, known, rows, out)
                    applied = known if same else Applied(reason=f"{type(module).__name__} {ANOTHER}")
            except Exception as error:
                applied = Applied(reason=f"its weight could not be read ({type(error).__name__}: {error})")
            finally:
                self._busy = False
            if self._copy_weights and applied.weight is not None and applied.bias is not None:
                applied = Applied(applied.weight.cpu().clone(), applied.bias.cpu().clone())
            if is_layer(module) or may_be_linear(module) or applied.weight is not None:
                self.read.weights[label] = applied
        if (
            not isinstance(out, Tensor)
            or not out.is_floating_point()
            or isinstance(module, nn.MultiheadAttention)
        ):
            return
        if not self._may_read(label, module):
            return
        made, n, pooled = plain(out), batch.y.shape[-1], False
        outputs = self.prediction.columns
        if isinstance(module, CONVOLUTIONS):
            padded = not isinstance(module.padding, str) and set(module.padding) != {0}
            if set(module.kernel_size) != {1} or set(module.stride) != {1} or padded or made.ndim < 3:
                return
            made = made.movedim(1, -1)
            if made.shape[:-1] != batch.y.shape[:-1]:
                pooled = made[0, ..., 0].numel() > 1
                made = made.mean(tuple(range(1, made.ndim - 1)))
        if made.shape[-1] != n and (outputs is None or made.shape[-1] <= max(outputs)):
            batch.later.pop(label, None)
            if label in batch.reasons:
                raise Unmeasurable(batch.reasons[label])
            return
        selected = outputs is not None and made.shape[-1] > max(outputs)
        if outputs is not None and selected:
            made = made[..., list(outputs)]
        kept = made.clone()  # something may be added to it in place
        kept.pooled, kept.selected = pooled, selected  # type: ignore[attr-defined]
        if label in batch.later:
            batch.later[label] = batch.later[label][0], kept
        else:
            batch.made[label] = kept

    def _late(
        self,
        label: str,
        found: Tensor | None,
        y: Tensor,
        mask: Tensor | None,
        codes: Tensor | None,
    ) -> None:
        """A layer whose rows are told by what it made of them: those that are the prediction, such as the last token's."""
        reason = Unmeasurable(self._batch.reasons[label])
        x, made = self._batch.later[label]
        if found is None or made is None:
            raise reason
        seen = self._plan.arrangements.get(label, Arrangement()).seen
        if seen is not None and seen.samples == {1} and y.ndim == 2:
            x, made = x.transpose(0, 1), made.transpose(0, 1)
        rows, self._token[label] = _picked(x, made, found, self._token.get(label))
        if rows is None:
            raise reason
        batch = _Batch(y, mask, codes)
        self._add(label, rows, *batch.rows(1))
        self._batch.ran.add(label)
        self.prediction.note(label, torch.ones((), dtype=torch.bool, device=found.device))

    def _add(self, label: str, x: Tensor, y: Tensor, codes: Tensor | None, kept: Tensor | None) -> None:
        """Rows (N, d), the targets' rows, their groups, and which count."""
        d = x.shape[1]
        if d > self._max_features and label not in self._named:
            raise Unmeasurable(
                f"has {d} features, more than max_features={self._max_features}: its sums would take "
                f"{16 * d * d / 1e9:.1f} GB; name it in layers=[...], or raise max_features, if that fits"
            )
        if kept is not None:
            x, y = x[kept.to(x.device)], y[kept]
            codes = None if codes is None else codes[kept]
        self._batch.ran.add(label)
        if not len(x):
            return  # the mask leaves nothing of this batch
        read = self.read
        read.moments.setdefault(label, Moments()).update(x, y)
        if codes is not None:
            names = list(self._group_names)
            for code in codes.unique().tolist():
                here = codes == code
                moments = read.groups.setdefault(names[code], {}).setdefault(label, Moments())
                moments.update(x[here.to(x.device)], y[here])
        self._keep(label, x, y)

    def _keep(self, label: str, x: Tensor, y: Tensor) -> None:
        read = self.read
        if self._first_batch and (read.last != self._head or not read.last):
            read.last = label
            read.kept = [] if self._budget else None
        if label == read.last and read.kept is not None:
            if sum(k.nbytes for k, _ in read.kept) + x.nbytes > self._budget:
                read.kept, self._budget = None, 0
            else:
                read.kept.append((x.clone(), y.clone()))

    def _codes(self, groups: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """Labels of a batch as whole numbers (B, ...) beside the targets' rows."""
        labels = labels_of(groups)
        shape = tuple(y.shape[:-1])
        if labels.shape != shape and labels.shape != shape[:1]:
            raise UserError(
                f"the groups of a batch have shape {labels.shape}; expected one label a target row, {shape}, or one a "
                f"sample, {shape[:1]}"
            )
        counts = None if mask is None else (mask.flatten(1).any(1) if labels.ndim == 1 < mask.ndim else mask)
        names, codes = coded(labels, None if counts is None else counts.cpu().numpy())
        known = [self._group_names.setdefault(name, len(self._group_names)) for name in names]
        if len(self._group_names) > MAX_GROUPS:
            raise UserError(
                f"groups has more than {MAX_GROUPS} different labels; each has sums of its own: put them into bins"
            )
        found = torch.tensor(known, dtype=torch.long, device="cpu")[torch.from_numpy(codes)]
        return found.reshape(*labels.shape, *[1] * (len(shape) - labels.ndim)).expand(shape).to(y.device)

    @property
    def group_codes(self) -> dict[Hashable, int]:
        """Name of a group -> its number in `Prediction.error_of`."""
        return self._group_names

    def learn(self, fresh: Plan) -> None:
        """Take on what a look at a later batch showed; layers that it contradicts are left out."""
        wrong = self._plan.learn(fresh)
        for label, reason in wrong.items():
            out = label in fresh.left_out and label not in self._named
            if (out or label in self.read.moments) and label not in self.read.skipped:
                self.refuse(label, reason)
        self.prediction.learn(fresh.random, fresh.disordered)

    def refuse(self, label: str, reason: str) -> None:
        """Leave a layer out for this reason.

        Raises:
            UserError: the layer was named by the user.
        """
        if label in self._named:
            raise UserError(f"layer '{label}' {reason}; or leave it out of layers=[...]") from None
        read = self.read
        read.skipped[label] = reason
        read.moments.pop(label, None)
        for moments in read.groups.values():
            moments.pop(label, None)
        self._batch.made.pop(label, None)
        self._batch.later.pop(label, None)
        if label == read.last:
            read.last, read.kept = "", [] if self._budget else None


MAX_GROUPS = 1000
ANOTHER = "applies another weight in another batch, so it has no one weight"


@dataclass
class _Batch:
    """One batch in its pass: targets, mask and groups, and what the layers made."""

    y: Tensor
    mask: Tensor | None
    codes: Tensor | None
    ran: set[str] = field(default_factory=set)
    made: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    later: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    spot: Spot | None = None

    def rows(self, many: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Targets (N, n), groups and mask (N,), each row as often as there are rows of features for it."""
        y = self.y.flatten(0, -2)
        flat = [None if t is None else t.flatten() for t in (self.codes, self.mask)]
        if many > 1:
            y = y.repeat_interleave(many, 0)
            flat = [None if t is None else t.repeat_interleave(many, 0) for t in flat]
        return y, flat[0], flat[1]

    def later_made(self, y: Tensor) -> dict[str, Tensor]:
        """What layers of one row for every position made, where that has the shape of the targets."""
        return {
            label: made
            for label, (_, made) in self.later.items()
            if made is not None and made.shape == y.shape
        }


def _picked(
    x: Tensor, made: Tensor, found: Tensor, token: int | None = None
) -> tuple[Tensor | None, int | None]:
    """The rows of x (B, ..., d) whose outputs (B, ..., n) are the prediction, all of them or one for each sample.

    Args:
        token: the position that it was in the batches before.

    Returns:
        The rows, if they can be told, and the position if it is the same in all samples.

    Raises:
        Unmeasurable: several rows of a sample make the prediction, and their features differ.
    """
    coarse = made.dtype if torch.finfo(made.dtype).eps >= torch.finfo(found.dtype).eps else found.dtype
    made, found = made.to(coarse), found.to(made.device, coarse)
    if made.shape == found.shape:
        if bool((made == found).all()):
            return x.flatten(0, -2), None
        return _sorted_back(x, made, found) if made.ndim == 2 else None, None
    if found.ndim != 2 or len(made) != len(found) or x.shape[:-1] != made.shape[:-1]:
        return None, None
    rows, outputs = x.flatten(1, -2), made.flatten(1, -2)
    same = (outputs == found[:, None]).all(-1)  # (B, T)
    if not bool(same.any(1).all()):
        return None, None
    everywhere = same.all(0).nonzero().flatten().tolist()
    if token is not None and token % same.shape[1] in everywhere:
        everywhere = [token % same.shape[1]]
    at = same.int().argmax(1)
    if len(everywhere) == 1:
        at = torch.full_like(at, everywhere[0])
        token = -1 if everywhere[0] == same.shape[1] - 1 else everywhere[0]
    chosen = rows[torch.arange(len(rows), device=rows.device), at]
    # of two positions with equal outputs only equal features will do
    if len(everywhere) != 1 and bool(((rows != chosen[:, None]).any(-1) & same).any()):
        raise Unmeasurable(
            "has several positions that make the network's output, and which of them goes out could not be told; "
            "measure after it was picked, or give targets (B, T, n)"
        )
    return chosen, token


def _sorted_back(x: Tensor, made: Tensor, found: Tensor) -> Tensor | None:
    """Rows of x (B, d) in the order in which their outputs (B, n) stand in the prediction.

    Rows of equal outputs must be equal: else nothing says which is which.
    """
    ids = torch.cat((made, found)).unique(dim=0, return_inverse=True)[1]
    mine, theirs = (part.sort(stable=True) for part in ids.chunk(2))
    if not torch.equal(mine.values, theirs.values):
        return None
    rows = x[mine.indices]
    twice = mine.values[1:] == mine.values[:-1]
    if bool((rows[1:][twice] != rows[:-1][twice]).any()):
        return None
    return torch.empty_like(rows).index_copy_(0, theirs.indices, rows)


def finish(read: Read, keep_bytes: int, centre: Tensor | None = None) -> dict[str, Moments]:
    """The moments; the last layer's directions about its mean (or about `centre`) from the features kept."""
    for label, moments in read.moments.items():
        moments.centred_missing = "only the last measured layer's features are kept for a second pass"
        if label == read.last and read.kept is None:
            moments.centred_missing = (
                f"the features exceed keep_bytes={keep_bytes}, so no second pass was made"
            )
    if read.kept is not None and read.last in read.moments:
        last = read.moments[read.last]
        last.centre = last.mean_h if centre is None else centre.to(last.mean_h.device)
        for rows, _ in read.kept:
            last.add_centred(rows)
    return read.moments
