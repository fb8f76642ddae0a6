"""Loaders on random and on damaged files: a data set or a UserError, no other error, no hang, no huge allocation.

The short profile belongs to `make test`; `make test-slow` searches longer (NRC_FUZZ_SECONDS in all, default 120).
"""

import functools
import gzip
import io
import json
import os
import resource
import shutil
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_files import REPO, ROWS, archive, hdf5, npy, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nrc.data import Carla, Mujoco, RegressionData, Table, UTKFace
from nrc.errors import UserError

Draw = Callable[[Any], Any]
EMBEDDED = REPO / "data" / "minari" / "nrc" / "reacher-expert-v0"
SLOWEST = 10.0  # seconds of computing for one small file
MEGABYTES = 600  # that the process may grow by, libraries included


def episodes() -> bytes:
    """The parquet layout of the JAT data set."""
    rng = np.random.default_rng(0)
    table = {
        "continuous_observations": [rng.normal(size=(11, 11)).tolist() for _ in range(4)],
        "continuous_actions": [rng.normal(size=(11, 2)).tolist() for _ in range(4)],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


def columns() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: ROWS[:, i] for i, name in enumerate("abcuv")}), sink)
    return sink.getvalue().to_pybytes()


def picture(seed: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


DRIVE = {f"IMG/{i}.png": picture(i, "PNG") for i in range(12)} | {
    "log.csv": b"image,steer,speed\n" + b"".join(b"IMG/%d.png,%d.5,%d\n" % (i, i % 5, 40 - i) for i in range(12))
}  # fmt: skip
FACES = {f"{10 + 3 * i}_0_1_201701010000000{i:02d}.jpg.chip.jpg": picture(i) for i in range(12)}


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def drive(place: Path) -> Carla:
    shutil.rmtree(place.parent / "cache", ignore_errors=True)
    return Carla(path=str(place), cache=str(place.parent / "cache"))


def faces(place: Path) -> UTKFace:
    shutil.rmtree(place.parent / "cache", ignore_errors=True)
    return UTKFace(path=str(place), size=8, cache=str(place.parent / "cache"))


def dumps(place: Path) -> Carla:
    (place.parent / "targets.npy").write_bytes(npy(np.arange(24.0).reshape(12, 2)))
    shutil.rmtree(place.parent / "cache", ignore_errors=True)
    return Carla(path=[str(place), str(place.parent / "targets.npy")], cache=str(place.parent / "cache"))


def table(place: Path) -> Table:
    return Table(str(place), targets=2)


def rollouts(source: str, place: Path) -> Mujoco:
    return Mujoco("other", source=source, train_size=8, test_size=2, path=str(place))


# file name -> a valid file, and the settings that read it
VALID: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "t.csv": (text().encode(), table),
    "t.csv.gz": (gzip.compress(text().encode(), mtime=0), table),
    "t.npy": (npy(ROWS), table),
    "t.npz": (archive(x=ROWS[:, :3], y=ROWS[:, 3:]), table),
    "t.h5": (hdf5(x=ROWS[:, :3], y=ROWS[:, 3:]), table),
    "t.parquet": (columns(), table),
    "jat.parquet": (episodes(), functools.partial(rollouts, "jat")),
    "d4rl.hdf5": (hdf5(observations=ROWS[:, :3], actions=ROWS[:, 3:]), functools.partial(rollouts, "d4rl")),
    "corl.h5": (hdf5(rgb=np.zeros((12, 8, 12, 3), np.uint8), targets=np.arange(336.0).reshape(12, 28)), drive),
    "frames.npy": (npy(np.zeros((12, 8, 12, 3), np.uint8)), dumps),
    "drive.tar": (packed(DRIVE), drive),
    "faces.tar": (packed(FACES), faces),
    "faces.tar.gz": (gzip.compress(packed(FACES), mtime=0), faces),
}  # fmt: skip


