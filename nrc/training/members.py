"""The members of a sweep, and which of them can be trained as one program."""

from dataclasses import dataclass, replace
from pathlib import Path

from nrc.models import MLP
from nrc.training.settings import RunSettings


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        settings: what to run.
        directory: where.
        cost: its time in any unit, for the order and the progress.
        threads: CPU threads, as for `fit`; a stack has one.
        tensorboard: as for `fit`; a member that wants the curves is not stacked.
        resident: as for `fit`.
        rank: those of a smaller rank run first.
    """

    settings: RunSettings
    directory: Path
    cost: float = 1.0
    threads: int = 1
    tensorboard: bool = False
    resident: str = "auto"
    rank: int = 0


def stackable(settings: RunSettings) -> bool:
    """Whether the stacked step covers this run: an MLP without BatchNorm, weight decay on all parameters."""
    model = settings.model
    return type(model) is MLP and model.norm == "none" and settings.optim.penalty == "all"


def stacks(members: list[Member]) -> tuple[list[list[Member]], list[Member]]:
    """Members that differ in weight decay and seed alone, together; and those that train separately.

    A stackable member without a companion is a stack of one: on a GPU it, too, gains from the CUDA graph.

    Example:
        >>> from nrc.data import LowRank
        >>> from nrc.training import Measure, Optim, Protocol
        >>> def member(place, model, **optim):
        ...     settings = RunSettings(LowRank(), model, Optim(**optim), Protocol(tau=1.0), Measure())
        ...     return Member(settings, Path(place))
        >>> together, alone = stacks([
        ...     member("a", MLP()), member("b", MLP(), weight_decay=1e-3),
        ...     member("c", MLP(), lr=0.1), member("d", MLP(norm="batch")),
        ... ])
        >>> [[m.directory.name for m in stack] for stack in together], [m.directory.name for m in alone]
        ([['a', 'b'], ['c']], ['d'])
    """
    together: dict[str, list[Member]] = {}
    for member in members:
        if stackable(member.settings) and not member.tensorboard:
            optim = replace(member.settings.optim, weight_decay=0.0)
            together.setdefault(repr(replace(member.settings, optim=optim, seed=0)), []).append(member)
    return list(together.values()), [m for m in members if m.tensorboard or not stackable(m.settings)]
