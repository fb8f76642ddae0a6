"""From a composed Hydra config to plain settings. Hydra lives in nrc.cli alone."""

import itertools
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nrc.cli.cost import cost
from nrc.errors import UserError
from nrc.places import ROOT
from nrc.training import Measure, Optim, Protocol, RunSettings
from nrc.training.own import calling, where
from nrc.training.placement import check_resident
from nrc.training.pool import Member
from nrc.training.settings import kind_of

MULTIRUN = "hydra.mode=MULTIRUN"
CONF = str(ROOT / "conf")
METHODS = {"data": "load", "model": "build"}  # what the settings of these groups can do
# a class that cannot be found is one line, ours
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)
KNOWN = {
    "experiment",
    "data",
    "recipe",
    "model",
    "protocol",
    "optim",
    "measure",
    "name",
    "seed",
    "device",
    "resident",
    "threads",
    "debug",
    "tensorboard",
    "keep_weights",
}

# 1e-3 and 0.001 are one weight decay, and so are -0 and 0, so they must be one directory
OmegaConf.register_new_resolver("g", lambda value: format(float(value) + 0.0, "g"), replace=True)


def _data_name(*, _root_: DictConfig) -> str:
    """The folder of the runs on a data set, which its class names."""
    settings = group_settings(_root_, "data")
    with calling(settings, "data_name"):
        name = str(getattr(settings, "data_name", "own"))
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(f"{kind_of(settings)}.data_name is {name!r}; it must be the name of one folder")
    return name


OmegaConf.register_new_resolver("data_name", _data_name, replace=True)


# a run stops at tau, or earlier when lambda * tau has reached the budget: what decays has decayed by then
OmegaConf.register_new_resolver(
    "capped_tau",
    lambda tau, weight_decay, budget: (
        tau if budget is None or weight_decay * tau <= budget else budget / weight_decay
    ),
    replace=True,
)


def _slug(key: str, *, _root_: DictConfig) -> str:
    """A setting, or the file chosen for a group, as part of a folder's name."""
    chosen = OmegaConf.select(_root_, "hydra.runtime.choices", default={}).get(key)
    value = OmegaConf.select(_root_, key) if chosen is None else chosen
    return re.sub(r"[^\w.+-]+", "_", str(value)).strip("._") or "_"


OmegaConf.register_new_resolver("slug", _slug, replace=True)


# the length of the recipe, unless the user gives the other kind of length (then `other` is no interpolation)
OmegaConf.register_new_resolver(
    "unless_given",
    lambda other, value, *, _parent_: value if OmegaConf.is_interpolation(_parent_, other) else None,
    replace=True,
)


