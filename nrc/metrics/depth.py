"""Where collapse begins: the first collapsed layer and the depth of collapse, by a stated rule.

CPAL 2026 draws a green line at the "first collapsed layer" without saying how it was found. The rule here:
layer l is collapsed when

    noise                                           <= NOISE_MAX       r directions hold the features
    feature_weight_alignment                        >= ALIGNMENT_MIN   the weight reads those directions
    (linear_mse - mse of the model) / target variance  <= R2_GAP_MAX   an affine map does what the rest does

Noise and alignment are of the training set. So that few rows and many features do not count as collapse, the affine
map is fitted there and judged, as the model is, on held-out rows where those were measured. The first collapsed
layer is the first that passes all three and after which noise and the affine gap stay
within bounds to the output. Alignment is asked of that layer alone: deeper, where a direction of W has
decayed to almost nothing, the published alignments dip as well.
"""

from collections.abc import Mapping, Sequence

NOISE_MAX = 0.05
ALIGNMENT_MIN = 0.9
R2_GAP_MAX = 0.05


def _holds_the_signal(row: Mapping[str, float], model_mse: float, target_variance: float) -> bool:
    # written so that NaN fails
    gap = (row["linear_mse"] - model_mse) / target_variance
    return row["noise"] <= NOISE_MAX and gap <= R2_GAP_MAX


def first_collapsed_layer(
    rows: Sequence[Mapping[str, float]], model_mse: float, target_variance: float
) -> int | None:
    """Number of the first collapsed layer, counted from 1, or None.

    Args:
        rows: one mapping per layer in forward order, with `noise`, `feature_weight_alignment` and
            `linear_mse`; NaN counts as not collapsed.
        model_mse: the model's own MSE on the rows that `linear_mse` is of.
        target_variance: tr(Sigma)/t, the MSE of predicting the mean.

    Example:
        >>> wide = {"noise": 0.6, "feature_weight_alignment": 0.4, "linear_mse": 0.5}
        >>> narrow = {"noise": 0.01, "feature_weight_alignment": 0.97, "linear_mse": 0.1}
        >>> first_collapsed_layer([wide, narrow, narrow], model_mse=0.1, target_variance=1.0)
        2
    """
    good = [_holds_the_signal(row, model_mse, target_variance) for row in rows]
    for i, row in enumerate(rows):
        if all(good[i:]) and row["feature_weight_alignment"] >= ALIGNMENT_MIN:
            return i + 1
    return None


def depth_of_collapse(first: int | None, layers: int) -> int:
    """How many of the layers are collapsed, from the first collapsed one (counted from 1; None: none is) to the output.

    Example:
        >>> depth_of_collapse(4, layers=5), depth_of_collapse(None, layers=5)
        (2, 0)
    """
    return 0 if first is None else layers - first + 1
