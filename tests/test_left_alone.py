"""Measuring leaves a network as it was: weights, buffers, modes; and torch's default device does not matter."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import nrc


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 5, generator=generator), torch.randn(32, 2, generator=generator))]


def network(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), middle, nn.Linear(8, 2))


KINDS = {
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(8, 8)),
    "batch norm": lambda: nn.BatchNorm1d(8),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_no_bit_of_the_state_changes(kind, training):
    torch.manual_seed(0)
    model = network(KINDS[kind]()).train(training)
    before = copy.deepcopy(model.state_dict())
    monitor = nrc.CollapseMonitor(model)
    first, again = monitor.measure(data()), monitor.measure(data())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert all(m.training == training for m in model.modules())
    assert first == {
        label: pytest.approx(values, nan_ok=True, rel=0, abs=0) for label, values in again.items()
    }


class Merging(nn.Linear):
    """As adapters do: the weight it computes with depends on the mode, which train() brings about."""

    def __init__(self) -> None:
        super().__init__(5, 8)
        self.delta = nn.Parameter(torch.ones(8, 5))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.delta if mode else self.delta
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.merged else out + x @ self.delta.T


def test_modules_that_work_in_train_are_told_of_it():
    model = nn.Sequential(Merging(), nn.ReLU(), nn.Linear(8, 2)).train()
    merged = copy.deepcopy(model).eval()[0].weight
    found = nrc.CollapseMonitor(model).measure(data())["0"]
    assert model[0].training and not model[0].merged
    assert found["stable_rank_weights"] == pytest.approx(
        nrc.measure(*data()[0], merged)["stable_rank_weights"], rel=1e-6
    )


def test_modes_that_differ_inside_one_network_come_back():
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.free, self.head = nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2)

        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.free(self.norm(x)))

    for change in (
        lambda m: m.train(),
        lambda m: m.eval(),
        lambda m: m.eval().free.train(),
        lambda m: m.norm.train(),
    ):
        model = Frozen()
        change(model)
        before = [m.training for m in model.modules()]
        nrc.collect(model, data())
        assert [m.training for m in model.modules()] == before


def test_a_network_in_evaluation_mode_is_not_touched():
    class Counting(nn.Linear):
        switched = 0

        def train(self, mode: bool = True) -> "Counting":
            self.switched += 1
            return super().train(mode)

    model = Counting(5, 2).eval()
    nrc.CollapseMonitor(model).measure(data())
    assert model.switched == 1


@pytest.fixture
def elsewhere():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_torchs_default_device_does_not_matter(elsewhere):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 5)), rng.normal(size=(32, 2))
    with torch.device("cpu"):
        model = nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Unflatten(1, (8, 1)),
            nn.Conv1d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
        expected = nrc.CollapseMonitor(model).measure([(x, y)]), nrc.measure(x, y, y[:5].T)
    nrc.metrics.linalg.fixed_normal.cache_clear()
    nrc.metrics.linalg.random_subspace_cosine.cache_clear()
    found = nrc.CollapseMonitor(model).measure([(x, y)]), nrc.measure(x, y, y[:5].T)
    for one, other in zip((*expected[0].values(), expected[1]), (*found[0].values(), found[1]), strict=True):
        assert one == pytest.approx(other, nan_ok=True, rel=0, abs=0)
    assert nrc.metrics.linalg.fixed_normal(20, 8, 2).device.type == "cpu"


class InPlace(nn.Module):
    """A network whose first steps write into its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, again: torch.Tensor | None = None) -> torch.Tensor:
        assert again is None or again is x  # what was given twice is still one
        x -= x.mean(0)
        return self.head(nn.functional.relu(x, inplace=True))


@pytest.mark.parametrize("make", ["tensor", "array", "read-only array", "read-only map", "twice", "dict"])
def test_a_network_that_begins_in_place_changes_nothing_of_the_users(make, tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    y = torch.randn(50, 2)
    held = torch.from_numpy(values.copy()) if make in ("tensor", "twice", "dict") else values.copy()
    if make == "read-only map":
        np.save(tmp_path / "x.npy", values)
        held = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif make == "read-only array":
        held.setflags(write=False)
    inputs = (held, held) if make == "twice" else {"x": held} if make == "dict" else held
    nrc.collect(InPlace(), [(inputs, y), (inputs, y)])
    assert np.array_equal(np.asarray(held), values)
