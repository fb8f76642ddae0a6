"""Which runs the figures with one column per data set draw."""

from collections.abc import Iterator

from nrc.runs.read import Run, Runs

LAYERS = {
    "relu": ("prevalence", "ReLU feature layer"),
    "linear": ("prevalence_linear", "linear feature layer"),
}
IMAGES = {
    "images": ("images", "ResNet features, stand-in images"),
    "images_real": ("images", "ResNet features, real images"),
}
KINDS = LAYERS | IMAGES
EXPERIMENTS = ["prevalence", "prevalence_linear", "images"]


def sets(runs: Runs, kind: str) -> dict[str, list[Run]]:
    """Data set -> runs of one kind of figure; stand-ins and real images never share a figure."""
    found = runs.of(KINDS[kind][0])
    if kind not in IMAGES:
        return found
    return {d: these for d, these in found.items() if (these[0].kind == "stand-in") == (kind == "images")}


def headlines(runs: Runs) -> Iterator[tuple[str, str, dict[str, list[Run]]]]:
    """Kind, its words and data set -> headline runs, for every kind that has any."""
    for kind, (experiment, words) in KINDS.items():
        found = {d: main for d in sets(runs, kind) if (main := runs.headline(experiment, d))}
        if found:
            yield kind, words, found


def targets(run: Run) -> int:
    """Number of targets; 2 when that was not saved."""
    return len(run.snapshots.get("sigma", [0, 0]))
