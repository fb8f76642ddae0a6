"""Which tensor of the network's output is the prediction, its error, and the layer that makes it."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nrc.arrays import double, precision
from nrc.errors import UserError
from nrc.features.tensors import Path, mapped, plain, shown, tensors_in
from nrc.features.weights import Applied, contradiction
from nrc.moments import Moments

POOLED = 1e-5  # of the largest prediction: what a mean over positions may differ by, summed in another order
DISORDERED = "the network puts out its rows in another order than it gets them"
RANDOM = (
    "the network's output is random: two passes over the same samples differ; if it has a flag for its mean, "
    "give it with the inputs, ({'x': x, 'deterministic': True}, y), or say output=..."
)
# words in the names of outputs that are no predictions, whatever their shape
OTHER_OUTPUTS = frozenset((
    "loss", "error", "std", "stddev", "sigma", "scale", "var", "variance", "logstd", "logvar", "logsigma", "logscale",
    "covariance", "cov", "uncertainty", "logprob", "kl", "latent", "hidden", "embedding", "feature", "attention",
    "target", "label",
))  # fmt: skip


def fitted(x: Tensor, shape: torch.Size, outputs: Sequence[int] | None = None) -> Tensor | None:
    """A tensor in the targets' shape (B, ..., n), if it has it: also (B, ...) for one target, and (B, n, ...).

    outputs: the columns that predict the targets, of a tensor with more of them.

    Example:
        >>> fitted(torch.ones(3), torch.Size([3, 1])).shape
        torch.Size([3, 1])
    """
    if not x.is_floating_point():
        return None
    if outputs is not None and x.ndim == len(shape) and x.shape[:-1] == shape[:-1]:
        return x[..., list(outputs)] if x.shape[-1] > max(outputs) else None
    if x.shape == shape:
        return x
    if shape[-1] == 1 and x.shape == shape[:-1]:
        return x.unsqueeze(-1)
    if len(shape) > 2 and x.ndim == len(shape) and x.movedim(1, -1).shape == shape:
        return x.movedim(1, -1)
    return None


def _squeezed(x: Tensor, shape: torch.Size) -> Tensor | None:
    """A batch of one row of which `squeeze()` took the batch axis, too."""
    alike = shape[0] == 1 and tuple(x.squeeze().shape) == tuple(size for size in shape if size != 1)
    return x.reshape(shape) if alike and x.is_floating_point() else None


class Prediction:
    """The network's outputs over a pass, beside those of the layers that might have made them.

    Args:
        head: the layer that the user named as the last one.
        output: what the user said is the prediction: a key, an index, or a function of the output.
        outputs: the columns of it that predict the targets.
        random: where in the output tensors stand that differ from pass to pass.
        disordered: where tensors stand whose rows are in another order than the targets'.
        others: what the network put out for the first batch with other targets among its inputs; None: it gets none.
        channels_first: whether the network has layers with their channels on the second axis, so that its output may.
    """

    def __init__(
        self,
        head: str | None = None,
        output: str | int | Callable[[Any], Tensor] | None = None,
        outputs: Sequence[int] | None = None,
        random: frozenset[Path] = frozenset(),
        disordered: frozenset[Path] = frozenset(),
        others: Mapping[Path, Tensor] | None = None,
        channels_first: bool = False,
    ) -> None:
        self._head, self._output, self._outputs = head, output, outputs
        self._random, self._disordered, self._others = random, disordered, others
        self._channels_first = channels_first
        self._path: Path | None = None
        self._total: Tensor | float = 0.0
        self._by_group: dict[int, Tensor] = {}
        self._group_rows: dict[int, int] = {}
        self._rows = 0
        self._eps = 0.0
        self._same: dict[str, Tensor] = {}
        self._batches: Counter[str] = Counter()  # in which a layer made the prediction, and in all: ""
        self.reason = ""  # why there is no error

    @property
    def columns(self) -> Sequence[int] | None:
        """The columns of the output that predict the targets; None: all."""
        return self._outputs

    def learn(self, random: frozenset[Path], disordered: frozenset[Path]) -> None:
        """What a look at a later batch showed."""
        self._random |= random
        self._disordered |= disordered
        if self._path in disordered:
            self.reason = self.reason or DISORDERED
        if self._path in random:
            self.reason = self.reason or RANDOM

    def find(self, out: Any, y: Tensor, made: Mapping[str, Tensor]) -> Tensor | None:
        """The prediction in what the network put out, in the shape of the targets; None with a reason."""
        if self._output is not None:
            return self._said(out, y, made)
        there = {path: x for path, x in tensors_in(out)}
        if self._path is not None and self._path in there:
            x = there[self._path]
            found = self._fitted(x, y.shape, made)
            found = _squeezed(x, y.shape) if found is None else found
            if found is not None:
                return found
        fits = {path: f for path, x in there.items() if (f := self._fitted(x, y.shape, made)) is not None}
        if fits and self._disordered.issuperset(fits):
            self.reason = self.reason or DISORDERED
            return None
        fits = {path: f for path, f in fits.items() if path not in self._disordered}
        if not fits:
            self._require_columns(there.values(), y)
            fits = {path: f for path, x in there.items() if (f := _squeezed(x, y.shape)) is not None}
        path = self._choose(fits, there, y, made) if fits else None
        if path is None:
            if not fits:
                shapes = ", ".join(f"{shown(p)} {tuple(x.shape)}" for p, x in list(there.items())[:4])
                self.reason = self.reason or (
                    f"the network put out nothing of the targets' shape {tuple(y.shape)} (but {shapes or 'no tensor'}); "
                    "say output=... where one of it holds the prediction"
                )
            return None
        self._path = path
        if path in self._random:
            self.reason = self.reason or RANDOM
        return fits[path]

    def _require_columns(self, there: Iterable[Tensor], y: Tensor) -> None:
        """Raises UserError if the targets fit a tensor, but it has not all the columns asked for."""
        for x in there if self._outputs is not None else ():
            if fitted(x, y.shape) is not None:
                raise UserError(
                    f"outputs={list(self._outputs or ())}, but the network puts out {x.shape[-1]} columns; give numbers from 0 to "
                    f"{x.shape[-1] - 1}"
                )

    def _fitted(
        self, x: Tensor, shape: torch.Size, made: Mapping[str, Tensor], sure: bool = False
    ) -> Tensor | None:
        """As `fitted`; of as many positions as targets the layer that made it says which axis is which, or nothing.

        The network may also put out the columns asked for alone, if a layer made them beside others.
        """
        found = fitted(x, shape, self._outputs)
        if found is None and self._outputs is not None and (alone := fitted(x, shape)) is not None:
            cut = any(getattr(m, "selected", False) and _equal(m, alone) for m in made.values())
            found = alone if cut else None
        if not self._channels_first or found is None or x.shape != shape or len(shape) < 3:
            return found
        turned = x.movedim(1, -1)
        if turned.shape != shape or torch.equal(turned, x):
            return found
        ways = [way for way in (x, turned) if any(_equal(m, way) for m in made.values())]
        if len(ways) == 1 or sure:
            return ways[0] if ways else found
        self.reason = self.reason or (
            f"the network's output {tuple(x.shape)} may have the targets on its second axis or on its last, which are of "
            "one size; give batches of another number of positions, or say which by output=lambda out: ..."
        )
        return None

    def _said(self, out: Any, y: Tensor, made: Mapping[str, Tensor]) -> Tensor | None:
        try:
            if callable(self._output):
                x = self._output(out)
            elif isinstance(self._output, str) and not isinstance(out, Mapping):
                x = getattr(out, self._output)
            else:
                x = out[self._output]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            there = ", ".join(shown(path) for path, _ in tensors_in(out))
            raise UserError(
                f"output={self._output!r} is not in what the network puts out ({type(error).__name__}: {error}); "
                f"choose from: {there or 'nothing'}"
            ) from None
        if not isinstance(x, Tensor):
            raise UserError(
                f"output={self._output!r} gives {type(x).__name__}; it must give the prediction, a tensor"
            )
        found = self._fitted(x, y.shape, made, sure=callable(self._output))
        if found is None and fitted(x, y.shape, self._outputs) is not None:
            return None  # it may be either way round
        found = _squeezed(x, y.shape) if found is None else found
        if found is None:
            self._require_columns([x], y)
            raise UserError(
                f"output={self._output!r} has shape {tuple(x.shape)}, but the targets are {tuple(y.shape)}; if only some "
                "of its columns predict them, say which: outputs=[0, 1]"
            )
        return found

    def _choose(
        self, fits: dict[Path, Tensor], there: Mapping[Path, Tensor], y: Tensor, made: Mapping[str, Tensor]
    ) -> Path | None:
        if self._head is not None and self._head in made:
            heads = [path for path, x in fits.items() if _equal(made[self._head], x)]
            if heads:
                return heads[0]
        losses = {path for path, x in fits.items() if self._follows(path, x, there[path], y, made)}
        left = [path for path in fits if path not in losses and not any(map(_is_other, path))]
        if len(left) > 1:  # the layers that make them have names, too
            others = {
                path
                for path in left
                for label, m in made.items()
                if _is_other(label) and _equal(m, fits[path])
            }
            left = [path for path in left if path not in others] or left
        if len(left) > 1 and all(torch.equal(fits[left[0]], fits[path]) for path in left):
            left = left[:1]
        by_layer = bool(left) and any(_equal(m, fits[left[0]]) for m in made.values())
        whole = _of_more(left[0], fits[left[0]], there, by_layer) if len(left) == 1 else None
        if whole is not None:
            self.reason = self.reason or (
                f"{shown(left[0])} of what the network puts out has the targets' shape, but {shown(whole)} "
                f"{tuple(there[whole].shape)} may hold the prediction; say which, output=..."
            )
        elif len(left) == 1:
            return left[0]
        elif left:
            self.reason = self.reason or (
                f"the network puts out several tensors of the targets' shape ({', '.join(map(shown, left))}); "
                "say which is the prediction, output=..., or which layer makes it, head=..."
            )
        elif losses:
            self.reason = self.reason or (
                f"the network gets the targets, and what it puts out of their shape, {', '.join(map(shown, losses))}, "
                "follows them: it is a loss for each sample, or the targets themselves; if it is the prediction, say "
                "output=..."
            )
        else:
            self.reason = self.reason or (
                f"what the network puts out of the targets' shape, {', '.join(map(shown, fits))}, is no prediction by its "
                "name; if one is, say output=..."
            )
        return None

    def _follows(self, path: Path, x: Tensor, whole: Tensor, y: Tensor, made: Mapping[str, Tensor]) -> bool:
        """Whether an output is the targets that the network got, or made of them by no layer: a loss."""
        if self._others is None:
            return False
        if _equal(y.to(x.dtype), x):
            return True
        other = self._others.get(path)
        if other is None or other.shape != whole.shape or path in self._random:
            return False
        changed = (double(other) - double(plain(whole))).abs().amax() > POOLED * double(
            plain(whole)
        ).abs().amax()
        return bool(changed) and not any(_equal(m, x) for m in made.values())

    def add(
        self,
        out: Any,
        y: Tensor,
        mask: Tensor | None,
        made: Mapping[str, Tensor],
        groups: Tensor | None = None,
        undecided: Mapping[str, Tensor] | None = None,
    ) -> Tensor | None:
        """One batch: the output, the targets (B, ..., n), and what the layers with n outputs put out. Returns `find`.

        undecided: the same of layers that `note` will speak of.
        """
        if not y.numel():
            return None
        found = self.find(out, y, {**made, **(undecided or {})})
        if found is None:
            return None
        found = plain(found)

        def rows(values: Tensor) -> Tensor:
            values = values.to(y.device)
            return double(values.reshape(-1, y.shape[-1]) if mask is None else values[mask])

        prediction = rows(found)
        if not len(prediction):
            return found
        self._eps = max(self._eps, precision(found.dtype))
        errors = (prediction - rows(y)).square().sum(1)
        self._total = self._total + errors.sum()
        self._rows += len(prediction)
        if groups is not None:
            kept = groups.flatten() if mask is None else groups[mask]
            for code in kept.unique().tolist():
                here = errors[kept.to(errors.device) == code]
                self._by_group[code] = self._by_group.get(code, errors.new_zeros(())) + here.sum()
                self._group_rows[code] = self._group_rows.get(code, 0) + len(here)
        self._batches[""] += 1
        for label, values in made.items():
            self.note(label, _equal_rows(values, found, mask))
        return found

    def note(self, label: str, same: Tensor) -> None:
        """Whether a layer made the prediction of the batch that was added last."""
        self._same[label] = same & self._same.get(label, same)
        self._batches[label + "."] += 1

    def summary(self, codes: Mapping[Hashable, int]) -> tuple[Any, ...]:
        """What `merge` needs of each rank; codes: name of a group -> its number."""
        groups = {
            name: (float(self._by_group[k]), self._group_rows[k])
            for name, k in codes.items()
            if k in self._by_group
        }
        return float(self._total), self._rows, groups, self.reason, self.maker if self._rows else ""

    def merge(self, summaries: Sequence[tuple[Any, ...]]) -> dict[Hashable, int]:
        """Take on the predictions of all ranks; the numbers of the groups from now on."""
        self._total, self._rows = (sum(part) for part in list(zip(*summaries, strict=True))[:2])
        names = list(dict.fromkeys(name for _, _, groups, *_ in summaries for name in groups))
        for code, name in enumerate(names):
            parts = [groups[name] for _, _, groups, *_ in summaries if name in groups]
            self._by_group[code] = torch.tensor(
                sum(error for error, _ in parts), dtype=torch.float64, device="cpu"
            )
            self._group_rows[code] = sum(rows for _, rows in parts)
        self.reason = next((reason for *_, reason, _ in summaries if reason), "")
        makers = {maker for *_, maker in summaries if maker != ""}
        if len(makers) != 1:
            self._same.clear()
        elif (maker := makers.pop()) is not None and maker not in self._same:
            self._same[maker] = torch.ones((), dtype=torch.bool, device="cpu")
        return {name: code for code, name in enumerate(names)}

    @property
    def error(self) -> float | None:
        """mean |output - y|^2 over the rows; None when there is no prediction."""
        return None if self.reason or not self._rows else float(self._total) / self._rows

    def doubt(self, moments: Moments, applied: Applied) -> str:
        """Why a weight is not what made the prediction of these rows, though it did of some; or nothing."""
        weight, bias, error = applied.weight, applied.bias, self.error
        if weight is None or bias is None or error is None or not math.isfinite(error):
            return ""
        if moments.count != self._rows or not moments.finite:
            return ""
        weight = weight.flatten(1)
        if self._outputs is not None and len(weight) > max(self._outputs):
            weight, bias = weight[list(self._outputs)], bias[list(self._outputs)]
        return contradiction(moments, weight, bias, error, self._eps)

    def error_of(self, group: int) -> float | None:
        """The same over the rows of one group."""
        rows = self._group_rows.get(group, 0)
        return None if self.reason or not rows else float(self._by_group[group]) / rows

    @property
    def maker(self) -> str | None:
        """The last layer whose output was the prediction in every batch."""
        always = [label for label in self._same if self._batches[label + "."] >= self._batches[""]]
        made = [label for label in always if not self.reason and self._same[label]]
        return made[-1] if made else None


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the coarser of their types: what a network may cast to on the way out."""
    coarser = a.dtype if torch.finfo(a.dtype).eps >= torch.finfo(b.dtype).eps else b.dtype
    return a.to(b.device, coarser), b.to(coarser)


