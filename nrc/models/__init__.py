"""Networks that name the layers at which collapse is measured."""

from nrc.models.mlp import MLP, MLPNetwork

__all__ = ["MLP", "MLPNetwork"]
