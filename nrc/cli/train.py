"""Train one network, or with -m a sweep, and write the run directories.

python scripts/train.py data=reacher optim.weight_decay=1e-3
python scripts/train.py -m optim.weight_decay=0,1e-5,1e-4,1e-3 seed=0,1,2
python scripts/sweep.py optim.weight_decay=0,1e-3 seed=0,1,2    (the same as train.py -m)

A model or data set of your own is a dataclass that Python can import, with `build(n_in, n_out, seed) -> nn.Module`
or `load() -> nrc.data.RegressionData`:

    PYTHONPATH=. python scripts/train.py model._target_=my_package.MyModel +model.rank=3 data._target_=my_package.MyData

Its fields are settings of the group: those in the group's file (conf/model/mlp.yaml, say) that it has as well, and
others with a plus. Defaults of your own go into a file `model/mine.yaml` below a folder that --config-dir names.
The run records the class and its settings. `nrc.cli.launcher.objective` is what another sweeper minimises
(hydra/sweeper=optuna).
"""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nrc.cli import config, console, launcher
from nrc.errors import UserError
from nrc.training.stopping import Interrupted


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="train")
def main(cfg: DictConfig) -> float:
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        from nrc.cli import slurm

        console.show_log()
        with slurm.requeued():
            return train(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # a launcher of somebody else, which hears of errors
        return train(cfg)
    with console.one_line_errors(cfg.debug is True):
        return train(cfg)


def train(cfg: DictConfig) -> float:
    """One run; its `objective`."""
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
                progress=bar,
                tensorboard=cfg.tensorboard,
            )
    finally:
        # as it was made: with name=../x by way of outputs/
        console.remove_empty(Path.cwd() / HydraConfig.get().run.dir)
        console.remove_empty(directory)
    if outcome == "diverged":
        raise UserError(f"{directory} diverged; use a smaller optim.lr")
    if outcome == "interrupted":
        raise Interrupted(f"{directory} was stopped by a signal; the same command continues it")
    return launcher.objective(directory)


def command() -> None:
    """The command line: mistakes end in one line."""
    launcher.register()
    console.run_main(main)