def _equal(made: Tensor, found: Tensor) -> bool:
    return bool(_equal_rows(made, found, None))


def _equal_rows(made: Tensor, found: Tensor, mask: Tensor | None) -> Tensor:
    """Whether a layer's output went out as it was, bit by bit; a tolerance would lose what is added to it."""
    if made.numel() != found.numel():
        return torch.zeros((), dtype=torch.bool, device=found.device)
    a, b = _alike(made.reshape(found.shape), found)
    if mask is not None:
        a, b = a[mask.to(a.device)], b[mask.to(b.device)]
    exact = ((a == b) & b.isfinite()).all()
    if getattr(made, "pooled", False) and a.dtype in (torch.float32, torch.float64):
        return exact | ((a - b).abs().amax() <= POOLED * b.abs().amax())
    return exact


def _is_other(name: str | int) -> bool:
    """Whether a word of a name, or two of them together, says that it is no prediction.

    Example:
        >>> [_is_other(name) for name in ("log_var", "hiddenStates", "weekly", 0)]
        [True, True, False, False]
    """
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", str(name))]
    words += [a + b for a, b in pairwise(words)]
    return any(w.removesuffix(ending) in OTHER_OUTPUTS for w in words for ending in ("", "s", "es"))


def _of_more(path: Path, x: Tensor, there: Mapping[Path, Tensor], made: bool) -> Path | None:
    """An output that stands before this one in a tuple and may hold the prediction beside more (quantiles, samples).

    It has one axis more and this one is no part of it, or for one target more columns, and no layer made this one.
    """
    for before, whole in there.items():
        if before == path or not isinstance(path[-1], int):
            return None
        if not whole.is_floating_point():
            continue
        if x.shape[-1] == 1 and whole.shape[:-1] == x.shape[:-1] and whole.shape[-1] > 1 and not made:
            return before
        for axis in range(whole.ndim if whole.ndim == x.ndim + 1 else 0):
            if whole.select(axis, 0).shape == x.shape:
                parts = whole.movedim(axis, 0)
                if not bool((parts == x.to(parts.device)).flatten(1).all(1).any()):
                    return before
    return None


