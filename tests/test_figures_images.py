"""The image sets' figures: their own files, stand-ins named, one target without NRC3, layers of a ResNet."""

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_figures import write_run

from nrc.cli import config
from nrc.figures import Runs, deep, draw_all
from nrc.figures._style import pretty
from nrc.figures.prevalence import sets
from nrc.runs.read import Run, commands
from nrc.training import RunSettings

POINTS = ["layer1.0.conv1", "layer1.0.conv2", "layer4.1.conv2", "fc"]
NET = {"kind": "ResNet", "depth": 18}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    for data, n, kind in (
        ("carla_2d", 2, "stand-in"),
        ("carla_1d", 1, "stand-in"),
        ("utkface-faces", 1, "real"),
    ):
        for wd in (0.0, 0.05):
            write_run(outputs, "images-quick", data, wd, n=n, kind=kind, names=POINTS, model=NET)
    draw_all(outputs, "quick", say=lambda line: None)
    return outputs / "figures"


def test_stand_ins_and_real_images_are_drawn_apart(drawn: Path) -> None:
    found = {file.stem for file in drawn.glob("*.png")}
    for kind in ("prevalence", "evr", "sweep"):
        assert {f"{kind}_images", f"{kind}_images_real"} <= found
        data = set(pd.read_csv(drawn / f"{kind}_images.csv").data)
        assert data == {"carla_2d", "carla_1d"}
        assert set(pd.read_csv(drawn / f"{kind}_images_real.csv").data) == {"utkface-faces"}
    assert {"deep_carla_2d", "deep_carla_1d", "deep_utkface-faces"} <= found


def test_one_target_has_no_nrc3_and_no_gamma(drawn: Path) -> None:
    table = pd.read_csv(drawn / "prevalence_images.csv")
    assert set(table[table.metric == "nrc3"].data) == {"carla_2d"}
    assert set(pd.read_csv(drawn / "sweep_images.csv").query("metric == 'nrc3'").data) == {"carla_2d"}
    assert set(pd.read_csv(drawn / "gamma_images.csv").data) == {"carla_2d"}
    assert not (drawn / "gamma_images_real.png").exists()


def test_stand_ins_are_named_in_titles_captions_and_never_for_real_data(drawn: Path) -> None:
    captions = json.loads((drawn / "captions.json").read_text())
    for name in ("prevalence_images", "evr_images", "sweep_images", "gamma_images"):
        assert "CARLA 2D (stand-in)" in captions[name]["caption"], name
    assert "CARLA 2D (stand-in)" in captions["deep_carla_2d"]["title"]
    for name in ("prevalence_images_real", "deep_utkface-faces"):
        assert "stand-in" not in captions[name]["caption"] + captions[name]["title"]


def test_commands_run_the_experiment_that_made_the_runs(drawn: Path) -> None:
    captions = json.loads((drawn / "captions.json").read_text())
    assert captions["deep_carla_1d"]["commands"] == [
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
        words = shlex.split(line)
        assert words[:2] == ["python", "scripts/train.py"]
        again |= {m.directory: m.settings for m in config.members_of([w for w in words[2:] if w != "-m"])}
    assert again == {m.directory: m.settings for m in made}
    (alone,) = config.members_of(shlex.split(runs[0].command)[2:])
    assert alone.settings == made[0].settings


def test_layers_are_named_as_in_the_network_and_published_curves_are_those_of_the_paper(drawn: Path) -> None:
    table = pd.read_csv(drawn / "deep_carla_2d.csv")
    published = table[(table.series == "published") & (table.metric == "noise")]
    assert published.layer.max() == len(POINTS)  # cut to the layers that are there; 17 in the file
    main = table[(table.series == "headline") & (table.metric == "noise")]
    assert sorted(main.layer.unique()) == [1, 2, 3, 4]
    assert (
        "input channels, averaged over the image"
        in json.loads((drawn / "captions.json").read_text())["deep_carla_2d"]["caption"]
    )


def test_captions_say_how_the_published_runs_differ(tmp_path: Path) -> None:
    """Nothing is called the same recipe that is not, and no error is drawn beside one in other units."""

    def deep_run(data: str, facts: dict, tau: float, **settings: object) -> tuple[str, pd.DataFrame]:
        kind = "stand-in" if settings.get("kind") == "Carla" and not settings.get("path") else "real"
        place = write_run(
            tmp_path,
            "images-quick",
            data,
            0.005,
            kind=kind,
            names=POINTS,
            model=NET,
            config={"data": settings},
        )
        info = json.loads((place / "run.json").read_text())
        info["data"] |= facts
        info["tau"] = tau
        (place / "run.json").write_text(json.dumps(info))
        (drawing,) = (d for d in deep.draw(Runs(tmp_path)) if d.runs[0].data == data)
        return drawing.caption, drawing.table[drawing.table.series == "published"]

    carla = {"kind": "Carla", "name": None, "targets": ["speed", "steer"], "size": None}
    caption, table = deep_run(
        "carla_2d", {"train": 960, "image_size": [24, 56]}, 40.0, **carla, scale_targets="standard"
    )
    assert (
        "There / here: tau 2,898 / 40, train rows 40,000 / 960, images 88 x 200 / 24 x 56, targets in [0, 1] / of "
        "deviation 1, drawn images instead of real ones; its linear prediction MSE is in other units and not drawn."
    ) in caption
    assert "linear_mse" not in set(table.metric) and {"noise", "cka"} <= set(table.metric)
    caption, table = deep_run(
        "carla_2d-drive", {"train": 40000, "image_size": [88, 200]}, 2900.0, **carla, path="drive.tar", scale_targets="minmax"
    )  # fmt: skip
    assert caption.endswith("There / here: other rows.") and "linear_mse" in set(table.metric)
    assert "recipe" not in caption


def test_a_lost_direction_is_said(tmp_path: Path) -> None:
    for wd in (0.3, 0.0):
        place = write_run(tmp_path, "images-quick", "carla_2d", wd, kind="stand-in", names=POINTS, model=NET)
        if wd:
            arrays = dict(np.load(place / "snapshots.npz"))
            arrays["weight_end"] = np.outer([1.0, 0.01], np.ones(8)) + np.outer([0.0, 0.09], np.eye(8)[0])
            np.savez(place / "snapshots.npz", **arrays)
    draw_all(tmp_path, "quick", say=lambda line: None)
    captions = json.loads((tmp_path / "figures/captions.json").read_text())
    for name in ("prevalence_images", "sweep_images", "gamma_images", "deep_carla_2d"):
        assert captions[name]["caption"].count("only 1 of 2 target directions left") == 1, name
    assert "There / here: CARLA 2D (stand-in) " in captions["gamma_images"]["caption"]


def test_own_recipe_wins_over_the_prevalence_runs(tmp_path: Path) -> None:
    for folder in ("images-paper", "deep-paper"):
        write_run(tmp_path, folder, "carla_2d", 0.05, protocol="paper", names=POINTS, model=NET, kind="real")
    drawings = deep.draw(Runs(tmp_path, "paper"))
    assert [d.name for d in drawings] == ["deep_carla_2d"]
    assert "experiment=deep " in drawings[0].runs[0].command


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
