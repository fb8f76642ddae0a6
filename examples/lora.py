"""A model with LoRA adapters: python examples/lora.py.

An adapted layer applies W + scale B A. It is measured as one layer with that weight.
"""

import sys

import torch
from torch import nn

import nrc


def main() -> nrc.CollapseMonitor:
    import nrc.models._torchvision  # noqa: I001  first: torchvision alone may not load beside a CPU torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["2", "4"]))
    x = torch.randn(512, 8)
    y = torch.stack((x[:, 0] * x[:, 1], x[:, 2].sin()), 1)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for _ in range(200):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    monitor = nrc.CollapseMonitor(model)
    monitor.measure([(x, y)])
    return monitor


if __name__ == "__main__":
    try:
        print(main())
    except ImportError as error:
        sys.exit(f"skipped: {error}; pip install peft")
