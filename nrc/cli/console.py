"""What every script does with mistakes: one line on stderr and a non-zero exit status."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from nrc.errors import UserError
from nrc.training.stopping import Interrupted, asked_to_stop, stop_signals

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError, MemoryError, yaml.YAMLError)
GROUPS = ("data", "recipe", "model", "protocol", "optim", "measure")
# the only ones of Hydra's own settings that may be given; others (callbacks, logging, search path) name code to call
HYDRAS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.mode",
    "hydra.verbose",
    "hydra/launcher",
)
LAUNCHERS = "hydra.launcher."  # of these only plain values


def one_line(error: BaseException) -> str:
    """The gist of an error in one line, with what to do where the error itself does not say it."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be parsed; put a value with commas, brackets, =, ~ or quotes in two pairs of "
            "quotes: 'data.path=\"my file (1).csv\"'"
        )
    if "hydra/launcher/submitit" in text:
        return "SLURM needs Hydra's submitit launcher: pip install 'nrc[slurm]'"
    if isinstance(error, MissingConfigException) and error.options:
        return f"there is no {error.missing_cfg_file}; choose one of {', '.join(error.options)}"
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        group = unknown[1].partition(".")[0]
        return f"there is no setting {unknown[1]}; see conf/{group if group in GROUPS else 'train.yaml'}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        lines = [line for line in str(error).splitlines() if line.strip() and "full_key: " not in line]
        return " ".join(lines[0].split()).removeprefix("UserError raised while resolving interpolation: ")
    if isinstance(error, MemoryError):
        return f"not enough memory ({text}); ask for fewer rows or a smaller network"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the room on the disk"
    return text


@contextmanager
def one_line_errors(debug: bool | None = None) -> Iterator[None]:
    """Within the block a user's mistake ends the program in one line and exit status 2, a signal in 130.

    With debug=False an unforeseen error does so too, with where it arose; with None (a script without such a
    setting) or True it keeps its traceback.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"stopped: {error}" if str(error) else "stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except MISTAKES as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug is not False:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"error: unforeseen {type(error).__name__} in {Path(last.filename).name}:{last.lineno}: "
            f"{one_line(error)[:300]}; debug=true shows the traceback",
            file=sys.stderr,
        )
        sys.exit(1)


def run_main(main: Callable[[], Any]) -> None:
    """Call a Hydra entry point with readable errors."""
    # with this set, Hydra hands its exceptions to us instead of printing several lines itself
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = any(a in ("-m", "--multirun", "hydra.mode=MULTIRUN") for a in sys.argv)
    with (
        one_line_errors(debug=any(a.lower() == "debug=true" for a in sys.argv)),
        stop_signals(workers=True) if sweep else nullcontext(),
        _launching() if sweep else nullcontext(),
    ):
        check_arguments(sys.argv[1:])
        if sweep:
            from nrc.cli import config

            config.check_sweep(sys.argv[1:])
        try:
            main()
        except BrokenExecutor:
            if asked_to_stop():
                raise Interrupted("the sweep was stopped; the same command continues it") from None
            raise UserError(
                "a worker process was killed (out of memory?); the same command continues the sweep"
            ) from None


def _launching() -> AbstractContextManager[None]:
    if find_spec("submitit") is None:  # pip install 'nrc[slurm]' brings it
        return nullcontext()
    from nrc.cli import slurm

    return slurm.launching()


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would take: a setting given twice, of which the last would win, and code to be called."""
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        if key in GROUPS and value.lower() in ("", "null", "[]"):
            raise UserError(f"{key} is {value or 'empty'}; name one of the files in conf/{key}")
        if argument.startswith("--e"):  # argparse takes any beginning of --experimental-rerun
            raise UserError(
                f"{argument} would read a pickle, which could run code; give the settings themselves"
            )
        _check_hydras(argument)
    keys = [a.partition("=")[0].lstrip("+~") for a in arguments if "=" in a and not a.startswith("-")]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UserError(f"{twice[0]} is given {keys.count(twice[0])} times; give it once")


def _check_hydras(argument: str) -> None:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return  # an option, or what Hydra itself will refuse
    key, place = override.key_or_group, override.package
    if place is not None:
        raise UserError(f"{argument} would put settings into '{place}'; leave out '@{place}'")
    if re.split("[./]", key)[0] != "hydra" or (key in HYDRAS and "_target_" not in argument):
        return
    if not key.startswith(LAUNCHERS) or "{" in argument or "_target_" in argument:
        raise UserError(
            f"{argument} could call other code; of Hydra's own settings give {', '.join(HYDRAS)} and plain "
            f"values of {LAUNCHERS}*"
        )


def remove_empty(directory: Path) -> None:
    """Remove the directory, which Hydra makes before anything is checked, if nothing was written to it."""
    here = Path.cwd()
    with suppress(OSError):  # the first that is not empty ends it
        for folder in (directory, *directory.parents):
            if folder == here or folder in here.parents:
                break
            folder.rmdir()


class Options(argparse.ArgumentParser):
    """Command-line options whose mistakes end in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help lists the options\n")


def at_least_one(text: str) -> int:
    """A whole number >= 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= 1")
    return number


def existing_folder(folder: Path) -> None:
    """Refuse a folder of runs that is not there."""
    if not folder.is_dir():
        raise UserError(f"--outputs {folder} is no folder; 'make reproduce-figures' fills one with runs")