def load(make: Callable[[], Any]) -> None:
    """Load what the settings name; only success and a UserError in one line may come out, and soon."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and pandas' opinions on odd numbers
        try:
            data = make().load()
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert isinstance(data, RegressionData) and np.isfinite(data.x_train).all()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - began < SLOWEST
    assert grown < MEGABYTES, f"{grown:.0f} MB more"


def damaged(content: bytes, draw: Draw) -> bytes:
    """Some bytes overwritten, then perhaps a piece cut out, doubled or put elsewhere."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data) - 1))
        piece = draw(
            st.one_of(
                st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" * 4])
            )
        )
        data[place : place + len(piece)] = piece
    start, stop = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    kind = draw(st.sampled_from(["whole", "whole", "end", "middle", "doubled"]))
    if kind == "end":
        return bytes(data[:stop])
    if kind == "middle":
        return bytes(data[:start] + data[stop:])
    return bytes(data[:stop] + data[start:]) if kind == "doubled" else bytes(data)


cells = st.one_of(
    st.integers().map(str), st.floats().map(repr), st.text(max_size=6), st.sampled_from(["", "nan", "-inf", "1e999", '"', "a,b", "1_0", "0x1"])
)  # fmt: skip


@st.composite
def sheets(draw: Draw) -> bytes:
    """Random tables as text: any cells, any separator, any line ends, ragged or not, any encoding."""
    separator, end = (
        draw(st.sampled_from([",", ";", "\t", " ", "|"])),
        draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    width = draw(st.integers(1, 5))
    ragged = draw(st.booleans())
    row = st.lists(cells, min_size=0 if ragged else width, max_size=width + ragged)
    numbers = st.lists(st.floats(-9, 9).map(repr), min_size=width, max_size=width)
    rows = draw(st.lists(row, max_size=3)) + draw(st.lists(numbers, max_size=12))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return end.join(separator.join(r) for r in rows).encode(encoding, errors="replace")


def numeric_arrays() -> st.SearchStrategy[np.ndarray]:
    from hypothesis.extra import numpy as hnp

    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12)
    return hnp.arrays(st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes()), shapes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)  # fmt: skip


# --- the searches: what to draw, and what to load then


def damaged_file(folder: Path, draw: Draw, name: str) -> None:
    content, make = VALID[name]
    (folder / name).write_bytes(damaged(content, draw))
    load(lambda: make(folder / name))


def random_bytes(folder: Path, draw: Draw, name: str) -> None:
    (folder / name).write_bytes(draw(st.binary(max_size=300)))
    load(lambda: VALID[name][1](folder / name))


def random_table(folder: Path, draw: Draw) -> None:
    (folder / "t.csv").write_bytes(draw(sheets()))
    targets = draw(st.sampled_from([1, 2, "u", [0], ["a", "b"]]))
    load(lambda: Table(str(folder / "t.csv"), targets=targets))


def random_arrays(folder: Path, draw: Draw) -> None:
    x, y = draw(numeric_arrays()), draw(numeric_arrays())
    (folder / "t.npz").write_bytes(archive(x=x, y=y))
    load(lambda: Table(str(folder / "t.npz")))
    (folder / "t.npy").write_bytes(npy(x))
    load(lambda: Table(str(folder / "t.npy"), targets=1))


def minari_metadata(folder: Path, draw: Draw) -> None:
    """Any JSON in the place of some fields of a good set's metadata, or bytes that are no JSON."""
    place = folder / "nrc" / "reacher-expert-v0"
    if not place.exists():
        shutil.copytree(EMBEDDED, place)
    metadata = json.loads((EMBEDDED / "data" / "metadata.json").read_text())
    for key in draw(st.lists(st.sampled_from(sorted(metadata)), max_size=3)):
        metadata[key] = draw(json_values)
    content = json.dumps(metadata).encode()
    (place / "data" / "metadata.json").write_bytes(damaged(content, draw) if draw(st.booleans()) else content)
    load(lambda: Mujoco(root=str(folder), train_size=8, test_size=2))


def minari_arrays(folder: Path, draw: Draw) -> None:
    place = folder / "nrc" / "reacher-expert-v0"
    if not place.exists():
        shutil.copytree(EMBEDDED, place)
    shutil.copy(EMBEDDED / "data" / "metadata.json", place / "data")
    content = (EMBEDDED / "data" / "main_data.hdf5").read_bytes()
    (place / "data" / "main_data.hdf5").write_bytes(damaged(content, draw))
    load(lambda: Mujoco(root=str(folder), train_size=8, test_size=2))


def files_of(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder / name, ignore_errors=True)
    for file, content in files.items():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_bytes(content)
    return folder / name


