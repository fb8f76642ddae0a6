"""Every config composes into checked settings, and mistakes end in one readable line."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nrc.cli import config
from nrc.errors import UserError
from nrc.experiments import experiments
from nrc.places import PROTOCOLS
from nrc.report.registry import claims
from nrc.runs.directory import read_info
from nrc.training import Clock, RunSettings

REPO = Path(__file__).resolve().parents[1]
CONF = REPO / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings(*overrides: str) -> RunSettings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config.run_settings(compose("train", list(overrides)))


def command(*arguments: str, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPO / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("data", names("data"))
@pytest.mark.parametrize("protocol", names("protocol"))
def test_every_data_set_composes_with_every_protocol(data: str, protocol: str) -> None:
    extra = ["data.path=numbers.csv", "data.targets=1"] if data == "table" else []
    found = settings(f"data={data}", f"protocol={protocol}", *extra)
    assert found.protocol.name == protocol and found.optim.lr > 0


@pytest.mark.parametrize("model", names("model"))
def test_every_model_composes_and_builds(model: str) -> None:
    narrow = [] if model.startswith("resnet") else ["model.width=8"]
    network = settings(f"model={model}", *narrow).model.build(5, 2, seed=0)
    assert list(network.measured_layers())[-1].startswith("fc")  # type: ignore[operator]


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_composes_and_says_how_to_run_it(experiment: str) -> None:
    composed = settings(f"experiment={experiment}")
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra wants this first
    assert lines[1].startswith("# python scripts/train.py") and f"experiment={experiment}" in lines[1]
    declared = experiments()[experiment]
    assert set(declared["datasets"]) <= set(names("data")) and set(declared["protocols"]) <= set(PROTOCOLS)
    judged = {name for claim in claims() for name in claim.on}
    assert (
        declared["datasets"] and declared["protocols"] and (declared["figures"] or declared["name"] in judged)
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        told = compose("train", [f"experiment={experiment}"]).experiment
    assert composed.experiment == told.name
    # the reproduction reads what Hydra does
    assert all(told[key] == value for key, value in declared.items() if key != "headline")


def test_a_run_says_what_it_is_for() -> None:
    for member in config.sweep_members("sweep", "reacher", "quick", Path("outputs")):
        found = member.settings
        decay = found.optim.weight_decay
        role = "control" if decay == 0 else ("headline" if decay == found.headline else "sweep")
        assert found.purpose() == {
            "experiment": "prevalence", "role": role, "protocol": "quick",
            "overrides": ["experiment=sweep", "data=reacher", "protocol=quick", f"optim.weight_decay={decay:g}"],
        }  # fmt: skip
    alone = config.members_of(["data=swimmer", "seed=0,1"])[1].settings.purpose()
    assert alone == {
        "experiment": None,
        "role": None,
        "protocol": "quick",
        "overrides": ["data=swimmer", "seed=1"],
    }
    own = config.members_of(
        ["experiment=prevalence", "optim.weight_decay=0.3,0.2", "experiment.headline=0.2", "seed=0"]
    )
    assert [m.settings.role for m in own] == ["sweep", "headline"]


def test_the_slurm_launcher_composes_and_knows_its_settings() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'nrc[slurm]' brings it")
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    chosen = ["hydra/launcher=slurm", "hydra.launcher.partition=long", "threads=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("train", chosen, return_hydra_config=True).hydra.launcher
    typed = OmegaConf.merge(
        OmegaConf.structured(SlurmQueueConf), OmegaConf.to_container(found, resolve=False)
    )
    assert set(typed) == set(found), "a setting that the launcher does not have"
    assert (found.partition, found.cpus_per_task) == ("long", 3)
    assert found._target_ == "hydra_plugins.nrc_launcher.Slurm"
    assert found.additional_parameters.requeue is True and found.max_num_timeout > 0


def test_published_recipes() -> None:
    """nrc_prevalence, section 3, and deep_nrc, section 1: the published numbers, protocol by protocol."""
    for data, epochs, tau in (
        ("reacher", 1_500_000, 60_000),
        ("swimmer", 1_000_000, 40_000),
        ("hopper", 200_000, 80_000),
    ):
        paper = settings(f"data={data}", "protocol=paper")
        assert (paper.optim.lr, paper.optim.momentum, paper.optim.batch_size) == (1e-2, 0.0, 256)
        assert (paper.protocol.epochs, paper.optim.loss_scale) == (epochs, 0.5)
        assert settings(f"data={data}", "protocol=accelerated").protocol.tau == tau
    for data, wd, lr in (("swimmer", 5e-3, 0.1), ("reacher", 1e-4, 0.05), ("hopper", 1e-3, 0.1)):
        deep = settings(f"experiment=deep_{data}", "protocol=paper")
        assert (deep.optim.weight_decay, deep.optim.lr, deep.optim.momentum) == (wd, lr, 0.9)
        assert (deep.optim.batch_size, deep.protocol.epochs, deep.optim.loss_scale) == (128, 1000, 1.0)


def test_published_image_recipes() -> None:
    """nrc_prevalence, section 3, and deep_nrc, section 1: CARLA and UTKFace."""
    sweeps = {
        "carla_2d": "1e-1,1e-2,5e-3,5e-4,0", "carla_1d": "1e-1,1e-2,1e-3,1e-4,0", "utkface": "1e-1,5e-2,1e-2,5e-4,0",
    }  # fmt: skip
    for data, sweep in sweeps.items():
        members = config.sweep_members("images", data, "paper", Path("outputs"))
        assert {m.settings.optim.weight_decay for m in members} == {float(v) for v in sweep.split(",")}
        assert {m.settings.seed for m in members} == {0, 1} and len(members) == 10
        paper = settings("experiment=images", f"data={data}", "protocol=paper")
        optim, depth = paper.optim, 34 if data == "utkface" else 18
        assert (optim.lr, optim.momentum, optim.batch_size, optim.weight_decay) == (1e-3, 0.9, 512, 0.1)
        assert (paper.protocol.epochs, optim.loss_scale, optim.milestones) == (100, 1.0, [0.5, 0.75])
        assert (paper.model.depth, paper.model.pretrained) == (depth, False)  # type: ignore[attr-defined]
        assert paper.data.scale_targets == "none"  # type: ignore[attr-defined]
    for data, lr, wd, batch, epochs, depth in (
        ("carla_2d", 0.01, 5e-3, 128, 250, 18),
        ("utkface", 0.001, 5e-4, 512, 100, 34),
    ):
        deep = settings(f"experiment=deep_{data}", "protocol=paper")
        assert (deep.optim.lr, deep.optim.weight_decay, deep.optim.batch_size) == (lr, wd, batch)
        assert (deep.protocol.epochs, deep.optim.momentum, deep.optim.loss_scale) == (epochs, 0.9, 1.0)
        assert deep.model.depth == depth  # type: ignore[attr-defined]
    assert settings("experiment=deep_carla_2d", "protocol=paper").data.limit == 50_000  # type: ignore[attr-defined]
    assert settings("experiment=deep_utkface", "protocol=paper").model.normalise == "half"  # type: ignore[attr-defined]


def test_accelerated_image_recipes_reach_the_papers_tau_on_any_number_of_images() -> None:
    for chosen in (
        ["experiment=deep_carla_2d"], ["experiment=deep_utkface"], ["data=carla_1d"], ["data=carla"], ["data=utkface"],
    ):  # fmt: skip
        paper, fast = (settings(*chosen, f"protocol={p}") for p in ("paper", "accelerated"))
        for rows in (5_000, 40_000, 600_000):
            clocks = [Clock.of(s.optim, s.protocol, rows) for s in (paper, fast)]
            taus = [clock.tau_at(clock.total_steps) for clock in clocks]
            assert (
                taus[0] == pytest.approx(taus[1], rel=0.01) and clocks[1].total_steps < clocks[0].total_steps
            )


def test_every_setting_of_a_group_stands_in_its_file() -> None:
    """What is missing from the file can neither be set nor be found by reading conf/."""
    for overrides in (
        ["data=table", "data.path=x.csv"],
        ["data=carla", "model=resnet18"],
        ["data=utkface"],
        [],
    ):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides)
        found = config.run_settings(cfg)
        for group in ("data", "model", "optim", "protocol", "measure"):
            fields = {field.name for field in dataclasses.fields(getattr(found, group))}
            assert fields == set(cfg[group]) - {"_target_"}, group
    assert settings("measure.positions=all").measure.positions == "all"


def test_a_plain_run_on_images_follows_its_recipe() -> None:
    """Sizes, scales and measured steps that the learning rate was chosen for, and the paper's on demand."""
    file = ["data.path=drive.tar", "model=resnet18"]
    for data, size in (("carla", [24, 56]), ("utkface", 32)):
        quick = settings(f"data={data}", *file)
        assert (quick.data.size, quick.data.scale_targets) == (size, "standard")  # type: ignore[attr-defined]
        assert (quick.measure.log_spaced, quick.measure.evenly) == (0, 6)
        same = settings("experiment=images", f"data={data}", *file)
        assert (quick.data, quick.optim, quick.measure) == (same.data, same.optim, same.measure)
    paper = settings("data=carla", *file, "protocol=paper")
    assert (paper.data.size, paper.data.scale_targets) == (None, "none")  # type: ignore[attr-defined]
    own = settings("data=carla", *file, "data.size=[44,100]", "data.scale_targets=minmax", "measure.evenly=2")
    assert (own.data.size, own.data.scale_targets) == ([44, 100], "minmax")  # type: ignore[attr-defined]
    assert own.measure.evenly == 2
    assert settings("data=carla", "recipe=default/quick", *file).data.size is None  # type: ignore[attr-defined]
    assert settings("data=reacher").measure.log_spaced == 20


