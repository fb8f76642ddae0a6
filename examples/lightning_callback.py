"""Collapse metrics in Lightning's log: Trainer(callbacks=[CollapseCallback([(x, y)])]).

python examples/lightning_callback.py trains a small network and prints what was logged.
"""

import nrc.models._torchvision  # noqa: I001  first: torchvision alone may not load beside a CPU torch

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

try:
    import lightning
except ImportError as error:
    raise SystemExit(f"skipped: {error}; pip install lightning") from None

import nrc


class CollapseCallback(lightning.Callback):
    """After every epoch: each metric of each layer as `layer/metric`, over fixed batches [(inputs, targets)]."""

    def __init__(self, batches: Sequence[Any], layers: Sequence[str] | None = None) -> None:
        self.batches, self.layers = batches, layers

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for layer, metrics in nrc.CollapseMonitor(module, self.layers).measure(self.batches).items():
            module.log_dict({f"{layer}/{name}": value for name, value in metrics.items()})


class Regressor(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 32), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return (self(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def main() -> lightning.Trainer:
    torch.manual_seed(0)
    x = torch.randn(512, 5)
    y = x[:, :2] + 0.1 * torch.randn(512, 2)
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", callbacks=[CollapseCallback([(x, y)])],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Regressor(), DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
    return trainer


if __name__ == "__main__":
    for name, value in main().callback_metrics.items():
        print(f"{name:40} {float(value):.3g}")
