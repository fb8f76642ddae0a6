"""Faces: ages from the names, copies on one side of the split, unreadable files by name."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nrc.data import RegressionData, UTKFace
from nrc.data.images.utkface import WELL_FORMED, split_groups
from nrc.errors import UserError

MALFORMED = (  # of the published set
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "39_1_20170116174525125.jpg.chip.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
)


def jpg(seed: int, side: int = 16) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """30 crops of ages 1..30 in a folder."""
    folder = tmp_path / "UTKFace"
    folder.mkdir()
    for age in range(1, 31):
        (folder / f"{age}_0_1_201701010000000{age:02d}.jpg.chip.jpg").write_bytes(jpg(age))
    return folder


def load(path: Path, **changes: Any) -> RegressionData:
    cache = str(path.parent / "cache")
    options: dict[str, Any] = {"path": str(path), "cache": cache, "size": 16} | changes
    return UTKFace(**options).load()


def test_age_is_the_number_before_the_first_underscore(faces: Path) -> None:
    data = load(faces)
    assert sorted([*data.y_train[:, 0], *data.y_test[:, 0]]) == list(range(1, 31))
    assert data.sizes == {"train": 24, "test": 6, "inputs": 768, "targets": 1}
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for image, age in zip(x, y[:, 0], strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(jpg(int(age))))))
    assert data.kind == "real" and data.name == "utkface-UTKFace" and data.provenance["notes"] == []


def test_the_malformed_names_are_kept_and_reported(faces: Path) -> None:
    for number, name in enumerate(MALFORMED):
        (faces / name).write_bytes(jpg(100 + number))
    data = load(faces)
    assert data.sizes["train"] + data.sizes["test"] == 35
    assert "malformed names, kept with the age they give: 5 files: 24_0_1" in data.describe()
    assert not any(map(WELL_FORMED.fullmatch, MALFORMED))


def test_copies_never_straddle_the_split(faces: Path) -> None:
    for age in range(1, 16):
        (faces / f"{age + 40}_1_0_20170102000000000.jpg.chip.jpg").write_bytes(jpg(age))
    for seed in range(20):
        data = load(faces, split_seed=seed)
        train, test = ({image.tobytes() for image in x} for x in (data.x_train, data.x_test))
        assert not train & test and data.sizes["train"] + data.sizes["test"] == 45
    assert "15 files are byte-for-byte copies of others" in data.describe()
    assert "15 of these pictures have names with different ages" in data.describe()


def test_split_groups_takes_whole_groups_of_about_the_asked_size() -> None:
    groups = np.repeat(np.arange(700), np.random.default_rng(0).integers(1, 4, 700))
    train, test = split_groups("", groups, 0.2, seed=3)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == list(range(len(groups)))
    assert 0 <= len(test) - 0.2 * len(groups) < 4


def test_a_tar_reads_like_the_folder(faces: Path) -> None:
    folder = load(faces)
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        file = faces.parent / f"UTKFace.{ending}"
        with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
            archive.add(faces, "UTKFace")
        assert load(file).sha256 == folder.sha256


def test_unreadable_files_stop_the_run_by_name(faces: Path) -> None:
    for age in (3, 7):
        file = next(faces.glob(f"{age}_*"))
        file.write_bytes(file.read_bytes()[:200])
    (faces / "8_0_0_20170101000000099.jpg.chip.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"3 files: 3_.*, 7_.*, 8_.* cannot be read; .*data\.unreadable=skip"):
        load(faces)
    assert not list((faces.parent / "cache").glob("*/*"))
    data = load(faces, unreadable="skip")
    assert data.sizes["train"] + data.sizes["test"] == 28
    assert "unreadable, left out: 3 files: 3_0_1_20170101000000003.jpg.chip.jpg (" in data.describe()
    for age in range(10, 17):
        file = next(faces.glob(f"{age}_*"))
        file.write_bytes(file.read_bytes()[:200])
    data = load(faces, unreadable="skip")
    assert "and 5 more" in data.describe() and len(data.provenance["left_out"]) == 10
    assert all(" (" in line for line in data.provenance["left_out"])


def test_limit_draws_from_all_ages(faces: Path) -> None:
    data = load(faces, limit=10)
    assert data.sizes["train"] + data.sizes["test"] == 10
    assert data.y_train.max() > 15 and data.y_train.min() < 15


def test_sizes(faces: Path) -> None:
    assert load(faces, size=8).x_train.shape[1:] == (8, 8, 3)
    assert load(faces, size=20).x_test.shape[1:] == (20, 20, 3)


@pytest.mark.parametrize("name", ["face.jpg", "0_1_2_3.jpg", "120_0_0_20170101000000000.jpg.chip.jpg"])
def test_a_picture_without_an_age_is_named(faces: Path, name: str) -> None:
    (faces / name).write_bytes(jpg(0))
    with pytest.raises(UserError, match=rf"1 file: {name} without an age of 1 to 116"):
        load(faces)


def test_what_is_not_an_image_is_reported_and_hidden_files_are_not(faces: Path) -> None:
    (faces / "README.txt").write_text("crops")
    (faces / ".DS_Store").write_text("x")
    assert load(faces).provenance["notes"] == ["not images, left out: 1 file: README.txt"]


def test_no_faces_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="is an empty folder"):
        load(tmp_path / "a")
    (tmp_path / "a" / "x.txt").write_text("x")
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path / "a")
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "faces.zip").write_text("x")
    with pytest.raises(UserError, match=r"no \.tar, \.tar\.gz, \.tgz archive; unpack it first"):
        load(tmp_path / "faces.zip")


def test_the_stand_in_has_the_variance_of_the_set(tmp_path: Path) -> None:
    data = UTKFace(cache=str(tmp_path), rendered=400, size=32).load()
    assert data.kind == "stand-in" and data.name == "utkface" and data.provenance["notes"] == []
    assert data.x_train.shape == (320, 32, 32, 3) and 250 < data.lambda_min < 550


def test_the_stand_in_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first, again = (UTKFace(cache=str(tmp_path / place), rendered=10).load() for place in "ab")
    assert first.sha256 == again.sha256
    assert UTKFace(cache=str(tmp_path), rendered=10, render_seed=1).load().sha256 != first.sha256


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    data = load(shared_data / "utkface" / "utkface_5000.tar", cache=str(tmp_path), size=64)
    assert data.sizes["train"] + data.sizes["test"] == 5_000 and data.kind == "real"
    odd, copies = data.provenance["notes"]
    assert all(name in odd for name in MALFORMED) and copies.startswith("31 files are byte-for-byte copies")
    assert 350 < data.lambda_min < 450