def test_length_given_by_the_user_wins_over_the_recipe() -> None:
    assert settings("protocol.epochs=3").protocol.epochs == 3
    assert settings("protocol.epochs=3").protocol.tau is None
    paper = settings("protocol=paper", "protocol.tau=7").protocol
    assert (paper.tau, paper.epochs) == (7, None)


def test_the_recipe_follows_data_set_and_protocol() -> None:
    assert (
        settings("data=swimmer", "recipe=hopper/accelerated").optim
        == settings("data=hopper", "protocol=accelerated").optim
    )
    for data, wd, sweep in (
        ("reacher", 1.5e-3, {1.5e-3, 5e-4, 5e-5, 5e-6, 0}),
        ("swimmer", 1e-2, {1e-2, 5e-3, 5e-4, 5e-5, 0}),
        ("hopper", 1e-2, {1e-2, 5e-3, 5e-4, 5e-5, 0}),
    ):  # NeurIPS 2024, the published weight decays
        for protocol in PROTOCOLS:
            members = config.sweep_members("sweep", data, protocol, Path("outputs"))
            assert {m.settings.optim.weight_decay for m in members} == sweep
            assert {m.settings.headline for m in members} == {wd}
    rest = config.sweep_members("ufm_sweep", "reacher", "quick", Path("outputs"))
    (main,) = config.sweep_members("ufm", "reacher", "quick", Path("outputs"))
    assert (main.settings.protocol.tau, {m.settings.protocol.tau for m in rest}) == (39100, {3910})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("data", names("data"))
