"""The training step of many networks at once: `HandStepper` with a leading dimension of members.

One step of the 3x256 network is some thirty small kernels, which a GPU starts more slowly than it runs them.
So the members share each kernel, and several steps are recorded once as a CUDA graph and then replayed whole.
On a CPU the same steps run one by one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from nrc.features.layers import OUT
from nrc.models.mlp import MLPNetwork
from nrc.training.settings import Optim

GRAPH = 8  # steps in the long program; there is one of a single step for what is left over


class StackedStepper:
    """K networks of one shape, each with its own weight decay, on one data set.

    With a_k (K, B, d_k) the inputs of layer k of all members and W_k (K, d_{k+1}, d_k) their weights:
    a_{k+1} = relu(b_k + a_k W_k^T) is one `baddbmm`, and so on as in `HandStepper`. The parameters of a member
    are one row of `theta` in the order of `HandStepper`, so checkpoints fit both. A batch of fewer than B rows
    is padded by rows whose error is scaled by zero.

    The capture of CUDA graphs has been written without a GPU at hand and has not been run on one.

    Args:
        models: of one shape, on the device of x; their parameters become views of `theta`.
        optims: alike but for the weight decay.
        x, y: training inputs (N, n_in) and targets (N, n).
        batch: rows B of a full batch.
    """

    def __init__(
        self, models: list[MLPNetwork], optims: list[Optim], x: Tensor, y: Tensor, batch: int
    ) -> None:
        self.x, self.y, optim = x, y, optims[0]
        self.momentum, self.loss_scale = optim.momentum, 2 * optim.loss_scale / y.shape[1]
        sizes = [p.numel() for p in models[0].parameters()]
        self.size = sum(sizes)
        # padded, so that each member's row starts at a multiple of 128 bytes
        self.theta = x.new_zeros(len(models), -(-self.size // 32) * 32)
        self.grad = torch.zeros_like(self.theta)
        # without momentum the velocity is the gradient
        self.velocity = torch.zeros_like(self.theta) if self.momentum else self.grad
        self.decay = x.new_tensor([[optim.weight_decay] for optim in optims])
        pairs = []  # value and gradient (K, ...) of every parameter
        bounds = pairwise(accumulate(sizes, initial=0))
        of_all = zip(*(model.parameters() for model in models), strict=True)
        for (start, stop), parameters in zip(bounds, of_all, strict=True):
            shape = len(models), *parameters[0].shape
            value, grad = (flat[:, start:stop].view(shape) for flat in (self.theta, self.grad))
            for parameter, view in zip(parameters, value, strict=True):
                view.copy_(parameter.data)
                parameter.data = view  # each model now reads what the update writes
            pairs.append((value, grad))
        settings = models[0].settings
        depth = settings.num_layers
        self.weights = pairs[::2] if settings.bias else pairs  # a layer's weight comes before its bias
        self.decayed = pairs if optim.decay_biases else self.weights
        self.biases: list[tuple[Tensor, Tensor] | None] = [None] * depth
        if settings.bias:  # (K, 1, out): added to every row of a batch
            self.biases = [(value[:, None], grad[:, None]) for value, grad in pairs[1::2]]
        self.relu = [k < depth - 1 for k in range(depth)]
        if settings.feature_activation == "none" and depth > 1:
            self.relu[-2] = False
        # what a program reads and writes stays where it is, as a graph knows addresses and not names
        self.index = torch.zeros(GRAPH, len(models), batch, dtype=torch.long, device=x.device)
        self.scale, self.lr = x.new_zeros(GRAPH, batch, 1), x.new_zeros(GRAPH, 1)
        self.residual = x.new_zeros(len(models), batch, y.shape[1])
        build = self._captured if x.is_cuda else (lambda n: partial(self._steps, n))
        self.programs: dict[int, Callable[[], None]] = {n: build(n) for n in (GRAPH, 1)}
        how = f"CUDA graph of {GRAPH} steps" if x.is_cuda else "eager"
        self.name = f"stacked, {len(models)} member{'s' * (len(models) > 1)}, {how}"

    def advance(self, index: Tensor, rows: Tensor, lr: Tensor) -> None:
        """Take T steps.

        Args:
            index: rows of the data, (T, K, B), on the device.
            rows: how many of the B are real, (T,).
            lr: learning rates, (T,).
        """
        real = torch.arange(index.shape[2]) < rows[:, None]
        scale = (real * (self.loss_scale / rows[:, None]))[..., None].to(self.scale)
        lr = lr[:, None].to(self.lr)
        done = 0
        while done < len(index):
            n = GRAPH if len(index) - done >= GRAPH else 1
            for buffer, values in ((self.index, index), (self.scale, scale), (self.lr, lr)):
                buffer[:n].copy_(values[done : done + n])
            self.programs[n]()
            done += n

    @torch.no_grad()
    def _steps(self, n: int) -> None:
        for i in range(n):
            residual = self._step(self.index[i], self.scale[i], self.lr[i])
        self.residual.copy_(residual)

    def _step(self, index: Tensor, scale: Tensor, lr: Tensor) -> Tensor:
        inputs = [self.x[index]]
        for (weight, _), bias, relu in zip(self.weights, self.biases, self.relu, strict=True):
            x, w = inputs[-1], weight.mT
            out = torch.bmm(x, w) if bias is None else torch.baddbmm(bias[0], x, w)
            inputs.append(out.relu_() if relu else out)
        residual = inputs.pop() - self.y[index]
        delta = residual * scale
        for k in range(len(self.weights) - 1, -1, -1):
            weight, grad = self.weights[k]
            bias = self.biases[k]
            torch.bmm(delta.mT, inputs[k], out=grad)
            if bias is not None:
                torch.sum(delta, 1, keepdim=True, out=bias[1])
            if k:
                delta = torch.bmm(delta, weight)
                if self.relu[k - 1]:  # delta * (inputs > 0) as one kernel
                    delta = torch.ops.aten.threshold_backward(delta, inputs[k], 0)
        for value, grad in self.decayed:
            grad.flatten(1).addcmul_(value.flatten(1), self.decay)
        if self.momentum:
            self.velocity.mul_(self.momentum).add_(self.grad)
        self.theta.addcmul_(self.velocity, lr, value=-1)
        return residual

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """For rows x (K, N, n_in), in their type and in forward order: the input ("fc1", (K, N, d)) of each layer and, but for the
        last one, its output before the activation ("fc1:out", (K, N, d))."""
        last = len(self.weights)
        for k in range(1, last + 1):
            yield f"fc{k}", x
            if k < last:
                weight, bias = self.weights[k - 1][0].mT.to(x.dtype), self.biases[k - 1]
                x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias[0].to(x.dtype), x, weight)
                yield f"fc{k}{OUT}", x
                if self.relu[k - 1]:
                    x.relu_()

    def _captured(self, n: int) -> Callable[[], None]:
        """`_steps(n)` as a CUDA graph. Not yet run on a GPU."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in the first calls, outside the graph
            for _ in range(3):
                self._steps(n)  # at learning rate zero
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps(n)
        self.velocity.zero_()
        return graph.replay

    def finite(self) -> list[bool]:
        """For each member, whether the error of the last step is finite."""
        return torch.isfinite(self.residual).flatten(1).all(1).tolist()

    def stepper(self, member: int) -> "OneOfStack":
        """One member as a checkpoint sees it."""
        return OneOfStack(self.velocity[member, : self.size])

    def state(self, member: int) -> tuple[Tensor, Tensor]:
        """Copies of a member's parameters and velocity."""
        return self.theta[member].clone(), self.velocity[member].clone()

    def put(self, member: int, state: tuple[Tensor, Tensor]) -> None:
        """Give a member back what `state` returned."""
        self.theta[member], self.velocity[member] = state


class OneOfStack:
    """The optimiser state of one member, as `HandStepper` keeps it in a checkpoint."""

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self.velocity.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.velocity.copy_(state["velocity"])
