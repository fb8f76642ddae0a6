"""Networks that name the layers at which collapse is measured."""

from nrc.models.mlp import MLP, MLPNetwork
from nrc.models.resnet import ResNet, ResNetNetwork

__all__ = ["MLP", "MLPNetwork", "ResNet", "ResNetNetwork"]
