"""Training: settings, the tau clock, the loop and one run from start to finish."""

from nrc.training.clock import Clock
from nrc.training.run import fit
from nrc.training.settings import Measure, Optim, Protocol, RunSettings

__all__ = ["Clock", "Measure", "Optim", "Protocol", "RunSettings", "fit"]
