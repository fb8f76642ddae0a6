"""Watch regression collapse in a network of your own: python examples/your_own_model.py (a few seconds, no GPU)."""

import torch
from torch import Tensor, nn

import nrc

STEPS, LR, MOMENTUM, WEIGHT_DECAY = 2000, 0.1, 0.9, 1e-2


class YourModel(nn.Module):
    """Any module will do; this one predicts two numbers from eight."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.features = nn.Linear(64, 64)
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:  # (B, 8) -> (B, 2)
        return self.head(self.features(self.body(x)))


def your_data(rows: int = 1000) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 8)
    signal = torch.stack((x[:, 0] * x[:, 1] + x[:, 2], torch.sin(2 * x[:, 3]) - x[:, 4]), dim=1)
    return x, signal + 0.3 * torch.randn(rows, 2)


def main() -> None:
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # weights that decay to nothing would slow the CPU down
    x, y = your_data()
    model = YourModel()
    monitor = nrc.CollapseMonitor(model)  # before the training loop
    optimiser = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)

    print(f"{'step':>6} {'MSE':>8} {'NRC1':>8} {'NRC2':>8} {'NRC3':>8}   noise of each layer's input")
    for step in range(STEPS + 1):
        if step % (STEPS // 6) == 0:
            table = monitor.measure([(x, y)])  # layer -> metric -> value
            last = table["head"]
            noise = "  ".join(f"{layer} {metrics['noise']:.0e}" for layer, metrics in table.items())
            print(
                f"{step:>6} {last['mse']:>8.4f} {last['nrc1']:>8.1e} {last['nrc2']:>8.1e} {last['nrc3']:>8.1e}"
                f"   {noise}"
            )
        batch = torch.randint(len(x), (256,))
        loss = (model(x[batch]) - y[batch]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    if monitor.undefined["head"].get("nrc1"):
        print("NRC1 is undefined:", monitor.undefined["head"]["nrc1"])
    elif last["nrc1"] < 0.01 and last["nrc2"] < 0.01:
        print("Collapsed: the 64 features lie in the plane of the two rows of the last weight (NRC1, NRC2).")
    else:
        print(f"Not collapsed (NRC1 {last['nrc1']:.2g}, NRC2 {last['nrc2']:.2g}).")
    budget = WEIGHT_DECAY * STEPS * LR / (1 - MOMENTUM)
    print(
        f"Decay budget lambda * tau = {budget:.3g}: what the loss does not hold has shrunk by exp(-{budget:.3g})."
    )
    for layer, reason in monitor.skipped.items():
        print(f"not measured: {layer} {reason}")


if __name__ == "__main__":
    main()
