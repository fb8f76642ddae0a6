"""Which policy, noise and episodes become an embedded set: a rule on the published statistics of the data alone.

The rule (written before any network was trained on these data; no collapse metric enters it):

1. Candidates are all policy files in a folder: every training seed, and every checkpoint that was kept. Each is rolled
   out for BLOCKS blocks of consecutive episode seeds: block k starts at seed k times the episodes of the train rows and
   goes on until they are full (a policy that falls needs more episodes). The seeds after it give the test rows.
2. The distance of a candidate from the published data is the root of the sum of squares of its deviations, each in
   units of the tolerance in `nrc.experts.settings`: the mean return of the block; log of each ordered eigenvalue of
   Sigma; each correlation; the length of the mean (where only a bound is known: what exceeds it).
3. The least distance wins, of equals the first.
4. The exploration noise is left as trained, unless the smallest eigenvalue of the winner is more than its tolerance
   too small. Then the noise of ALL candidates is multiplied, each by the factor (bisection, to 1 %) at which its
   smallest eigenvalue over the block is the published one, and steps 2 and 3 are done again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from nrc.errors import UserError
from nrc.experts.policy import Policy
from nrc.experts.rollout import Episode, first_transitions, run_until
from nrc.experts.settings import Expert, Published
from nrc.worker import cores, follow_parent

BLOCKS = 5  # of episodes that each policy is tried on
CORRELATION = 0.15  # one tolerance


@dataclass(frozen=True)
class Statistics:
    """What is compared: of the train rows, and the mean return of their episodes.

    Attributes:
        returns: mean return.
        eigenvalues: of Sigma (divided by the number of rows), ascending.
        correlations: of the pairs (0, 1), (0, 2), (1, 2), ... of targets.
        mean: length of the mean of the targets.
        deviations: that length over the root mean variance.
    """

    returns: float
    eigenvalues: tuple[float, ...]
    correlations: tuple[float, ...]
    mean: float
    deviations: float

    @classmethod
    def of(cls, episodes: Sequence[Episode], rows: int) -> Statistics:
        """Of the first `rows` transitions of these episodes; the return is of the whole episodes."""
        actions = np.concatenate([e.actions for e in first_transitions(episodes, rows)]).astype(np.float64)
        sigma = np.cov(actions.T, bias=True)
        scale = np.sqrt(np.diag(sigma))
        pairs = itertools.combinations(range(len(sigma)), 2)
        length = float(np.linalg.norm(actions.mean(0)))
        return cls(
            float(np.mean([e.total for e in episodes])),
            tuple(np.linalg.eigvalsh(sigma).tolist()),
            tuple(float(sigma[i, j] / (scale[i] * scale[j])) for i, j in pairs),
            length,
            length / math.sqrt(np.trace(sigma) / len(sigma)),
        )


def distance(found: Statistics, published: Published) -> float:
    """Root of the sum of squared deviations in tolerances; 0 is the published data's own statistics.

    With two targets the correlation is compared without its sign: the mirrored swimmer has the other one.
    """
    centre, width = published.returns
    terms = [(found.returns - centre) / width]
    terms += [
        math.log(have / want) / math.log(published.ratio)
        for have, want in zip(found.eigenvalues, published.eigenvalues, strict=True)
    ]
    for have, want in zip(found.correlations, published.correlations, strict=True):
        gap = abs(have) - abs(want) if len(found.correlations) == 1 else have - want
        terms.append(gap / CORRELATION)
    if published.mean is not None:
        terms.append((found.mean - published.mean[0]) / published.mean[1])
    if published.mean_below is not None:
        terms.append(max(0.0, found.deviations - published.mean_below) / published.mean_below)
    return math.sqrt(sum(term**2 for term in terms))


@dataclass(frozen=True)
class Candidate:
    """One policy on one block of episodes."""

    policy: str
    first_seed: int
    noise: float
    statistics: Statistics
    distance: float


def candidates(
    expert: Expert, files: Sequence[Path], *, raise_noise: bool,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Candidate]:  # fmt: skip
    """Every policy file on every block of episodes, nearest first.

    Args:
        raise_noise: step 4 of the rule: multiply the noise until the smallest eigenvalue is the published one.

    Raises:
        UserError: no files, or an episode that ends too early in all of them.
    """
    jobs = [
        (expert, file, block * expert.train_episodes, raise_noise)
        for file in sorted(files)
        for block in range(BLOCKS)
    ]
    found: list[Candidate] = []
    with ProcessPoolExecutor(min(len(jobs), cores()), get_context("spawn"), follow_parent) as pool:
        for job, one in zip(jobs, pool.map(_tried, jobs), strict=True):
            where = f"{job[1].stem}, episodes from {job[2]}"
            if isinstance(one, Candidate):
                found.append(one)
                progress(f"{where}: distance {one.distance:.2f}")
            else:
                progress(f"{where}: {one}")
    if not found:
        raise UserError(f"none of {len(files)} policy files gives {expert.train_transitions} transitions")
    return sorted(found, key=lambda c: c.distance)


def _tried(job: tuple[Expert, Path, int, bool]) -> Candidate | str:
    """One policy on one block of episodes, or why it cannot be: an expert that falls leaves too few rows."""
    expert, file, first, raise_noise = job
    try:
        noise = noise_factor(expert, Policy.load(file), first) if raise_noise else 1.0
        episodes = run_until(expert.env_id, Policy.load(file, noise), first, expert.train_transitions)
        statistics = Statistics.of(episodes, expert.train_transitions)
    except UserError as error:
        return str(error)
    return Candidate(file.stem, first, noise, statistics, distance(statistics, expert.published))


def noise_factor(expert: Expert, policy: Policy, first: int) -> float:
    """The factor >= 1 on the noise at which the smallest eigenvalue of Sigma is the published one, to 1 %."""
    wanted = expert.published.eigenvalues[0]

    def smallest(factor: float) -> float:
        loud = policy.with_noise(factor)
        episodes = run_until(expert.env_id, loud, first, expert.train_transitions)
        return Statistics.of(episodes, expert.train_transitions).eigenvalues[0]

    low, high = 1.0, 2.0
    if smallest(low) >= wanted:
        return low
    while smallest(high) < wanted:
        low, high = high, 2 * high
        if high > 1e3:
            raise UserError(f"{expert.name}: no noise brings the smallest eigenvalue to {wanted:g}")
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if smallest(middle) < wanted else (low, middle)
    return float(f"{math.sqrt(low * high):.3g}")


def choose(
    expert: Expert, files: Sequence[Path], progress: Callable[[str], None] = lambda line: None
) -> list[Candidate]:
    """All candidates by the rule above, the chosen one first."""
    found = candidates(expert, files, raise_noise=False, progress=progress)
    least = expert.published.eigenvalues[0] / expert.published.ratio
    if found[0].statistics.eigenvalues[0] >= least:
        return found
    return candidates(expert, files, raise_noise=True, progress=progress)