def damaged_picture(folder: Path, draw: Draw) -> None:
    """One face of a dozen, in any format that its name may lie about."""
    content = damaged(picture(99, draw(st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"]))), draw)
    ending = draw(st.sampled_from(["jpg.chip.jpg", "png", "bmp", "webp"]))
    place = files_of(folder, "faces", FACES | {f"99_0_1_20170101000000099.{ending}": content})
    load(lambda: faces(place))


def face_names(folder: Path, draw: Draw) -> None:
    stems = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)
    numbers = st.from_regex(r"\A\d{0,4}_?\d?_?\d?[_ ]?\d{0,17}\Z")
    names = draw(st.lists(st.one_of(stems, numbers), max_size=6))
    place = files_of(folder, "named", FACES | {f"{name}.jpg": picture(i) for i, name in enumerate(names)})
    load(lambda: faces(place))


def drive_csv(folder: Path, draw: Draw) -> None:
    """A csv beside good images: a damaged one, any table at all, or good names with any cells."""
    some = st.lists(st.tuples(st.sampled_from(sorted(DRIVE)), cells, cells), max_size=14)
    rows = draw(
        some.map(lambda rows: "".join(f"{','.join(row)}\n" for row in [("image", "steer", "speed"), *rows]))
    )
    good = DRIVE["log.csv"]
    content = draw(st.one_of(st.just(damaged(good, draw)), sheets(), st.just(rows.encode(errors="replace"))))
    load(lambda: drive(files_of(folder, "drive", DRIVE | {"log.csv": content})))


SEARCHES: dict[str, Callable[[Path, Draw], None]] = {
    **{f"damaged {name}": functools.partial(damaged_file, name=name) for name in VALID},
    **{f"random {name}": functools.partial(random_bytes, name=name) for name in VALID},
    "random table": random_table,
    "random arrays": random_arrays,
    "minari metadata": minari_metadata,
    "minari arrays": minari_arrays,
    "damaged picture": damaged_picture,
    "face names": face_names,
    "drive csv": drive_csv,
}


def search(name: str, folder: Path, files: int, *, fresh: bool) -> None:
    """Try so many files; the same ones every time unless `fresh`."""

    @settings(
        max_examples=files, derandomize=not fresh, deadline=None, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(data=st.data())
    def go(data: st.DataObject) -> None:
        SEARCHES[name](folder, data.draw)

    go()


@pytest.mark.parametrize("name", VALID)
def test_the_whole_file_loads(tmp_path: Path, name: str) -> None:
    content, make = VALID[name]
    (tmp_path / name).write_bytes(content)
    assert make(tmp_path / name).load().sizes["targets"] == (1 if "faces" in name else 2)


def test_found_a_column_name_with_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'0,",0,0\n0,",0,0\n0.0,0.0,0.0,0.0')
    load(lambda: Table(str(tmp_path / "t.csv"), targets="u"))


def test_found_a_file_name_with_a_line_end(tmp_path: Path) -> None:
    load(lambda: faces(files_of(tmp_path, "faces", FACES | {"a\nb.jpg": picture(0)})))


def test_a_header_that_states_too_much_is_not_believed(tmp_path: Path) -> None:
    """10^12 numbers in a file of a few kB: HDF5 would fill memory with zeros, npy would ask for 8 TB."""
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("x", (10**11, 10), "f8", chunks=(1000, 10))
        file["y"] = np.ones(10)
    with pytest.raises(
        UserError, match=r"x states the shape \(100000000000, 10\), more than \d+ bytes can hold"
    ):
        Table(str(tmp_path / "t.h5")).load()
    content = npy(np.ones((10, 10))).replace(b"(10, 10)", b"(10000000000, 10)").replace(b" " * 9, b"", 1)
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(UserError, match="mmap length is greater than file size"):
        Table(str(tmp_path / "t.npy"), targets=1).load()


@pytest.mark.parametrize("name", SEARCHES)
def test_short_search(tmp_path: Path, name: str) -> None:
    search(name, tmp_path, files=20, fresh=False)


@pytest.mark.slow
def test_long_search(tmp_path: Path) -> None:
    end, rounds = time.monotonic() + float(os.environ.get("NRC_FUZZ_SECONDS", "120")), 0
    while time.monotonic() < end:
        for name in SEARCHES:
            search(name, tmp_path, files=100, fresh=True)
        rounds += 1
    print(f"{rounds} rounds of {len(SEARCHES)} searches of 100 files")
