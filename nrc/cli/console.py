"""What every command does with its output and with mistakes: one line on stderr and a non-zero exit status."""

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from nrc.errors import UserError, in_one_line, out_of_memory
from nrc.training.stopping import Interrupted, ask_to_stop

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError, MemoryError, yaml.YAMLError)
GROUPS = ("data", "recipe", "model", "protocol", "optim", "measure")
CLOSED = 141  # as a shell counts a program that ended because nobody reads its output


class _Console(logging.Handler):
    """Lines on stdout, above a progress bar if there is one; when nobody reads them, the program shall stop."""

    closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.closed:
            return
        try:
            tqdm.write(self.format(record))
            sys.stdout.flush()
        except OSError:
            _Console.closed = True
            ask_to_stop()

    def format(self, record: logging.LogRecord) -> str:
        return f"warning: {record.getMessage()}" if record.levelno >= logging.WARNING else record.getMessage()


def show_log() -> None:
    """Print what the package logs: the message alone, and warnings as such."""
    logger = logging.getLogger("nrc")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Console()]
    logger.propagate = False


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
    missing = re.search(r"Could not find '(recipe/[^']+)'", text)
    if missing:
        return (
            f"there is no {missing[1]}; name a data set and a protocol, e.g. recipe=swimmer/quick, or recipe=default/quick "
            "for data without a recipe"
        )
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        group = unknown[1].partition(".")[0]
        return f"there is no setting {unknown[1]}; see conf/{group if group in GROUPS else 'train.yaml'}"
    lacking = re.match(r"Interpolation key '([^']+)' not found", text)
    if lacking:
        return (
            f"there is no setting {lacking[1]}, but another one is given by it, as ${{{lacking[1]}}}; name one that is in "
            "conf/, and take none away with ~"
        )
    several = re.match(r"Ambiguous value for argument '(([^=]+)=(.*?))'", text)
    if several:
        return (
            f"{several[1]} gives several values: add -m (--multirun) for a run with each, or write "
            f"'{several[2]}=[{several[3]}]' for one list"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        lines = [line for line in str(error).splitlines() if line.strip() and "full_key: " not in line]
        return " ".join(lines[0].split()).removeprefix("UserError raised while resolving interpolation: ")
    return in_one_line(error)


@contextmanager
def one_line_errors(debug: bool | None = None) -> Iterator[None]:
    """Within the block the log is shown, and a user's mistake ends the program in one line and exit status 2.

    A signal ends it in status 130, and closed output, as by `| head -1`, quietly. With debug=False an unforeseen
    error is one line, too, with where it arose; with None (a script without such a setting) or True it keeps its
    traceback.
    """
    show_log()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_quietly()
    except (Interrupted, KeyboardInterrupt) as error:
        if _Console.closed:
            _leave_quietly()
        _complain(f"stopped: {error}" if str(error) else "stopped; the same command continues", 130)
    except Exception as error:
        mistake = isinstance(error, MISTAKES) or out_of_memory(error)
        if debug or (debug is None and not mistake):
            raise
        if mistake:
            _complain(f"error: {one_line(error)}", 2)
        last = traceback.extract_tb(error.__traceback__)[-1]
        _complain(
            f"error: unforeseen {type(error).__name__} in {Path(last.filename).name}:{last.lineno}: "
            f"{' '.join(str(error).split())[:300]}; debug=true shows the traceback",
            1,
        )


def command(main: Callable[[], None]) -> Callable[[], None]:
    """`main` as a command line: mistakes end in one line."""

    def run() -> None:
        with one_line_errors():
            main()

    return run


def _complain(line: str, status: int) -> NoReturn:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    sys.exit(status)


def _leave_quietly() -> NoReturn:
    # else Python itself complains when it flushes stdout at the end
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(CLOSED)


def run_main(main: Callable[[], Any]) -> None:
    """Call a Hydra entry point with readable errors."""
    # with this set, Hydra hands its exceptions to us instead of printing several lines itself
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with one_line_errors(debug=any(a.lower() == "debug=true" for a in sys.argv)):
        check_arguments(sys.argv[1:])
        main()


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would take: a setting given twice, of which the last would win, and an empty group."""
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        if key in GROUPS and value.lower() in ("", "null", "[]"):
            raise UserError(f"{key} is {value or 'empty'}; name one of the files in conf/{key}")
    keys = [a.partition("=")[0].lstrip("+~") for a in arguments if "=" in a and not a.startswith("-")]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UserError(f"{twice[0]} is given {keys.count(twice[0])} times; give it once")


def remove_empty(directory: Path) -> None:
    """Remove the directory, which Hydra makes before anything is checked, if nothing was written to it."""
    here = Path.cwd()
    with suppress(OSError):  # the first that is not empty ends it
        for folder in (directory, *directory.parents):
            if folder == here or folder in here.parents:
                break
            with suppress(FileNotFoundError):
                if folder.name != "..":
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
