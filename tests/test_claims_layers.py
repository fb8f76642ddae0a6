"""The claims on all layers: each holds on runs that show what is claimed, and not on those that only seem to."""

from collections.abc import Callable

import numpy as np
import pytest
from report_runs import case, run_of

from nrc.figures.reference import published
from nrc.report.claims import layers
from nrc.report.claims.layers import deep_mean
from nrc.report.published import by_layer, published_tau
from nrc.report.registry import FAILS, HOLDS, NOT_YET, UNTESTABLE, Case, Finding, beats
from nrc.runs.read import Run

DEEP = {
    "noise": [0.8, 0.5, 0.01, 0.01],
    "noise_abs": [8.0, 5.0, 0.1, 0.1],
    "feature_weight_alignment": [0.2, 0.3, 0.97, 0.98],
    "feature_weight_alignment_k": [2.0] * 4,
    "feature_weight_alignment_null": [0.1] * 4,
    "linear_mse": [1.0, 0.5, 0.1, 0.1],
    "linear_mse_uncentred": [1.0, 0.5, 0.9, 0.9],
    "stable_rank_weights": [9.0, 8.0, 2.0, 2.0],
    "cka": [0.1, 0.4, 0.95, 0.99],
    "cka_null": [0.001] * 4,
    "cka_first_columns": [0.1, 0.2, 0.5, 0.6],
    "feature_target_alignment": [1.0] * 4,
    "feature_target_alignment_null": [1.0] * 4,
    "feature_target_alignment_features": [0.2, 0.5, 0.99, 0.99],
    "stable_rank_covariance": [5.0, 4.0, 1.1, 1.0],
    "stable_rank_features": [6.0, 5.0, 1.2, 1.1],
}
FLAT = {metric: [values[0]] * 4 for metric, values in DEEP.items()}


def deep(layers: dict | None = None, **more: object) -> Case:
    main = run_of({"mse": 0.1}, layers=DEEP | (layers or {}), layers_start=FLAT, **more)  # type: ignore[arg-type]
    flat = DEEP | {"noise": [0.8] * 4, "feature_weight_alignment": [0.3] * 4}
    return case(main, run_of({"mse": 0.1}, layers=flat, wd=0.0))


DEEP_RULES: dict[str, Callable[[Case], Finding]] = {
    "noise": layers.noise,
    "alignment": layers.alignment,
    "low_rank_weights": layers.low_rank_weights,
    "target_alignment": layers.target_alignment,
    "predictability": layers.predictability,
    "depth": layers.depth,
    "depth_decay": layers.depth_decay,
}


@pytest.mark.parametrize("name", DEEP_RULES)
def test_layerwise_rules_hold_on_a_collapsed_network_and_fail_on_a_flat_one(name: str) -> None:
    rule = DEEP_RULES[name]
    assert rule(deep()).verdict == HOLDS
    # with nothing collapsed there is nothing to compare
    assert rule(deep(FLAT)).verdict == (UNTESTABLE if name == "depth_decay" else FAILS)
    early = rule(deep(FLAT, tau=100.0))  # budget 1
    assert early.verdict == (UNTESTABLE if name == "depth_decay" else NOT_YET)
    assert "decay budget 1" in early.why


@pytest.mark.parametrize(
    "name", ["noise", "alignment", "low_rank_weights", "target_alignment", "predictability", "depth"]
)
def test_what_an_untrained_network_shows_as_well_shows_nothing(name: str) -> None:
    """The same values at the start: within every bound, and no evidence."""
    main = run_of({"mse": 0.1}, layers=DEEP, layers_start=DEEP)
    found = DEEP_RULES[name](case(main))
    assert found.verdict == FAILS and "at the start" in found.beside


@pytest.mark.parametrize("name", DEEP_RULES)
def test_a_collapse_that_has_forgotten_a_target_is_none(name: str) -> None:
    ends = {"mse": 0.1, "nrc1": 1e-9}
    flat = DEEP | {"noise": [0.8] * 4, "feature_weight_alignment": [0.3] * 4}

    def judged(weight: np.ndarray, sigma: np.ndarray) -> str:
        main = run_of(ends, layers=DEEP, layers_start=FLAT, weight=weight, sigma=sigma)
        return DEEP_RULES[name](case(main, run_of({"mse": 0.1}, layers=flat, wd=0.0))).verdict

    one, even, nearly_collinear = np.diag([1.0, 0.01]), np.diag([1.0, 0.5]), np.diag([1.0, 0.01])
    assert judged(np.eye(2), even) == HOLDS
    assert judged(one, even) == (UNTESTABLE if name == "depth_decay" else FAILS)
    if name != "predictability":  # its bound is a share of the targets' variance
        assert judged(one, nearly_collinear) == HOLDS


def test_nulls_are_beaten_by_half() -> None:
    assert beats([0.1], [0.2]) and not beats([0.11], [0.2]) and not beats([0.0], [0.0])
    assert beats([0.1], [float("nan")]) and beats([0.1]) and not beats([0.1], [0.9], [0.15])


def test_linear_prediction_is_judged_on_held_out_rows() -> None:
    """As many features as rows: on the train rows any layer predicts, random ones too."""
    fits = {"linear_mse": [0.1] * 4}
    bad = {"linear_mse": [1.0, 1.0, 0.9, 0.9]}
    end = {"mse": 0.1, "mse (test)": 0.12}
    over = case(run_of(end, layers=DEEP | fits, layers_start=DEEP | fits, held_out=bad))
    found = layers.predictability(over)
    assert found.verdict == FAILS and found.measured == [pytest.approx((0.9 - 0.12) / 2.5)]
    assert layers.collapsed_layers(over.main[0]) == 0
    views = {v.name: v for v in found.views}
    assert views["as in the paper"].values == [pytest.approx(0.0)]
    good = {"linear_mse": [1.0, 1.0, 0.13, 0.13]}
    generalises = case(run_of(end, layers=DEEP, layers_start=FLAT, held_out=good))
    assert layers.predictability(generalises).verdict == HOLDS
    assert layers.collapsed_layers(generalises.main[0]) == 2


