"""Why ReLU features collapse or do not: the mean and the scale of the targets, and whether biases are decayed."""

from collections.abc import Iterator
from typing import Any

from nrc.criteria import geometric_mean
from nrc.figures import curves, style
from nrc.figures.curves import Drawing
from nrc.figures.registry import figure
from nrc.runs.read import Run, Runs

Arm = tuple[str, bool]  # feature activation, whether biases are decayed
ARMS: dict[Arm, tuple[str, dict[str, Any]]] = {
    ("relu", True): ("ReLU, biases decayed", {"color": style.C0, "ls": "-", "marker": "o"}),
    ("relu", False): ("ReLU, biases not decayed", {"color": style.C1, "ls": "--", "marker": "s"}),
    ("none", True): ("linear, biases decayed", {"color": style.C2, "ls": ":", "marker": "^"}),
    ("none", False): ("linear, biases not decayed", {"color": style.GREY, "ls": "-.", "marker": "v"}),
}
TO_ONE_SIDE = 2.5  # deviations; at least 98 % of the embedded targets moved so far from 0 lie on one side
PREDICTED = {"color": "black", "ls": "-", "lw": 0.8}


def arm(run: Run) -> Arm:
    """Feature activation and whether biases were decayed."""
    return str(run.settings["model"]["feature_activation"]), bool(run.settings["optim"]["decay_biases"])


def to_one_side(run: Run) -> bool:
    """Whether the train targets lie to one side of 0, but for few rows: outliers keep it from ever being exact."""
    return bool(run.info["data"]["one_sided"]) or mean_of(run) > TO_ONE_SIDE


def mean_of(run: Run) -> float:
    """Mean of the train targets in deviations."""
    return float(run.info["data"]["mean_in_deviations"])


def scale_of(run: Run) -> float:
    """Factor on the centred targets."""
    return float(run.variant.get("target_scale", 1.0))


@figure(
    "cone",
    reads=["cone"],
    caption="NRC1 at the end of training against the mean of the targets, which are otherwise the same. Filled markers: "
    "the mean is more than 2.5 deviations from 0, at least 98 % of the train targets on one side. Crosses: a target direction is dead. Thin line: the convex model of "
    "one non-negative layer, biases decayed. "
    "Right: centred targets of Swimmer scaled down, at a smaller weight decay.",
)
def cone(runs: Runs) -> Iterator[Drawing]:
    """NRC1 at the end against the mean and the scale of the targets, biases decayed or not."""
    found = {data: these for data, these in _by_set(runs).items() if these}
    scaled = [run for these in found.values() for run in these if _is_scaled(run)]
    moved = {data: [run for run in these if not _is_scaled(run)] for data, these in found.items()}
    moved = {data: these for data, these in moved.items() if len({mean_of(run) for run in these}) > 1}
    if not moved:
        return
    columns = len(moved) + bool(scaled)
    drawing = Drawing("cone", "Why ReLU features collapse", 1, columns, 3.3 if columns == 1 else 2.8, "mean")
    for (data, these), axes in zip(moved.items(), drawing.grid[0], strict=False):
        axes.set_yscale("log")
        for key, (label, look) in ARMS.items():
            of_arm = [run for run in these if arm(run) == key]
            _line(drawing, axes, of_arm, mean_of, {"data": data, "series": label}, look)
        told = [run for run in these if arm(run) == ("relu", True) and run.info["data"].get("predicted")]
        _predicted(drawing, axes, told, mean_of, data)
        curves.log_axis(axes, top=1.0)
        axes.set_title(style.column_title(data, these))
        axes.set_xlabel("mean of the targets\n(length, in deviations)")
        drawing.runs += these
    if scaled:
        axes = drawing.grid[0, -1]
        axes.set_yscale("log")
        label, look = ARMS["relu", True]
        _line(
            drawing, axes, scaled, scale_of, {"data": scaled[0].dataset, "series": f"{label}, scaled"}, look
        )
        _predicted(
            drawing, axes, [r for r in scaled if r.info["data"].get("predicted")], scale_of, scaled[0].dataset
        )
        curves.log_axis(axes, top=1.0)
        axes.set_title(f"{style.pretty(scaled[0].dataset)}, mean 0\nλ = {scaled[0].weight_decay:g}")
        axes.set_xlabel("scale of the targets")
        drawing.runs += scaled
    drawing.grid[0, 0].set_ylabel("NRC1 at the end")
    present = {arm(run) for run in drawing.runs}
    keys = [style.key(label, **look) for key, (label, look) in ARMS.items() if key in present]
    keys += [style.key("a target direction is dead", color="black", marker="x", ls="")]
    drawing.legend([*keys, style.key("convex model", **PREDICTED)], min(columns, 3))
    yield drawing


def _by_set(runs: Runs) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for these in runs.of("cone").values():
        for run in these:
            found.setdefault(run.dataset, []).append(run)
    return found


def _is_scaled(run: Run) -> bool:
    """Whether the run belongs to the panel of scales: those are not at the headline weight decay."""
    return run.role == "sweep"


def _line(drawing: Drawing, axes: Any, found: list[Run], x: Any, labels: dict[str, Any], look: Any) -> None:
    """NRC1 at the end, geometric mean over seeds; a marker is filled where the train targets are one-sided."""
    places: dict[float, list[Run]] = {}
    for run in found:
        places.setdefault(round(x(run), 3), []).append(run)
    if not places:
        return
    at = sorted(places)
    values = [geometric_mean([run.last("nrc1") for run in places[place]]) for place in at]
    common = {**labels, "metric": "nrc1", "weight_decay": found[0].weight_decay}
    drawing.line(axes, at, values, common, **{**look, "marker": "", "lw": 1.2})
    for place, value in zip(at, values, strict=True):
        face = look["color"] if to_one_side(places[place][0]) else "white"
        dead = any(run.lost_direction for run in places[place])
        axes.plot(
            [place],
            [value],
            color=look["color"],
            marker="x" if dead else look["marker"],
            ms=4,
            mfc=face,
            ls="",
        )
    sides = [float(to_one_side(places[place][0])) for place in at]
    drawing.note(at, sides, **{**common, "metric": "targets one-sided"})


def _predicted(drawing: Drawing, axes: Any, found: list[Run], x: Any, data: str) -> None:
    places = {round(x(run), 3): float(run.info["data"]["predicted"]["nrc1"]) for run in found}
    if places:
        at = sorted(places)
        labels = {"data": data, "metric": "nrc1", "series": "convex model"}
        drawing.line(axes, at, [places[place] for place in at], labels, **PREDICTED)
