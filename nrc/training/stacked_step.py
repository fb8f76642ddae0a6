"""The training step of many networks at once, for a GPU.

One step of the 3x256 network is some thirty small kernels, which a GPU starts more slowly than it runs them. So
networks that differ in weight decay and seed share each kernel, and several steps are recorded once as a CUDA graph
and then replayed whole. On a CPU the same steps run one by one, and tests hold them against separate steps.
The graph has not been run on a GPU yet; `scripts/gpu_proof.py` does that.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from nrc.training.loop import batch_order
from nrc.training.steppers import FlatMLP, HandStepper

GRAPH = 8  # steps in the long program; there is one of a single step for what is left over
ALIGNED = (
    32  # floats: the parameters of every network begin at a multiple of 128 bytes, as matrix products like it
)


def stacked_order(n: int, batch_size: int, seeds: list[int], start: int = 0) -> Iterator[Tensor]:
    """Index batches (K, B): for each seed those of `batch_order`."""
    return map(torch.stack, zip(*(batch_order(n, batch_size, seed, start) for seed in seeds), strict=True))


class StackedStepper(FlatMLP):
    """Takes the steps of K `HandStepper`s, each with its own weight decay, on one data set.

    Parameters and velocity of all lie in `theta` and `velocity` (K, P), of which the steppers and their models become
    views. A batch of fewer than B rows is filled up with rows that count zero.

    Args:
        steppers: of one shape, on the device of x; `optim` alike but for the weight decay.
        x, y: training inputs (N, n_in) and targets (N, n).
        batch: rows B of a full batch.
        graph: record CUDA graphs; None: on a GPU.
    """

    def __init__(
        self, steppers: list[HandStepper], x: Tensor, y: Tensor, batch: int, graph: bool | None = None
    ) -> None:
        size, optim = len(steppers[0].theta), steppers[0].optim
        fill = (0, -size % ALIGNED)
        theta = pad(torch.stack([s.theta for s in steppers]), fill)
        super().__init__(steppers[0].model, theta, optim.decay_biases)
        self.velocity = pad(torch.stack([s.velocity for s in steppers]), fill)
        for stepper, row, velocity in zip(steppers, self.theta, self.velocity, strict=True):
            stepper.keep_in(row[:size], velocity[:size])
        self.x, self.y, self.momentum = x, y, optim.momentum
        self.loss_scale = 2 * optim.loss_scale / y.shape[1]
        decay = torch.tensor([s.optim.weight_decay for s in steppers], dtype=x.dtype, device=x.device)
        self.decay = [decay.view(-1, *[1] * (value.ndim - 1)) for value, _ in self.decayed]
        # what a program reads and writes stays where it is, as a graph knows addresses and not names
        self.index = torch.zeros(GRAPH, len(steppers), batch, dtype=torch.long, device=x.device)
        self.scale, self.lr = x.new_zeros(GRAPH, batch, 1), x.new_zeros(GRAPH, 1)
        self.residual = x.new_zeros(len(steppers), batch, y.shape[1])
        captured = x.is_cuda if graph is None else graph
        self.programs: dict[int, Callable[[], None]] = {
            n: self._captured(n) if captured else partial(self._steps, n) for n in (GRAPH, 1)
        }
        how = f"CUDA graph of {GRAPH} steps" if captured else "eager"
        self.name = f"stacked, {len(steppers)} member{'s' * (len(steppers) > 1)}, {how}"

    def advance(self, order: Iterator[Tensor], rates: list[float]) -> None:
        """Take a step with each of these learning rates, on the next batches of `stacked_order`."""
        batch = self.index.shape[2]
        while rates:
            n = GRAPH if len(rates) >= GRAPH else 1
            chosen = [next(order) for _ in range(n)]
            rows = torch.tensor([[rows.shape[1]] for rows in chosen])
            self.index[:n].copy_(torch.stack([pad(rows, (0, batch - rows.shape[1])) for rows in chosen]))
            self.scale[:n, :, 0].copy_((torch.arange(batch) < rows) * (self.loss_scale / rows))
            self.lr[:n].copy_(torch.tensor(rates[:n])[:, None])
            self.programs[n]()
            rates = rates[n:]

    def finite(self) -> list[bool]:
        """For each network, whether the error of the last step is finite."""
        return torch.isfinite(self.residual).flatten(1).all(1).tolist()

    @torch.no_grad()
    def _steps(self, n: int) -> None:
        """The steps on the first n batches of `index`."""
        for index, scale, lr in zip(*(part[:n] for part in (self.index, self.scale, self.lr)), strict=True):
            x, y = (all_rows.index_select(0, index.view(-1)) for all_rows in (self.x, self.y))
            residual = self.gradient(x.view(*index.shape, -1), y.view(*index.shape, -1), scale)
            for (value, grad), decay in zip(self.decayed, self.decay, strict=True):
                grad.addcmul_(value, decay)
            self.velocity.mul_(self.momentum).add_(self.grad)
            self.theta.addcmul_(self.velocity, lr, value=-1)
        self.residual.copy_(residual)

    def _captured(self, n: int) -> Callable[[], None]:
        """`_steps(n)` as a CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
        velocity = self.velocity.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in the first calls, outside the graph
            for _ in range(3):
                self._steps(n)  # at learning rate zero
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps(n)
        self.velocity.copy_(velocity)
        return graph.replay
