"""The claims on the last layer and the UFM: each holds on runs that show it, and not on those that only seem to."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from report_runs import SIGMA, case, run_of

from nrc.report.claims import cone, images, last_layer
from nrc.report.claims import ufm as ufm_claims
from nrc.report.registry import FAILS, HOLDS, NOT_YET, UNTESTABLE, Case
from nrc.runs.read import Run
from nrc.theory import ufm

DEAD = np.diag([1.0, 0.05]) @ np.eye(2, 8)  # the second target direction is below a tenth of the first
NRC = {"nrc1": 0.5, "nrc1_raw": 0.5, "nrc1_centred": 0.5, "feature_norm": 1.0, "mean_share": 0.1}
LOW = NRC | {"nrc1": 1e-6, "nrc1_centred": 1e-6}


# --- the last layer


@pytest.mark.parametrize(
    ("end", "start", "weight", "verdict"),
    [
        (1e-4, 0.5, None, HOLDS),
        (0.2, 0.5, None, FAILS),  # not small
        (0.04, 0.1, None, FAILS),  # small, but it started small
        (float("nan"), 0.5, None, FAILS),
        (1e-4, 0.5, DEAD, FAILS),  # bought with a target direction
    ],
)
def test_nrc1_must_be_small_must_have_fallen_and_keep_the_targets(
    end: float, start: float, weight: np.ndarray | None, verdict: str
) -> None:
    found = last_layer.nrc1(case(run_of(NRC | {"nrc1": end}, NRC | {"nrc1": start}, weight=weight)))
    assert found.verdict == verdict and found.why
    assert found.beside["at the start"] == [start]


def test_failing_after_a_small_decay_budget_is_not_yet_and_names_the_clock() -> None:
    early = case(run_of(NRC, NRC, tau=600.0), published_tau=1200.0)  # budget 6
    found = last_layer.nrc1(early)
    assert found.verdict == NOT_YET and "decay budget 6 after 50 % of the published tau" in found.why
    assert {v.verdict for v in found.views} == {NOT_YET} and not found.depends_on_view
    late = last_layer.nrc1(case(run_of(NRC, NRC)))  # budget 30
    assert late.verdict == FAILS and "decay budget 30" in late.why and "published" not in late.why
    # no time brings a lost direction back
    assert last_layer.nrc1(case(run_of(LOW, NRC, tau=600.0, weight=DEAD))).verdict == FAILS


@pytest.mark.parametrize(
    ("half", "weight", "verdict"), [(0.6, None, NOT_YET), (0.51, None, FAILS), (0.6, DEAD, FAILS)]
)
def test_what_still_falls_after_a_long_budget_is_not_yet(
    half: float, weight: np.ndarray | None, verdict: str
) -> None:
    """Reacher's ReLU features: NRC1 0.72 after a budget of 22, 0.17 after 60."""
    run = run_of(NRC, NRC, half=NRC | {"nrc1": half}, weight=weight)
    found = last_layer.nrc1(case(run))
    assert found.verdict == verdict and ("still falling" in found.why) == (verdict == NOT_YET)
    weaker = run_of(NRC, NRC, wd=1e-4, tau=3000.0)  # budget 0.3: has not had its time either way
    phase = last_layer.phase(case(run, run_of(NRC, NRC, wd=0.0), weaker))
    assert phase.verdict == (FAILS if half == 0.51 else NOT_YET)  # a decay that kills is no counterexample


def test_a_verdict_that_depends_on_the_view_says_so() -> None:
    same = last_layer.nrc1(case(run_of(NRC, NRC)))
    assert not same.depends_on_view
    centred = last_layer.nrc1(case(run_of(NRC | {"nrc1_centred": 1e-3}, NRC)))
    assert centred.verdict == FAILS and centred.depends_on_view
    assert {v.name: v.verdict for v in centred.views}["corrected"] == HOLDS


def test_raw_features_are_judged_relative_to_their_size() -> None:
    """NRC1 of raw features has the unit of h^2: features ten times as long must not change the verdict."""
    verdicts = []
    for size in (1.0, 100.0):
        end = NRC | {"nrc1_raw": 1e-3 * size**2, "feature_norm": size}
        found = last_layer.nrc1(case(run_of(end, NRC)))
        verdicts.append(next(v.values[0] for v in found.views if "raw" in v.quantity))
    assert verdicts == pytest.approx([1e-3, 1e-3])


