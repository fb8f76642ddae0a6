"""Data sets: settings in, one frozen RegressionData out.

Each source is a frozen dataclass of settings with `.load() -> RegressionData`, in three families: `tables` (Table, a
file of numbers), `mujoco` (Mujoco, expert rollouts), `images` (Carla, driving frames; UTKFace, faces and ages). Beside
them LowRank (synthetic) and Sgemm (GPU run times).
"""

from nrc.data.base import RegressionData, standardise, train_test_split_indices
from nrc.data.images import Carla, UTKFace
from nrc.data.mujoco import Mujoco
from nrc.data.settings import DataSource
from nrc.data.sgemm import Sgemm
from nrc.data.synthetic import LowRank
from nrc.data.tables import Table

__all__ = [
    "Carla",
    "DataSource",
    "LowRank",
    "Mujoco",
    "RegressionData",
    "Sgemm",
    "Table",
    "UTKFace",
    "standardise",
    "train_test_split_indices",
]
