"""The one exception type that users are meant to read."""


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
