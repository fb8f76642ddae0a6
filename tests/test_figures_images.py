"""The image sets' figures: their own files, stand-ins named, one target without NRC3, layers of a ResNet."""

import shlex
from pathlib import Path

import pandas as pd
import pytest
from test_figures import drawings, drawn, words, write_run

from nrc.cli import config
from nrc.figures import Drawing, Runs, figures
from nrc.figures.selection import sets
from nrc.figures.style import pretty
from nrc.runs.read import Run, commands
from nrc.training import RunSettings

POINTS = ["layer1.0.conv1", "layer1.0.conv2", "layer4.1.conv2", "fc"]
NET = {"kind": "ResNet", "depth": 18}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    """All that is drawn of three sets of images, by name."""
    outputs = tmp_path_factory.mktemp("outputs")
    sets = (("carla_2d", 2, "stand-in"), ("carla_1d", 1, "stand-in"), ("utkface-faces", 1, "real"))
    for data, n, kind in sets:
        for wd in (0.0, 0.05):
            write_run(outputs, "images-quick", data, wd, n=n, kind=kind, names=POINTS, model=NET)
    names = ("prevalence", "evr", "sweep", "gamma", "deep")
    return {drawing.name: drawing for name in names for drawing in drawings(name, outputs)}


def data_of(drawing: Drawing, metric: str = "") -> set[str]:
    table = drawing.table
    return set(table[table.metric == metric].data if metric else table.data)


def test_stand_ins_and_real_images_are_drawn_apart(found: dict[str, Drawing]) -> None:
    for kind in ("prevalence", "evr", "sweep"):
        assert data_of(found[f"{kind}_images"]) == {"carla_2d", "carla_1d"}
        assert data_of(found[f"{kind}_images_real"]) == {"utkface-faces"}
    assert {"deep_carla_2d", "deep_carla_1d", "deep_utkface-faces"} <= set(found)


def test_one_target_has_no_nrc3_and_no_gamma(found: dict[str, Drawing]) -> None:
    for name in ("prevalence_images", "sweep_images", "gamma_images"):
        assert data_of(found[name], "nrc3") == {"carla_2d"}, name
    assert "gamma_images_real" not in found


def test_stand_ins_are_named_in_titles_and_never_for_real_data(found: dict[str, Drawing]) -> None:
    for drawing in found.values():
        texts = "".join([*words(drawing), drawing.title])
        stand_in = any(data.startswith("carla") for data in data_of(drawing))
        assert ("(stand-in)" in texts) == stand_in, drawing.name


def test_commands_run_the_experiment_that_made_the_runs(found: dict[str, Drawing]) -> None:
    assert commands(found["deep_carla_1d"].runs) == [
        "python scripts/train.py -m experiment=images data=carla_1d protocol=quick optim.weight_decay=0.05,0 seed=0"
    ]


@pytest.mark.parametrize(
    "given",
    [
        ["experiment=images", "data=utkface", "data.path='my faces (2).tar'", "data.size=64", "optim.lr=0.001", "model.depth=34"],
        ["experiment=images", "data=carla", "data.path='a/x.npy,b/y.npy'", "data.limit=50", "measure.samples=20"],
        ["experiment=images", "data=carla_1d", "data.path=2027.tar", "data.csv_file=log.csv", "data.size=null"],
        ["experiment=images", "data=carla", "data.targets=[steer]", "data.path=a", "data.scale_targets=none"],
        ["experiment=images", "data=carla_1d", "data.path=SeqTrain", "data.test_path=SeqVal", "protocol.tau=3"],
        ["experiment=prevalence", "data=reacher", "data.source=jat", "data.path=folder", "data.limit=500"],
        ["experiment=prevalence", "data=table", "data.path=numbers.csv", "data.targets=[a b,c]", "data.name=mine"],
        ["experiment=prevalence", "data=table", "data.path=n.csv", "data.kind=synthetic", "data.standardize=xy"],
        ["experiment=sgemm", "data=sgemm", "data.path=sgemm_product.csv.gz", "protocol=accelerated"],
        ["experiment=images", "data=carla_2d"],
        ["experiment=low_rank", "data=low_rank"],
        ["experiment=tau_clock", "data=hopper"],
    ],
)  # fmt: skip
def test_the_printed_command_makes_the_runs_again(given: list[str]) -> None:
    """Through a shell's and Hydra's reading of it, whatever characters a path has."""
    made = config.members_of(given)
    runs = [Run(m.directory, m.settings.purpose(), pd.DataFrame()) for m in made]
    again: dict[Path, RunSettings] = {}
    for line in commands(runs):
        typed = shlex.split(line)
        assert typed[:2] == ["python", "scripts/train.py"]
        again |= {m.directory: m.settings for m in config.members_of([w for w in typed[2:] if w != "-m"])}
    assert again == {m.directory: m.settings for m in made}
    (alone,) = config.members_of(shlex.split(runs[0].command)[2:])
    assert alone.settings == made[0].settings


def test_layers_are_named_as_in_the_network_and_published_curves_are_those_of_the_paper(
    found: dict[str, Drawing],
) -> None:
    table = found["deep_carla_2d"].table
    published = table[(table.series == "published") & (table.metric == "noise")]
    assert published.layer.max() == len(POINTS)  # cut to the layers that are there; 17 in the file
    main = table[(table.series == "headline") & (table.metric == "noise")]
    assert sorted(main.layer.unique()) == [1, 2, 3, 4]


@pytest.mark.parametrize(("scale", "same"), [("standard", False), ("minmax", True)])
def test_no_error_is_drawn_beside_one_in_other_units(tmp_path: Path, scale: str, same: bool) -> None:
    config = {"data": {"kind": "Carla", "scale_targets": scale}}
    write_run(tmp_path, "images-quick", "carla_2d", 0.005, names=POINTS, model=NET, config=config)
    table = drawn("deep", tmp_path).table
    metrics = set(table[table.series == "published"].metric)
    assert ("linear_mse" in metrics) == same and {"noise", "cka"} <= metrics


def test_own_recipe_wins_over_the_prevalence_runs(tmp_path: Path) -> None:
    for folder in ("images-paper", "deep-paper"):
        write_run(tmp_path, folder, "carla_2d", 0.05, protocol="paper", names=POINTS, model=NET, kind="real")
    (drawing,) = figures()["deep"].drawings(Runs(tmp_path, "paper"))
    assert drawing.name == "deep_carla_2d" and drawing.runs[0].experiment == "deep"


def test_names() -> None:
    assert (pretty("carla_1d"), pretty("utkface-utkface_5000"), pretty("reacher")) == (
        "CARLA 1D", "UTKFace utkface_5000", "Reacher",
    )  # fmt: skip


def test_sets_from_files_are_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "images-quick", "utkface-faces", 0.05, n=1, kind="real", names=POINTS, model=NET)
    runs = Runs(tmp_path, "quick")
    (run,) = runs.headline("images", "utkface-faces")
    assert (run.data, run.dataset, run.variant) == ("utkface-faces", "utkface", {"file": "faces"})
    assert list(sets(runs, "images_real")) == ["utkface-faces"] and sets(runs, "images") == {}