def test_nrc2_has_a_centred_view_of_the_snapshot() -> None:
    """Features in the plane of W but for their mean: only what is centred lies in it."""
    rng = np.random.default_rng(0)
    weight = np.eye(2, 8)
    end = rng.normal(size=(256, 2)) @ weight + 5 * np.eye(8)[7]
    shots = {"features_start": rng.normal(size=(256, 8)), "weight_start": weight, "features_end": end}
    both = {"nrc2": 0.9, "nrc2_raw": 0.9} | NRC
    found = last_layer.nrc2(case(run_of(both, both, weight=weight, snapshots=shots)))
    views = {v.name: v for v in found.views}
    assert found.verdict == FAILS and views["corrected"].verdict == HOLDS
    assert views["corrected"].values[0] < 1e-12


def test_nrc3_must_beat_a_random_weight() -> None:
    small, control = {"nrc3": 0.004}, run_of({"nrc3": 0.4}, wd=0.0)
    weight = np.diag([0.9**0.5, 1.9**0.5]) @ np.eye(2, 8)  # K = S - 0.1 I: NRC3 is 0 at gamma 0.01
    beaten = last_layer.nrc3(case(run_of(small, {"nrc3": 0.3}, weight=weight), control))
    assert beaten.verdict == HOLDS
    grid = next(v for v in beaten.views if "grid" in v.quantity)
    assert grid.values[0] < 1e-4
    level = last_layer.nrc3(case(run_of(small, {"nrc3": 0.005}, weight=weight), control))
    assert level.verdict == FAILS and "null" in level.why


@pytest.mark.parametrize(("start", "verdict"), [(0.7, HOLDS), (0.97, FAILS)])
def test_explained_variance_must_leave_the_start_behind(start: float, verdict: str) -> None:
    share = {"evr_2": 0.0, "nrc1_raw": 0.5, "feature_norm": 1.0}
    found = last_layer.evr(case(run_of(share | {"evr_1": 0.98}, share | {"evr_1": start})))
    assert found.verdict == verdict and found.beside["at the start"] == [start]
    assert [v.name for v in found.views] == ["as in the paper", "with the mean"]


@pytest.mark.parametrize(("end", "verdict"), [(0.5, HOLDS), (0.0, FAILS), (1.0, FAILS)])
def test_gamma_must_lie_inside(end: float, verdict: str) -> None:
    assert last_layer.gamma(case(run_of({"nrc3_gamma": end}))).verdict == verdict


def test_a_gamma_inside_of_a_random_weight_as_well_says_so() -> None:
    alone = last_layer.gamma(case(run_of({"nrc3_gamma": 0.5}, {"nrc3_gamma": 0.0}, data="swimmer")))
    assert "a random W" not in alone.why and alone.beside["published"] == [0.691]
    both = last_layer.gamma(case(run_of({"nrc3_gamma": 0.5}, {"nrc3_gamma": 0.4})))
    assert "a random W" in both.why and both.beside["random W, at the start"] == [0.4]


# --- weight decay


def test_the_need_for_decay_is_open_when_nothing_collapses() -> None:
    need = last_layer.decay
    low, high = run_of(LOW, NRC), run_of(NRC, NRC, wd=0.0)
    assert need(case(low, high)).verdict == HOLDS
    assert need(case(low, run_of(LOW, NRC, wd=0.0))).verdict == FAILS
    assert need(case(run_of(NRC, NRC), high)).verdict == UNTESTABLE
    assert need(case(low)).verdict == UNTESTABLE
    lost = need(case(run_of(LOW, NRC, weight=DEAD), high))
    assert lost.verdict == UNTESTABLE and "direction is dead" in lost.why


