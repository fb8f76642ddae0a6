"""Non-negative features: which means and sizes of the targets let ReLU features collapse (this project).

Exact collapse of features that cannot be negative needs predictions without bias that lie in a pointed cone, so on one
side of 0 (`nrc.theory.nonnegative`). Each prediction is judged beside the arm of the experiment in which the theory
says the opposite.
"""

from collections.abc import Iterable
from typing import Any

from nrc import criteria
from nrc.criteria import COLLAPSED, geometric_mean, not_yet
from nrc.figures.cone import arm, mean_of, scale_of, to_one_side
from nrc.report.claims.layers import deep_mean
from nrc.report.registry import (
    FAILS,
    HOLDS,
    NOT_YET,
    START,
    UNTESTABLE,
    Case,
    Finding,
    View,
    above,
    beats,
    below,
    claim,
    values,
    within,
    word,
)
from nrc.runs.read import Run, collapsed

RELU, FREE, LINEAR = (
    ("relu", True),
    ("relu", False),
    ("none", True),
)  # features, and whether biases are decayed
TWO_SIDED = 0.25  # deviations: targets whose mean is nearer to 0 lie on both sides of it
STAYS = 20.0  # NRC1 of features that do not collapse falls less than this many times
WHERE: dict[str, Any] = {
    "on": ["cone"], "also": {"cone": "prevalence"}, "by": "dataset", "figure": "cone",
    "source": "this project, docs/theory.md",
}  # fmt: skip


def _pick(case: Case, features: tuple[str, bool], *, headline: bool = True) -> list[Run]:
    """The runs of one arm, at the headline weight decay or at another positive one."""
    role = "headline" if headline else "sweep"
    return [run for run in case.runs if run.role == role and arm(run) == features and _biased(run)]


def _biased(run: Run) -> bool:
    return bool(run.settings["model"].get("bias", True))


def _one_sided(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if to_one_side(run)]


def _centred(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.variant.get("target_mean") == 0]


def _two_sided(runs: Iterable[Run]) -> list[Run]:
    """Centred targets, and those that lie on both sides of 0 as they were recorded."""
    return [run for run in runs if mean_of(run) < TWO_SIDED and not run.info["data"]["one_sided"]]


def _untestable(what: str) -> Finding:
    return Finding("NRC1", [], UNTESTABLE, f"needs finished runs {what}")


def _nrc1(runs: list[Run], **beside: list[Run]) -> dict[str, Any]:
    """The parts that findings about NRC1 share."""
    told = {name.replace("_", " "): values(found, "nrc1") for name, found in beside.items() if found}
    model = [run.info["data"]["predicted"]["nrc1"] for run in runs if run.info["data"].get("predicted")]
    return {
        "quantity": "NRC1", "measured": values(runs, "nrc1"), "bound": COLLAPSED,
        "beside": told | ({"the convex model, biases decayed": model} if model else {}),
        "runs": [*runs, *(run for found in beside.values() for run in found)],
    }  # fmt: skip


def _stays(runs: list[Run]) -> bool:
    return all(run.last("nrc1") * STAYS > run.first("nrc1") for run in runs)


@claim(
    "cone_biases", title="Biases that are not decayed", **WHERE,
    says="With biases that are not decayed one-sided targets lead to no uncentred collapse; centred, the features "
    "collapse all the same.",
)  # fmt: skip
def cone_biases(case: Case) -> Finding:
    """Where ReLU features with decayed biases collapse, NRC1 without that decay falls less than tenfold or ends above
    0.05, and the centred NRC1 ends below 0.05 and at a tenth of its start or less."""
    where = {run.data for run in _pick(case, RELU) if collapsed([run], "nrc1")}
    free = [run for run in _pick(case, FREE) if run.data in where]
    if not free:
        return _untestable("without decay of biases beside collapsed ones with it")
    centred = collapsed(free, "nrc1_centred")
    gone = not any(collapsed([run], "nrc1") for run in free)
    decayed = [run for run in _pick(case, RELU) if run.data in where]
    verdict = FAILS if not gone else (HOLDS if centred else case.word(False))
    view = View("centred", "NRC1 of centred features", values(free, "nrc1_centred"), word(centred))
    return Finding(**_nrc1(free, biases_decayed=decayed), verdict=verdict, why=case.clock, views=[view])


