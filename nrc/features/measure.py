"""Metrics of the layers that a pass has collected, with the weights that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from nrc.errors import UserError
from nrc.features.collect import Collected
from nrc.features.layers import OUT, measured_layers, reading_weight, unwrapped
from nrc.features.modes import evaluating
from nrc.features.weights import Applied
from nrc.metrics.assemble import Metrics, evaluate
from nrc.metrics.layer import Layer, Maker
from nrc.metrics.linalg import WeightSpectrum, weight_spectrum
from nrc.moments import Moments


def measure_layers(
    model: nn.Module,
    moments: Mapping[str, Moments],
    *,
    rank: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, Metrics]:
    """Metrics of collected layers, with the weights and biases that read them. See `measure_splits`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nrc import collect
        >>> model = nn.Linear(4, 2)
        >>> batches = [(torch.randn(32, 4), torch.randn(32, 2))]
        >>> measure_layers(model, collect(model, batches), only=["weight_rank"])[""]["weight_rank"]
        2.0
    """
    return measure_splits(model, {"": moments}, rank=rank, only=only)[""]


def layers_of(
    splits: Sequence[Moments],
    weight: Any,
    bias: Any,
    *,
    maps_to_targets: bool,
    rank: int | None = None,
    maker: Maker | str | None = None,
) -> list[Layer]:
    """One layer on several sets. The first is the training set: the others take their linear map, their Sigma and
    the number of target directions from there, and no eigenproblem is solved for them that no metric asks for."""
    spectrum = weight if weight is None or isinstance(weight, WeightSpectrum) else weight_spectrum(weight)
    found: list[Layer] = []
    for moments in splits:
        train = found[0] if found else None
        layer = Layer.of(
            moments, spectrum, bias, rank=rank, maps_to_targets=maps_to_targets, linear_map_from=train
        )
        found.append(layer if train is not None else replace(layer, maker=maker))
    return found


def measure_splits(
    model: nn.Module,
    splits: Mapping[str, Mapping[str, Moments]],
    *,
    rank: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the same layers on several sets, say {"train": ..., "test": ...}, as `collect` gives them.

    The weights are decomposed once. The first split is the training set: on the others linear_mse applies the
    map fitted there, and NRC3's Sigma and the number of target directions come from there. nrc2 and nrc3 are
    those of the head (see `collect`) and NaN elsewhere. mse and r2 are the network's own and stand with the
    head, or where there is none with the last layer. Layers measured at their output (':out') and recurrent
    layers have no weight metrics.

    Returns:
        split -> layer -> Metrics.

    Raises:
        UserError: features, targets or a weight that are not finite, by the name of the layer.
    """
    first = next(iter(splits.values()))
    pass_ = first if isinstance(first, Collected) else Collected(first, {}, None, None)
    judged = list(first)[-1] if pass_.head is None else pass_.head
    chosen = None if only is None else list(only)
    table: dict[str, dict[str, Metrics]] = {split: {} for split in splits}
    # in training mode the mere read of a spectral-normed weight changes it, and an adapter's is not merged
    with evaluating(unwrapped(model)):
        for label, module in measured_layers(model, list(first)).items():
            applied = _applied(label, module, pass_)
            weight, bias, is_head = applied.weight, applied.bias, label == pass_.head and not applied.reason
            if label == pass_.head and weight is not None and bias is not None:
                weight = weight.flatten(1) if set(weight.shape[2:]) == {1} else weight
                if pass_.outputs is not None and len(weight) > max(pass_.outputs):
                    weight, bias = weight[pass_.outputs], bias[pass_.outputs]
            here = [split for split, moments in splits.items() if label in moments]
            try:
                layers = layers_of(
                    [splits[split][label] for split in here], weight, bias, rank=rank, maps_to_targets=is_head
                )
                for split, layer in zip(here, layers, strict=True):
                    moments = splits[split]
                    if isinstance(moments, Collected) and label in moments.rows:
                        layer = layer.with_rows(*moments.rows[label])
                    if label == judged and isinstance(moments, Collected):
                        layer = replace(layer, error=moments.error)
                    found = evaluate(layer, chosen)
                    table[split][label] = _with_reasons(found, moments, applied, label == judged)
            except UserError as error:
                raise UserError(f"layer '{label}': {error}") from None
    return table


def _applied(label: str, module: nn.Module, collected: Collected) -> Applied:
    if label.endswith(OUT):
        return Applied()
    if label in collected.weights:
        return collected.weights[label]
    return Applied(*reading_weight(module))


def _with_reasons(found: Metrics, moments: Mapping[str, Moments], applied: Applied, judged: bool) -> Metrics:
    """The reasons that the pass knows better than the moments do; no error where there is no prediction."""
    values, undefined = dict(found.values), dict(found.undefined)
    reason = moments.no_prediction if isinstance(moments, Collected) and judged else ""
    if reason and not _missing_alone(moments, values):
        for name in values.keys() & {"mse", "r2"}:
            values[name], undefined[name] = float("nan"), reason
    if applied.reason:
        undefined = {
            name: applied.reason if why == "no weight was given" else why for name, why in undefined.items()
        }
    return Metrics(values, undefined)


def _missing_alone(moments: Mapping[str, Moments], values: Mapping[str, float]) -> bool:
    """The network put out nothing of the targets' shape, and the layer that the user named stands for it."""
    reason = moments.no_prediction if isinstance(moments, Collected) else ""
    mse = values.get("mse", float("nan"))
    return reason.startswith("the network put out nothing") and mse == mse
