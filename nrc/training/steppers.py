"""One training step, two ways: autograd for any network and penalty, by hand for the plain MLP.

A test holds the two against each other.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nrc.errors import UserError
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
    if isinstance(model, MLPNetwork) and model.is_plain:
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
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
        self.sgd = torch.optim.SGD(
            groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )

    def loss(self, residual: Tensor) -> Tensor:
        """The loss at a residual (B, n), but for the weight decay that SGD itself applies."""
        return residual.square().mean() * self.loss_scale

    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        for group in self.sgd.param_groups:
            group["lr"] = lr
        out = self.model(x)
        if getattr(out, "shape", None) != y.shape:  # it would be broadcast
            given = getattr(out, "shape", None)
            raise UserError(
                f"{type(self.model).__name__} returned {type(out).__name__ if given is None else tuple(given)} in training "
                f"for targets {tuple(y.shape)}; let forward return one column for each target"
            )
        residual = out - y
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


class FlatMLP:
    """Forward and backward pass of an MLP written out, or of K MLPs of one shape at once.

    With a_k the input of layer k and d_k the loss gradient at its output:
    grad W_k = d_k^T a_k, grad b_k = sum_rows d_k, d_{k-1} = (d_k W_k) * [a_k > 0]. All a_k and d_k lie in buffers made
    at the first step of their batch size. K networks share each matrix product, with a leading dimension of K.

    Args:
        model: gives the shapes; an `MLPNetwork` without BatchNorm.
        theta: all parameters in the model's order, (P,), or (K, P) for K networks; columns after those are left alone.
        decay_biases: as in `Optim`.
    """

    def __init__(self, model: MLPNetwork, theta: Tensor, decay_biases: bool) -> None:
        self.model, self.theta, self.grad = model, theta, torch.zeros_like(theta)
        pairs = list(zip(self.views(theta), self.views(self.grad), strict=True))  # value and gradient
        self.weights = pairs[::2] if model.settings.bias else pairs  # a layer's weight comes before its bias
        self.biases: list[tuple[Tensor, Tensor] | None] = [None] * len(pairs)
        if model.settings.bias:
            self.biases = list(pairs[1::2])
        self.relu = [k < len(self.weights) - 1 for k in range(len(self.weights))]
        if model.settings.feature_activation == "none" and len(self.weights) > 1:
            self.relu[-2] = False
        # what weight decay is on, with its gradient
        self.decayed = [(self.theta, self.grad)] if decay_biases else self.weights
        # outputs of each layer and the gradients there, by batch size
        self.buffers: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parts of `flat` (..., P) that belong to the parameters, in their shapes."""
        like = list(self.model.parameters())
        sizes = [p.numel() for p in like]
        parts = flat[..., : sum(sizes)].split(sizes, -1)
        return [part.view(*flat.shape[:-1], *p.shape) for part, p in zip(parts, like, strict=True)]

    def gradient(self, x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
        """Set `grad` to that of the sum of scale/2 * residual^2; returns the residual, prediction - y.

        Args:
            x: inputs (B, n_in), or (K, B, n_in) for K networks.
            y: targets (B, n) or (K, B, n).
            scale: one for all, or one for each row (B, 1).
        """
        rows = x.shape[-2]
        if rows not in self.buffers:
            first, second = ([x.new_empty(*x.shape[:-1], w.shape[-2]) for w, _ in self.weights] for _ in "ab")
            self.buffers[rows] = first, second
        outputs, deltas = self.buffers[rows]
        inputs = [x, *outputs[:-1]]
        product, affine = (torch.mm, torch.addmm) if x.ndim == 2 else (torch.bmm, torch.baddbmm)
        for k, (weight, _) in enumerate(self.weights):
            bias = self.biases[k]
            if bias is None:
                product(inputs[k], weight.mT, out=outputs[k])
            else:
                affine(bias[0].unsqueeze(-2), inputs[k], weight.mT, out=outputs[k])
            if self.relu[k]:
                outputs[k].relu_()
        residual = outputs[-1] - y
        delta = torch.mul(residual, scale, out=deltas[-1])
        for k in range(len(self.weights) - 1, -1, -1):
            weight, grad = self.weights[k]
            bias = self.biases[k]
            product(delta.mT, inputs[k], out=grad)
            if bias is not None:
                torch.sum(delta, -2, out=bias[1])
            if k:
                delta = product(delta, weight, out=deltas[k - 1])
                if self.relu[k - 1]:  # delta * (inputs > 0) as one kernel and without a mask
                    torch.ops.aten.threshold_backward.grad_input(delta, inputs[k], 0, grad_input=delta)
        return residual


class HandStepper(FlatMLP):
    """The step of an MLP without BatchNorm: v <- momentum v + grad + lambda theta, then theta <- theta - lr v.

    By hand because autograd with torch.optim.SGD(fused=True) needs 1.30 to 1.36 times the CPU time (3x256 network, batch
    256, torch 2.13, one core, both in turn for 30 s: ratio of the best and median of the pairs), and a reproduction is
    hundreds of thousands of steps; and because many such steps at once make a CUDA graph (`nrc.training.stacked_step`).
    """

    name = "by hand"

    def __init__(self, model: MLPNetwork, optim: Optim) -> None:
        self.optim = optim
        theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        self.model = model
        self.keep_in(theta, torch.zeros_like(theta))

    def keep_in(self, theta: Tensor, velocity: Tensor) -> None:
        """Use these flat tensors (P,), which hold parameters and velocity, from now on; so does the model."""
        super().__init__(self.model, theta, self.optim.decay_biases)
        self.velocity = velocity
        for parameter, view in zip(self.model.parameters(), self.views(theta), strict=True):
            parameter.data = view  # the model reads what the update writes

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        residual = self.gradient(x, y, 2 * self.optim.loss_scale / y.numel())
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
        return {"velocity": self.velocity.clone()}  # a view would be saved with all that it is a view of

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.velocity.copy_(state["velocity"])
