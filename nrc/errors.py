"""The one exception type that users are meant to read, and other errors in one line."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


class UserError(Exception):
    """A mistake in the input: one line saying what was given, what was expected and what to do.

    The scripts print it without a traceback and exit with status 2.

    Example:
        >>> raise UserError("optim.weight_decay is -1; it must be >= 0: write optim.weight_decay=0 for none")
        Traceback (most recent call last):
        ...
        nrc.errors.UserError: optim.weight_decay is -1; it must be >= 0: write optim.weight_decay=0 for none
    """

    def __str__(self) -> str:
        # names of files and columns that it quotes may hold line ends
        return " ".join(super().__str__().splitlines())


def in_one_line(error: BaseException) -> str:
    """The gist of an error in one line, with the remedy where the error itself does not name it.

    Example:
        >>> in_one_line(MemoryError("Unable to allocate 1 TiB"))
        'not enough memory (Unable to allocate 1 TiB); ask for fewer rows or a smaller network'
    """
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return f"not enough memory ({text[:200] or 'none is left'}); ask for fewer rows or a smaller network"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the room on the disk"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU is exhausted; torch, and the system's loader, say it in words."""
    words = ("allocate memory", "out of memory", "not enough memory", "failed to map segment", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError | ImportError) and any(w in str(error) for w in words)
    )


def check_choices(group: str, settings: Any) -> None:
    """Refuse a value that is none of the choices of its `typing.Literal` field.

    Args:
        group: what the settings are of: a config group, e.g. "optim", or a data set.
        settings: a dataclass; its annotations are the one place where the choices stand.

    Raises:
        UserError: such a value, with the choices.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = [str(choice) for choice in get_args(hint)]
            words = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
            raise UserError(f"{group}.{name} is {value!r}; choose {words}")
