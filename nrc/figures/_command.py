"""The command that makes the runs of a figure, as their own records have it."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from nrc.runs.read import Run

# where the copies lie and what only the stand-ins have
UNSAID = ("cache", "resident", "rendered", "render_seed")
BY_RECIPE = ("size", "scale_targets")  # what a recipe sets is said even where it is the default of the class
OFTEN_SET = (  # of runs on one's own files
    ("optim", "lr"),
    ("optim", "batch_size"),
    ("protocol", "tau"),
    ("protocol", "epochs"),
    ("model", "depth"),
    ("measure", "evenly"),
    ("measure", "samples"),
)
PLAIN = re.compile(r"[A-Za-z_./-][\w./-]*")
GROUPS = {"Sgemm": "sgemm", "UTKFace": "utkface"}
OWN_NAMES = ("Mujoco", "LowRank")  # kinds of data that are called what their file in conf/data is


def command(experiment: str, runs: Sequence[Run]) -> str:
    """The sweep that makes these runs of one data set.

    Of the package's own data and stand-ins the experiment's file says it all. What was read from elsewhere needs
    its place and settings, and may need another rate, decay, length or measuring: these are given as they were.

    Args:
        experiment: file of conf/experiment.
        runs: as in `config.yaml` and `run.json`; without a config.yaml the data are known by name alone.
    """
    data, given = runs[0].config.get("data", {}), runs[0].config.get("given", {})
    group = _group(data, runs[0].data)
    chosen = [f"experiment={experiment}", f"data={group}"]
    if data.get("path") or data.get("source", "embedded") != "embedded":
        chosen += [*_data(data, given, group), *_training(runs)]
    protocols = {run.protocol for run in runs}
    if len(protocols) == 1:  # else the experiment itself goes through them
        chosen.append(f"protocol={protocols.pop()}")
    return shlex.join(["python", "scripts/train.py", "-m", *chosen])


def _group(data: dict[str, Any], name: str) -> str:
    """The file of conf/data."""
    if not data:
        return name
    kind = data["kind"]
    if kind == "Carla":
        return {"speed": "carla_1d", "speed,steer": "carla_2d"}.get(",".join(data["targets"]), "carla")
    if kind in OWN_NAMES:
        return data["name"]
    # a table's own kind, e.g. real, stands where others have that of their class
    return GROUPS.get(kind, "table")


def _data(data: dict[str, Any], given: dict[str, Any], group: str) -> list[str]:
    implied = {"name": group} | ({"targets": data["targets"]} if group in ("carla_1d", "carla_2d") else {})
    own = [
        key
        for key in data
        if (key in BY_RECIPE or key in given)
        and key not in UNSAID
        and not (key in implied and data[key] == implied[key])
    ]
    return [f"data.{key}={value(data[key])}" for key in own]


def _training(runs: Sequence[Run]) -> list[str]:
    decays = sorted({run.weight_decay for run in runs}, reverse=True)
    found = [f"optim.weight_decay={','.join(f'{decay:g}' for decay in decays)}"]
    for group, key in OFTEN_SET:
        values = {run.settings[group].get(key) for run in runs} - {None}
        if len(values) == 1:
            found.append(f"{group}.{key}={value(values.pop())}")
    return found


def value(given: Any) -> str:
    """A setting as Hydra reads it back, whatever characters it has.

    Example:
        >>> value([44, 100]), value(None), value("a b.tar"), value("faces.tar")
        ('[44,100]', 'null', "'a b.tar'", 'faces.tar')
    """
    if isinstance(given, list | tuple):
        return f"[{','.join(map(value, given))}]"
    if not isinstance(given, str):
        return {None: "null", True: "true", False: "false"}.get(given, repr(given))
    if PLAIN.fullmatch(given) and given.lower() not in ("null", "true", "false", "nan", "inf"):
        return given
    return "'" + given.replace("\\", "\\\\").replace("'", "\\'") + "'"
