"""One way to run many: the members of `train.py -m`, checked together, then run by one pool of processes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from nrc.cli import config, console
from nrc.errors import UserError
from nrc.runs.directory import damaged, read_run
from nrc.training.members import Member
from nrc.training.pool import run_all
from nrc.training.stopping import Interrupted, stop_signals

log = logging.getLogger(__name__)


@dataclass
class BasicConf:
    _target_: str = "hydra_plugins.nrc_launcher.Basic"


def register() -> None:
    """Have hydra/launcher=basic name this package's launcher: Hydra's own runs what it has not checked."""
    Plugins.instance()  # registers Hydra's
    ConfigStore.instance().store(group="hydra/launcher", name="basic", node=BasicConf, provider="nrc")


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """What Hydra asks of a launcher: run these jobs and return how they ended, each with its `objective`.

    Raises:
        UserError: a member is wrong, or two share a directory: before the first one runs.
        Interrupted: by a signal; what was under way is saved.
    """
    found = members(launcher, job_overrides, initial_job_idx)
    outcomes: dict[Path, str] = {}
    with stop_signals():  # asked once, no other device begins
        for device in dict.fromkeys(cfg.device for cfg, _ in found):  # mostly one
            part = list({m.directory: m for cfg, m in found if cfg.device == device}.values())
            workers = launcher.n_jobs if (launcher.n_jobs or 0) > 0 else None  # -1: all, as for joblib
            outcomes |= run_all(part, workers=workers, device=device)
    count = {how: list(outcomes.values()).count(how) for how in ("finished", "skipped", "interrupted")}
    if count["interrupted"]:
        raise Interrupted(
            f"{count['interrupted']} of {len(outcomes)} runs are not done; the same command continues them"
        )
    failed = len(outcomes) - count["finished"] - count["skipped"]
    log.info(f"{count['finished']} runs finished, {count['skipped']} were there already, {failed} failed")
    return [_returned(cfg, member, outcomes[member.directory]) for cfg, member in found]


def members(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> list[tuple[DictConfig, Member]]:
    """Each job's config and what it makes of it: composed and checked, nothing loaded or run.

    Raises:
        UserError: a wrong setting, or two jobs that would write into one directory, with a place for each.
    """
    found: list[tuple[DictConfig, Member]] = []
    places: dict[Path, int] = {}
    jobs = getattr(launcher, "n_jobs", None)  # that of SLURM has none
    try:
        if jobs is not None and (type(jobs) is not int or jobs == 0):
            raise UserError(
                f"hydra.launcher.n_jobs is {jobs!r}; give a number of processes, or null for one per core"
            )
        if not job_overrides:
            raise UserError(f"the sweep has no run: {_without_values(launcher)}")
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            cfg = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.id = cfg.hydra.job.num = number
            HydraConfig.instance().set_config(cfg)  # for ${hydra:...}
            place = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            task = cfg.copy()
            with open_dict(task):
                del task["hydra"]
            member = config.member_of(task, place, _as_typed(launcher.config, cfg))
            first = places.setdefault(place, len(found))
            if first < len(found) and found[first][1].settings != member.settings:
                before = job_overrides[first]
                raise UserError(f"two runs of the sweep share {place}; {_apart(before, overrides)}")
            found.append((cfg, member))
    except Exception:
        # Hydra's sweeper has written its own settings there already
        folder = Path(launcher.config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        console.remove_empty(folder)
        raise
    return found


def _without_values(launcher: Any) -> str:
    """The swept settings that have no value, and what to do."""
    parser = OverridesParser.create(config_loader=launcher.hydra_context.config_loader)
    params = launcher.config.hydra.sweeper.get("params") or {}
    texts = [f"{key}={value}" for key, value in params.items()] + list(launcher.config.hydra.overrides.task)
    swept = [one for one in parser.parse_overrides(texts) if one.is_sweep_override()]
    empty = [one.input_line for one in swept if not list(one.sweep_string_iterator())]
    return f"{', '.join(map(str, empty)) or 'nothing is swept and'} gives no value; give one at least"


def _as_typed(sweep: DictConfig, cfg: DictConfig) -> list[str]:
    """A job's settings in the order of the command line, and then those that the experiment sweeps."""
    typed = [text.partition("=")[0] for text in sweep.hydra.overrides.task]
    given = {text.partition("=")[0]: text for text in cfg.hydra.overrides.task}
    return [given[key] for key in sorted(given, key=lambda k: typed.index(k) if k in typed else len(typed))]


def _apart(before: Sequence[str], after: Sequence[str]) -> str:
    """The advice that gives two jobs a folder each."""
    keys = [b.split("=", 1)[0].lstrip("+") for b, a in zip(before, after, strict=True) if a != b]
    if not keys:
        return "they are the same; give each once"
    apart = "/".join(f"${{slug:{key}}}" for key in keys)
    return f"tell them apart by 'hydra.sweep.dir=outputs/${{name}}/{apart}'"


def _returned(cfg: DictConfig, member: Member, outcome: str) -> JobReturn:
    task = cfg.copy()
    with open_dict(task):
        del task["hydra"]
    done = JobReturn(
        overrides=list(cfg.hydra.overrides.task), cfg=task, hydra_cfg=cfg, working_dir=str(Path.cwd()),
        task_name=cfg.hydra.job.name, status=JobStatus.COMPLETED,
    )  # fmt: skip
    if outcome in ("finished", "skipped"):
        done.return_value = objective(member.directory)
    else:
        wrong = (
            "diverged; use a smaller optim.lr" if outcome == "diverged" else outcome.removeprefix("error: ")
        )
        done.status = JobStatus.FAILED
        done.return_value = UserError(f"{member.directory}: {wrong}")
    return done


def objective(directory: Path) -> float:
    """What a sweeper such as Optuna's minimises: the error on the test set at the end of the run.

    Raises:
        UserError: `metrics.csv` is damaged.
    """
    _, rows = read_run(directory)
    found = rows[(rows.split == "test") & (rows.layer == "model") & (rows.metric == "mse")]
    if not len(found):
        raise damaged(directory, "has no test error")
    return float(found.value.iloc[-1])
