"""One training step, two ways: autograd for any network and penalty, by hand for the plain MLP.

By hand because autograd's bookkeeping is a fifth of a step of the 3x256 network (measured: 480 against
400 steps/s on one core; 8 % for 8x256), and a reproduction is hundreds of thousands of them. A test
holds the two against each other.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nrc.models import MLPNetwork
from nrc.training.settings import Optim


class Stepper(Protocol):
    """Takes training steps on its model."""

    name: str

    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """One step on inputs (B, ...) and targets (B, n); returns the residual (B, n) before it."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_stepper(model: nn.Module, optim: Optim) -> Stepper:
    """The by-hand stepper where it applies, else autograd; `.name` says which."""
    if optim.penalty == "ufm":
        return UFMStepper(model, optim)
    if isinstance(model, MLPNetwork) and model.settings.norm == "none":
        return HandStepper(model, optim)
    return AutogradStepper(model, optim)


def is_bias(name: str) -> bool:
    """Whether the parameter of this name is spared by `optim.decay_biases=false`."""
    return name.rpartition(".")[2] == "bias"


class AutogradStepper:
    """torch.optim.SGD on loss_scale * mean of squared errors, for any network."""

    name = "autograd"

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        self.model, self.loss_scale = model, optim.loss_scale
        decayed: list[nn.Parameter] = []
        spared: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (decayed if optim.decay_biases or not is_bias(name) else spared).append(parameter)
        self.sgd = torch.optim.SGD(
            [{"params": decayed}, {"params": spared, "weight_decay": 0.0}],
            lr=optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        )

    def loss(self, residual: Tensor) -> Tensor:
        """The loss at a residual (B, n), but for the weight decay that SGD itself applies."""
        return residual.square().mean() * self.loss_scale

    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        for group in self.sgd.param_groups:
            group["lr"] = lr
        residual = self.model(x) - y
        self.sgd.zero_grad(set_to_none=True)
        self.loss(residual).backward()
        self.sgd.step()
        return residual.detach()

    def state_dict(self) -> dict[str, Any]:
        return self.sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sgd.load_state_dict(state)


class UFMStepper(AutogradStepper):
    """The same for the UFM-regularised networks of NeurIPS 2024 (appendix on the UFM experiments):

    loss_scale * mean of squared errors + lambda_H/2 |H_batch|^2 / B + lambda_W/2 |W|^2 with
    lambda_H = lambda_W = optim.weight_decay. H (B, d) is the input of the last layer, W its weight (n, d).
    """

    name = "autograd, UFM penalty"

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        super().__init__(model, replace(optim, weight_decay=0.0))
        self.strength = optim.weight_decay
        self.head = list(model.measured_layers().values())[-1]  # type: ignore[operator]
        self.features = torch.empty(0)
        self.head.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]

    def loss(self, residual: Tensor) -> Tensor:
        norms = self.features.square().sum() / len(residual) + self.head.weight.square().sum()
        return super().loss(residual) + self.strength / 2 * norms


class HandStepper:
    """Forward, backward and update of an MLP written out.

    With a_k the input of layer k and d_k the loss gradient at its output:
    grad W_k = d_k^T a_k, grad b_k = sum_rows d_k, d_{k-1} = (d_k W_k) * [a_k > 0]; then
    v <- momentum v + grad + lambda theta and theta <- theta - lr v on all parameters at once. All a_k and d_k
    lie in buffers made at the first step of their batch size.
    """

    name = "by hand"

    def __init__(self, model: MLPNetwork, optim: Optim) -> None:
        self.optim = optim
        layers = list(model.measured_layers().values())
        self.relu = [k < len(layers) - 1 for k in range(len(layers))]
        if model.settings.feature_activation == "none" and len(layers) > 1:
            self.relu[-2] = False
        parameters = list(model.parameters())
        self.theta = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad, self.velocity = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        values, grads = (self._views(flat, parameters) for flat in (self.theta, self.grad))
        for parameter, view in zip(parameters, values, strict=True):
            parameter.data = view  # the model now reads what the update writes
        where = {id(p): (v, g) for p, v, g in zip(parameters, values, grads, strict=True)}
        self.weights = [where[id(layer.weight)] for layer in layers]
        self.biases = [where[id(layer.bias)] if layer.bias is not None else None for layer in layers]
        # what weight decay is on, with its gradient
        self.decayed = [(self.theta, self.grad)] if optim.decay_biases else self.weights
        # outputs of each layer and the gradients there, by batch size
        self.buffers: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    @staticmethod
    def _views(flat: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
        parts = flat.split([p.numel() for p in like])
        return [part.view(p.shape) for part, p in zip(parts, like, strict=True)]

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        if len(x) not in self.buffers:
            first, second = ([x.new_empty(len(x), len(w)) for w, _ in self.weights] for _ in range(2))
            self.buffers[len(x)] = first, second
        outputs, deltas = self.buffers[len(x)]
        inputs = [x, *outputs[:-1]]
        for k, (weight, _) in enumerate(self.weights):
            bias = self.biases[k]
            if bias is None:
                torch.mm(inputs[k], weight.T, out=outputs[k])
            else:
                torch.addmm(bias[0], inputs[k], weight.T, out=outputs[k])
            if self.relu[k]:
                outputs[k].relu_()
        residual = outputs[-1] - y
        delta = torch.mul(residual, 2 * self.optim.loss_scale / residual.numel(), out=deltas[-1])
        for k in range(len(self.weights) - 1, -1, -1):
            weight, grad = self.weights[k]
            bias = self.biases[k]
            torch.mm(delta.T, inputs[k], out=grad)
            if bias is not None:
                torch.sum(delta, 0, out=bias[1])
            if k:
                delta = torch.mm(delta, weight, out=deltas[k - 1])
                if self.relu[k - 1]:  # delta * (inputs > 0) as one kernel and without a mask
                    torch.ops.aten.threshold_backward.grad_input(delta, inputs[k], 0, grad_input=delta)
        if self.optim.weight_decay:
            for value, grad in self.decayed:
                grad.add_(value, alpha=self.optim.weight_decay)
        if self.optim.momentum:
            self.velocity.mul_(self.optim.momentum).add_(self.grad)
        else:
            self.velocity.copy_(self.grad)
        self.theta.add_(self.velocity, alpha=-lr)
        return residual

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.velocity.copy_(state["velocity"])