def test_every_data_set_has_a_recipe_for_every_protocol(data: str, protocol: str) -> None:
    assert (CONF / "recipe" / data / f"{protocol}.yaml").exists()


@pytest.mark.parametrize(
    ("chosen", "groups"),
    [
        (["recipe=default/quick"], ("data", "model", "optim", "measure")),
        (["recipe=default/quick", "data=carla", "model=resnet18"], ("data", "model")),
        (["recipe=default/quick", "data=utkface", "model=resnet18"], ("data",)),
        (["data=sgemm", "data.path=x"], ("data",)),
        (["data=table", "data.path=x"], ("data",)),
    ],
)
def test_a_setting_has_the_same_default_in_its_class_and_in_its_file(
    chosen: list[str], groups: tuple[str, ...]
) -> None:
    """A class made in code and a run from the command line must not differ silently."""
    found = settings(*chosen)
    by_recipe = {"lr", "momentum", "weight_decay"}  # what a recipe exists for
    for group in groups:
        values = getattr(found, group)
        for field in dataclasses.fields(values):
            has_default = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
            if not has_default or field.name in by_recipe | {"path"}:
                continue
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
            assert getattr(values, field.name) == default, f"{group}.{field.name}"


def test_sweep_members_are_the_directories_of_a_multirun(tmp_path: Path) -> None:
    members = config.sweep_members("prevalence_linear", "swimmer", "quick", tmp_path)
    places = {str(m.directory.relative_to(tmp_path)) for m in members}
    assert "prevalence_linear-quick/swimmer/wd=0/seed=2" in places and len(members) == 6
    result = command(
        "-m", "experiment=prevalence_linear", "data=swimmer", "protocol.tau=0.5", "optim.weight_decay=0", "seed=2",
        "measure.log_spaced=0", "measure.evenly=0", f"hydra.sweep.dir={tmp_path}/prevalence_linear-quick",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    info = read_info(tmp_path / "prevalence_linear-quick/swimmer/wd=0/seed=2")
    assert (info["status"], info["experiment"], info["role"]) == ("finished", "prevalence_linear", "control")
    assert sorted(info["overrides"]) == sorted([
        "experiment=prevalence_linear", "data=swimmer", "protocol.tau=0.5", "optim.weight_decay=0", "seed=2",
        "measure.log_spaced=0", "measure.evenly=0",
    ])  # fmt: skip
    assert (info["data"]["name"], info["data"]["train"], info["data"]["image_size"]) == (
        "swimmer",
        1000,
        None,
    )


def test_a_sweep_of_ones_own_expands_as_in_a_multirun() -> None:
    members = config.members_of(["data=swimmer", "optim.weight_decay=0,1e-3", "seed=0,1"])
    places = {str(m.directory): (m.settings.optim.weight_decay, m.settings.seed) for m in members}
    root = "outputs/train-quick/swimmer"
    assert places == {f"{root}/wd={d}/seed={s}": (float(d), s) for d in ("0", "0.001") for s in (0, 1)}
    asked = config.members_of(["data=swimmer", "threads=3", "tensorboard=true", "resident=stream"])[0]
    assert (asked.threads, asked.tensorboard, asked.resident) == (3, True, "stream")
    with pytest.raises(UserError, match="resident is 'host'; choose auto, device, stream"):
        config.members_of(["data=swimmer", "resident=host"])
    fewer = config.members_of(["experiment=prevalence", "seed=4"])  # in place of the experiment's seeds
    assert {m.settings.seed for m in fewer} == {4} and len(fewer) == 2
    rates = config.members_of(["optim.lr=0.05,0.1", "hydra.sweep.dir=elsewhere/${optim.lr}"])
    assert [m.directory.parts[:2] for m in rates] == [("elsewhere", "0.05"), ("elsewhere", "0.1")]
    with pytest.raises(UserError, match=r"two runs of the sweep share outputs/train-quick/reacher/wd="):
        config.members_of(["optim.lr=0.05,0.1"])


def test_the_sweep_command(tmp_path: Path) -> None:
    short = ["data=low_rank", "protocol.tau=1", "measure.log_spaced=0", "measure.evenly=0"]
    wanted = [*short, "optim.weight_decay=0,1e-3", f"hydra.sweep.dir={tmp_path}", "device=cpu"]
    for words in ("2 runs finished, 0 were there already", "0 runs finished, 2 were there already"):
        result = command(*wanted, script="sweep.py")
        assert result.returncode == 0 and words in result.stdout, result.stderr
    assert len(list(tmp_path.glob("*/wd=*/seed=0/metrics.csv"))) == 2
    assert not list(tmp_path.rglob("events.out*"))


@dataclasses.dataclass
class Arrays:
    """No settings: OmegaConf takes no arrays."""

    n: int = 3
    arr: np.ndarray | None = None


@dataclasses.dataclass
class Unions:
    n: int = 3
    a: int | str | list[int] = 3


@pytest.mark.parametrize(
    ("cls", "words"), [(Arrays, "Arrays.arr has the type "), (Unions, "Unions.a has the type ")]
)
def test_a_type_that_no_setting_can_have_is_named(cls: type, words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        config.typed(cls, OmegaConf.create({"n": 4}), "data")
    assert "settings are int, float, bool, str, lists and dicts of these" in str(told.value)


def test_minus_zero_and_zero_are_one_run() -> None:
    found = config.members_of(["optim.weight_decay=-0.0,0"])
    assert [str(member.directory) for member in found] == ["outputs/train-quick/reacher/wd=0/seed=0"]
    assert str(found[0].settings.optim.weight_decay) == "0.0"


def test_a_sweep_without_a_value_has_no_members() -> None:
    with pytest.raises(UserError, match=re.escape("seed=range(3,0) gives no value")):
        config.members_of(["seed=range(3,0)"])
