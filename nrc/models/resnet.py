"""The residual networks of both papers' image experiments, from torchvision."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.error import URLError

import torch
from torch import Tensor, nn

from nrc.errors import UserError

DEPTHS = (18, 34)
PIXELS = {  # mean and standard deviation by channel, of pixels in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class ResNet:
    """Settings of a torchvision ResNet with a last layer Linear(512, n); `build` makes the network.

    Attributes:
        depth: 18 or 34.
        pretrained: start from torchvision's ImageNet weights (downloaded) instead of random ones.
        normalise: "imagenet" (NeurIPS 2024) or "half", mean 0.5 and deviation 0.5 (CPAL 2026, UTKFace).
        channels_last: memory layout of the convolutions; on a CPU about a third faster.
        autocast: train in bfloat16 where torch thinks it safe. Measuring stays in float32.
        compile: train through torch.compile. Measuring stays eager, because hooks read it.

    The network takes uint8 images (B, H, W, 3), so that pixels become floats only on the device.

    Example:
        >>> net = ResNet(depth=18).build(n_in=0, n_out=2, seed=0)
        >>> len(net.measured_layers()), net.eval()(torch.zeros(1, 32, 64, 3, dtype=torch.uint8)).shape
        (17, torch.Size([1, 2]))
    """

    takes_images: ClassVar[bool] = True
    depth: int = 18
    pretrained: bool = False
    normalise: str = "imagenet"
    channels_last: bool = True
    autocast: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise UserError(f"model.depth is {self.depth}; choose 18 or 34")
        if self.normalise not in PIXELS:
            raise UserError(f"model.normalise is {self.normalise!r}; choose {' or '.join(PIXELS)}")

    def build(self, n_in: int, n_out: int, seed: int) -> "ResNetNetwork":
        """Make the network, initialised from `seed`; the number of inputs does not matter."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ResNetNetwork(self, n_out)


class ResNetNetwork(nn.Module):
    """A ResNet on uint8 images; the feature is the average-pooled output of its last block, d = 512."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ResNet, n_out: int) -> None:
        super().__init__()
        self.settings = settings
        self.net = _torchvision_resnet(settings)
        self.net.fc = nn.Linear(512, n_out)
        if settings.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean, std = PIXELS[settings.normalise]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        # a plain attribute: as a submodule it would put every parameter into the state twice
        self.__dict__["fast"] = torch.compile(self.net) if settings.compile else self.net

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, 3) uint8 -> (B, n)
        x = x.permute(0, 3, 1, 2)  # already the channels_last layout
        if not self.settings.channels_last:
            x = x.contiguous()
        x = (x.float() / 255 - self.mean) / self.std
        if not self.training:
            return self.net(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.settings.autocast):
            return self.__dict__["fast"](x).float()

    def measured_layers(self) -> dict[str, nn.Module]:
        """Every convolution of the four stages and the last layer, each measured at its input.

        17 for ResNet18, 33 for ResNet34: not the stem, not the 1x1 shortcuts (CPAL 2026).
        """
        return {
            name: module
            for name, module in self.net.named_modules()
            if name == "fc"
            or (name.startswith("layer") and isinstance(module, nn.Conv2d) and "downsample" not in name)
        }


def _torchvision_resnet(settings: ResNet) -> nn.Module:
    # imported here: torchvision takes a second, and most runs have no images
    from nrc.models._torchvision import torchvision

    make = getattr(torchvision.models, f"resnet{settings.depth}")
    if not settings.pretrained:
        return make(weights=None)
    try:
        return make(weights="IMAGENET1K_V1")
    except (URLError, OSError) as error:
        raise UserError(
            f"model.pretrained=true needs torchvision's ResNet{settings.depth} weights, which could not be "
            f"downloaded ({error}); use model.pretrained=false"
        ) from None
