"""Measuring leaves a network as it was: weights, buffers, modes; and torch's default device and type do not matter."""

import ast
import copy
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import nrc
from nrc.cone import one_sided
from nrc.features.tensors import mapped
from nrc.metrics import linalg
from nrc.metrics.intrinsic import intrinsic_dimension
from nrc.metrics.last_layer import nrc2_centred
from nrc.rank import rank_of_targets
from nrc.theory import nonnegative, ufm


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


FACTORIES = (
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm",
    "tensor", "zeros",
)  # fmt: skip


OF_DEFAULT_TYPE = ("empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "tensor", "zeros")


def made_anywhere(source: str) -> list[int]:
    """Lines that make a new tensor on torch's default device, or in its default type."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and call.func.attr in FACTORIES
        and not {"device", *({"dtype"} if call.func.attr in OF_DEFAULT_TYPE else ())}.issubset(
            keyword.arg for keyword in call.keywords
        )
    ]


def test_nothing_that_measures_makes_a_tensor_on_torchs_default_device_or_of_its_default_type():
    package = Path(nrc.__file__).parent
    files = [f for room in ("metrics", "features", "theory") for f in (package / room).rglob("*.py")]
    files += [package / f"{name}.py" for name in ("arrays", "cone", "moments", "rank")]
    assert not {str(f): lines for f in files if (lines := made_anywhere(f.read_text()))}
    assert made_anywhere("x = 1\ny = torch.eye(3)\nz = torch.ones(2, device='cpu')") == [2, 3]


RNG = np.random.default_rng(0)
X, Y, CODES = RNG.normal(size=(32, 5)), RNG.normal(size=(32, 2)), np.arange(32) % 3
SEQUENCES, WIDE = RNG.normal(size=(32, 7, 5)), RNG.normal(size=(12, 40))
CONVOLUTION = nn.Sequential(
    nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Unflatten(1, (8, 1)),
    nn.Conv1d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(8, 2),
)  # fmt: skip


class Sequence(nn.Module):
    """Samples on the second axis in the middle, and a padded convolution, whose weight is read off itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv, self.head = nn.Linear(5, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x.transpose(0, 1)).relu().permute(1, 2, 0)
        return self.head(self.conv(h).mean(2))


SEQUENCE = Sequence()
MEASURED = {
    "a network": lambda: list(nrc.CollapseMonitor(CONVOLUTION).measure([(X, Y)]).values()),
    "sequences": lambda: list(nrc.CollapseMonitor(SEQUENCE).measure([(SEQUENCES, Y)]).values()),
    "groups": lambda: list(nrc.CollapseMonitor(CONVOLUTION).measure([(X, Y)], groups=CODES).spread.values()),
    "groups of rows": lambda: list(nrc.measure(X, Y, Y[:5].T, groups=CODES).groups.values()),
    "rows": lambda: [nrc.measure(X, Y, Y[:5].T)],
    "more columns than rows": lambda: [nrc.measure(WIDE, Y[:12], WIDE[:2])],
    "dimension": lambda: [intrinsic_dimension(X), intrinsic_dimension(X, estimator="fit"), intrinsic_dimension(X, samples=20)],
    "covariances": lambda: [
        f(c) for c in (X.T @ X, torch.from_numpy(X.T @ X)) for f in (linalg.stable_rank, linalg.unevenness)
    ],
    "nrc2_centred": lambda: [nrc2_centred(X, X[:2]), nrc2_centred(torch.from_numpy(X), X[:2])],
    "rank of targets": lambda: [rank_of_targets(X.T @ X, X.mean(0), 0.0)],
    "closed form": lambda: [
        f(Y, 4, seed).sum().item()
        for f in (ufm.optimum(Y.T @ Y / 32 - np.outer(Y.mean(0), Y.mean(0)), 0.01, 0.01).features,)
        for seed in (None, 1)
    ],
    "convex model": lambda: [nonnegative.optimum(Y, 0.01, 0.01, 0.01).nrc1, one_sided(Y).holds],
}  # fmt: skip


@pytest.mark.parametrize("what", MEASURED)
def test_torchs_default_device_does_not_matter(what):
    linalg.fixed_normal.cache_clear()
    linalg.random_subspace_cosine.cache_clear()
    expected = MEASURED[what]()
    linalg.fixed_normal.cache_clear()
    linalg.random_subspace_cosine.cache_clear()
    torch.set_default_device("meta")
    try:
        found = MEASURED[what]()
    finally:
        torch.set_default_device(None)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rows", [300, 1000])
def test_torchs_default_type_does_not_matter(dtype, rows):
    model, generator = network(nn.ReLU()), torch.Generator().manual_seed(0)
    batches = [(torch.randn(rows, 5, generator=generator), torch.randn(rows, 2, generator=generator))]
    groups = [k % 3 for k in range(rows)]
    expected = nrc.CollapseMonitor(model).measure(batches, groups=groups)
    torch.set_default_dtype(dtype)
    try:
        found = nrc.CollapseMonitor(model).measure(batches, groups=groups)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in ((expected, found), (expected.groups[1], found.groups[1])):
        assert one.keys() == other.keys() == {"0", "2"}
        for label in one:
            assert one[label] == pytest.approx(other[label], nan_ok=True, rel=0, abs=0)


class Node:
    """Holds itself, and one tensor three times."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.me, self.more = x, self, [x, {"x": (x, "name")}]


@dataclass(frozen=True)
class Frozen:
    x: Tensor


@dataclass(slots=True)
class Slots:
    x: Tensor


class Attributes(UserDict):
    """A mapping whose entries are attributes, too."""

    def __getattr__(self, name: str) -> object:
        return self.data[name] if name in self.data else self.missing(name)

    def missing(self, name: str) -> object:
        raise AttributeError(name)


Named = namedtuple("Named", ["x", "n"])


@pytest.mark.parametrize(
    "make", [Node, Frozen, Slots, lambda x: Attributes(x=x), lambda x: Named(x, 2), lambda x: OrderedDict(x=x)],
    ids=["object", "frozen", "slots", "mapping", "named tuple", "dict"],
)  # fmt: skip
def test_what_holds_tensors_is_made_again_of_its_own_type(make):
    x = torch.arange(4.0)
    old = make(x)
    new = mapped(old, lambda t: t[:2])
    read = (lambda v: v["x"]) if type(old) is OrderedDict else (lambda v: v.x)
    assert type(new) is type(old) and read(old) is x and read(new).tolist() == [0, 1]
    if make is Node:
        assert new.me is new and new.more[0] is new.more[1]["x"][0] is new.x
    flags = [object(), "text"]
    assert mapped(flags, torch.neg) is flags


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


class Stateful(nn.Module):
    """Keeps what it saw: in a plain attribute, a tuple of them, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.cell, self.head, self.state, self.seen = nn.GRUCell(5, 8), nn.Linear(8, 2), None, []

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        self.state = self.cell(x - self.mean, self.state)
        self.seen.append(self.state)
        return self.head(torch.relu(sum(self.seen)))


@pytest.mark.parametrize("rows", [10, 32])
@pytest.mark.parametrize("before", [0, 1])
def test_the_pass_sees_the_state_that_the_user_left(rows, before):
    torch.manual_seed(0)
    model, x, y = Stateful(), torch.randn(rows, 5) + 3, torch.randn(rows, 2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for _ in range(before):
            model(x + 1)
            other(x + 1)
        error = float((other(x) - y).square().mean())
    table = nrc.CollapseMonitor(model).measure([(x, y)])
    assert table["head"]["mse"] == pytest.approx(error, rel=1e-5)
    assert torch.equal(model.mean, other.mean) and len(model.seen) == before + 1
