"""What theory predicts, in closed form, to hold against what is measured: the papers' and our own."""

from nrc.theory import deep_linear, nonnegative, ufm

__all__ = ["deep_linear", "nonnegative", "ufm"]
