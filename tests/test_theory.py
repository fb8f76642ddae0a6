"""The closed form of the unconstrained feature model against direct optimisation, and what it predicts."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nrc
from nrc.cli import config
from nrc.errors import UserError
from nrc.metrics import gamma_star
from nrc.models import MLP
from nrc.theory import ufm
from nrc.training import Optim
from nrc.training.steppers import make_stepper

EIGENVALUES = (0.3, 1.0, 2.5)
M, D = 60, 7
REGIMES = {"collapse": 0.2, "partial collapse": 0.7, "zero": 3.0}  # name -> c, against the eigenvalues


def targets(eigenvalues: tuple[float, ...] = EIGENVALUES, seed: int = 0) -> Tensor:
    """(M, n) targets, not centred, whose covariance has exactly these eigenvalues in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    z = torch.randn(M, n, dtype=torch.float64, generator=generator)
    z = torch.linalg.qr(z - z.mean(0)).Q * math.sqrt(M)
    frame = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    return z * torch.tensor(eigenvalues, dtype=torch.float64).sqrt() @ frame.T + torch.arange(1.0, n + 1)


def covariance(y: Tensor) -> Tensor:
    return torch.cov(y.T, correction=0).reshape(y.shape[1], y.shape[1])


def penalties(c: float, n: int = 3, ratio: float = 2.5, loss: str = "paper") -> tuple[float, float]:
    """lambda_H, lambda_W with this effective c and this lambda_H/lambda_W."""
    size = math.sqrt(c) / (n if loss == "coded" else 1)
    return size * math.sqrt(ratio), size / math.sqrt(ratio)


