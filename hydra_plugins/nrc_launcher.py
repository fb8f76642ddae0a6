"""Hydra finds its launchers in this namespace; what they do is in nrc.cli.launcher (and nrc.cli.slurm).

Imported by every program that uses Hydra beside this package, so nothing heavy is imported here.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Local(Launcher):
    """`hydra/launcher=local`, the default of `train.py -m`: a process for each core or GPU of this machine.

    Args:
        n_jobs: processes at a time; null: one for each core that may be used, or for each GPU.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from nrc.cli import launcher

        return launcher.launch(self, job_overrides, initial_job_idx)


class Basic(Local):
    """`hydra/launcher=basic`: one run after the other."""

    def __init__(self) -> None:
        super().__init__(n_jobs=1)


if TYPE_CHECKING or find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class Slurm(SlurmLauncher):
        """`hydra/launcher=slurm`: Hydra's own for submitit, with members checked before and a wait that ends."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from nrc.cli import launcher, slurm

            launcher.members(self, job_overrides, initial_job_idx)
            with slurm.launching():
                return super().launch(job_overrides, initial_job_idx)