def typed(cls: type, node: DictConfig, name: str) -> Any:
    """Make the settings dataclass `cls` from a config group, with its types and ranges checked."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    values.pop("_target_", None)
    try:
        plain = OmegaConf.structured(_plain(cls))
    except Exception:
        raise _unusable(cls) from None
    try:
        merged = OmegaConf.merge(plain, values)
        checked = OmegaConf.to_container(merged, throw_on_missing=True)
    except OmegaConfBaseException as error:
        option = re.split(r"[.\[]", str(error.full_key))[0]
        raise UserError(f"{name}.{option} is {values.get(option)!r}: {str(error).splitlines()[0]}") from None
    return cls(**checked)  # type: ignore[arg-type]


def _unusable(cls: type) -> UserError:
    """What is wrong with a class of settings: a field whose type no setting can have."""
    name = f"{cls.__module__}.{cls.__name__}"
    try:
        hints = get_type_hints(cls)
    except Exception as error:  # imported for the type checker alone, say
        return UserError(f"{name}: the types of its fields cannot be read ({type(error).__name__}: {error})")
    for part in _parts(cls):
        try:
            OmegaConf.structured(make_dataclass("Alone", [part], kw_only=True))
        except Exception as error:
            hint = hints[part[0]]
            told = hint.__name__ if type(hint) is type else str(hint)
            return UserError(
                f"{name}.{part[0]} has the type {told}: {str(error).splitlines()[0].rstrip(' :')}; settings are int, float, "
                "bool, str, lists and dicts of these, each also | None, or Any"
            )
    return UserError(f"{name} cannot be read as settings")


@lru_cache
def _plain(cls: type) -> type:
    """The dataclass as OmegaConf 2.3 takes it: a Literal is a string to it, whose choices the class itself checks."""
    return make_dataclass(cls.__name__, _parts(cls), kw_only=True)


def _parts(cls: type) -> list[tuple[str, Any, Any]]:
    kinds = get_type_hints(cls)
    plain = {name: str if get_origin(kind) is Literal else kind for name, kind in kinds.items()}
    parts: list[tuple[str, Any, Any]] = []
    for f in fields(cls):
        made: Any = (
            field(default=f.default)
            if f.default_factory is MISSING
            else field(default_factory=f.default_factory)
        )
        parts.append((f.name, plain[f.name], made))
    return parts


def group_settings(cfg: DictConfig, group: str) -> Any:
    """The settings of the data or model group, of the class that its `_target_` names: of this package or not.

    A class from elsewhere takes of the group's file the settings that it has.
    """
    target, method = str(cfg[group].get("_target_") or ""), METHODS[group]
    if not target:
        raise UserError(
            f"{group}._target_ is missing; name a class, as my_package.MyClass, or a file of conf/{group}"
        )
    try:
        found = get_class(target)
    except Exception as error:
        raise UserError(f"{group}._target_ is {target!r}, {_why_not(target, error)}") from None
    if not is_dataclass(found) or not callable(getattr(found, method, None)):
        raise UserError(f"{group}._target_ is {target!r}; it must be a dataclass with a method {method}")
    node = cfg[group].copy()
    if not found.__module__.startswith("nrc."):
        known = {field.name for field in fields(found)}
        with open_dict(node):
            for key in set(node) - known - {"_target_"}:
                del node[key]
    return typed(found, node, group)


def _why_not(target: str, error: Exception) -> str:
    """Why a class cannot be imported: its module is not found, is wrong itself, or has no such class."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    parts, why = target.split("."), " ".join(str(error).split())
    name = getattr(cause, "name", None)
    if isinstance(cause, ModuleNotFoundError) and name == parts[0]:
        return f"which cannot be imported (there is no module {name!r}); is its folder on PYTHONPATH?"
    missing = isinstance(cause, ModuleNotFoundError | AttributeError) and name in (
        *parts,
        *(".".join(parts[:k]) for k in range(len(parts) + 1)),
    )
    if missing or cause is error:
        return f"which cannot be imported ({why}); name a class in a module, as my_package.MyClass"
    text = " ".join(str(cause).split())
    return f"which cannot be imported: its code fails with {type(cause).__name__}: {text} ({where(cause)})"


@dataclass(frozen=True)
class Experiment:
    """What a file of conf/experiment says of itself.

    Attributes:
        name: first part of its folder of runs; files may share it, as `sweep` adds runs to `prevalence`.
        datasets: files of conf/data that the reproduction runs it on.
        protocols: the protocols of which the reproduction makes it a part.
        headline: the weight decay that its figures show first.
        figures: names of the figures that its runs are drawn in.
        needs_path: whether it runs only on a file that the user gives as data.path.
    """

    name: str
    datasets: list[str]
    protocols: list[str]
    headline: float
    figures: list[str]
    needs_path: bool = False


def run_settings(cfg: DictConfig, overrides: Iterable[str] = ()) -> RunSettings:
    """Check the whole config and turn it into plain settings; nothing is loaded or computed.

    Args:
        cfg: the composed config.
        overrides: the settings as they were typed, to be recorded.
    """
    unknown = sorted(str(key) for key in cfg if key not in KNOWN)
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(KNOWN))}")
    for name, low, high in (("seed", 0, 2**32 - 1), ("threads", 1, 1024)):
        if type(cfg[name]) is not int or not low <= cfg[name] <= high:
            raise UserError(f"{name} is {cfg[name]!r}; it must be a whole number from {low} to {high}")
    for name in ("debug", "tensorboard", "keep_weights"):
        if type(cfg[name]) is not bool:
            raise UserError(f"{name} is {cfg[name]!r}; it must be true or false")
    check_resident(cfg.resident)
    if cfg.name is None or not str(cfg.name).strip():
        raise UserError(f"name is {cfg.name!r}; give the folder below outputs/ a name")
    if any(part in ("", ".", "..") for part in re.split(r"[/\\]", str(cfg.name))):
        raise UserError(
            f"name is {cfg.name!r}, which is no folder below outputs/; for another place give hydra.run.dir, or "
            "hydra.sweep.dir with -m"
        )
    experiment = None if cfg.experiment is None else typed(Experiment, cfg.experiment, "experiment")
    return RunSettings(
        data=group_settings(cfg, "data"),
        model=group_settings(cfg, "model"),
        optim=typed(Optim, cfg.optim, "optim"),
        protocol=typed(Protocol, cfg.protocol, "protocol"),
        measure=typed(Measure, cfg.measure, "measure"),
        seed=cfg.seed,
        experiment=experiment and experiment.name,
        headline=experiment and experiment.headline,
        overrides=tuple({text.partition("=")[0]: text for text in overrides}.values()),
        keep_weights=cfg.keep_weights,
    )