def with_other_targets(network: nn.Module, args: Any, kwargs: Any, y: Tensor) -> dict[Path, Tensor] | None:
    """What a network puts out when the targets among its inputs are those of other samples; None: it gets none.

    Nothing where they are its first input: an autoencoder's prediction follows it.
    """
    given: Any = (args, kwargs)
    with suppress(TypeError, ValueError):  # keywords in the order of the network's own
        given = tuple(inspect.signature(network.forward).bind(*args, **kwargs).arguments.values())
    inputs: list[Tensor] = []
    mapped(given, lambda x: inputs.append(x) or x)  # type: ignore[func-returns-value]
    same = {id(x) for x in inputs if _same_values(x, y)}
    if not same:
        return None
    if id(inputs[0]) in same:
        return {}
    args, kwargs = mapped((args, kwargs), lambda x: _changed(x) if id(x) in same else x.clone())
    with suppress(Exception):
        return {path: plain(x) for path, x in tensors_in(network(*args, **kwargs))}
    return {}


def _changed(targets: Tensor) -> Tensor:
    other = targets.roll(1, 0)
    return -1 - targets if torch.equal(other, targets) and targets.is_floating_point() else other


def _same_values(x: Tensor, y: Tensor) -> bool:
    if x.numel() != y.numel() or not x.ndim or len(x) != len(y) or x.is_complex():
        return False
    y = y.to(x.device, x.dtype if x.is_floating_point() else y.dtype).reshape(-1)
    return torch.equal(double(plain(x)).reshape(-1).nan_to_num(), double(y).nan_to_num())
