"""Expert rollouts of MuJoCo environments: settings, sources, readers of recorded rollouts, downloads."""

from nrc.data.mujoco.settings import PAPER, Mujoco

__all__ = ["PAPER", "Mujoco"]
