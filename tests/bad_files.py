"""One folder with a file for every way in which a file can be wrong, and a few odd ones that are right."""

import gzip
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

REPO = Path(__file__).resolve().parents[1]
ROWS = np.random.default_rng(0).normal(size=(40, 5)).round(3)
NAMES = ["a", "b", "c", "u", "v"]


def text(values: np.ndarray = ROWS, header: str | None = "a,b,c,u,v", separator: str = ",") -> str:
    lines = [separator.join(map(repr, row)) for row in values.tolist()]
    return "\n".join(([header] if header else []) + lines) + "\n"


def changed(row: int, column: int, value: float) -> np.ndarray:
    values = ROWS.copy()
    values[row, column] = value
    return values


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def hdf5(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return buffer.getvalue()


class Trap:
    """Unpickling this would make the folder `opened`."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("opened",)


def write_all(folder: Path) -> None:
    """Fill `folder`."""
    good, short = text(), text(ROWS[:, :2], "u,v")
    collinear = np.column_stack([ROWS[:, :4], 2 * ROWS[:, 3]])
    zipped, matrix = archive(x=ROWS[:, :3], y=ROWS[:, 3:]), npy(ROWS)
    table, sheet = parquet(pd.DataFrame(ROWS, columns=NAMES)), hdf5(x=ROWS[:, :3], y=ROWS[:, 3:])
    traps = np.array([[Trap()]], dtype=object)
    files: dict[str, str | bytes] = {
        "good.csv": good, "my data (1), späť 数据.csv": good, "no header.csv": text(header=None),
        "semicolon.csv": text(header="a;b;c;u;v", separator=";"), "bom.csv": "\ufeff" + good,
        "empty.csv": "", "header.csv": "a,b,c,u,v\n", "one_row.csv": "a,b,c,u,v\n1,2,3,4,5\n",
        "words.csv": good.replace("\n", "\n", 1) + "1,red,2,3,4\n", "mixed.csv": good + "1;2;3;4;5\n",
        "comma.csv": good.replace(",", ";").replace(".", ","), "twice.csv": text(header="a,b,b,u,v"),
        "nan_x.csv": text(changed(3, 1, np.nan)), "nan_y.csv": text(changed(3, 4, np.nan)),
        "inf_x.csv": text(changed(3, 1, np.inf)), "inf_y.csv": text(changed(3, 4, -np.inf)),
        "constant.csv": text(np.column_stack([ROWS[:, :4], np.ones(40)])), "collinear.csv": text(collinear),
        "huge.csv": good + "1,2,3,4," + "9" * 60 + "\n", "cut.csv": good[: good.rindex(",")],
        "longer.csv": good + "1,2,3,4,5,6\n", "gzipped.csv": gzip.compress(good.encode()),
        "cut.csv.gz": gzip.compress(good.encode())[:-30], "plain.csv.gz": good,
        "latin.csv": good.encode() + "1,2,3,4,é\n".encode("latin-1"), "other.csv": short,
        "wide.npz": archive(x=ROWS[:8, :3], y=np.random.default_rng(1).normal(size=(8, 20))),
        "good.npz": zipped, "cut.npz": zipped[: len(zipped) // 2], "cut.npy": matrix[:-100],
        "objects.npy": npy(traps), "objects.npz": archive(x=traps, y=traps), "cube.npy": npy(np.ones((4, 3, 2))),
        "pickle.pkl": pickle.dumps(ROWS), "disguised.npy": pickle.dumps(Trap()), "x.npy": npy(ROWS[:, :3]),
        "y.npy": npy(ROWS[:, 3:]), "y_short.npy": npy(ROWS[:9, 3:]), "words.npz": archive(x=np.array([["a"]])),
        "three.npz": archive(a=ROWS, b=ROWS), "cut.h5": sheet[: len(sheet) // 2], "bare.h5": hdf5(rewards=ROWS, z=ROWS),
        "cut.parquet": table[: len(table) // 2], "good.parquet": table, "settings.json": "{}",
        "odd/lone.json": json.dumps({"optim": {"lr": 0.1}}), "odd/settings.yaml": "optim:\n  lr: 1\n  lr: 2\n",
    }  # fmt: skip
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "folder.csv").mkdir()
    whole = REPO / "data" / "minari"
    for root in ("no_hdf5", "no_metadata", "bad_metadata", "no_space", "cut_hdf5"):
        shutil.copytree(whole / "nrc" / "reacher-expert-v0", folder / root / "nrc" / "reacher-expert-v0")
    data = {root.name: root / "nrc/reacher-expert-v0/data" for root in folder.iterdir() if root.is_dir()}
    (data["no_hdf5"] / "main_data.hdf5").unlink()
    (data["no_metadata"] / "metadata.json").unlink()
    (data["bad_metadata"] / "metadata.json").write_text('{"total_episodes": [}')
    metadata = json.loads((data["no_space"] / "metadata.json").read_text())
    del metadata["observation_space"]
    # Minari would make this environment to learn its spaces
    metadata["env_spec"] = json.dumps(json.loads(metadata["env_spec"]) | {"entry_point": "os:mkdir"})
    (data["no_space"] / "metadata.json").write_text(json.dumps(metadata))
    content = (data["cut_hdf5"] / "main_data.hdf5").read_bytes()
    (data["cut_hdf5"] / "main_data.hdf5").write_bytes(content[: len(content) // 2])
