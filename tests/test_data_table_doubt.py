"""What is in doubt in a file of numbers is said; what would be silently wrong is refused."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from table_files import GOOD_ROWS, NAMES, VALUES, WHOLE, both, text_file, text_of, write

from nrc.data import Table
from nrc.errors import UserError

HEADER, DATA = "is taken for the header", "is taken for data"


def headed(first: str, values: Any = VALUES) -> str:
    return f"{first}\n" + text_of(values=values, header=False)


@pytest.mark.parametrize(
    ("text", "header", "note"),
    [
        # numbers that rise or fall, far from all below, are names
        (headed("4000,3996,3992,3988,3984"), True, HEADER),
        (headed("2024,2023,2022,2021,2020", WHOLE), True, HEADER),
        (headed("400.5,400.0,399.5,399.0,398.5"), True, HEADER),
        (headed("339.2,341.8,346.1,350.0,359.9"), True, HEADER),
        (headed("10,25,70,71,90", WHOLE % 5), True, HEADER),
        # what is odd above its columns may be names
        (headed("4000,3996,3992,3988,0"), False, DATA),
        (headed("101,57,983,12,44"), False, DATA),
        (headed("400.5,400.0", VALUES[:, :2]), False, DATA),
        # the first row of a series
        (text_of(values=np.arange(200.0).reshape(40, 5) ** 1.5, header=False), False, None),
        (headed("2.5,0.5,-0.5,1.5,3.5"), False, None),
        # digits that only Python takes for a number
        (headed("1_1,1_2,1_3,2_1,2_2"), True, None),
        (headed("١,٢,٣,٤,٥"), True, None),
    ],
)  # fmt: skip
def test_a_first_row_of_numbers_is_never_silently_taken_for_data(
    tmp_path: Path, text: str, header: bool, note: str | None
) -> None:
    path, below = text_file(tmp_path, text), text.count("\n") - 1
    data = Table(path, 1, split="order").load()
    assert data.sizes["train"] + data.sizes["test"] == below + (not header)
    first = text.split("\n")[0].split(",")
    assert data.input_names[0] == (first[0] if header else "column 0")
    assert [
        n for n in data.provenance["notes"] if note and note in n and ", ".join(first) in n
    ] or note is None
    assert note or data.provenance["notes"] == []
    other = Table(path, 1, split="order", header=not header)  # the remedy
    if note:
        assert sum(other.load().sizes[s] for s in ("train", "test")) == below + header


def test_what_is_in_doubt_in_the_test_file_is_said_too(tmp_path: Path) -> None:
    path = text_file(tmp_path, headed("a,b,c,u,v"))
    other = text_file(tmp_path, text_of(list("abcuv"), index=True), "o.csv")
    told = "o.csv: the first column has no name and labels the rows: a saved index, left out"
    assert told in Table(path, 1, test_path=other).load().describe()


def test_a_header_in_a_comment_and_data_header_true(tmp_path: Path) -> None:
    path = text_file(tmp_path, "# a,b,c,u,v\n" + text_of(header=False))
    data = Table(path, 1, header=True).load()
    assert sum(data.sizes[s] for s in ("train", "test")) == 39
    assert f"{HEADER}; set data.header=null if it is data, named by the comment" in data.describe()
    assert Table(path, 1).load().input_names == tuple("abcu")


@pytest.mark.parametrize("cells", [["0_5", "1_5", "2_5"], ["1", "٣", "4"], ["1", "2", "１"]])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_digits_that_only_python_reads_are_no_numbers(tmp_path: Path, cells: list[str], suffix: str) -> None:
    frame, path = pd.DataFrame({"a": cells * 4, "y": np.arange(12.0) ** 2}), tmp_path / f"t.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    with pytest.raises(UserError, match="column 'a' is not numeric"):
        Table(str(path), 1).load()
    frame.assign(a=["1", "2.5", " -3e0"] * 4).to_parquet(tmp_path / "text.parquet")
    data = Table(str(tmp_path / "text.parquet"), 1, split="order").load()
    assert data.x_train[:3, 0].tolist() == [1, 2.5, -3]


@pytest.mark.parametrize(
    ("header", "name"), [('"a  b","a b",y', "a b"), ('b,"speed\nm/s",b', "b"), ('"b\n c",a,"b c"', "b c")]
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str, name: str) -> None:
    path = text_file(tmp_path, f"{header}\n{GOOD_ROWS}")
    with pytest.raises(UserError, match=f"2 columns are named '{name}'"):
        Table(path, name).load()
    frame = pd.read_csv(path).rename(columns={"b.1": " b"})  # parquet holds no name twice
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"2 columns are named '{name}'"):
        Table(str(tmp_path / "t.parquet"), name).load()


def test_names_over_two_lines(tmp_path: Path) -> None:
    for header in ('"speed\nm/s",b,y', 'b,"speed\nm/s",y', '# of 3" pipes\n"speed\nm/s",b,y'):
        data = Table(text_file(tmp_path, f"{header}\n{GOOD_ROWS}"), 1, split="order").load()
        assert set(data.input_names) == {"speed m/s", "b"}
        assert data.sizes["train"] == 16 and data.x_train[2].tolist() == [2, 4]


def test_a_number_that_is_a_name_and_another_columns_number(tmp_path: Path) -> None:
    path = text_file(tmp_path, text_of([1, 2, 3, 4, 5]))
    with pytest.raises(
        UserError, match=r"""may be the column named 4 or column number 4, named '5'; write .*.4"""
    ):
        Table(path, [4]).load()
    assert Table(path, ["4"]).load().target_names == ("4",)
    assert Table(path, ["5"]).load().target_names == Table(path, [5]).load().target_names == ("5",)
    assert Table(path, [0]).load().target_names == ("1",)
    assert Table(text_file(tmp_path, text_of()), [4]).load().target_names == (
        "4",
    )  # both are the same column
    years = text_file(tmp_path, text_of(range(2019, 2024)))
    assert Table(years, [2021]).load().target_names == ("2021",)
    with pytest.raises(
        UserError, match=r"""at most 4 can be targets; for the column named 2021 write .*.2021"""
    ):
        Table(years, 2021).load()


def test_targets_of_numpy(tmp_path: Path) -> None:
    path = write(tmp_path, "named.csv")
    for targets in (np.int64(2), np.array([3, 4]), np.array(NAMES[3:])):
        assert Table(path, targets).load().target_names == tuple(NAMES[3:])


@pytest.mark.parametrize("suffix", ["csv", "npy", "npz", "h5", "parquet", "pair"])
@pytest.mark.parametrize("standardize", ["none", "xy"])
def test_nanoseconds_since_1970_keep_their_digits(tmp_path: Path, suffix: str, standardize: Any) -> None:
    near = np.random.default_rng(0).integers(-1000, 1000, (40, 2))
    whole = 1_700_000_000_000_000_000 + near
    path, frame = str(tmp_path / f"t.{suffix}"), pd.DataFrame(whole, columns=["t", "y"])
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "npy":
        np.save(path, whole)
    elif suffix == "npz":
        np.savez(path, x=whole[:, :1], y=whole[:, 1])
    elif suffix == "h5":
        with h5py.File(path, "w") as file:
            file["x"], file["y"] = whole[:, :1], whole[:, 1]
    else:
        path = f"{tmp_path}/x.npy,{tmp_path}/y.npy"
        np.save(tmp_path / "x.npy", whole[:, :1])
        np.save(tmp_path / "y.npy", whole[:, 1])
    targets = None if suffix in ("npz", "h5", "pair") else 1
    data = Table(path, targets, split="order", standardize=standardize).load()
    mean = np.floor(near[:32].mean(axis=0)).astype(int)
    found = [offset for side in data.facts()["offset"].values() for offset in side.values()]
    assert found == [1_700_000_000_000_000_000 + int(m) for m in mean]
    if standardize == "none":
        np.testing.assert_array_equal(both(data), near - mean)
    else:
        np.testing.assert_allclose(both(data), (near - near[:32].mean(0)) / near[:32].std(0), atol=1e-5)
    if suffix == "csv":  # a test file is moved alike, though alone it would be by another number
        other = text_file(tmp_path, frame.iloc[30:].to_csv(index=False), "other.csv")
        test = Table(path, 1, test_path=other).load()
        np.testing.assert_array_equal(test.y_test[:, 0], near[30:, 1] - np.floor(near[:, 1].mean()))


def test_whole_numbers_of_any_length_in_a_csv(tmp_path: Path) -> None:
    near = [(i * 7) % 20 for i in range(20)]
    path = text_file(
        tmp_path, "a,b,y\n" + "".join(f"{i % 3},{i % 4},{10**25 + v}\n" for i, v in enumerate(near))
    )
    data = Table(path, 1, split="order").load()
    np.testing.assert_array_equal(data.y_train[:, 0], np.array(near[:16]) - np.floor(np.mean(near[:16])))


def test_a_named_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    frame, path = pd.DataFrame(VALUES, columns=list("abcuv")), tmp_path / "t.parquet"
    frame.set_index("a").to_parquet(path)
    np.testing.assert_array_equal(both(Table(str(path), 2, split="order").load()), VALUES)
    assert Table(str(path), "a").load().target_names == ("a",)
    frame.set_index(["u", "v"]).to_parquet(path)
    assert Table(str(path), "v").load().input_names == tuple("uabc")
    frame.rename_axis("b").to_parquet(path)
    with pytest.raises(UserError, match="2 columns are named 'b'"):
        Table(str(path), "v").load()
    for index, notes in (
        (None, []),
        (range(40, 0, -1), []),
        ([3, 1] * 20, ["the index of the rows has no name and is left out"]),
    ):
        frame.set_axis(frame.index if index is None else index).to_parquet(path)
        data = Table(str(path), 2, split="order").load()
        np.testing.assert_array_equal(both(data), VALUES)
        assert data.provenance["notes"] == notes


def test_hdf5_arrays_that_were_not_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    for case in ("never", "half", "filled later", "none"):
        with h5py.File(path, "w") as file:
            file["y"] = VALUES[:, 3:]
            if case == "never":
                file.create_dataset("x", (40, 3), "f4")
            elif case == "none":
                file["x"] = h5py.Empty("f4")
            else:
                x = file.create_dataset(
                    "x", (20, 3), "f4", maxshape=(None, 3), chunks=(10, 2), compression="gzip"
                )
                x[:] = VALUES[:20, :3]
                x.resize((40, 3))
                if case == "filled later":
                    x[20:] = VALUES[20:, :3]
        if case == "filled later":
            np.testing.assert_array_equal(both(Table(str(path), split="order").load()), VALUES)
        else:
            message = (
                "x is empty"
                if case == "none"
                else r"x states the shape \(40, 3\), but not all of it was ever written"
            )
            with pytest.raises(UserError, match=message):
                Table(str(path), limit=5).load()


def test_two_files_of_one_name_are_both_recorded(tmp_path: Path) -> None:
    for folder, rows in (("train", VALUES), ("test", VALUES[:5])):
        (tmp_path / folder).mkdir()
        text_file(tmp_path / folder, text_of(list("abcuv"), rows), "d.csv")
    data = Table(str(tmp_path / "train/d.csv"), 2, test_path=str(tmp_path / "test/d.csv")).load()
    assert data.provenance["files"] == {
        str(tmp_path / f / "d.csv"): hashlib.sha256((tmp_path / f / "d.csv").read_bytes()).hexdigest()
        for f in ("train", "test")
    }


def test_comments_do_not_hide_the_layout(tmp_path: Path) -> None:
    for lines in (39, 40, 100):
        data = Table(text_file(tmp_path, "# c\n" * lines + text_of(list("abcuv"))), 2, split="order").load()
        np.testing.assert_array_equal(both(data), VALUES)
        assert data.input_names == ("a", "b", "c")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"größe,b,y\n{GOOD_ROWS}".encode(encoding))
    with pytest.raises(UserError, match=r"not UTF-8 text [(]UTF-16 or latin-1.*; save it as UTF-8") as caught:
        Table(str(tmp_path / "t.csv"), 1).load()
    assert "damaged" not in str(caught.value)
