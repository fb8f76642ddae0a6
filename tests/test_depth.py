"""The rule for the first collapsed layer, and how deep the collapse is."""

import math
from collections.abc import Iterator

import pytest

from nrc.metrics.depth import ALIGNMENT_MIN, NOISE_MAX, R2_GAP_MAX, depth_of_collapse, first_collapsed_layer


@pytest.fixture
def layers() -> Iterator[list[dict[str, float]]]:
    wide = {"noise": 0.5, "feature_weight_alignment": 0.3, "linear_mse": 0.6}
    narrow = {"noise": 0.01, "feature_weight_alignment": 0.97, "linear_mse": 0.12}
    yield [dict(wide), dict(narrow), dict(narrow)]


def test_first_collapsed_layer_and_depth(layers: list[dict[str, float]]) -> None:
    assert first_collapsed_layer(layers, 0.1, 1.0) == 2
    assert depth_of_collapse(2, len(layers)) == 2
    assert first_collapsed_layer(layers[:1], 0.1, 1.0) is None
    assert depth_of_collapse(None, 1) == 0


@pytest.mark.parametrize(
    ("metric", "inside", "outside"),
    [
        ("noise", NOISE_MAX, NOISE_MAX + 1e-6),
        ("feature_weight_alignment", ALIGNMENT_MIN, ALIGNMENT_MIN - 1e-6),
        ("linear_mse", R2_GAP_MAX, R2_GAP_MAX + 1e-6),
        ("noise", NOISE_MAX, math.nan),
    ],
)
def test_each_threshold_of_the_rule_counts(
    layers: list[dict[str, float]], metric: str, inside: float, outside: float
) -> None:
    layers[1][metric] = inside
    model = 0.0 if metric == "linear_mse" else 0.1
    layers[2]["linear_mse"] = model
    assert first_collapsed_layer(layers, model, 1.0) == 2
    layers[1][metric] = outside
    assert first_collapsed_layer(layers, model, 1.0) == 3


def test_a_later_layer_that_spreads_out_again_undoes_the_collapse_before_it(
    layers: list[dict[str, float]],
) -> None:
    layers[2]["noise"] = 0.4
    assert first_collapsed_layer(layers, 0.1, 1.0) is None