@claim(
    "cone_one_sided", title="One-sided targets", **WHERE,
    says="At the published weight decay ReLU features collapse when the targets lie to one side of 0.",
)  # fmt: skip
def cone_one_sided(case: Case) -> Finding:
    """With targets to one side (mean over 2.5 deviations from 0) every NRC1 and NRC2 falls at least 20-fold, NRC1 to below 0.05, with all
    target directions alive; the null is the same data centred. What still falls is "not yet"."""
    arms = _pick(case, RELU)
    found = _one_sided(arms)
    if not found:
        return _untestable("with one-sided targets")
    fell = all(run.last(m) * STAYS < run.first(m) for run in found for m in ("nrc1", "nrc2"))
    ok = fell and collapsed(found, "nrc1")
    late = not ok and all(criteria.still_falling(run, "nrc1") for run in found)
    verdict = NOT_YET if late else case.word(ok)
    return Finding(**_nrc1(found, centred=_centred(arms)), verdict=verdict, why=case.clock)


@claim(
    "cone_centred", title="Centred or two-sided targets", **WHERE,
    says="ReLU features do not collapse when the targets lie on both sides of 0 at the published weight decay.",
)  # fmt: skip
def cone_centred(case: Case) -> Finding:
    """With two-sided targets NRC1 and NRC2 fall less than 20-fold in every run, after a decay budget of 20; the null, the same
    data made one-sided, collapses."""
    arms = _pick(case, RELU)
    found, other = _two_sided(arms), _one_sided(arms)
    if not found:
        return _untestable("with centred targets")
    parts = _nrc1(found, one_sided=other)
    stays = _stays(found) and all(run.last("nrc2") * STAYS > run.first("nrc2") for run in found)
    if stays and any(not_yet(run.budget) for run in found):
        return Finding(**parts, verdict=UNTESTABLE, why=f"{case.clock}: too small to tell")
    if stays and not collapsed(other, "nrc1"):
        return Finding(**parts, verdict=UNTESTABLE, why="one-sided targets do not collapse either")
    return Finding(**parts, verdict=word(stays), why=case.clock)


@claim(
    "cone_mean", title="What is left is the mean", **WHERE,
    says="Centred targets leave only the mean of the non-negative features outside the plane of the rest.",
)  # fmt: skip
def cone_mean(case: Case) -> Finding:
    """With two-sided targets, at their full size, NRC1 stays above 0.3, the noise ends below 0.05, the centred NRC1 below
    0.1 and the share of the mean above 0.4."""
    found = _two_sided(_pick(case, RELU))
    if not found:
        return _untestable("with centred targets")
    return within(
        case,
        [
            above("NRC1", values(found, "nrc1"), 0.3),
            below("noise", values(found, "noise"), 0.05),
            below("centred NRC1", values(found, "nrc1_centred"), 0.1),
            above("share of the mean", values(found, "mean_share"), 0.4),
        ],
    )


@claim(
    "cone_scale", title="Small targets", **WHERE, data=["swimmer"],
    says="Small centred targets let the bias move out at almost no cost, and ReLU features collapse after all.",
)  # fmt: skip
def cone_scale(case: Case) -> Finding:
    """Of centred targets, NRC1 of the smallest ends at half of that of the largest or less, with a larger offset and all
    target directions alive."""
    arms = _centred(_pick(case, RELU, headline=False))
    scales = sorted({scale_of(run) for run in arms})
    if len(scales) < 2:
        return _untestable("with centred targets of two sizes")
    small, large = ([run for run in arms if scale_of(run) == s] for s in (scales[0], scales[-1]))
    moved = min(values(small, "offset")) > max(values(large, "offset"))
    dead = any(run.lost_direction for run in small)
    ok = moved and not dead and beats(values(small, "nrc1"), values(large, "nrc1"))
    late = not ok and all(criteria.still_falling(run, "nrc1") for run in small)
    parts = _nrc1(small, at_full_size=large) | {"bound": float("nan")}
    parts["beside"] |= {"offset": values(small, "offset"), "offset at full size": values(large, "offset")}
    verdict = NOT_YET if late and not dead else word(ok)
    why = f"budget {small[0].budget:.3g}" + "; a target direction of the small ones is dead" * dead
    return Finding(**parts, verdict=verdict, why=why)


