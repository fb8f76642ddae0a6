"""Driving frames: the layouts, the split by blocks, the cache, and what is said when files are wrong."""

import csv
import errno
import io
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from nrc.data import Carla, RegressionData
from nrc.data.images import cache as _cache
from nrc.data.images.drives import split_blocks
from nrc.errors import UserError

Given = Any


def frames(n: int, seed: int = 0, shape: tuple[int, int] = (8, 12)) -> Given:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape, 3), np.uint8)


def corl_targets(n: int, seed: int = 0) -> Given:
    return np.random.default_rng(seed).normal(size=(n, 28)).astype(np.float32)


def write_hdf5(
    file: Path, n: int = 20, seed: int = 0, shape: tuple[int, int] = (8, 12)
) -> tuple[Given, Given]:
    rgb, targets = frames(n, seed, shape), corl_targets(n, seed)
    with h5py.File(file, "w") as archive:
        archive["rgb"], archive["targets"] = rgb, targets
    return rgb, targets


def write_images(folder: Path, header: list[str] | None, rows: list[list[Any]], n: int = 20) -> Given:
    (folder / "IMG").mkdir(parents=True)
    pixels = frames(n)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "IMG" / f"{i}.png")
    with (folder / "log.csv").open("w", newline="") as out:
        csv.writer(out).writerows(([header] if header else []) + rows)
    return pixels


def load(tmp_path: Path, path: Any, **changes: Any) -> RegressionData:
    path = [str(p) for p in path] if isinstance(path, list) else str(path)
    return Carla(path=path, cache=str(tmp_path / "cache"), **changes).load()


def together(data: RegressionData) -> tuple[Given, Given]:
    """Pixels and targets of both parts, sorted by the first target, so that the split does not matter."""
    y = np.concatenate([data.y_train, data.y_test])
    order = np.argsort(y[:, 0])
    return np.concatenate([data.x_train, data.x_test])[order], y[order]


def test_hdf5_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    source = tmp_path / "SeqTrain"
    source.mkdir()
    parts = [write_hdf5(source / f"data_{i:05d}.h5", 20, i) for i in (0, 1, 2)]
    data = load(tmp_path, source)
    rgb, targets = (np.concatenate(side) for side in zip(*parts, strict=True))
    train, test = split_blocks("", 60, 0.2, 42)
    np.testing.assert_array_equal(data.x_train, rgb[train])
    np.testing.assert_array_equal(data.x_test, rgb[test])
    np.testing.assert_array_equal(data.y_train, targets[train][:, [10, 0]])
    assert (
        data.target_names == ("speed", "steer") and data.kind == "real" and data.name == "carla_2d-SeqTrain"
    )
    assert isinstance(data.x_train, np.memmap) and not data.x_train.flags.writeable


def test_the_targets_decide_the_name() -> None:
    """Runs on speed alone and on both must not meet in one directory."""
    assert Carla().data_name == "carla_2d" and Carla(targets=["speed"]).data_name == "carla_1d"
    assert Carla(targets=["steer"]).data_name == "carla_1d_steer"
    assert Carla(path="a/SeqTrain", targets=["speed"]).data_name == "carla_1d-SeqTrain"
    assert Carla(name="mine", targets=["speed"]).data_name == "mine"
    with pytest.raises(UserError, match=r"data\.name"):
        Carla(name="../elsewhere")


