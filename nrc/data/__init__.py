"""Data sets: settings in, one frozen RegressionData out.

Each source is a frozen dataclass of settings with `.load() -> RegressionData`:
Mujoco (expert rollouts), Table (a file of numbers), LowRank (synthetic), Sgemm (GPU run times),
Carla (driving frames), UTKFace (faces and ages).
"""

from nrc.data.base import RegressionData, standardise, train_test_split_indices
from nrc.data.carla import Carla
from nrc.data.low_rank import LowRank
from nrc.data.mujoco import Mujoco
from nrc.data.sgemm import Sgemm
from nrc.data.table import Table
from nrc.data.utkface import UTKFace

__all__ = [
    "Carla",
    "LowRank",
    "Mujoco",
    "RegressionData",
    "Sgemm",
    "Table",
    "UTKFace",
    "standardise",
    "train_test_split_indices",
]
