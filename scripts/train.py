"""Train one network, or with -m a sweep, and write the run directories.

python scripts/train.py data=reacher optim.weight_decay=1e-3
python scripts/train.py -m optim.weight_decay=0,1e-5,1e-4,1e-3 seed=0,1,2
"""

import multiprocessing
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a source tree

if __name__ == "__main__":  # before the imports that take seconds
    import _early  # noqa: F401

import _cli
import _compose
import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nrc.errors import UserError
from nrc.training.stopping import Interrupted, become_worker


@hydra.main(version_base="1.3", config_path=_compose.CONF, config_name="train")
def main(cfg: DictConfig) -> None:
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        import _slurm

        with _slurm.requeued():
            train(cfg)
        return
    if HydraConfig.get().mode.name == "MULTIRUN":  # the sweep goes on; Hydra reports the member at the end
        if multiprocessing.current_process().name != "MainProcess":
            become_worker(os.getppid())
        on_its_gpu(cfg.device, HydraConfig.get().job.num)
        train(cfg)
        return
    with _cli.one_line_errors(cfg.debug is True):
        train(cfg)


def on_its_gpu(device: str, number: int) -> None:
    """Spread the members of a sweep over the GPUs: this one is what "cuda" means here from now on."""
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def train(cfg: DictConfig) -> None:
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        settings = _compose.run_settings(cfg)
        # imported here so that a wrong setting fails before anything heavy is loaded
        from nrc.training import fit
        from nrc.training.progress import Progress

        with Progress("/".join(directory.parts[-3:])) as bar:
            outcome = fit(
                settings,
                directory,
                device=cfg.device,
                threads=cfg.threads,
                say=bar.say,
                progress=bar,
                tensorboard=cfg.tensorboard,
            )
    finally:
        _cli.remove_empty(directory)
    if outcome == "diverged":
        raise UserError(f"{directory} diverged; use a smaller optim.lr")
    if outcome == "interrupted":
        raise Interrupted(f"{directory} was stopped by a signal; the same command continues it")


if __name__ == "__main__":
    _cli.run_main(main)
