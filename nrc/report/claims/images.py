"""Images: ResNet18 on the drawn frames of CARLA 2D, by bounds wide enough for any processor (one seed)."""

from typing import Any

import numpy as np

from nrc.metrics import ALIVE
from nrc.report.registry import UNTESTABLE, Case, Finding, Values, above, below, claim, values, within
from nrc.runs.read import Run

WHERE: dict[str, Any] = {"on": ["images"], "data": ["carla_2d"]}
LAST_LAYERS = ("layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2", "fc")
STRONG = 0.35  # weight decay


def _most(case: Case, metric: str, *layers: str) -> Values:
    """The largest value among these layers; NaN where one is."""
    return case.ends(lambda run: float(np.max([run.last(metric, layer=layer) for layer in layers])))


@claim(
    "images_collapse", title="Images collapse", figure="prevalence", source="NeurIPS 2024, figures 2 and 5", **WHERE,
    says="With weight decay NRC1 and NRC2 fall, both targets are learnt, and only the mean lies outside the plane.",
)  # fmt: skip
def images_collapse(case: Case) -> Finding:
    """NRC1 and NRC2 end below 0.7, the centred NRC1 below 0.03, R2 above 0.7, with both directions alive."""
    return within(
        case,
        [
            below("NRC1", case.ends("nrc1"), 0.7),
            below("NRC2", case.ends("nrc2"), 0.7),
            below("centred NRC1", case.ends("nrc1_centred"), 0.03),
            above("R2", case.ends("r2"), 0.7),
            above("least / largest singular value of W", case.ends("weight_rcond"), ALIVE),
        ],
        beside=case.controls("nrc1"),
    )


@claim(
    "images_decay", title="Images need weight decay", figure="sweep", source="NeurIPS 2024, figure 5", **WHERE,
    says="Without weight decay neither the features nor the centred features of images collapse.",
)  # fmt: skip
def images_decay(case: Case) -> Finding:
    """Without weight decay NRC1 and NRC2 end above 0.75, the centred NRC1 above 0.06 and CKA at fc below 0.3."""

    def cka(run: Run) -> float:
        return run.last("cka", layer="fc")

    return within(
        case,
        [
            above("NRC1", values(case.control, "nrc1"), 0.75),
            above("NRC2", values(case.control, "nrc2"), 0.75),
            above("centred NRC1", values(case.control, "nrc1_centred"), 0.06),
            below("CKA at fc", values(case.control, cka), 0.3),
        ],
        beside={"with weight decay": case.ends("nrc1")},
    )


@claim(
    "images_layers", title="The last layers of images", figure="deep", source="CPAL 2026, figure 1", **WHERE,
    says="The last layers keep the targets' directions alone and align with the targets; the first do not.",
)  # fmt: skip
def images_layers(case: Case) -> Finding:
    """Noise ends below 0.03 in each of the last layers, CKA above 0.7 at fc and below 0.2 in the first layer."""
    return within(
        case,
        [
            below("most noise of the last layers", _most(case, "noise", *LAST_LAYERS), 0.03),
            above("CKA at fc", _most(case, "cka", "fc"), 0.7),
            below("CKA at layer1.0.conv1", _most(case, "cka", "layer1.0.conv1"), 0.2),
        ],
    )


@claim(
    "images_strong", title="Too strong a decay", figure="sweep", source="this project", **WHERE,
    says="A stronger decay kills a target direction or both; which, rounding decides.",
)  # fmt: skip
def images_strong(case: Case) -> Finding:
    """R2 at weight decay 0.35 ends below 0.5."""
    strong = case.groups.get(STRONG, [])
    if not strong:
        return Finding("R2", [], UNTESTABLE, f"there is no run at weight decay {STRONG:g}")
    return within(
        case, [below("R2", values(strong, "r2"), 0.5)], beside={"headline": case.ends("r2")}, runs=strong
    )