def test_views_of_the_layerwise_rules() -> None:
    aligned = layers.target_alignment(deep())
    verdicts = {v.name: v.verdict for v in aligned.views}
    assert aligned.depends_on_view and verdicts["as in the released code"] == FAILS
    assert verdicts["as on the poster"] == "" and "any features" in aligned.views[-1].note
    assert layers.predictability(deep()).depends_on_view  # without an intercept the map fails
    weights = layers.low_rank_weights(deep({"stable_rank_weights": [9.0, 8.0, 3.0, 3.0]}))
    assert {v.name: v.verdict for v in weights.views} == {"as in the paper": FAILS, "corrected": HOLDS}


def test_the_papers_own_number_of_directions_is_not_passed_off_as_ours() -> None:
    """low_rank: the paper measured with 3 directions, the targets have 2."""
    sigma = np.diag([1.0, 0.2, 0.0])
    for rule, metric in ((layers.noise, "noise"), (layers.alignment, "feature_weight_alignment")):
        without = {v.name: v for v in rule(deep(data="low_rank", sigma=sigma)).views}
        assert without["as in the paper"].note == "not measured" and "r = 2" in without["corrected"].quantity
        more = {f"{metric}_r3": [0.4] * 4}
        with_it = {v.name: v for v in rule(deep(more, data="low_rank", sigma=sigma)).views}
        assert with_it["as in the paper"].values == [0.4]
    elsewhere = {v.name: v for v in layers.noise(deep()).views}
    assert "2 directions" in elsewhere["as in the paper"].quantity and "corrected" not in elsewhere


def test_intrinsic_rank_needs_targets_of_lower_rank() -> None:
    assert layers.intrinsic_rank(deep()).verdict == UNTESTABLE
    sigma = np.diag([1.0, 0.2, 0.0])
    assert layers.intrinsic_rank(deep(sigma=sigma)).verdict == HOLDS
    assert layers.intrinsic_rank(deep({"noise": [0.8] * 4}, sigma=sigma)).verdict == FAILS


def test_each_of_the_last_six_layers_must_keep_the_rank() -> None:
    clean = {"noise": [0.5, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001], layers.ALIGNMENT: [0.3] + [0.99] * 6}
    assert layers.low_rank_each(case(run_of(layers=clean))).verdict == HOLDS
    for metric, value in (("noise", 0.011), (layers.ALIGNMENT, 0.94)):
        worse = clean | {metric: [*clean[metric][:1], value, *clean[metric][2:]]}
        assert layers.low_rank_each(case(run_of(layers=worse))).verdict == FAILS


# --- what was published


def as_published(data: str, **more: object) -> Case:
    """A run whose layers measure what the paper published for this data set."""
    table = published("deep_published")
    table = table[(table.dataset == data) & (table.layer > 0)]
    layers = {m: g.sort_values("layer").value.tolist() for m, g in table.groupby("metric")}
    depth = len(layers["noise"])
    layers = {m: v for m, v in layers.items() if len(v) == depth} | {"cka_null": [0.001] * depth}
    start = {m: [0.9 if m == "noise" else 0.1] * depth for m in layers}
    return case(
        run_of({"mse": 0.03, "mse (test)": 0.03}, layers=layers, layers_start=start, data=data, **more)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["reacher", "hopper", "swimmer"])
@pytest.mark.parametrize("name", ["noise", "alignment", "target_alignment"])
def test_published_values_fail_these_bounds_too_and_stand_beside_ours(data: str, name: str) -> None:
    found = DEEP_RULES[name](as_published(data))
    beside = {k: v for k, v in found.beside.items() if k.startswith("published")}
    assert list(beside) == ["published (other data), by this bound: does not hold"]
    assert found.verdict == FAILS and found.reach == "as far as published"
    assert next(iter(beside.values())) == [pytest.approx(found.measured[0])]


@pytest.mark.parametrize(
    ("factor", "reach"),
    [(0.4, "further than published"), (1.1, "as far as published"), (2.0, "less far than published")],
)
def test_reach_is_told_apart_from_the_verdict(factor: float, reach: str) -> None:
    run = as_published("reacher").main[0]
    table = run.table.copy()
    table.loc[(table.metric == "noise") & (table.step == 1), "value"] *= factor
    other = Run(run.path, run.info, table)
    vars(other)["snapshots"] = run.snapshots
    found = layers.noise(case(other))
    assert found.verdict == FAILS and found.reach == reach
    assert layers.noise(deep(data="reacher")).reach == ""  # eight layers were published, these are four


def test_a_linear_map_is_held_against_the_published_one_on_train_rows() -> None:
    """Held-out values fall short of it for no other reason than that they are held out."""
    run = as_published("reacher", held_out={"linear_mse": [0.9] * 8}).main[0]
    found = layers.predictability(case(run))
    assert found.verdict == FAILS and found.reach == "as far as published"
    assert "published (other data, train rows), by this bound: holds" in found.beside


def test_published_lengths_and_layers_are_known_for_sets_from_elsewhere_too() -> None:
    assert published_tau("deep", "reacher-jat") == 1297 and np.isnan(published_tau("low_rank", "low_rank"))
    assert published_tau("prevalence_linear", "swimmer") == 40000
    assert len(by_layer(as_published("swimmer").main[0], "cka")) == 8
    assert deep_mean(as_published("swimmer").main[0], "noise") == pytest.approx(0.1662, abs=1e-3)
