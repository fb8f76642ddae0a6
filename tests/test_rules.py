"""The scorecard's rules: each holds on runs that show what is claimed, and not on those that only seem to."""

import numpy as np
import pytest
from report_runs import SIGMA, case, run_of

from nrc.report import decay_rules, rules, ufm_rules
from nrc.report.findings import FAILS, HOLDS, NOT_YET, UNTESTABLE
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
    found = rules.nrc1(case(run_of(NRC | {"nrc1": end}, NRC | {"nrc1": start}, weight=weight)))
    assert found.verdict == verdict and found.why
    assert found.beside["at the start"] == [start]


def test_failing_after_a_small_decay_budget_is_not_yet_and_names_the_clock() -> None:
    early = case(run_of(NRC, NRC, tau=600.0), published_tau=1200.0)  # budget 6
    found = rules.nrc1(early)
    assert found.verdict == NOT_YET and "decay budget 6 after 50 % of the published tau" in found.why
    assert {v.verdict for v in found.views} == {NOT_YET} and not found.depends_on_view
    late = rules.nrc1(case(run_of(NRC, NRC)))  # budget 30
    assert late.verdict == FAILS and "decay budget 30" in late.why and "published" not in late.why
    # no time brings a lost direction back
    assert rules.nrc1(case(run_of(LOW, NRC, tau=600.0, weight=DEAD))).verdict == FAILS


@pytest.mark.parametrize(
    ("half", "weight", "verdict"), [(0.6, None, NOT_YET), (0.51, None, FAILS), (0.6, DEAD, FAILS)]
)
def test_what_still_falls_after_a_long_budget_is_not_yet(
    half: float, weight: np.ndarray | None, verdict: str
) -> None:
    """Reacher's ReLU features: NRC1 0.72 after a budget of 22, 0.17 after 60."""
    run = run_of(NRC, NRC, half=NRC | {"nrc1": half}, weight=weight)
    found = rules.nrc1(case(run))
    assert found.verdict == verdict and ("still falling" in found.why) == (verdict == NOT_YET)
    weaker = run_of(NRC, NRC, wd=1e-4, tau=3000.0)  # budget 0.3: has not had its time either way
    phase = decay_rules.phase_change(case(run, run_of(NRC, NRC, wd=0.0), weaker))
    assert phase.verdict == (FAILS if half == 0.51 else NOT_YET)  # a decay that kills is no counterexample


def test_a_verdict_that_depends_on_the_view_says_so() -> None:
    same = rules.nrc1(case(run_of(NRC, NRC)))
    assert not same.depends_on_view
    centred = rules.nrc1(case(run_of(NRC | {"nrc1_centred": 1e-3}, NRC)))
    assert centred.verdict == FAILS and centred.depends_on_view
    assert {v.name: v.verdict for v in centred.views}["corrected"] == HOLDS


def test_raw_features_are_judged_relative_to_their_size() -> None:
    """NRC1 of raw features has the unit of h^2: features ten times as long must not change the verdict."""
    verdicts = []
    for size in (1.0, 100.0):
        end = NRC | {"nrc1_raw": 1e-3 * size**2, "feature_norm": size}
        found = rules.nrc1(case(run_of(end, NRC)))
        verdicts.append(next(v.values[0] for v in found.views if "raw" in v.quantity))
    assert verdicts == pytest.approx([1e-3, 1e-3])


def test_nrc2_has_a_centred_view_of_the_snapshot() -> None:
    """Features in the plane of W but for their mean: only what is centred lies in it."""
    rng = np.random.default_rng(0)
    weight = np.eye(2, 8)
    end = rng.normal(size=(256, 2)) @ weight + 5 * np.eye(8)[7]
    shots = {"features_start": rng.normal(size=(256, 8)), "weight_start": weight, "features_end": end}
    both = {"nrc2": 0.9, "nrc2_raw": 0.9} | NRC
    found = rules.nrc2(case(run_of(both, both, weight=weight, snapshots=shots)))
    views = {v.name: v for v in found.views}
    assert found.verdict == FAILS and views["corrected"].verdict == HOLDS
    assert views["corrected"].values[0] < 1e-12


def test_nrc3_must_beat_a_random_weight() -> None:
    small, control = {"nrc3": 0.004}, run_of({"nrc3": 0.4}, wd=0.0)
    weight = np.diag([0.9**0.5, 1.9**0.5]) @ np.eye(2, 8)  # K = S - 0.1 I: NRC3 is 0 at gamma 0.01
    beaten = rules.nrc3(case(run_of(small, {"nrc3": 0.3}, weight=weight), control))
    assert beaten.verdict == HOLDS
    grid = next(v for v in beaten.views if "grid" in v.quantity)
    assert grid.values[0] < 1e-4
    level = rules.nrc3(case(run_of(small, {"nrc3": 0.005}, weight=weight), control))
    assert level.verdict == FAILS and "null" in level.why


