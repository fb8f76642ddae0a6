"""Tables of numbers, written as files of every format."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from nrc.data import RegressionData

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(40, 5)).astype(np.float32)
NAMES = ["a", "b", "c", "steer", "speed (m/s)"]


def write(folder: Path, name: str) -> str:
    """VALUES in the format that the name says."""
    path = folder / name
    frame = pd.DataFrame(VALUES, columns=NAMES)
    if name == "bare.csv":
        frame.to_csv(path, index=False, header=False)
    elif name == "semicolon.csv":
        frame.to_csv(path, index=False, sep=";")
    elif ".tsv" in name:
        frame.to_csv(path, index=False, sep="\t")
    elif name.endswith(".txt"):
        np.savetxt(path, VALUES, fmt="%.9g")
    elif ".csv" in name:
        frame.to_csv(path, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name == "xy.npz":
        np.savez(path, x=VALUES[:, :3], y=VALUES[:, 3:], extra=np.array(["text"]))
    elif name == "rollout.npz":
        np.savez(path, observations=VALUES[:, :3], actions=VALUES[:, 3:], rewards=np.zeros(40))
    elif name == "single.npz":
        np.savez(path, table=VALUES)
    elif name == "single.npy":
        np.save(path, VALUES)
    elif name == "xy.h5":
        with h5py.File(path, "w") as file:
            file["observations"], file["actions"] = VALUES[:, :3], VALUES[:, 3:]
    elif name == "single.hdf5":
        with h5py.File(path, "w") as file:
            file["table"] = VALUES
    else:
        raise AssertionError(name)
    return str(path)


def both(data: RegressionData) -> np.ndarray:
    """The rows in the order of the file, for data split in order."""
    return np.vstack([np.hstack([data.x_train, data.y_train]), np.hstack([data.x_test, data.y_test])])


def text_file(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


GOOD_ROWS = "".join(f"{i},{i * i},{i % 3}\n" for i in range(20))


def text_of(columns: Any = None, values: Any = VALUES, **options: Any) -> str:
    return pd.DataFrame(values, columns=columns).to_csv(**({"index": False} | options))


WHOLE = np.random.default_rng(1).integers(0, 9, (40, 5))
