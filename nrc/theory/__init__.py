"""What the theory of the papers predicts, in closed form, to hold against what is measured."""

from nrc.theory import ufm

__all__ = ["ufm"]