def test_limit_takes_the_first_frames_and_reads_no_further_file(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    rgb, _ = write_hdf5(tmp_path / "s" / "a.h5")
    (tmp_path / "s" / "b.h5").write_bytes(b"not HDF5")
    data = load(tmp_path, tmp_path / "s", limit=15)
    train, _ = split_blocks("", 15, 0.2, 42)
    assert data.sizes["train"] + data.sizes["test"] == 15
    np.testing.assert_array_equal(data.x_train, rgb[train])


def test_a_test_path_is_all_test(tmp_path: Path) -> None:
    rgb, _ = write_hdf5(tmp_path / "train.h5")
    held, held_targets = write_hdf5(tmp_path / "val.h5", 10, seed=1)
    data = load(tmp_path, tmp_path / "train.h5", test_path=str(tmp_path / "val.h5"), targets=["steer"])
    np.testing.assert_array_equal(data.x_train, rgb)
    np.testing.assert_array_equal(data.x_test, held)
    np.testing.assert_array_equal(data.y_test, held_targets[:, [0]])


@pytest.mark.parametrize("columns", [28, 2])
def test_npy_dumps_by_name(tmp_path: Path, columns: int) -> None:
    rgb, targets = frames(20), corl_targets(20)
    np.save(tmp_path / "frames.npy", rgb)
    np.save(tmp_path / "y.npy", targets if columns == 28 else targets[:, [10, 0]])
    pair = [tmp_path / "frames.npy", tmp_path / "y.npy"]
    data = load(tmp_path, pair)
    assert load(tmp_path, ",".join(map(str, pair))).sha256 == data.sha256
    x, y = together(data)
    order = np.argsort(targets[:, 10])
    np.testing.assert_array_equal(x, rgb[order])
    np.testing.assert_array_equal(y, targets[order][:, [10, 0]])


UDACITY = [[rf"C:\drive\IMG\{i}.png", "left.png", "right.png", i / 20, 0.5, 0, 20 - i] for i in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "options"),
    [
        (["image_name", "steer", "speed"], [[f"IMG/{i}.png", i / 20, 20 - i] for i in range(20)], {}),
        (["center", "left", "right", "steering", "throttle", "reverse", "speed"], UDACITY, {}),
        (None, UDACITY, {}),
        (
            ["frame_file", "wheel", "kmh"], [[f"{i}.png", i / 20, 20 - i] for i in range(20)],
            {"image_column": "frame_file", "steer_column": "wheel", "speed_column": "kmh"},
        ),
    ],
)  # fmt: skip
def test_images_with_a_csv_in_a_folder_or_a_tar(
    tmp_path: Path, header: list[str] | None, rows: list[list[Any]], options: dict[str, str]
) -> None:
    pixels = write_images(tmp_path / "drive", header, rows)
    data = load(tmp_path, tmp_path / "drive", **options)
    x, y = together(data)
    np.testing.assert_array_equal(x, pixels[::-1])
    np.testing.assert_allclose(y, [[20 - i, i / 20] for i in range(20)][::-1], rtol=1e-6)
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(tmp_path / f"drive.{ending}", mode) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "drive", "drive")
        packed = load(tmp_path, tmp_path / f"drive.{ending}", **options)
        assert packed.provenance["pixels_sha256"] == data.provenance["pixels_sha256"]
        assert packed.sha256 == data.sha256


