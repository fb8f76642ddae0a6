"""The files of conf/data and the classes that they name."""

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nrc.cli.config import group_settings
from nrc.data import Carla, LowRank, Mujoco, Sgemm, Table, UTKFace
from nrc.data.base import RegressionData
from nrc.data.mujoco import PAPER

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"

CLASSES = {
    "base/mujoco": Mujoco,
    "table": Table,
    "low_rank": LowRank,
    "sgemm": Sgemm,
    "carla": Carla,
    "utkface": UTKFace,
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_defaults_of_a_class_are_those_of_its_file(name: str) -> None:
    file = OmegaConf.load(CONF / f"{name}.yaml")
    assert file.pop("defaults")[0].endswith("targets@_here_")
    config = OmegaConf.merge(OmegaConf.load(CONF / "base/targets.yaml"), file)
    given = OmegaConf.create({"data": config, "protocol": {"name": "quick"}}).data  # without any recipe
    values = OmegaConf.to_container(given, resolve=True)
    assert isinstance(values, dict) and values.pop("_target_") == f"nrc.data.{CLASSES[name].__name__}"
    path = {"path": "x.csv"} if name == "table" else {}  # the only setting that must be given
    assert values | path == asdict(CLASSES[name](**path))
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    "name", ["reacher", "swimmer", "hopper", "low_rank", "low_rank_t3", "carla_1d", "carla_2d"]
)
def test_every_choice_of_data_makes_settings_of_that_name(name: str) -> None:
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        settings = group_settings(compose("train", [f"data={name}"]), "data")
    assert settings.data_name == name and settings.variant == {}


@pytest.mark.parametrize("name", ["reacher", "swimmer", "hopper"])
def test_the_embedded_sets_load_in_their_published_sizes(name: str) -> None:
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        settings = group_settings(compose("train", [f"data={name}"]), "data")
    data = settings.load()
    assert isinstance(data, RegressionData) and data.kind == "own experts"
    assert (data.sizes["train"], data.sizes["test"]) == (settings.train_size, settings.test_size)
    assert data.target_rank == data.sizes["targets"] == len(PAPER[name].eigenvalues)