@pytest.mark.parametrize(("start", "verdict"), [(0.7, HOLDS), (0.97, FAILS)])
def test_explained_variance_must_leave_the_start_behind(start: float, verdict: str) -> None:
    share = {"evr_2": 0.0, "nrc1_raw": 0.5, "feature_norm": 1.0}
    found = rules.evr(case(run_of(share | {"evr_1": 0.98}, share | {"evr_1": start})))
    assert found.verdict == verdict and found.beside["at the start"] == [start]
    assert [v.name for v in found.views] == ["as in the paper", "with the mean"]


@pytest.mark.parametrize(("end", "verdict"), [(0.5, HOLDS), (0.0, FAILS), (1.0, FAILS)])
def test_gamma_must_lie_inside(end: float, verdict: str) -> None:
    assert rules.gamma_inside(case(run_of({"nrc3_gamma": end}))).verdict == verdict


def test_a_gamma_inside_of_a_random_weight_as_well_says_so() -> None:
    alone = rules.gamma_inside(case(run_of({"nrc3_gamma": 0.5}, {"nrc3_gamma": 0.0}, data="swimmer")))
    assert alone.why == "inside" and alone.beside["published"] == [0.691]
    both = rules.gamma_inside(case(run_of({"nrc3_gamma": 0.5}, {"nrc3_gamma": 0.4})))
    assert "a random W" in both.why and both.beside["random W, at the start"] == [0.4]


# --- weight decay


def test_the_need_for_decay_is_open_when_nothing_collapses() -> None:
    need = decay_rules.needs_decay
    low, high = run_of(LOW, NRC), run_of(NRC, NRC, wd=0.0)
    assert need(case(low, high)).verdict == HOLDS
    assert need(case(low, run_of(LOW, NRC, wd=0.0))).verdict == FAILS
    assert need(case(run_of(NRC, NRC), high)).verdict == UNTESTABLE
    assert need(case(low)).verdict == UNTESTABLE
    lost = need(case(run_of(LOW, NRC, weight=DEAD), high))
    assert lost.verdict == UNTESTABLE and "direction is lost" in lost.why


def test_a_phase_change_needs_a_long_enough_run() -> None:
    change, zero, main = decay_rules.phase_change, run_of(NRC, NRC, wd=0.0), run_of(LOW, NRC)
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
    found = getattr(ufm_rules, name)(case(at_the_optimum(scale=scale)[1]))
    assert found.verdict == HOLDS, found


def changed(run: Run, end: dict[str, float] | None = None, **shots: np.ndarray) -> Run:
    """The same run with other values at its end or other snapshots."""
    table = run.table.copy()
    for metric, value in (end or {}).items():
        table.loc[(table.metric == metric) & (table.step == 1), "value"] = value
    other = Run(run.path, run.info, table)
    vars(other)["snapshots"] = run.snapshots | shots
    return other


def test_each_of_the_theorys_predictions_can_fail() -> None:
    _, run = at_the_optimum()
    shots = run.snapshots
    wider = changed(run, weight_end=1.2 * shots["weight_end"])
    bad = ufm_rules.ufm_gram(case(wider))
    assert bad.verdict == FAILS and bad.measured[0] == pytest.approx(0.44)
    assert ufm_rules.ufm_balance(case(wider)).verdict == FAILS
    lossy = ufm_rules.ufm_loss(case(changed(run, {"mse": 1.0})))
    assert lossy.verdict == FAILS and "above the least value" in lossy.why
    assert ufm_rules.ufm_collapse(case(changed(run, {"nrc2": 0.3}))).verdict == FAILS


def test_residuals_of_the_right_mean_square_must_also_be_round() -> None:
    """The MSE alone cannot tell c I from another covariance of the same trace."""
    best, run = at_the_optimum()
    shots = run.snapshots
    noise = np.random.default_rng(1).normal(size=(256, 1)) * np.sqrt(2 * best.c) * np.array([[1.0, 0.0]])
    noise -= noise.mean(0)
    noise *= np.sqrt(2 * best.c / noise.var(0).sum())
    features = np.linalg.lstsq(shots["weight_end"], (shots["targets"] + noise).T, rcond=None)[0].T
    flat = changed(run, features_end=features)  # residuals are `noise`: of trace 2 c, in one direction
    found = ufm_rules.ufm_residual(case(flat))
    assert found.beside["mean variance over c"][0] == pytest.approx(1.0)
    assert found.verdict == FAILS and found.measured[0] == pytest.approx(1.0)
    assert "cannot" not in found.why  # no cause that is not measured


def test_round_residuals_without_penalty_make_roundness_no_evidence() -> None:
    _, run = at_the_optimum()
    even = ufm_rules.ufm_residual(case(run, changed(run)))
    shape = next(v for v in even.views if v.name == "shape alone")
    assert shape.verdict == FAILS and "without penalty" in shape.note
    skewed = changed(run, features_end=np.zeros((256, 8)))  # residuals are the targets, of variances 1 and 4
    odd = ufm_rules.ufm_residual(case(run, skewed))
    assert next(v for v in odd.views if v.name == "shape alone").verdict == HOLDS