def loss_of(y: Tensor, w: Tensor, h: Tensor, b: Tensor, lh: float, lw: float, loss: str) -> float:
    """The loss written out once more, term by term."""
    m, n = y.shape
    fit = ((h @ w.T + b - y) ** 2).sum() / (2 * m * (n if loss == "coded" else 1))
    return float(fit + lh / (2 * m) * (h**2).sum() + lw / 2 * (w**2).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loss", ufm.LOSSES)
@pytest.mark.parametrize("regime", REGIMES)
def test_direct_optimisation_reaches_the_closed_form(regime: str, loss: str, seed: int) -> None:
    y = targets(seed=seed)
    lh, lw = penalties(REGIMES[regime], loss=loss)
    best, found = (
        ufm.optimum(covariance(y), lh, lw, loss=loss),
        ufm.minimise(y, lh, lw, D, seed=seed, loss=loss),
    )
    assert best.regime == regime and best.c == pytest.approx(REGIMES[regime])
    assert abs(found.loss - best.loss) < 1e-6
    assert (found.gram - best.gram).abs().max() < 1e-6
    assert (found.bias - y.mean(0)).abs().max() < 1e-6
    residual = found.features @ found.weight.T + found.bias - y
    assert (covariance(residual) - best.residual_covariance).abs().max() < 1e-6


@pytest.mark.parametrize(("c", "regime"), [(0.2, "collapse"), (5.0, "zero")])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_target(c: float, regime: str, seed: int) -> None:
    """|w|^2 = lambda_H (sigma/sqrt(c) - 1), h proportional to y - ybar; above sigma^2 nothing is left."""
    y = targets((4.0,))
    lh, lw = penalties(c, n=1)
    best, found = ufm.optimum(4.0, lh, lw), ufm.minimise(y[:, 0], lh, lw, D, seed=seed)
    assert best.regime == regime and math.isnan(best.nrc3)
    assert best.gram.item() == pytest.approx(max(lh * (2.0 / math.sqrt(c) - 1), 0.0))
    assert found.loss == pytest.approx(best.loss, abs=1e-6)
    assert found.gram.item() == pytest.approx(best.gram.item(), abs=1e-6)
    if regime == "collapse":
        along = found.features @ found.weight[0] / found.weight.norm()
        assert torch.corrcoef(torch.stack([along, y[:, 0]]))[0, 1] > 1 - 1e-9
        assert (found.features.norm(dim=1) - along.abs()).abs().max() < 1e-6


# --- corollary 4.2, on what L-BFGS found


@pytest.fixture(scope="module")
def collapsed() -> tuple[Tensor, ufm.Minimum, float, float]:
    y = targets()
    lh, lw = penalties(REGIMES["collapse"])
    return y, ufm.minimise(y, lh, lw, D, seed=3), lh, lw


Collapsed = tuple[Tensor, ufm.Minimum, float, float]


def shifted_root(y: Tensor, c: float) -> Tensor:
    return ufm.root(covariance(y)) - math.sqrt(c) * torch.eye(y.shape[1], dtype=torch.float64)


def test_corollary_i_features_lie_in_the_row_space_of_w(collapsed: Collapsed) -> None:
    _, found, _, _ = collapsed
    basis = torch.linalg.qr(found.weight.T).Q
    assert (found.features - found.features @ basis @ basis.T).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(found.weight) == 3


def test_corollary_ii_gram_is_the_shifted_root_of_sigma(collapsed: Collapsed) -> None:
    y, found, lh, lw = collapsed
    assert (found.gram - math.sqrt(lh / lw) * shifted_root(y, lh * lw)).abs().max() < 1e-6
    gamma, value = gamma_star(found.weight, covariance(y))
    assert gamma == pytest.approx(lh * lw, rel=1e-5) and value < 1e-12


def test_corollary_iii_both_penalties_are_equal(collapsed: Collapsed) -> None:
    _, found, lh, lw = collapsed
    of_w = M * lw * float(found.weight.square().sum())
    assert lh * float(found.features.square().sum()) == pytest.approx(of_w, rel=1e-6)


def test_corollary_iv_value_of_the_loss(collapsed: Collapsed) -> None:
    y, found, lh, lw = collapsed
    c = lh * lw
    expected = 3 * c / 2 + math.sqrt(c) * float(shifted_root(y, c).trace())
    assert found.loss == pytest.approx(expected, abs=1e-9)
    assert ufm.optimum(covariance(y), lh, lw).loss == pytest.approx(expected, abs=1e-12)


def test_corollary_v_residuals_are_uncorrelated_with_variance_c(collapsed: Collapsed) -> None:
    y, found, lh, lw = collapsed
    residual = found.features @ found.weight.T + found.bias - y
    whitened = (y - y.mean(0)) @ torch.linalg.inv(ufm.root(covariance(y)))
    assert (residual + math.sqrt(lh * lw) * whitened).abs().max() < 1e-6
    assert (covariance(residual) - lh * lw * torch.eye(3, dtype=torch.float64)).abs().max() < 1e-6


# --- the closed form itself


@pytest.mark.parametrize(("regime", "loss", "seed"), list(product(REGIMES, ufm.LOSSES, (None, 4))))
def test_explicit_minimum_has_the_stated_loss_and_gram(regime: str, loss: str, seed: int | None) -> None:
    y = targets()
    lh, lw = penalties(REGIMES[regime], loss=loss)
    best = ufm.optimum(covariance(y), lh, lw, loss=loss)
    w, h = best.weights(D, seed), best.features(y, D, seed)
    assert loss_of(y, w, h, y.mean(0), lh, lw, loss) == pytest.approx(best.loss, abs=1e-12)
    assert torch.allclose(w @ w.T, best.gram, atol=1e-12)
    assert best.mse == pytest.approx(float((h @ w.T + y.mean(0) - y).square().mean()), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_nearby_point_is_lower(seed: int) -> None:
    y = targets()
    generator = torch.Generator().manual_seed(seed)
    for c in REGIMES.values():
        lh, lw = penalties(c)
        best = ufm.optimum(covariance(y), lh, lw)
        point = (best.weights(D), best.features(y, D), y.mean(0))
        moved = [p + 1e-3 * torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in point]
        assert loss_of(y, moved[0], moved[1], moved[2], lh, lw, "paper") > best.loss


def test_coded_loss_in_the_papers_words() -> None:
    """gamma = n^2 lambda_H lambda_W and K = sqrt(lambda_H/lambda_W) S - n lambda_H I."""
    y = targets()
    lh, lw = 0.1, 0.04
    best = ufm.optimum(covariance(y), lh, lw, loss="coded")
    assert best.gamma == pytest.approx(9 * lh * lw)
    expected = math.sqrt(lh / lw) * ufm.root(covariance(y)) - 3 * lh * torch.eye(3, dtype=torch.float64)
    assert (best.gram - expected).abs().max() < 1e-12


@pytest.mark.parametrize("loss", ufm.LOSSES)
@pytest.mark.parametrize("c", [0.01, 0.2, 0.29])
def test_metrics_at_the_minimum_are_the_predicted_ones(c: float, loss: str) -> None:
    y = targets()
    lh, lw = penalties(c, loss=loss)
    best = ufm.optimum(covariance(y), lh, lw, loss=loss)
    found = nrc.measure(best.features(y, D, 1), y, best.weights(D, 1), bias=y.mean(0))
    assert (best.nrc1, best.nrc2, best.nrc3, best.gamma) == (0.0, 0.0, 0.0, best.c)
    assert found["nrc1"] < 1e-12 and found["nrc2"] < 1e-12 and found["nrc3"] < 1e-12
    assert found["nrc3_gamma"] * EIGENVALUES[0] == pytest.approx(c, rel=1e-6)
    assert found["mse"] == pytest.approx(best.mse) and best.mse == pytest.approx(c)


def test_metrics_of_a_partial_collapse_are_the_predicted_ones() -> None:
    y = targets()
    best = ufm.optimum(covariance(y), *penalties(0.7))
    found = nrc.measure(best.features(y, D), y, best.weights(D))
    assert best.rank == 2
    for name in ("nrc1", "nrc2"):
        assert (
            math.isnan(getattr(best, name)) and math.isnan(found[name]) and "rank 2" in best.undefined[name]
        )
    assert found["nrc3"] == pytest.approx(best.nrc3, rel=1e-6) and best.nrc3 > 1e-3
    assert found["nrc3_gamma"] * EIGENVALUES[0] == pytest.approx(best.gamma, rel=1e-6)


def test_metrics_where_everything_is_zero_are_undefined() -> None:
    y = targets()
    best = ufm.optimum(covariance(y), *penalties(2.6))
    assert best.loss == pytest.approx(sum(EIGENVALUES) / 2) and not best.gram.any()
    assert all(math.isnan(v) for v in (best.nrc1, best.nrc2, best.nrc3, best.gamma))
    assert math.isnan(nrc.measure(best.features(y, D), y, best.weights(D))["nrc1"])


def test_a_penalty_just_at_an_eigenvalue_kills_its_direction() -> None:
    best = ufm.optimum(torch.diag(torch.tensor([1.0, 4.0])), 1.0, 1.0)
    assert best.rank == 1 and best.gram.tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("seed", [0, 1])
def test_without_regularisation_there_is_a_fit_and_no_collapse(seed: int) -> None:
    """Theorem 4.3: any H = W^+ Y + (I - W^+ W) Z fits, so NRC1 depends on the start."""
    y = targets()
    best, found = ufm.optimum(covariance(y), 0.0, 0.0), ufm.minimise(y, 0.0, 0.0, D, seed=seed)
    assert best.regime == "no regularisation" and best.loss == 0.0 and bool(best.gram.isnan().all())
    assert "every W of full rank" in best.undefined["gram"]
    assert found.loss < 1e-9
    assert nrc.measure(found.features, y, found.weight)["nrc1"] > 0.05
    with pytest.raises(UserError, match="no particular optimal weight"):
        best.weights(D)


def test_too_few_features_cannot_reach_the_closed_form() -> None:
    y = targets()
    lh, lw = penalties(0.2)
    assert ufm.minimise(y, lh, lw, d=2).loss > ufm.optimum(covariance(y), lh, lw).loss + 1e-3


def test_balance_holds_at_the_minimum_and_off_it_for_any_predictions() -> None:
    y = targets()
    for loss, (lh, lw) in product(ufm.LOSSES, (penalties(0.2), penalties(0.7))):
        found = ufm.minimise(y, lh, lw, D, loss=loss)
        outputs = found.features @ found.weight.T
        assert (ufm.balanced_gram(outputs.T @ outputs / M, lh, lw) - found.gram).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ufm.optimum(torch.eye(2), -1.0, 1.0), "lambda_h is -1"),
        (lambda: ufm.optimum(torch.eye(2), 1.0, math.inf), "lambda_w is inf"),
        (lambda: ufm.optimum(torch.eye(2), 0.0, 1.0), "with one of them 0 the loss has no minimum"),
        (lambda: ufm.optimum(torch.eye(2), 1.0, 1.0, loss="mse"), "choose one of paper, coded"),
        (lambda: ufm.optimum(torch.ones(2, 3), 1.0, 1.0), r"expected \(n, n\)"),
        (lambda: ufm.optimum([[1.0, 0.0], [1.0, 1.0]], 1.0, 1.0), "not symmetric"),
        (lambda: ufm.optimum([[1.0, 2.0], [2.0, 1.0]], 1.0, 1.0), "negative eigenvalue -1"),
        (lambda: ufm.optimum([[math.nan]], 1.0, 1.0), "NaN or infinity"),
        (lambda: ufm.optimum(torch.eye(3), 0.1, 0.1).weights(2), "d is 2, below the number of targets 3"),
        (lambda: ufm.optimum(torch.eye(3), 0.1, 0.1).features(targets(), D), "another covariance"),
        (lambda: ufm.minimise(targets(), 0.1, 0.1, 0), "d is 0"),
        (lambda: ufm.minimise([1.0, math.nan], 0.1, 0.1, 2), "expected finite targets"),
        (lambda: ufm.balanced_gram(torch.eye(2), 0.0, 0.0), "nothing ties W to H"),
        (lambda: Optim(penalty="some"), "choose all or ufm"),
    ],
)
def test_wrong_input_is_named(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=words):
        make()