def test_a_phase_change_needs_a_long_enough_run() -> None:
    change, zero, main = last_layer.phase, run_of(NRC, NRC, wd=0.0), run_of(LOW, NRC)
    assert change(case(main, zero)).verdict == HOLDS
    not_yet = change(case(main, zero, run_of(NRC, NRC, wd=1e-4)))  # budget 0.3
    assert not_yet.verdict == NOT_YET and "0.3" in not_yet.why and len(not_yet.runs) == 2
    never = change(case(main, zero, run_of(NRC, NRC, wd=1e-2 / 1.2)))  # budget 25
    assert never.verdict == FAILS
    # one that has collapsed needs no budget; one that has had its time and has not is an answer, however small another is
    assert change(case(main, zero, run_of(LOW, NRC, wd=1e-3))).verdict == HOLDS
    stays = change(case(run_of(NRC, NRC), zero, run_of(NRC, NRC, wd=1e-4)))
    assert stays.verdict == FAILS and "lambda 0.01 does not collapse after a budget of 30" in stays.why
    # a collapse with a lost direction is none, and no answer either
    assert change(case(run_of(LOW, NRC, weight=DEAD), zero)).verdict == FAILS
    dead = change(case(run_of(LOW, NRC, weight=DEAD), zero, run_of(NRC, NRC, wd=1e-4)))
    assert dead.verdict == NOT_YET


# --- the unconstrained feature model


