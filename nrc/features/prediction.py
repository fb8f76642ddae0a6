"""Which tensor of the network's output is the prediction, its error, and the layer that makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nrc.arrays import double
from nrc.errors import UserError
from nrc.features.tensors import Path, plain, shown, tensors_in

POOLED = 1e-5  # of the largest prediction: what a mean over positions may differ by, summed in another order
DISORDERED = "the network puts out its rows in another order than it gets them"
RANDOM = (
    "the network's output is random: two passes over the same samples differ; if it has a flag for its mean, "
    "give it with the inputs, ({'x': x, 'deterministic': True}, y), or say output=..."
)
# words in the names of outputs that are no predictions, whatever their shape
OTHER_OUTPUTS = ("loss", "error", "logstd", "logvar", "logsigma", "logscale", "logprob", "std", "sigma", "variance",
                 "kl", "latent", "hidden", "embedding", "feature", "attention")  # fmt: skip


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
    """

    def __init__(
        self,
        head: str | None = None,
        output: str | int | Callable[[Any], Tensor] | None = None,
        outputs: Sequence[int] | None = None,
        random: frozenset[Path] = frozenset(),
        disordered: frozenset[Path] = frozenset(),
    ) -> None:
        self._head, self._output, self._outputs = head, output, outputs
        self._random, self._disordered = random, disordered
        self._path: Path | None = None
        self._total: Tensor | float = 0.0
        self._by_group: dict[int, Tensor] = {}
        self._group_rows: dict[int, int] = {}
        self._rows = 0
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
            return self._said(out, y)
        there = {path: x for path, x in tensors_in(out)}
        if self._path is not None and self._path in there:
            x = there[self._path]
            found = fitted(x, y.shape, self._outputs)
            found = _squeezed(x, y.shape) if found is None else found
            if found is not None:
                return found
        fits = {path: f for path, x in there.items() if (f := fitted(x, y.shape, self._outputs)) is not None}
        if fits and self._disordered.issuperset(fits):
            self.reason = self.reason or DISORDERED
            return None
        fits = {path: f for path, f in fits.items() if path not in self._disordered}
        if not fits:
            self._require_columns(there.values(), y)
            fits = {path: f for path, x in there.items() if (f := _squeezed(x, y.shape)) is not None}
        path = self._choose(fits, y, made) if fits else None
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

    def _said(self, out: Any, y: Tensor) -> Tensor | None:
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
        found = fitted(x, y.shape, self._outputs)
        found = _squeezed(x, y.shape) if found is None else found
        if found is None:
            self._require_columns([x], y)
            raise UserError(
                f"output={self._output!r} has shape {tuple(x.shape)}, but the targets are {tuple(y.shape)}; if only some "
                "of its columns predict them, say which: outputs=[0, 1]"
            )
        return found

    def _choose(self, fits: dict[Path, Tensor], y: Tensor, made: Mapping[str, Tensor]) -> Path | None:
        if set(fits) == {()} and y.shape[-1] > 1:
            return ()
        if self._head is not None and self._head in made:
            heads = [path for path, x in fits.items() if _equal(made[self._head], x)]
            if heads:
                return heads[0]
        losses = {
            path
            for path, x in fits.items()
            if y.shape[-1] == 1 and any(_is_loss(x, other, y) for other in (*fits.values(), *made.values()))
        }
        named = {
            p for p in fits if any(w in str(k).lower().replace("_", "") for k in p for w in OTHER_OUTPUTS)
        }
        makers = {
            p for p, x in fits.items() for label, m in made.items()
            if any(w in label.lower().replace("_", "") for w in OTHER_OUTPUTS) and _equal(m, x)
        }  # fmt: skip
        left = [path for path in fits if path not in losses | named | makers]
        if len(left) > 1 and all(torch.equal(fits[left[0]], fits[path]) for path in left):
            left = left[:1]
        if len(left) == 1:
            return left[0]
        if losses and not left:
            self.reason = (
                self.reason or "the network puts out a loss for each sample and no prediction; say output=..."
            )
        elif left:
            self.reason = self.reason or (
                f"the network puts out several tensors of the targets' shape ({', '.join(map(shown, left))}); "
                "say which is the prediction, output=..., or which layer makes it, head=..."
            )
        else:
            self.reason = self.reason or (
                f"what the network puts out of the targets' shape, {', '.join(map(shown, fits))}, is no prediction by its "
                "name; if one is, say output=..."
            )
        return None

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
            self._by_group[code] = torch.tensor(sum(error for error, _ in parts), device="cpu")
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


def _is_loss(x: Tensor, other: Tensor, y: Tensor) -> bool:
    """Whether a tensor holds the squared or absolute error of another one."""
    if other is x or other.numel() != y.numel() or x.numel() != y.numel():
        return False
    apart = (double(other).reshape(-1) - double(y).reshape(-1).to(other.device)).abs()
    x = double(x).reshape(-1)
    for loss in (apart, apart.square(), apart.square() / 2, _huber(apart)):
        if (x - loss).abs().amax() <= 1e-4 * loss.abs().amax():
            return True
    return False


def _huber(apart: Tensor) -> Tensor:
    """The Huber loss of these absolute errors."""
    return torch.where(apart < 1, apart.square() / 2, apart - 0.5)
