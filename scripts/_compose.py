"""From a composed Hydra config to plain settings, and errors in one line. Hydra lives in scripts/ alone."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nrc.errors import UserError
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings
from nrc.training.pool import Member

MULTIRUN = "hydra.mode=MULTIRUN"
CONF = str(Path(__file__).resolve().parents[1] / "conf")
KNOWN = {
    "data",
    "recipe",
    "model",
    "protocol",
    "optim",
    "measure",
    "name",
    "seed",
    "device",
    "threads",
    "debug",
}

# 1e-3 and 0.001 are one weight decay, so they must be one directory
OmegaConf.register_new_resolver("g", lambda value: format(float(value), "g"), replace=True)

OmegaConf.register_new_resolver(
    "data_name",
    lambda *, _root_: typed(target_class(_root_.data, "data"), _root_.data, "data").data_name,
    replace=True,
)


def typed(cls: type, node: DictConfig, name: str) -> Any:
    """Make the settings dataclass `cls` from a config group, with its types and ranges checked."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    values.pop("_target_", None)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except OmegaConfBaseException as error:
        key = f"{name}.{error.full_key}" if error.full_key else name
        given = values.get(str(error.full_key))
        raise UserError(f"{key} is {given!r}: {str(error).splitlines()[0]}") from None


def target_class(node: DictConfig, name: str) -> type:
    """The class a group's `_target_` names; only this package's own classes are accepted."""
    target = str(node.get("_target_"))
    module, _, cls = target.rpartition(".")
    if not target.startswith("nrc."):
        raise UserError(f"{name}._target_ is {target!r}; it must be one of this package's classes (nrc....)")
    try:
        return getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError):
        raise UserError(f"{name}._target_ is {target!r}; there is no such class") from None


def run_settings(cfg: DictConfig) -> RunSettings:
    """Check the whole config and turn it into plain settings; nothing is loaded or computed."""
    unknown = sorted(str(key) for key in cfg if key not in KNOWN)
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(KNOWN))}")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed is {cfg.seed!r}; it must be a whole number >= 0")
    if not isinstance(cfg.threads, int) or cfg.threads < 1:
        raise UserError(f"threads is {cfg.threads!r}; it must be a whole number >= 1")
    return RunSettings(
        data=typed(target_class(cfg.data, "data"), cfg.data, "data"),
        model=typed(target_class(cfg.model, "model"), cfg.model, "model"),
        optim=typed(Optim, cfg.optim, "optim"),
        protocol=typed(Protocol, with_length(cfg), "protocol"),
        measure=typed(Measure, cfg.measure, "measure"),
        seed=cfg.seed,
    )


def with_length(cfg: DictConfig) -> DictConfig:
    """The protocol group, its length taken from the recipe unless tau or epochs are given."""
    protocol = cfg.protocol.copy()
    recipe = cfg.recipe.get(protocol.name)
    if protocol.tau is None and protocol.epochs is None and recipe is not None:
        protocol.tau, protocol.epochs = recipe.get("tau"), recipe.get("epochs")
    return protocol


def cost(settings: RunSettings) -> float:
    """Rough floating-point operations of a run; only the order of a sweep's runs depends on it."""
    optim, model, data = settings.optim, settings.model, settings.data
    rows = getattr(data, "train_size", None) or getattr(data, "n", 1000)
    steps = Clock.of(optim, settings.protocol, rows).total_steps
    weights = getattr(model, "num_layers", 4) * getattr(model, "width", 256) ** 2
    if getattr(model, "takes_images", False):
        weights = 1e7 * model.depth  # type: ignore[attr-defined]
    return steps * (6.0 * optim.batch_size * weights + 1e8)


def headlines(experiments: list[tuple[str, str]], protocol: str) -> dict[str, dict[str, float]]:
    """experiment -> data -> the weight decay whose run the headline figure shows."""
    found: dict[str, dict[str, float]] = {}
    with initialize_config_dir(CONF, version_base="1.3"):
        for experiment, data in experiments:
            cfg = compose("train", [f"experiment={experiment}", f"data={data}", f"protocol={protocol}"])
            found.setdefault(cfg.name.removesuffix(f"-{protocol}"), {})[cfg.data.name] = float(
                cfg.optim.weight_decay
            )
    return found


def one_line(error: Exception) -> str:
    """The gist of an error in one line."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        keep = [
            line for line in lines if not line.startswith(("Available options", "full_key", "object_type"))
        ]
        return " ".join(keep[:2]).removeprefix("UserError raised while resolving interpolation: ")
    return " ".join(str(error).split())


def sweep_members(
    experiment: str, data: str, protocol: str, outputs: Path, extra: Sequence[str] = ()
) -> list[Member]:
    """The runs that `train.py -m experiment=... data=... protocol=...` would make, in the same directories."""
    overrides = [f"experiment={experiment}", f"data={data}", f"protocol={protocol}", *extra]
    with initialize_config_dir(CONF, version_base="1.3"):
        base = compose("train", [*overrides, MULTIRUN], return_hydra_config=True)
        # the sweep as Hydra's own sweeper expands it; what the sweep sets wins over the choices above
        sweep = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(sweep)
        members = []
        for chosen in BasicSweeper.split_arguments(parsed, None)[0]:
            groups = [c for c in chosen if "." not in c.split("=")[0] and c.split("=")[0] != "seed"]
            # composing takes a tenth of a second, so it is done again only when a whole group changes
            cfg = (
                compose("train", [*overrides, *groups, MULTIRUN], return_hydra_config=True)
                if groups
                else base.copy()
            )
            for key, value in (c.split("=") for c in chosen if c not in groups):
                OmegaConf.update(cfg, key, parser.parse_override(f"{key}={value}").value())
            place = outputs / Path(cfg.hydra.sweep.dir).relative_to("outputs") / cfg.hydra.sweep.subdir
            with open_dict(cfg):
                del cfg["hydra"]
            settings = run_settings(cfg)
            members.append(Member(settings, place, cost(settings)))
    return members


@contextmanager
def one_line_errors(debug: bool = False) -> Iterator[None]:
    """Within the block a user's mistake ends the program in one line and exit status 2."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def run_main(main: Callable[[], Any]) -> None:
    """Call a Hydra entry point with readable errors."""
    # with this set, Hydra hands its exceptions to us instead of printing several lines itself
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with one_line_errors(debug=any(a.lower() == "debug=true" for a in sys.argv)):
        main()
