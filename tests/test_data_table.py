"""Every file format and every way in which a file can be wrong."""

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from command_line import in_process
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from table_files import GOOD_ROWS, NAMES, RNG, VALUES, WHOLE, both, text_file, text_of, write

from nrc.data import RegressionData, Table
from nrc.errors import UserError
from nrc.metrics import ALIVE
from nrc.runs.directory import read_run
from nrc.runs.read import Run

FORMATS = [
    "named.csv",
    "bare.csv",
    "semicolon.csv",
    "named.csv.gz",
    "named.tsv",
    "plain.txt",
    "named.parquet",
    "xy.npz",
    "rollout.npz",
    "single.npz",
    "single.npy",
    "xy.h5",
    "single.hdf5",
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(tmp_path: Path, name: str) -> None:
    data = Table(write(tmp_path, name), targets=2, split="order").load()
    assert data.sizes == {"train": 32, "test": 8, "inputs": 3, "targets": 2}
    np.testing.assert_array_equal(both(data), VALUES)
    assert data.name == "table-" + name.split(".")[0] and data.kind == "real"
    assert list(data.provenance["files"]) == [name]


@pytest.mark.parametrize("name", ["xy.npz", "rollout.npz", "xy.h5"])
def test_files_that_tell_inputs_from_targets_need_no_setting(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    np.testing.assert_array_equal(both(Table(path, split="order").load()), VALUES)
    with pytest.raises(UserError, match=r"holds 2 targets, but data.targets=1"):
        Table(path, targets=1).load()


@pytest.mark.parametrize("as_list", [True, False])
def test_npy_pair(tmp_path: Path, as_list: bool) -> None:
    np.save(tmp_path / "x.npy", VALUES[:, :3])
    np.save(tmp_path / "y.npy", VALUES[:, 3])
    pair = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    data = Table(pair if as_list else ",".join(pair), split="order").load()
    np.testing.assert_array_equal(both(data), VALUES[:, :4])
    assert data.target_names == ("y0",)
    np.save(tmp_path / "y.npy", VALUES[:30, 3])
    for limit in (None, 10):
        with pytest.raises(UserError, match="40 rows of inputs but 30 of targets"):
            Table(pair, limit=limit).load()


@pytest.mark.parametrize(
    ("targets", "columns"),
    [
        (1, [4]),
        (3, [2, 3, 4]),
        (["speed (m/s)", "a"], [4, 0]),
        ("b,steer", [1, 3]),
        ("a", [0]),
        ([0, 2], [0, 2]),
    ],
)
def test_choice_of_targets(tmp_path: Path, targets: Any, columns: list[int]) -> None:
    data = Table(write(tmp_path, "named.csv"), targets, split="order").load()
    assert data.target_names == tuple(NAMES[i] for i in columns)
    np.testing.assert_array_equal(data.y_train, VALUES[:32, columns])
    assert data.input_names == tuple(n for i, n in enumerate(NAMES) if i not in columns)


def test_a_name_with_a_comma_is_one_target(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pd.DataFrame(VALUES[:, :2], columns=["x", "y, in m"]).to_csv(path, index=False)
    assert Table(str(path), "y, in m").load().target_names == ("y, in m",)


def test_random_split_and_scaling_are_scikit_learns(tmp_path: Path) -> None:
    data = Table(write(tmp_path, "bare.csv"), 2, standardize="xy").load()
    frame = pd.read_csv(tmp_path / "bare.csv", header=None).to_numpy()
    parts = train_test_split(frame[:, :3], frame[:, 3:], test_size=0.2, random_state=42)
    for i, ours in ((0, (data.x_train, data.x_test)), (2, (data.y_train, data.y_test))):
        scaler = StandardScaler().fit(parts[i])
        np.testing.assert_allclose(ours[0], scaler.transform(parts[i]), atol=1e-6)
        np.testing.assert_allclose(ours[1], scaler.transform(parts[i + 1]), atol=1e-6)
    assert data.provenance["standardize"] == "xy" and data.provenance["split_seed"] == 42


def test_limit_reads_the_first_rows(tmp_path: Path) -> None:
    for name in ("named.csv", "single.npy", "xy.h5", "named.parquet", "xy.npz"):
        data = Table(write(tmp_path, name), 2, split="order", limit=10).load()
        np.testing.assert_array_equal(both(data), VALUES[:10])


def test_separate_test_file(tmp_path: Path) -> None:
    path = write(tmp_path, "named.csv")
    other = tmp_path / "held_out.csv"
    pd.DataFrame(VALUES[:7] + 1, columns=NAMES).to_csv(other, index=False)
    data = Table(path, 2, test_path=str(other)).load()
    assert data.sizes["train"] == 40 and data.sizes["test"] == 7
    np.testing.assert_array_equal(data.y_test, VALUES[:7, 3:] + 1)
    pd.DataFrame(VALUES[:7, :4], columns=NAMES[:4]).to_csv(other, index=False)
    with pytest.raises(UserError, match="give both files the same columns"):
        Table(path, 2, test_path=str(other)).load()


def test_integers_booleans_bom_and_name(tmp_path: Path) -> None:
    path = tmp_path / "My data (1).csv"
    rows = "\n".join(f"{i},{i % 2 == 0},{i * i}" for i in range(20))
    path.write_text("\ufeffn,even,square\n" + rows + "\n", encoding="utf-8")
    data = Table(str(path), "square", split="order").load()
    assert data.input_names == ("n", "even") and data.name == "table-My_data_1_"
    np.testing.assert_array_equal(data.x_train[:3], [[0, 1], [1, 0], [2, 1]])
    assert Table(str(path), "square", name="mine").load().name == "table-mine"


@pytest.mark.parametrize(
    ("text", "targets", "message"),
    [
        ("", 1, "is empty"),
        ("\n\n", 1, "cannot be read as csv"),
        ("a,b,y\n", 1, "no rows of numbers"),
        ("a,b,y\n" + GOOD_ROWS + "1,red,2\n", 1, "column 'b' is not numeric [(]data row 21 is 'red'[)]"),
        ("a,b,y\n1,,3\n" + GOOD_ROWS, 1, "column 'b', data row 1 is missing, NaN"),
        ("1,,3\n" + GOOD_ROWS, 1, "column 'column 1', data row 1 is missing"),
        (GOOD_ROWS + "5,2", 1, "data row 21 [(]the last row: is the file cut short"),
        ("a,b,y\n" + GOOD_ROWS + "1,inf,2\n", 1, "missing, NaN or infinite"),
        ("a,b,y\n" + GOOD_ROWS + "1,2,3,4\n", 1, "cannot be read as csv"),
        ("NA," + GOOD_ROWS[2:], 1, "column 'column 0', data row 1 is missing"),
        (GOOD_ROWS.replace("0", "?", 1), 1, "column 'column 0' is not numeric"),
        ("a;b;y\n" + GOOD_ROWS.replace("\n", ",5\n").replace(",", ";", 2), 1, "not numeric|cannot be read"),
        ("a,b;y\n1,5;2\n2,5;3\n", 1, "'1,5'[)]; write decimal points"),
        ('a,y\n"1,100",3\n"2,200",5\n', 1, "'1,100'[)]; write it without thousands separators"),
        ('a,y\n"1,100.5",3\n"2,200",5\n', 1, "'1,100.5'[)]; write it without thousands separators"),
        ("y\n1\n2\n3\n", 1, "has 1 column; at least one input and one target are needed"),
        ("a b c y\n" + GOOD_ROWS.replace(",", " "), 1, "no row has a number in the last of 4 columns, 'y'"),
        ("a,b\n" + GOOD_ROWS, 1, "rows are longer than the header"),
        ("a,b,y\n" + "1,2,3\n2,5,3\n" * 10, 1, "target 'y' is constant"),
        ("speed,steer,brake\n" + GOOD_ROWS, "sped", "no column 'sped'; did you mean speed"),
        ("speed,steer,brake\n" + GOOD_ROWS, "zzz", "it has speed, steer, brake"),
        (GOOD_ROWS, "speed", "has no column names"),
        (GOOD_ROWS, [7], "there is no column 7; columns are numbered 0 to 2"),
        (GOOD_ROWS, 3, "has 3 columns, but data.targets=3; at most 2"),
        ("a,b,y\n" + GOOD_ROWS, ["a", "b", "y"], "all 3 columns are targets"),
        ("a,b,y\n" + GOOD_ROWS, ["y", "y"], "name each target once"),
        (GOOD_ROWS, None, "data.targets is missing"),
        ("1,2,3\n4,5,6\n", 1, "2 rows are too few for train and test at data.test_fraction=0.2; lower it"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, targets: Any, message: str) -> None:
    path = text_file(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        Table(path, targets).load()
    assert path in str(caught.value) and "\n" not in str(caught.value)


def whole(folder: Path, name: str) -> bytes:
    return Path(write(folder, name)).read_bytes()


@pytest.mark.parametrize("name", ["named.csv.gz", "xy.npz", "single.npy", "xy.h5", "named.parquet"])
def test_files_cut_short(tmp_path: Path, name: str) -> None:
    content = whole(tmp_path, name)
    for length in (4, len(content) // 2, len(content) - 20):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(UserError) as caught:
            Table(str(tmp_path / name), 2).load()
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.csv", "does not exist"),
        ("folder", "is a folder"),
        ("t.xyz", "unknown ending"),
        ("t.pkl", "is a pickle"),
        ("t.pt", "is a pickle"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    if "." in name and name != "missing.csv":
        (tmp_path / name).write_bytes(b"data")
    with pytest.raises(UserError, match=message):
        Table(str(tmp_path / name), 1).load()


def test_parquet_with_dates_lists_or_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    for column in (pd.date_range("2020-01-01", periods=4), [[1.0], [2.0], [3.0], [4.0]]):
        pd.DataFrame({"when": column, "y": [1.0, 2.0, 3.0, 5.0]}).to_parquet(path)
        with pytest.raises(UserError, match="column 'when' is not numeric"):
            Table(str(path), 1).load()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        Table(str(path), 1).load()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickled_objects_are_never_opened(tmp_path: Path, suffix: str) -> None:
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> Any:
            return opened.touch, ()

    buffer = io.BytesIO()
    array = np.array([[Trap()]], dtype=object)
    if suffix == "npy":
        np.save(buffer, array, allow_pickle=True)
    else:
        np.savez(buffer, x=array, y=array)
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="pickled objects"):
        Table(str(path), 1).load()
    assert not opened.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": VALUES, "b": VALUES}, "holds a, b; expected two arrays named x and y"),
        ({"x": VALUES, "y": VALUES[:5]}, "40 rows of inputs but 5 of targets"),
        ({"x": np.zeros((4, 2, 2)), "y": np.zeros(4)}, "expected a matrix"),
        ({"table": np.array([["a", "b"]])}, "not numbers"),
        ({"table": np.array(3.0)}, "a single number"),
        ({"table": np.zeros((4, 2), complex)}, "not numbers"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    for limit in (None, 4):
        with pytest.raises(UserError, match=message):
            Table(str(tmp_path / "t.npz"), 1, limit=limit).load()


def test_wrong_endings_and_empty_hdf5(tmp_path: Path) -> None:
    content = whole(tmp_path, "xy.npz")
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(UserError, match="npz archive"):
        Table(str(tmp_path / "t.npy"), 1).load()
    h5py.File(tmp_path / "t.h5", "w").close()
    with pytest.raises(UserError, match="holds no arrays"):
        Table(str(tmp_path / "t.h5"), 1).load()
    (tmp_path / "t.csv.gz").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(UserError, match="cannot be read as csv"):
        Table(str(tmp_path / "t.csv.gz"), 1).load()
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as csv"):
        Table(str(tmp_path / "t.csv.gz"), 1).load()


def saved(header: str, delimiter: str = " ", **options: Any) -> str:
    out = io.StringIO()
    np.savetxt(out, VALUES, header=header, delimiter=delimiter, **options)
    return out.getvalue()


SHUFFLED = pd.DataFrame(VALUES, columns=list("abcuv")).sample(frac=1, random_state=0)
HEADER, DATA, INDEX = "is taken for the header", "is taken for data", "a saved index, left out"


@pytest.mark.parametrize(
    ("text", "rows", "names", "note"),
    [
        # numbers as names: pandas' own, years, wavelengths; quoted; with integers below
        (text_of(), 40, "0 1 2", HEADER),
        (text_of(range(2019, 2024)), 40, "2019 2020 2021", HEADER),
        (text_of(range(2000, 2025, 5), WHOLE), 40, "2000 2005 2010", HEADER),
        (text_of([400.0, 400.5, 401.0, 401.5, 402.0]), 40, "400.0 400.5 401.0", HEADER),
        (text_of([10, 20, 50, 100, 200]), 40, "10 20 50", HEADER),
        ('"5","3","9","1","7"\n' + text_of(header=False), 40, "5 3 9", HEADER),
        ("red,1.5,2.5,0.1,3.3\n" + text_of(header=False), 40, "red 1.5 2.5", HEADER),
        # rows of numbers
        (text_of(header=False), 40, "", None),
        ("1.0,2.0,3.0,4.0,5.0\n" + text_of(header=False), 41, "", None),
        (text_of(values=np.arange(200).reshape(40, 5), header=False), 40, "", DATA),
        # Excel's first line
        ("sep=;\n" + text_of(list("abcuv"), sep=";"), 40, "a b c", None),
        ('"SEP=|"\r\n' + text_of(list("abcuv"), sep="|", lineterminator="\r\n"), 40, "a b c", None),
        ("\ufeffsep=\t\n" + text_of(list("abcuv"), sep="\t"), 40, "a b c", None),
        # comments of numpy.savetxt
        (saved("a b c u v"), 40, "a b c", None),
        (saved("made by me\na b c u v", footer="end"), 40, "a b c", None),
        (saved("a,b,c,u,v", ","), 40, "a b c", None),
        (saved("a b c u v", comments="% "), 40, "a b c", None),
        (saved("no names"), 40, "", None),
        (text_of(["#id", *"bcuv"]), 40, "id b c", None),
        # a saved index: default, with numbers as names, shuffled, twice, of labels; a nameless column that is none
        (text_of(list("abcuv"), index=True), 40, "a b c", INDEX),
        (text_of(index=True), 40, "0 1 2", INDEX),
        (SHUFFLED.to_csv(), 40, "a b c", INDEX),
        (pd.read_csv(io.StringIO(SHUFFLED.to_csv())).to_csv(), 40, "a b c", INDEX),
        (SHUFFLED.rename(index=lambda i: f"row{i}").to_csv(), 40, "a b c", INDEX),
        (SHUFFLED.reset_index(drop=True).reset_index().to_csv(index=False), 40, "index a b c", "'index' counts the rows"),
        (text_of(["", *"bcuv"]), 40, "Unnamed: 0 b c", "has no name in the file and is kept"),
        # separators in names
        (text_of(["y; m", *"bcuv"]), 40, "y; m b c", None),
        (text_of(list("abcuv"), lineterminator="\r"), 40, "a b c", None),
    ],
)  # fmt: skip
def test_the_first_rows_of_a_csv(tmp_path: Path, text: str, rows: int, names: str, note: str | None) -> None:
    (tmp_path / "t.csv").write_text(text, newline="")
    data = Table(str(tmp_path / "t.csv"), targets=2, split="order").load()
    assert data.sizes["train"] + data.sizes["test"] == rows
    assert " ".join(data.input_names) == (names or "column 0 column 1 column 2")
    assert note in data.describe() if note else data.provenance["notes"] == []


def test_the_user_decides_what_the_first_row_is(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, header, rows in ((text_of(), False, 41), (text_of([0, 1], WHOLE[:, :2]), True, 40)):
        path.write_text(text)
        data = Table(str(path), 1, header=header).load()
        assert data.sizes["train"] + data.sizes["test"] == rows and data.provenance["notes"] == []


def test_the_users_files_and_maps_stay_as_they_are(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "single.npy"))
    before, mapped = path.read_bytes(), np.load(path, mmap_mode="r")
    Table(str(path), 2, standardize="xy", target_mean=3).load()
    RegressionData(
        "t", mapped[:, :3], mapped[:, 3:], mapped[:, :3], mapped[:, 3:], ("a", "b", "c"), ("u", "v"), "real"
    )
    assert path.read_bytes() == before


def test_more_columns_than_rows_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=RNG.normal(size=(20, 90)), y=RNG.normal(size=20))
    text = Table(str(tmp_path / "t.npz")).load().describe()
    assert "more inputs (90) than train rows (16): any targets can be fitted exactly" in text


def test_arrays_in_groups_of_hdf5_and_named_fields_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        for i in range(3):
            file[f"data/demo_{i}/actions"] = VALUES
    with pytest.raises(
        UserError, match=r"holds 3 arrays in groups \(data/demo_0/actions, .*two arrays named x and y"
    ):
        Table(str(tmp_path / "t.h5")).load()
    np.save(tmp_path / "t.npy", np.zeros(4, dtype=[("a", float), ("b", float)]))
    with pytest.raises(UserError, match=r"has named fields \(a, b\)"):
        Table(str(tmp_path / "t.npy"), 1).load()


@pytest.mark.parametrize("how", ["link", "link inside", "storage", "virtual"])
def test_hdf5_that_refers_to_other_files_is_refused(tmp_path: Path, how: str) -> None:
    """A file from somebody else must not bring numbers of this machine into what is shared."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = VALUES
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["y"] = VALUES[:, 3:]
        if how.startswith("link"):
            file["x" if how == "link" else "inner/x"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "x")
            if how != "link":
                file["x"] = h5py.SoftLink("/inner/x")
        elif how == "storage":
            file.create_dataset(
                "x", VALUES.shape, "<f4", external=[(str(tmp_path / "secret.bin"), 0, VALUES.nbytes)]
            )
        else:
            layout = h5py.VirtualLayout(VALUES.shape, "<f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", VALUES.shape)
            file.create_virtual_dataset("x", layout)
    line = r"x (is a link to|keeps its numbers in) another file, which is not followed"
    with pytest.raises(UserError, match=line):
        Table(str(tmp_path / "t.h5")).load()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"path": None}, "data.path is missing"),
        ({"path": "a,b,c"}, "one file, or the two files"),
        ({"targets": 0}, "data.targets is 0"),
        ({"targets": True}, "data.targets is True"),
        ({"targets": 1.5}, "data.targets is 1.5"),
        ({"split": "both"}, "data.split is 'both'"),
        ({"standardize": "y"}, "data.standardize"),
        ({"test_fraction": 1.0}, "data.test_fraction is 1.0"),
        ({"limit": 1}, "data.limit is 1"),
        ({"split_seed": -1}, "data.split_seed"),
        ({"kind": "mine"}, "data.kind"),
    ],
)
def test_bad_settings(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Table(**({"path": "t.csv", "targets": 1} | bad))


@pytest.mark.parametrize(
    ("name", "rows", "inputs", "targets"),
    [("reacher", 2500, 11, 2), ("hopper", 15000, 11, 3), ("swimmer", 3000, 8, 2)],
)
def test_real_rollouts(shared_data: Path, name: str, rows: int, inputs: int, targets: int) -> None:
    data = Table(str(shared_data / "mujoco" / f"{name}.csv"), targets).load()
    assert data.sizes == {"train": rows * 4 // 5, "test": rows // 5, "inputs": inputs, "targets": targets}
    assert data.target_rank == targets and not data.papers_own


def test_real_npz_and_sgemm(shared_data: Path) -> None:
    data = Table(str(shared_data / "mujoco" / "swimmer_rollout.npz")).load()
    assert data.sizes == {"train": 8000, "test": 2000, "inputs": 8, "targets": 2}
    path = str(shared_data / "sgemm" / "sgemm_product.csv.gz")
    data = Table(path, 4, standardize="xy").load()
    assert (data.sizes["train"], data.sizes["inputs"]) == (193_280, 14)
    assert data.target_names == ("Run1 (ms)", "Run2 (ms)", "Run3 (ms)", "Run4 (ms)")
    assert (
        data.target_rank == 4
    )  # four timings of one kernel: nearly collinear, condition number 2.3e5, yet not exactly


@pytest.mark.parametrize(
    ("name", "targets", "decay", "more"),
    [
        ("swimmer", 2, 0.02, ["data.limit=1000"]),
        pytest.param("hopper", 3, 0.02, ["data.limit=1250"], marks=pytest.mark.slow),
        # unscaled targets this small lose a direction at any decay that acts within a short run
        pytest.param("reacher", 2, 0.01, ["data.limit=1250", "data.standardize=xy"], marks=pytest.mark.slow),
    ],
)
def test_real_rollouts_collapse_with_all_directions_alive(
    shared_data: Path, tmp_path: Path, name: str, targets: int, decay: float, more: list[str]
) -> None:
    """The README's command for a file of one's own, at a decay budget of 25."""
    result = in_process("train.py", [
        "data=table", f"data.path='{shared_data}/mujoco/{name}.csv'", f"data.targets={targets}", *more,
        "model=mlp_linear", f"optim.weight_decay={decay}", f"protocol.tau={25 / decay}",
        "measure.log_spaced=0", "measure.evenly=0",
    ], tmp_path)  # fmt: skip
    assert result.status == 0, result.err
    run = tmp_path / f"outputs/train-quick/table-{name}/wd={decay:g}/seed=0"
    found = Run(run, *read_run(run))
    assert found.budget == pytest.approx(25)
    assert found.last("nrc1") < 1e-6 and found.last("nrc2") < 1e-6
    assert found.last("weight_rcond") > ALIVE
