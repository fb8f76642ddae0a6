"""The one exception type that users are meant to read."""

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


def check_choices(group: str, settings: Any) -> None:
    """Refuse a value that is none of the choices of its `typing.Literal` field.

    Args:
        group: name of the config group, e.g. "optim".
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