@claim(
    "cone_linear", title="A linear feature layer", **WHERE,
    says="Features that may be negative collapse at any mean of the targets.",
)  # fmt: skip
def cone_linear(case: Case) -> Finding:
    """NRC1 of the linear feature layer collapses at every mean; the null, ReLU features of centred targets, does not."""
    found, relu = _pick(case, LINEAR), _centred(_pick(case, RELU))
    if not _centred(found):
        return _untestable("of a linear feature layer on centred targets")
    ok = collapsed(found, "nrc1")
    why = case.clock
    if ok and relu and collapsed(relu, "nrc1"):
        why += "; ReLU features of centred targets collapse as well"
    return Finding(**_nrc1(found, ReLU_of_centred_targets=relu), verdict=case.word(ok), why=why)


@claim(
    "cone_deep", title="Deep networks without biases", **WHERE | {"on": ["cone_deep"], "also": {}},
    says="Without biases, standardised targets leave noise in the last layers; a mean of the targets brings it down.",
)  # fmt: skip
def cone_deep(case: Case) -> Finding:
    """In networks without biases the noise of the deep layers with a mean of the targets is at most half of that
    without."""
    arms = [run for run in case.runs if not _biased(run) and run.role == "headline"]
    plain = _centred(arms)
    found = [run for run in arms if run not in plain]
    if not plain or not found:
        return _untestable("of networks without biases, with a mean of the targets and without")
    noise, null = ([deep_mean(run, "noise") for run in runs] for runs in (found, plain))
    starts = [run.first("noise") for run in found]
    ok = beats(noise, null)
    return Finding(
        "noise of the deep layers", noise, case.word(ok), case.clock, {"mean 0": null, START: starts}
    )


@claim(
    "depth_free", title="Features and last weight alone penalised", **WHERE | {"on": ["depth"], "also": {}},
    says="A network whose features and last weight are the only penalised parts ends where the convex model says.",
)  # fmt: skip
def depth_free(case: Case) -> Finding:
    """NRC1 ends within a factor of 2 of the convex model's, in the geometric mean over the seeds."""
    found = [run for run in case.main if run.settings["optim"]["penalty"] == "ufm"]
    if not found:
        return _untestable("with the features and the last weight as the only penalised parts")
    parts = _nrc1(found) | {"bound": float("nan")}
    ratio = geometric_mean(values(found, "nrc1")) / found[0].info["data"]["predicted"]["nrc1"]
    parts["beside"] = {
        "the convex model": [run.info["data"]["predicted"]["nrc1"] for run in found],
        START: case.starts("nrc1"),
    }
    return Finding(
        **parts, verdict=word(0.5 <= ratio <= 2), why=f"{ratio:.2g} times the convex model's; {case.clock}"
    )


@claim(
    "depth_layers", title="More layers under weight decay", **WHERE | {"on": ["depth"], "also": {"depth": "prevalence"}},
    says="Each layer more under weight decay takes NRC1 further below that of the convex model.",
)  # fmt: skip
def depth_layers(case: Case) -> Finding:
    """NRC1 of 4 layers ends at half of that of 3 or less, and 3 at half of 2 or less (geometric means over the seeds); the
    null is the convex model of one layer, which is the same for all."""
    decayed = [
        r
        for r in case.runs
        if r.role == "headline" and r.settings["optim"]["penalty"] == "all" and arm(r) == RELU
    ]
    by_depth = {k: [r for r in decayed if r.settings["model"]["num_layers"] == k] for k in (2, 3, 4)}
    if not all(by_depth.values()):
        return _untestable("of 2, 3 and 4 layers")
    ends = {k: geometric_mean(values(found, "nrc1")) for k, found in by_depth.items()}
    ok = bool(ends[4] <= ends[3] / 2 and ends[3] <= ends[2] / 2)
    parts = _nrc1(by_depth[4], three_layers=by_depth[3], two_layers=by_depth[2]) | {"bound": float("nan")}
    return Finding(**parts, verdict=case.word(ok), why=case.clock)