# --- networks with the UFM's penalties


def test_a_ufm_step_is_the_gradient_of_the_papers_loss() -> None:
    """Features and last weight penalised, nothing else; momentum 0, one step, by finite formula."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    network = MLP(num_layers=3, width=5, feature_activation="none", norm="batch").build(3, 2, seed=0).double()
    before = {k: p.detach().clone().requires_grad_() for k, p in network.named_parameters()}
    lam, lr = 0.3, 0.1
    stepper = make_stepper(network, Optim(lr=lr, weight_decay=lam, batch_size=8, penalty="ufm"))
    residual = stepper.step(x, y, lr)

    z = x @ before["stack.fc1.weight"].T + before["stack.fc1.bias"]
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    a = torch.relu(z * before["stack.norm1.weight"] + before["stack.norm1.bias"])
    h = a @ before["stack.fc2.weight"].T + before["stack.fc2.bias"]
    expected = h @ before["stack.fc3.weight"].T + before["stack.fc3.bias"] - y
    assert torch.allclose(residual, expected)
    penalty = lam / 2 * ((h**2).sum() / 8 + (before["stack.fc3.weight"] ** 2).sum())
    ((expected**2).sum() / (2 * 8 * 2) + penalty).backward()
    for name, p in network.named_parameters():
        grad = before[name].grad
        assert grad is not None and torch.allclose(p, before[name] - lr * grad, atol=1e-12), name


def test_a_network_with_free_features_reaches_the_closed_form() -> None:
    """One-hot inputs leave the features of Linear, Linear unconstrained: the UFM itself, by SGD."""
    y = targets((0.5, 1.5)).float()
    lam = 0.1
    network = MLP(num_layers=2, width=4, feature_activation="none").build(M, 2, seed=1)
    stepper = make_stepper(
        network, Optim(lr=4.0, momentum=0.9, weight_decay=lam, batch_size=M, penalty="ufm")
    )
    assert stepper.name == "autograd, UFM penalty"
    for _ in range(1500):
        stepper.step(torch.eye(M), y, 1.0)
    weight = network.measured_layers()["fc2"].weight.detach().double()  # type: ignore[union-attr,operator]
    best = ufm.optimum(covariance(y.double()), lam, lam, loss="coded")
    assert best.regime == "collapse"
    assert (weight @ weight.T - best.gram).abs().max() < 1e-4


def test_the_experiment_is_the_published_one(tmp_path: Path) -> None:
    """nrc_prevalence, sections 2 and 3: network, penalties, five lambdas, plain SGD at lr 1e-2, batch 256."""
    members = [
        m for file in ("ufm", "ufm_sweep") for m in config.sweep_members(file, "reacher", "paper", tmp_path)
    ]
    places = [str(m.directory.relative_to(tmp_path)) for m in members]
    assert places == [f"ufm-paper/reacher/wd={v}/seed=0" for v in ("0.01", "0.001", "0.0001", "1e-05", "0")]
    run = members[0].settings
    assert run.model == MLP(num_layers=4, width=256, feature_activation="none", norm="batch")
    assert (run.optim.lr, run.optim.momentum, run.optim.batch_size) == (1e-2, 0.0, 256)
    assert (run.optim.loss_scale, run.optim.penalty) == (0.5, "ufm")
