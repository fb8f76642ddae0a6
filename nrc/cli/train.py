"""Train one network, or with -m a sweep, and write the run directories.

python scripts/train.py data=reacher optim.weight_decay=1e-3
python scripts/train.py -m optim.weight_decay=0,1e-5,1e-4,1e-3 seed=0,1,2
"""

import multiprocessing
import os
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nrc.cli import config, console
from nrc.errors import UserError
from nrc.training.stopping import Interrupted, become_worker


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="train")
def main(cfg: DictConfig) -> None:
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        from nrc.cli import slurm

        with slurm.requeued():
            train(cfg)
        return
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep goes on; Hydra reports the member at the end
        if multiprocessing.current_process().name != "MainProcess":
            become_worker(os.getppid())
        on_its_gpu(cfg.device, HydraConfig.get().job.num)
        train(cfg)
        return
    with console.one_line_errors(cfg.debug is True):
        train(cfg)


def on_its_gpu(device: str, number: int) -> None:
    """Spread the members of a sweep over the GPUs: this one is what "cuda" means here from now on."""
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def train(cfg: DictConfig) -> None:
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        settings = config.run_settings(cfg, HydraConfig.get().overrides.task)
        # imported here so that a wrong setting fails before anything heavy is loaded
        from nrc.training import fit
        from nrc.training.progress import Progress

        with Progress("/".join(directory.parts[-3:])) as bar:
            outcome = fit(
                settings,
                directory,
                device=cfg.device,
                resident=cfg.resident,
                threads=cfg.threads,
                say=bar.say,
                progress=bar,
                tensorboard=cfg.tensorboard,
            )
    finally:
        console.remove_empty(directory)
    if outcome == "diverged":
        raise UserError(f"{directory} diverged; use a smaller optim.lr")
    if outcome == "interrupted":
        raise Interrupted(f"{directory} was stopped by a signal; the same command continues it")


def command() -> None:
    """The command line: mistakes end in one line."""
    console.run_main(main)


if __name__ == "__main__":
    command()
