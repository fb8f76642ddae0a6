"""The GPU's path without a GPU: fake tensors know shapes and devices, so a mix of devices fails as it would there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nrc.features.prediction import Prediction
from nrc.models import MLP, MLPNetwork
from nrc.training import Clock, Measure, Optim, Protocol
from nrc.training.measuring import Measurer
from nrc.training.placement import Placed
from nrc.training.stacked_step import StackedStepper
from nrc.training.steppers import HandStepper

OPTIM = Optim(lr=0.05, momentum=0.9, weight_decay=1e-2, batch_size=48)
BIAS = pytest.mark.parametrize("bias", [True, False])


def indexed(x: Tensor, index: Any) -> Tensor:
    """x[index] by named operations, as what Python's bindings do themselves a torch without CUDA refuses."""
    parts, dim = list(index if isinstance(index, tuple) else (index,)), 0
    if Ellipsis in parts:
        at, given = parts.index(Ellipsis), sum(p is not None and p is not Ellipsis for p in parts)
        parts[at : at + 1] = [slice(None)] * (x.ndim - given)
    for part in parts:
        if part is None:
            x = x.unsqueeze(dim)
        elif isinstance(part, int):
            x, dim = x.select(dim, part), dim - 1
        elif isinstance(part, slice):
            start, stop, _ = part.indices(x.shape[dim])
            x = x.narrow(dim, start, max(0, stop - start))
        else:
            x = torch.ops.aten.index.Tensor(x, [None] * dim + [part])
        dim += 1
    return x


def copied(x: Tensor, other: Tensor) -> Tensor:
    """x.copy_(other), which may cross devices."""
    assert torch.broadcast_shapes(x.shape, other.shape) == x.shape
    return x


def made(x: Tensor, values: Any) -> Tensor:
    """x.new_tensor(values)"""
    return torch.tensor(values, dtype=x.dtype, device=x.device)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name, stand_in in {"__getitem__": indexed, "copy_": copied, "new_tensor": made}.items():
            monkeypatch.setattr(Tensor, name, stand_in)
        yield
        monkeypatch.undo()


def network(bias: bool) -> MLPNetwork:
    net = MLP(num_layers=4, width=16, bias=bias).build(5, 2, seed=0)
    for module in net.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(p.shape, device="cuda"))
    return net


def data() -> Placed:
    x, y = torch.empty(160, 5, device="cuda"), torch.empty(160, 2, device="cuda")
    return Placed(x, y, x, y)


@BIAS
def test_measuring_stays_on_the_device(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # which layer made the output is read off the numbers, and fake tensors have none
    monkeypatch.setattr(Prediction, "maker", property(lambda self: next(reversed(self._same))))
    clock = Clock.of(OPTIM, Protocol(epochs=1), 160)
    measurer = Measurer(network(bias), data(), Measure(outputs=True), clock, seed=0)
    moments = measurer.collect().train
    assert {m.sigma_hy.device.type for m in moments.values()} == {"cuda"}
    assert measurer._prediction_moment().device.type == "cpu"
    assert {value.device.type for value in measurer._snapshot("start").values()} == {"cpu"}


@BIAS
def test_steps_stay_on_the_device(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = data()
    steppers = [HandStepper(network(bias), OPTIM) for _ in range(3)]
    residual = steppers[0].step(placed.x_train, placed.y_train, 0.05)
    assert residual.device.type == "cuda" and residual.shape == (160, 2)
    monkeypatch.setattr(StackedStepper, "_captured", lambda self, n: lambda: self._steps(n))
    stack = StackedStepper(steppers, placed.x_train, placed.y_train, batch=48)
    batch = torch.zeros(3, 48, dtype=torch.long)
    stack.advance(iter([batch] * 11), [0.05] * 11)  # a long program and short ones
    assert stack.residual.device.type == "cuda" and stack.residual.shape == (3, 48, 2)
