"""Images in a RegressionData: uint8 as they are, described and hashed as images."""

from typing import Any

import numpy as np
import pytest

from nrc.data import RegressionData
from nrc.errors import UserError


def images(**changes: Any) -> RegressionData:
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {
        "name": "toy", "x_train": rng.integers(0, 256, (9, 4, 6, 3), np.uint8), "y_train": rng.normal(size=(9, 2)),
        "x_test": rng.integers(0, 256, (3, 4, 6, 3), np.uint8), "y_test": rng.normal(size=(3, 2)),
        "input_names": ("image",), "target_names": ("speed", "steer"), "kind": "synthetic",
    }  # fmt: skip
    return RegressionData(**(parts | changes))


def test_images_stay_the_very_array_they_were() -> None:
    x = np.zeros((9, 4, 6, 3), np.uint8)
    data = images(x_train=x)
    assert data.x_train is x and data.is_image and data.y_train.dtype == np.float32
    assert data.sizes == {"train": 9, "test": 3, "inputs": 72, "targets": 2}


def test_a_read_only_memory_map_is_taken_as_it_is(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", images().x_train)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = images(x_train=mapped)
    assert data.x_train is mapped and data.sha256 == images().sha256


def test_describe_says_the_image_size_and_the_notes() -> None:
    text = images(provenance={"notes": ["2 of 12 names malformed"]}).describe()
    assert "images 4 x 6 -> 2 targets" in text and text.endswith("2 of 12 names malformed")


def test_sha256_sees_a_pixel_a_target_and_trusts_the_given_sha256_of_the_pixels() -> None:
    first, x, y = images(), images().x_test.copy(), images().y_train.copy()
    x[2, 3, 5, 2] ^= 1
    y[0, 0] += 1
    assert len({first.sha256, images(x_test=x).sha256, images(y_train=y).sha256}) == 3
    given = {"pixels_sha256": "a" * 64}
    assert images(provenance=given).sha256 == images(provenance=given, x_test=x).sha256 != first.sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": np.zeros((9, 4, 6, 3), np.float32)},
        {"x_train": np.zeros((9, 4, 6, 1), np.uint8)},
        {"x_train": np.zeros((9, 5, 6, 3), np.uint8)},
        {"input_names": ("pixels",)},
        {"x_test": np.zeros((3, 4))},
    ],
)
def test_other_images_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"image|shape"):
        images(**changes)