def at_the_optimum(lam: float = 0.01, scale: float = 0.5) -> tuple[ufm.Optimum, Run]:
    """A run that has reached the minimum of the coded UFM, with targets and features to match."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(256, 2))
    y = (y - y.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(y.T, bias=True))).T @ np.diag([1.0, 2.0])
    strength = lam * 0.5 / scale
    best = ufm.optimum(SIGMA, strength, strength, loss="coded")
    weight, features = best.weights(8).numpy(), best.features(y, 8).numpy()
    rms = float(np.sqrt((features**2).sum(1).mean()))
    shots = {
        "features_end": features, "targets": y,
        "features_start": rng.random((256, 8)), "weight_start": rng.normal(size=(2, 8)),
    }  # fmt: skip
    end = {"mse": best.mse, "feature_norm": rms, "nrc1": 1e-9, "nrc2": 1e-9}
    start = {"mse": 2.5, "feature_norm": 1.0, "nrc1": 0.9, "nrc2": 0.9}
    run = run_of(end, start, weight=weight, snapshots=shots, optim={"loss_scale": scale})
    vars(run)["info"]["identity"]["optim"]["weight_decay"] = lam
    return best, run


UFM_RULES = ("ufm_collapse", "ufm_gram", "ufm_residual", "ufm_balance", "ufm_loss")


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("name", UFM_RULES)
def test_theory_holds_at_its_own_optimum_for_either_scale_of_the_loss(name: str, scale: float) -> None:
    found = getattr(ufm_claims, name)(case(at_the_optimum(scale=scale)[1]))
    assert found.verdict == HOLDS, found


def changed(run: Run, end: dict[str, float] | None = None, **shots: np.ndarray) -> Run:
    """The same run with other values at its end or other snapshots."""
    table = run.table.copy()
    for metric, value in (end or {}).items():
        table.loc[(table.metric == metric) & (table.step == 1), "value"] = value
    other = Run(run.path, run.info, table)
    vars(other)["snapshots"] = dict(run.snapshots) | shots
    return other


def test_each_of_the_theorys_predictions_can_fail() -> None:
    _, run = at_the_optimum()
    shots = run.snapshots
    wider = changed(run, weight_end=1.2 * shots["weight_end"])
    bad = ufm_claims.ufm_gram(case(wider))
    assert bad.verdict == FAILS and bad.measured[0] == pytest.approx(0.44)
    assert ufm_claims.ufm_balance(case(wider)).verdict == FAILS
    lossy = ufm_claims.ufm_loss(case(changed(run, {"mse": 1.0})))
    assert lossy.verdict == FAILS
    assert ufm_claims.ufm_collapse(case(changed(run, {"nrc2": 0.3}))).verdict == FAILS


def test_residuals_of_the_right_mean_square_must_also_be_round() -> None:
    """The MSE alone cannot tell c I from another covariance of the same trace."""
    best, run = at_the_optimum()
    shots = run.snapshots
    noise = np.random.default_rng(1).normal(size=(256, 1)) * np.sqrt(2 * best.c) * np.array([[1.0, 0.0]])
    noise -= noise.mean(0)
    noise *= np.sqrt(2 * best.c / noise.var(0).sum())
    features = np.linalg.lstsq(shots["weight_end"], (shots["targets"] + noise).T, rcond=None)[0].T
    flat = changed(run, features_end=features)  # residuals are `noise`: of trace 2 c, in one direction
    found = ufm_claims.ufm_residual(case(flat))
    assert found.beside["mean variance over c"][0] == pytest.approx(1.0)
    assert found.verdict == FAILS and found.measured[0] == pytest.approx(1.0)
    assert "cannot" not in found.why  # no cause that is not measured


def test_round_residuals_without_penalty_make_roundness_no_evidence() -> None:
    _, run = at_the_optimum()
    even = ufm_claims.ufm_residual(case(run, changed(run)))
    shape = next(v for v in even.views if v.name == "shape alone")
    assert shape.verdict == FAILS and "without penalty" in shape.note
    skewed = changed(run, features_end=np.zeros((256, 8)))  # residuals are the targets, of variances 1 and 4
    odd = ufm_claims.ufm_residual(case(run, skewed))
    assert next(v for v in odd.views if v.name == "shape alone").verdict == HOLDS


# --- bounds


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        (last_layer.linear_exact, {"nrc1": 1e-9, "nrc2": 1e-9, "noise": 1e-5}, {"nrc1": 2e-6}),
        (last_layer.linear_exact, {"nrc1": 1e-9, "nrc2": 1e-9, "noise": 1e-5}, {"nrc2": 2e-6}),
        (last_layer.linear_exact, {"nrc1": 1e-9, "nrc2": 1e-9, "noise": 1e-5}, {"noise": 2e-3}),
        (last_layer.alive, {"weight_rcond": 0.2}, {"weight_rcond": 0.09}),
        (last_layer.plane, {"nrc1_centred": 0.01, "noise": 0.01}, {"nrc1_centred": 0.2}),
        (last_layer.plane, {"nrc1_centred": 0.01, "noise": 0.01}, {"noise": float("nan")}),
    ],
)  # fmt: skip
def test_bounds_hold_in_every_seed_and_nan_is_no_success(claim: Callable, good: dict, bad: dict) -> None:
    assert claim(case(run_of(good))).verdict == HOLDS
    found = claim(case(run_of(good | bad)))
    assert found.verdict == FAILS and [v.verdict for v in found.views].count(FAILS) == 1
    both = Case([run_of(good), run_of(good | bad, seed=1)], [run_of(good), run_of(good | bad, seed=1)])
    assert claim(both).verdict == FAILS
    empty = claim(case(run_of({"cka": 1.0})))
    assert empty.verdict == FAILS


def test_a_budget_of_20_is_enough() -> None:
    assert last_layer.budget(case(run_of(NRC))).verdict == HOLDS  # 30
    assert last_layer.budget(case(run_of(NRC, tau=1999.0))).verdict == FAILS


def test_no_moment_without_decay_may_be_collapsed() -> None:
    """Not only the end: NRC1 of the control is judged from its first step on."""
    dips = run_of(NRC, NRC, wd=0.0, half=NRC | {"nrc1": 0.01})
    assert last_layer.decay(case(run_of(LOW, NRC), dips)).verdict == FAILS
    assert last_layer.decay(case(run_of(NRC, NRC), dips)).verdict == FAILS


def clock(**changes: dict[str, float]) -> Case:
    runs = []
    for protocol in ("paper", "accelerated", "quick"):
        run = run_of({"mse": 0.1, "nrc1": 0.01} | changes.get(protocol, {}))
        run.info["identity"]["protocol"]["name"] = protocol
        runs.append(run)
    return Case(runs, runs)


def test_the_protocols_share_one_clock() -> None:
    for claim, name, far in (
        (last_layer.clock_accelerated, "accelerated", 0.1031),
        (last_layer.clock_quick, "quick", 0.1101),
    ):
        assert claim(clock()).verdict == HOLDS
        assert claim(clock(**{name: {"mse": far}})).verdict == FAILS
        assert claim(clock(**{name: {"mse": 0.1 + 0.9 * (far - 0.1)}})).verdict == HOLDS
        assert claim(clock(**{name: {"nrc1": 0.0145}})).verdict == FAILS  # 0.16 decades
        assert claim(Case(clock().runs[1:], clock().runs[1:])).verdict == FAILS  # nothing to compare with


IMAGES = {"nrc1": 0.5, "nrc2": 0.5, "nrc1_centred": 0.01, "weight_rcond": 0.3}
WITHOUT = {"nrc1": 0.8, "nrc2": 0.9, "nrc1_centred": 0.1, "cka": 0.1}


def on_images(change: dict, without: dict | None = None, strong: float = 0.2) -> Case:
    def named(run: Run, r2: float) -> Run:
        table = run.table.replace({"layer": {"fc1": "fc"}})
        names = [(name, m, v) for name in images.LAST_LAYERS[:-1] for m, v in (("noise", 0.01), ("cka", 0.5))]
        names += [("layer1.0.conv1", "cka", 0.1), ("fc", "noise", 0.01), ("model", "r2", r2)]
        rows = [(1.0, 1, 3000.0, "train", layer, m, change.get(f"{m}@{layer}", v)) for layer, m, v in names]
        found = pd.concat([pd.DataFrame(rows, columns=table.columns), table])
        return Run(run.path, run.info, found)

    main = named(run_of(IMAGES | {"cka": 0.9} | change), change.get("r2", 0.8))
    control = named(run_of(WITHOUT | (without or {}), wd=0.0), 0.8)
    found = Case([main, control, named(run_of(IMAGES, wd=0.35), strong)], [main], [control])
    for run in found.runs:
        vars(run)["snapshots"] = {}
    return found


@pytest.mark.parametrize(
    ("claim", "change", "without", "strong"),
    [
        (images.images_collapse, {"nrc2": 0.71}, {}, 0.2),
        (images.images_collapse, {"nrc1_centred": 0.04}, {}, 0.2),
        (images.images_collapse, {"weight_rcond": 0.05}, {}, 0.2),
        (images.images_collapse, {"r2": 0.6}, {}, 0.2),
        (images.images_decay, {}, {"nrc1": 0.7}, 0.2),
        (images.images_decay, {}, {"nrc1_centred": 0.05}, 0.2),
        (images.images_decay, {}, {"cka": 0.35}, 0.2),
        (images.images_layers, {"noise@layer4.1.conv1": 0.04}, {}, 0.2),
        (images.images_layers, {"cka": 0.6}, {}, 0.2),
        (images.images_layers, {"cka@layer1.0.conv1": 0.3}, {}, 0.2),
        (images.images_strong, {}, {}, 0.6),
    ],
)
def test_every_bound_on_images_can_fail(claim: Callable, change: dict, without: dict, strong: float) -> None:
    assert claim(on_images({})).verdict == HOLDS
    assert claim(on_images(change, without, strong)).verdict == FAILS


# --- non-negative features


def arm(
    nrc1: float, mean: float | None, *, one_sided: bool = False, features: str = "relu", biases: bool = True,
    wd: float = 0.01, scale: float = 1.0, role: str = "headline", **end: float,
) -> Run:  # fmt: skip
    """A run of the experiment `cone`; what is not said of its end is that of centred targets."""
    rest = {"nrc1_centred": 1e-3, "noise": 0.01, "mean_share": 0.6, "nrc2": nrc1, "offset": 0.1}
    run = run_of(rest | {"nrc1": nrc1} | end, {"nrc1": 0.8, "nrc2": 0.8, "nrc1_centred": 0.5}, wd=wd,
                 data=f"toy-mean{mean}", optim={"decay_biases": biases})  # fmt: skip
    run.info["role"] = role
    run.info["identity"]["model"]["feature_activation"] = features
    run.info["data"] |= {"variant": {"target_mean": mean, "target_scale": scale}, "one_sided": one_sided}
    run.info["data"] |= {"mean_in_deviations": mean or 0.0}
    return run


def dying(run: Run) -> Run:
    """The same run with a dead direction."""
    vars(run)["snapshots"] = run.snapshots | {"weight_end": np.diag([1.0, 0.01])}
    return run


def arms(**changes: Run) -> Case:
    runs = {
        "centred": arm(0.6, 0),
        "shifted": arm(1e-4, 2, one_sided=True),
        "free": arm(0.5, 2, one_sided=True, biases=False),
        "linear": arm(1e-9, 0, features="none"),
        "full": arm(0.6, 0, wd=2e-3, role="sweep"),
        "small": arm(0.1, 0, wd=2e-3, role="sweep", scale=0.2, offset=0.6),
    } | changes
    return Case(list(runs.values()), [run for run in runs.values() if run.role == "headline"])


@pytest.mark.parametrize(
    ("claim", "changes", "verdict"),
    [
        (cone.cone_biases, {"free": arm(1e-4, 2, one_sided=True, biases=False)}, FAILS),
        (cone.cone_biases, {"free": arm(0.5, 2, one_sided=True, biases=False, nrc1_centred=0.3)}, FAILS),
        (cone.cone_biases, {"shifted": arm(0.5, 2, one_sided=True)}, UNTESTABLE),  # no null
        (cone.cone_one_sided, {"shifted": arm(0.3, 2, one_sided=True)}, FAILS),
        (cone.cone_one_sided, {"shifted": arm(1e-4, 2, one_sided=True, nrc2=0.3)}, FAILS),
        (cone.cone_centred, {"centred": arm(1e-3, 0)}, FAILS),
        (cone.cone_centred, {"shifted": arm(0.3, 2, one_sided=True)}, UNTESTABLE),  # nothing collapses at all
        (cone.cone_centred, {"centred": arm(0.6, 0, wd=1e-3)}, UNTESTABLE),  # budget 3
        (cone.cone_centred, {"recorded": arm(1e-3, None)}, FAILS),  # on both sides of 0 as well
        (cone.cone_mean, {"centred": arm(0.2, 0)}, FAILS),
        (cone.cone_mean, {"centred": arm(0.6, 0, mean_share=0.2)}, FAILS),
        (cone.cone_scale, {"small": arm(0.5, 0, wd=2e-3, role="sweep", scale=0.2, offset=0.6)}, FAILS),
        (cone.cone_scale, {"small": arm(0.1, 0, wd=2e-3, role="sweep", scale=0.2, offset=0.05)}, FAILS),
        (cone.cone_scale, {"small": dying(arm(0.1, 0, wd=2e-3, role="sweep", scale=0.2, offset=0.6))}, FAILS),
        (cone.cone_one_sided, {"nearly": arm(0.3, 2.6)}, FAILS),  # but for 1 % of the rows
        (cone.cone_linear, {"linear": arm(0.5, 0, features="none")}, FAILS),
        (cone.cone_linear, {"linear": arm(1e-9, 2, features="none")}, UNTESTABLE),  # no centred arm
    ],
)  # fmt: skip
def test_claims_on_non_negative_features_hold_and_can_fail(
    claim: Callable, changes: dict, verdict: str
) -> None:
    assert claim(arms()).verdict == HOLDS
    assert claim(arms(**changes)).verdict == verdict


def test_a_mean_brings_the_noise_of_networks_without_biases_down() -> None:
    def biasless(mean: float, noise: float) -> Run:
        run = arm(0.5, mean, noise=noise)
        run.info["identity"]["model"]["bias"] = False
        return run

    for noise, verdict in ((0.05, HOLDS), (0.2, FAILS)):
        runs = [biasless(0, 0.3), biasless(2, noise)]
        assert cone.cone_deep(Case(runs, runs)).verdict == verdict
    assert cone.cone_deep(arms()).verdict == UNTESTABLE


def of_depth(layers: int, nrc1: float, *, penalty: str = "all", predicted: float = 0.4) -> Run:
    run = arm(nrc1, None)
    run.info["identity"]["model"]["num_layers"] = layers
    run.info["identity"]["optim"]["penalty"] = penalty
    run.info["data"]["predicted"] = {"nrc1": predicted}
    return run


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.3, 0.1, 0.01), HOLDS),
        ((0.1, 0.09, 0.01), FAILS),
        ((0.3, 0.1, 0.2), FAILS),
        ((0.3, 0.1), UNTESTABLE),
    ],
)
def test_each_layer_more_has_to_halve_nrc1(ends: tuple[float, ...], verdict: str) -> None:
    runs = [of_depth(layers, nrc1) for layers, nrc1 in zip((2, 3, 4), ends, strict=False)]
    free = of_depth(4, 1e-9, penalty="ufm")  # no part of the comparison
    assert cone.depth_layers(Case([*runs, free], runs)).verdict == verdict


@pytest.mark.parametrize(("nrc1", "verdict"), [(0.35, HOLDS), (0.1, FAILS), (0.9, FAILS)])
def test_free_layers_are_compared_with_the_convex_model(nrc1: float, verdict: str) -> None:
    runs = [of_depth(4, nrc1, penalty="ufm"), of_depth(2, 1e-9)]
    found = cone.depth_free(Case(runs, runs))
    assert (found.verdict, found.measured) == (verdict, [nrc1])
    assert cone.depth_free(Case(runs[1:], runs[1:])).verdict == UNTESTABLE
