"""torchvision, also beside a CPU build of torch.

torchvision's wheel from the package index is built against CUDA torch. Beside a CPU build its compiled
operators do not load, and `import torchvision` fails with "operator torchvision::nms does not exist". Models,
transforms and datasets use none of them, so it is enough that the two it registers something for are declared.
The plain import comes first: a declaration would clash with the real operators. `torchvision.ops` and the
decoders of `torchvision.io` stay unavailable.

Example:
    >>> from nrc.models._torchvision import torchvision
    >>> torchvision.models.resnet18(num_classes=2).fc.out_features
    2
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left behind
    _declared = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as this module
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