def member_of(cfg: DictConfig, place: Path, overrides: Iterable[str] = ()) -> Member:
    """The member of a sweep that a whole config describes, with its directory; arguments as for `run_settings`."""
    settings = run_settings(cfg, overrides)
    return Member(settings, place, cost(settings), cfg.threads, cfg.tensorboard, cfg.resident)


@lru_cache(maxsize=256)
def _composed(*overrides: str) -> DictConfig:
    """The config of a sweep, Hydra's own part included, not to be changed. Kept: composing takes a fifth of a second."""
    return compose("train", [*overrides, MULTIRUN], return_hydra_config=True)


def sweep_members(
    experiment: str, data: str, protocol: str, outputs: Path, extra: Sequence[str] = ()
) -> list[Member]:
    """The runs that `train.py -m experiment=... data=... protocol=...` would make, in the same directories."""
    chosen = [f"experiment={experiment}", f"data={data}", f"protocol={protocol}"]
    return members_of(extra, outputs, chosen)


def members_of(
    arguments: Sequence[str], outputs: Path | None = None, chosen: Sequence[str] = ()
) -> list[Member]:
    """The runs that `train.py -m` would make of these arguments, in the same directories, each once.

    Args:
        arguments: settings, of which some may sweep, as in seed=0,1,2. One that the experiment sweeps as well
            replaces its sweep.
        outputs: stands for the folder outputs; None: as configured.
        chosen: more settings, which the experiment's sweep may replace (the tau clock sweeps protocols).
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(list(arguments))
    keys = {override.key_or_group for override in given}
    swept = [text for text, override in zip(arguments, given, strict=True) if override.is_sweep_override()]
    overrides = [*chosen, *(text for text in arguments if text not in swept)]
    with initialize_config_dir(CONF, version_base="1.3"):
        base = _composed(*overrides)
        # the sweep as Hydra's own sweeper expands it; what the sweep sets wins over the choices above
        params = base.hydra.sweeper.params or {}
        sweep = [f"{key}={value}" for key, value in params.items() if key not in keys] + swept
        members: dict[Path, Member] = {}
        for member in itertools.product(*map(_values, parser.parse_overrides(sweep))):
            groups = [c for c in member if "." not in c.split("=")[0] and c.split("=")[0] != "seed"]
            cfg = _composed(*overrides, *groups).copy()
            for key, value in (c.split("=", 1) for c in member if c not in groups):
                OmegaConf.update(cfg, key, parser.parse_override(f"{key}={value}").value())
            root = Path(cfg.hydra.sweep.dir)
            place = (outputs / root.relative_to("outputs") if outputs else root) / cfg.hydra.sweep.subdir
            with open_dict(cfg):
                del cfg["hydra"]
            typed_in = [text for text in (*overrides, *member) if not text.startswith(("hydra.", "hydra/"))]
            made = member_of(cfg, place, typed_in)
            if members.setdefault(place, made).settings != made.settings:
                raise UserError(
                    f"two runs of the sweep share {place}; tell them apart, say by 'hydra.sweep.dir=outputs/rates/${{optim.lr}}'"
                )
    if not members:
        raise UserError(f"{' '.join(swept)} gives no value, so there is no run; give one at least")
    return list(members.values())


def _values(override: Override) -> list[str]:
    """An override for each value that it sweeps."""
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]


def quoted(text: str) -> str:
    """A value as Hydra reads it back, whatever characters it has."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