def test_targets_can_be_scaled_to_the_unit_interval_of_the_train_frames(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5")
    raw = load(tmp_path, tmp_path / "a.h5")
    data = load(tmp_path, tmp_path / "a.h5", scale_targets="minmax")
    assert data.y_train.min() == 0 and data.y_train.max() == 1
    back = data.y_test * np.ptp(raw.y_train, axis=0) + raw.y_train.min(axis=0)
    np.testing.assert_allclose(back, raw.y_test, rtol=1e-5, atol=1e-6)


def test_resizing_averages_and_does_not_sample(tmp_path: Path) -> None:
    checks = np.zeros((20, 16, 24, 3), np.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 200
    np.save(tmp_path / "x.npy", checks)
    np.save(tmp_path / "y.npy", corl_targets(20))
    data = load(tmp_path, [tmp_path / "x.npy", tmp_path / "y.npy"], size=[8, 12])
    assert data.x_train.shape[1:] == (8, 12, 3)
    np.testing.assert_allclose(data.x_train, 100, atol=15)


def test_blocks_are_whole_and_disjoint() -> None:
    train, test = split_blocks("", 2_050, 0.2, seed=1)
    assert sorted([*train, *test]) == list(range(2_050))
    assert len({row // 200 for row in test} & {row // 200 for row in train}) == 0
    assert len({row // 200 for row in test}) == 2
    assert split_blocks("", 2_050, 0.2, seed=2)[1].tolist() != test.tolist()


def test_the_second_start_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(tmp_path / "a.h5")
    first = load(tmp_path, tmp_path / "a.h5")
    monkeypatch.setattr(_cache, "_make", lambda *_: pytest.fail("decoded again"))
    again = load(tmp_path, tmp_path / "a.h5", targets=["speed"], name="carla_1d")  # shares the pixels
    assert again.provenance["pixels_sha256"] == first.provenance["pixels_sha256"]


def test_a_changed_source_or_a_damaged_cache_is_decoded_again(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5")
    first = load(tmp_path, tmp_path / "a.h5")
    rgb, _ = write_hdf5(tmp_path / "a.h5", seed=5)
    second = load(tmp_path, tmp_path / "a.h5")
    assert second.sha256 != first.sha256
    (pixels,) = (tmp_path / "cache").glob("*/pixels.npy")
    shutil.copyfile(pixels, tmp_path / "copy")
    pixels.write_bytes((tmp_path / "copy").read_bytes()[:-1])
    third = load(tmp_path, tmp_path / "a.h5")
    assert third.sha256 == second.sha256 and {tuple(x.ravel()) for x in third.x_train} <= {
        tuple(x.ravel()) for x in rgb
    }


def test_bytes_changed_in_place_are_noticed(tmp_path: Path) -> None:
    """Equal sizes, and for the source the old time of modification: what a copying tool leaves."""
    write_hdf5(tmp_path / "a.h5")
    first = load(tmp_path, tmp_path / "a.h5")
    (folder,) = (tmp_path / "cache").glob("carla-*/")
    for name in ("pixels.npy", "targets.npy"):
        whole = (folder / name).read_bytes()
        for place in (0, -1):  # the header, a value
            damaged = bytearray(whole)
            damaged[place] ^= 1
            (folder / name).write_bytes(damaged)
            again = load(tmp_path, tmp_path / "a.h5")
            assert again.sha256 == first.sha256 and (folder / name).read_bytes() == whole, (name, place)
    times = (tmp_path / "a.h5").stat()
    with h5py.File(tmp_path / "a.h5", "r+") as archive:
        archive["rgb"][0, 0, 0, 0] ^= 1
    os.utime(tmp_path / "a.h5", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(tmp_path, tmp_path / "a.h5").sha256 != first.sha256


def test_a_copied_cache_is_checked_once_and_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(tmp_path / "a.h5")
    first = load(tmp_path, tmp_path / "a.h5")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    shutil.rmtree(tmp_path / "cache")
    shutil.move(tmp_path / "copy", tmp_path / "cache")
    monkeypatch.setattr(_cache, "_make", lambda *_: pytest.fail("decoded again"))
    assert load(tmp_path, tmp_path / "a.h5").sha256 == first.sha256
    monkeypatch.setattr(_cache, "pixels_sha256", lambda *_: pytest.fail("checked again"))
    assert load(tmp_path, tmp_path / "a.h5").sha256 == first.sha256


@pytest.mark.parametrize("layout", ["hdf5", "images"])
def test_files_that_are_not_read_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Not even those of the cache itself, where it lies in the folder of the frames."""
    source = tmp_path / "drive"
    if layout == "images":
        write_images(source, ["image", "steer", "speed"], [[f"{i}.png", i / 20, i] for i in range(20)])
    else:
        source.mkdir()
        write_hdf5(source / "a.h5")
    cache = source / "outputs" / "cache"

    def again() -> RegressionData:
        return Carla(path=str(source), cache=str(cache)).load()

    first = again()
    (cache / "utkface-drawn").mkdir()
    Image.fromarray(frames(1)[0]).save(cache / "utkface-drawn" / "0.png")
    (cache / "other.csv").write_text("a,b\n1,2\n")
    for name in (".DS_Store", "notes.txt"):
        (source / name).write_text("not a frame")
    monkeypatch.setattr(_cache, "_make", lambda *_: pytest.fail("decoded again"))
    assert again().sha256 == first.sha256


def test_an_interrupted_cache_is_never_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hdf5(tmp_path / "a.h5")
    with monkeypatch.context() as patch:
        patch.setattr(_cache.np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, tmp_path / "a.h5")
    assert not list((tmp_path / "cache").glob("*/*"))
    assert load(tmp_path, tmp_path / "a.h5").sizes["train"] == 16


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    peaks = []
    for count in (2, 8):
        source = tmp_path / f"{count}"
        source.mkdir()
        for i in range(count):
            write_hdf5(source / f"{i}.h5", 200, i, (44, 100))
        tracemalloc.start()
        data = load(tmp_path, source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert data.sizes["train"] + data.sizes["test"] == 200 * count
    whole = 8 * 200 * 44 * 100 * 3
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 0.7 * whole


def cut_in_half(folder: Path) -> str:
    write_hdf5(folder / "a.h5", 200)
    data = (folder / "a.h5").read_bytes()
    (folder / "a.h5").write_bytes(data[: len(data) // 2])
    return r"a\.h5 cannot be read as HDF5 .*get or write it again"


def nan_in_hdf5(folder: Path) -> str:
    write_hdf5(folder / "a.h5")
    with h5py.File(folder / "a.h5", "r+") as archive:
        archive["targets"][3, 10] = np.nan
    return r"a\.h5: the targets of frame 4 are NaN"


def no_targets(folder: Path) -> str:
    with h5py.File(folder / "a.h5", "w") as archive:
        archive["rgb"] = frames(3)
    return r"a\.h5 holds rgb but no 'targets'"


def two_sizes(folder: Path) -> str:
    write_hdf5(folder / "a.h5")
    write_hdf5(folder / "b.h5", shape=(4, 4))
    return r"b\.h5 has frames of 4 x 4, the files before it 8 x 12"


def empty(folder: Path) -> str:
    return "is an empty folder"


def only_inner_folders(folder: Path) -> str:
    (folder / "SeqTrain").mkdir()
    write_hdf5(folder / "SeqTrain" / "a.h5")
    return "HDF5 files are in SeqTrain: set data.path"


def image_missing(folder: Path) -> str:
    write_images(folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(22)])
    return r"log\.csv names images that do not exist: 2 files: 20\.png, 21\.png"


def nan_in_csv(folder: Path) -> str:
    write_images(
        folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, "" if i == 6 else i] for i in range(20)]
    )
    return r"log\.csv: data row 7, column 'speed' is '', not a finite number"


def no_speed(folder: Path) -> str:
    write_images(folder, ["image", "steer", "mph"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    return r"has no speed column \(found: steer\); set data\.speed_column"


def no_image_column(folder: Path) -> str:
    write_images(folder, ["photo", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    return r"log\.csv has no column of image names among photo, steer, speed; set data\.image_column"


def short_row(folder: Path) -> str:
    write_images(
        folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(19)] + [["19.png", 1]]
    )
    return r"log\.csv: data row 20 has 2 cells, the header 3"


def two_csv_files(folder: Path) -> str:
    write_images(folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    shutil.copyfile(folder / "log.csv", folder / "copy.csv")
    return r"holds 2 csv files \(copy\.csv, log\.csv\); set data\.csv_file"


def truncated_image(folder: Path) -> str:
    write_images(folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    file = folder / "IMG" / "13.png"
    file.write_bytes(file.read_bytes()[:-40])
    return r"1 file: IMG/13\.png \(.*\) cannot be read"


def two_image_sizes(folder: Path) -> str:
    write_images(folder, ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    Image.fromarray(frames(1, shape=(5, 5))[0]).save(folder / "IMG" / "4.png")
    return r"4\.png is 5 x 5 pixels, the first image 8 x 12; set data\.size"


@pytest.mark.parametrize(
    "damage",
    [
        cut_in_half, nan_in_hdf5, no_targets, two_sizes, empty, only_inner_folders, image_missing, nan_in_csv, no_speed,
        no_image_column, short_row, two_csv_files, truncated_image, two_image_sizes,
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_and_no_cache_is_left(tmp_path: Path, damage: Any) -> None:
    (tmp_path / "source").mkdir()
    if damage.__code__.co_names.count("write_images"):
        (tmp_path / "source").rmdir()
    line = damage(tmp_path / "source")
    with pytest.raises(UserError, match=line) as error:
        load(tmp_path, tmp_path / "source")
    assert "\n" not in str(error.value) and str(tmp_path / "source") in str(error.value)
    assert not list((tmp_path / "cache").glob("*/*"))


def test_too_small_a_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hdf5(tmp_path / "a.h5")
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"a\.h5 need 0\.0 MB in .*cache, which has 0\.0 MB free; set data\.cache"
    ):
        load(tmp_path, tmp_path / "a.h5")


def test_a_disk_that_fills_up_while_the_stand_in_is_drawn_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain writes: a memory map would be killed by a signal. With room the same settings go on."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    settings = Carla(cache=str(tmp_path / "cache"), rendered=20, size=[8, 8])
    with monkeypatch.context() as patch:
        patch.setattr(_cache.os, "fsync", lambda _: (_ for _ in ()).throw(full))
        with pytest.raises(
            UserError, match=r"a drawn stand-in need .* and the disk is full; set data\.cache"
        ):
            settings.load()
    assert not list((tmp_path / "cache").glob("*/*"))
    assert settings.load().sizes["train"] == 16


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/hostname", 3 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("info", "line"),
    [
        (member("../a.png"), "points outside"),
        (member("/a.png"), "points outside"),
        (member("a.png", tarfile.SYMTYPE), "is a link or device"),
        (member("a.png", tarfile.LNKTYPE), "is a link or device"),
        (member("a.png", tarfile.FIFOTYPE), "is a link or device"),
        (member("b.csv"), "holds 'b.csv' twice"),
    ],
)
def test_a_tar_with_links_or_outside_names_is_refused(
    tmp_path: Path, info: tarfile.TarInfo, line: str
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for entry in (member("b.csv"), info):
            archive.addfile(entry, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match=line):
        load(tmp_path, tmp_path / "x.tar")


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_tar_cut_short_is_refused(tmp_path: Path, ending: str, mode: str, keep: float) -> None:
    write_images(tmp_path / "d", ["image", "steer", "speed"], [[f"{i}.png", 0.1 * i, i] for i in range(20)])
    file = tmp_path / f"d.{ending}"
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "d", "d")
        filled = archive.offset
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * (filled if ending == "tar" else len(whole)))])
    with pytest.raises(UserError, match=r"d\.tar.*(cut short|damaged)"):
        load(tmp_path, file)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"targets": ["throttle"]}, r"data\.targets"),
        ({"targets": []}, r"data\.targets"),
        ({"size": 64}, r"expected \[height,width\]"),
        ({"scale_targets": "z"}, r"data\.scale_targets"),
        ({"test_path": "x"}, "needs data.path"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Carla(**changes)
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        Carla(path="nowhere").load()


def test_the_stand_in_shows_its_targets_and_has_the_papers_sigma(tmp_path: Path) -> None:
    data = Carla(cache=str(tmp_path), rendered=480, size=[24, 56]).load()
    assert data.kind == "stand-in" and data.name == "carla_2d" and data.x_train.shape[1:] == (24, 56, 3)
    np.testing.assert_allclose(data.eigenvalues, [201.8, 0.156], rtol=0.3)
    # the mean colours alone tell most of both targets: a network can learn them
    means = [np.c_[x.mean((1, 2)), np.ones(len(x))] for x in (data.x_train, data.x_test)]
    error = means[1] @ np.linalg.lstsq(means[0], data.y_train, rcond=None)[0] - data.y_test
    assert (1 - error.var(0) / data.y_test.var(0) > 0.5).all()
    assert Carla(cache=str(tmp_path), rendered=480, size=[24, 56], targets=["steer"]).load().lambda_min < 1


def test_the_stand_in_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first, again = (Carla(cache=str(tmp_path / place), rendered=20).load() for place in "ab")
    assert first.sha256 == again.sha256
    assert Carla(cache=str(tmp_path), rendered=20, render_seed=1).load().sha256 != first.sha256


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    drive = load(tmp_path, shared_data / "drive" / "drive_2027.tar")
    assert drive.sizes == {"train": 1627, "test": 400, "inputs": 52800, "targets": 2} and drive.kind == "real"
    corl = load(tmp_path, shared_data / "carla" / "data_00000.h5")
    assert corl.x_train.shape == (160, 88, 200, 3) and corl.y_train[:, 0].max() > 8
    session = load(tmp_path, shared_data / "carla" / "session")
    assert session.sizes["train"] == 80
