"""The fully connected networks of both papers."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from nrc.errors import UserError, check_choices


@dataclass(frozen=True)
class MLP:
    """Settings of a fully connected network; `build` makes the network.

    Attributes:
        num_layers: number of Linear layers, the output layer included.
        width: units of every hidden layer.
        bias: whether the Linear layers have biases.
        feature_activation: what follows the last hidden layer, "relu" or "none".
        norm: "none", or "batch" for BatchNorm before every ReLU except the feature layer's.

    The 3x256 network of the NeurIPS 2024 paper (appendix on training details) is `MLP()`. Its
    linear-feature variant is `MLP(feature_activation="none")`, its UFM variant adds
    `norm="batch"`. The networks of the CPAL 2026 paper are `MLP(num_layers=8, bias=False)` and
    wider ones.

    Example:
        >>> net = MLP(num_layers=3, width=16).build(n_in=4, n_out=2, seed=0)
        >>> list(net.measured_layers())
        ['fc1', 'fc2', 'fc3']
    """

    num_layers: int = 4
    width: int = 256
    bias: bool = True
    feature_activation: Literal["relu", "none"] = "relu"
    norm: Literal["none", "batch"] = "none"

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise UserError(f"model.num_layers is {self.num_layers}; it must be at least 1")
        if self.width < 1:
            raise UserError(f"model.width is {self.width}; it must be at least 1")
        check_choices("model", self)

    def build(self, n_in: int, n_out: int, seed: int) -> "MLPNetwork":
        """Make the network with PyTorch's default initialisation drawn from `seed`."""
        # The global generator is forked because nn.Linear initialises from it and from nothing else.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return MLPNetwork(self, n_in, n_out)
            except RuntimeError as error:  # torch's own word for a failed allocation
                raise UserError(
                    f"a network with model.num_layers={self.num_layers} and model.width={self.width} cannot be "
                    "made: it does not fit into memory; make it smaller"
                ) from error


class MLPNetwork(nn.Module):
    """Linear layers fc1..fcL with ReLU between them."""

    def __init__(self, settings: MLP, n_in: int, n_out: int) -> None:
        super().__init__()
        depth = settings.num_layers
        sizes = [n_in, *[settings.width] * (depth - 1), n_out]
        self.settings = settings
        self.stack = nn.Sequential()
        for k, (d_in, d_out) in enumerate(pairwise(sizes), start=1):
            self.stack.add_module(f"fc{k}", nn.Linear(d_in, d_out, bias=settings.bias))
            is_feature_layer = k == depth - 1
            if k == depth:
                continue
            if settings.norm == "batch" and not is_feature_layer:
                self.stack.add_module(f"norm{k}", nn.BatchNorm1d(d_out))
            if not is_feature_layer or settings.feature_activation == "relu":
                self.stack.add_module(f"relu{k}", nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:  # (B, n_in) -> (B, n_out)
        return self.stack(x)

    @property
    def is_plain(self) -> bool:
        """Whether it is what its settings say, without BatchNorm, and all of it trains: a class derived from it, or a
        network changed after it was built, need not be."""
        kinds = [nn.Linear, nn.ReLU] * (self.settings.num_layers - 1) + [nn.Linear]
        if self.settings.feature_activation == "none" and len(kinds) > 1:
            del kinds[-2]
        return (
            type(self) is MLPNetwork
            and [type(module) for module in self.stack] == kinds
            and all(p.requires_grad for p in self.parameters())
        )

    def measured_layers(self) -> dict[str, nn.Module]:
        """Every Linear layer by its name; collapse is measured at its input."""
        return {f"fc{k}": getattr(self.stack, f"fc{k}") for k in range(1, self.settings.num_layers + 1)}
