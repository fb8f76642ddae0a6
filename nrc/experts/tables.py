"""The tables of data/README.md, written from the committed choices so that they cannot differ from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nrc.experts.choose import CORRELATION
from nrc.experts.settings import DATA, EXPERTS, Expert
from nrc.runs.files import between

README = DATA / "README.md"
NAME = re.compile(r"(?P<set>\w+)_seed(?P<seed>\d+)_(?P<steps>\d+)")
CHOSEN = "| set | return | eigenvalues of Sigma | correlations | mean of the targets | policy |"
SEEDS = (
    "| set | seed | steps | checkpoints tried | noise x | return | eigenvalues of Sigma | correlations "
    "| length of the mean (deviations) | distance |"
)


def write_tables(readme: Path = README) -> None:
    """Replace what stands between `<!-- chosen -->`, `<!-- seeds -->` and their ends in this file."""
    text = readme.read_text(encoding="utf-8")
    for name, table in (("chosen", chosen_table()), ("seeds", seeds_table())):
        text = between(text, name, table)
    readme.write_text(text, encoding="utf-8")


def chosen_table() -> str:
    """Measured / published statistics of the train rows of every set."""
    lines = [_row(*_chosen(expert)) for expert in EXPERTS.values()]
    return "\n".join([CHOSEN, _rule(CHOSEN), *lines])


def seeds_table() -> str:
    """Every training seed at its nearest checkpoint and episodes."""
    lines = [line for expert in EXPERTS.values() for line in _of_seeds(expert, _record(expert)["candidates"])]
    return "\n".join([SEEDS, _rule(SEEDS), *lines])


def _record(expert: Expert) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(expert.choice_file.read_text(encoding="utf-8"))
    return found


def _chosen(expert: Expert) -> Iterable[str]:
    found, p = _record(expert)["chosen"], expert.published
    s, (centre, width) = found["statistics"], p.returns
    mean = (
        f"length {s['mean']:.3g} / {p.mean[0]:g} ± {p.mean[1]:g}"
        if p.mean
        else f"{s['deviations']:.2g} deviations / below {p.mean_below:g}"
    )
    either = " (or its mirror)" if len(p.correlations) == 1 else ""
    return (
        expert.name, f"{s['returns']:.3g} / {centre:g} ± {width:g}",
        f"{_list(s['eigenvalues'])} / {_list(p.eigenvalues)}, within {100 * (p.ratio - 1):.0f} %",
        f"{_list(s['correlations'])} / {_list(p.correlations)} ± {CORRELATION:g}{either}", mean,
        f"{found['policy']}, episodes from environment seed {found['first_seed']} on, noise x {found['noise']:g}",
    )  # fmt: skip


def _of_seeds(expert: Expert, candidates: list[dict[str, Any]]) -> Iterable[str]:
    seeds: dict[str, list[dict[str, Any]]] = {}
    for one in candidates:
        told = NAME.fullmatch(one["policy"])
        seeds.setdefault(told["seed"] if told else one["policy"], []).append(one)
    for seed, found in seeds.items():
        best = min(found, key=lambda c: c["distance"])
        told, s = NAME.fullmatch(best["policy"]), best["statistics"]
        steps = str(int(told["steps"])) if told else "–"
        yield _row(
            expert.name, seed, steps, str(len({c["policy"] for c in found})), f"{best['noise']:g}",
            f"{s['returns']:.3g}", _list(s["eigenvalues"]), _list(s["correlations"]),
            f"{s['mean']:.2f} ({s['deviations']:.2f})", f"{best['distance']:.2f}",
        )  # fmt: skip


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(header: str) -> str:
    return "|" + "---|" * (header.count("|") - 1)
