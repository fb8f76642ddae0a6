"""The reproduction script: what it would run, that it skips what is done, and that figures follow."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nrc.cli import config, console, reproduce
from nrc.cli.reproduce import chosen, datasets, parts
from nrc.data import LowRank
from nrc.models import MLP, ResNet
from nrc.training import Measure, Optim, Protocol, RunSettings
from nrc.training.pool import Member, run_all

REPO = Path(__file__).resolve().parents[1]


def small(seed: int, **optim: float) -> RunSettings:
    settings = Optim(**({"lr": 0.05, "batch_size": 32} | optim))  # type: ignore[arg-type]
    data, model = LowRank(t=2, r=2, d=5, n=100), MLP(num_layers=2, width=8)
    return RunSettings(data, model, settings, Protocol(epochs=2), Measure(log_spaced=0, evenly=0), seed)


def test_a_pool_runs_all_skips_the_finished_and_survives_a_diverging_member(tmp_path: Path) -> None:
    members = [Member(small(seed), tmp_path / str(seed)) for seed in (0, 1)]
    assert set(run_all(members[:1], workers=1).values()) == {"finished"}
    wild = Member(small(2, lr=1e9), tmp_path / "wild")
    outcomes = run_all([*members, wild], workers=2)
    assert [outcomes[m.directory] for m in (*members, wild)] == ["skipped", "finished", "diverged"]


def test_runs_in_the_pool_equal_runs_alone(tmp_path: Path) -> None:
    from nrc.training import fit

    fit(small(0), tmp_path / "alone")
    run_all([Member(small(0), tmp_path / "pool")], workers=1)
    assert (tmp_path / "alone/metrics.csv").read_bytes() == (tmp_path / "pool/metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def members() -> list[Member]:
    """All runs of the reproduction."""
    return [
        member
        for experiment, data in chosen("all", "quick")
        for member in config.sweep_members(experiment, data, "quick", Path("outputs/none"))
    ]


def test_no_two_settings_share_a_directory(members: list[Member]) -> None:
    seen: dict[Path, RunSettings] = {}
    for member in members:
        assert seen.setdefault(member.directory, member.settings) == member.settings
    assert len(seen) > 50


def test_real_images_with_any_name_and_settings(tmp_path: Path) -> None:
    """One sweep on one set, whatever the file is called."""
    faces = tmp_path / "my faces, (2).tar"
    faces.touch()
    extra = reproduce._real(str(faces), ["data.size=64", "optim.weight_decay=0.2,0"], "utkface")
    members = config.sweep_members("images", "utkface", "quick", tmp_path, extra)
    assert [m.settings.data.path for m in members] == [str(faces)] * 2  # type: ignore[attr-defined]
    assert {m.settings.data.size for m in members} == {64}  # type: ignore[attr-defined]
    assert {m.settings.optim.weight_decay for m in members} == {0.2, 0}
    for name in ("x.npy", "y.npy"):
        (tmp_path / name).touch()
    pair = f"{tmp_path}/x.npy,{tmp_path}/y.npy"
    extra = reproduce._real(pair, [], "carla_2d")
    found = config.sweep_members("images", "carla_2d", "quick", tmp_path, extra)
    assert {m.settings.data.path for m in found} == {pair}  # type: ignore[attr-defined]
    assert {m.directory.parts[-3] for m in found} == {"carla_2d-x"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "data.size=64"], "give --path as well"),
        (["--dataset", "reacher", "--path", "."], "--path needs --dataset carla_2d"),
        (["--dataset", "utkface", "--path", "no/where"], "no/where does not exist"),
        (["--dataset", "carla_2d", "--path", "Makefile,nowhere.npy"], "nowhere.npy does not exist"),
        (["--dataset", "utkface", "--path", ".", "--set", "64"], "expected KEY=VALUE"),
        (["--dataset", "utkface", "--path", ".", "--set", "data.sise=64"], "there is no setting data.sise"),
    ],
)
def test_mistakes_about_real_images(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as ended, console.one_line_errors():
        reproduce.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words in said and said.count("\n") == 1


@pytest.mark.slow
def test_one_data_set_from_command_line_to_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "scripts/reproduce_figures.py"), "--dataset", "swimmer"]
    for expected in ("runs finished, 0 were there already", "0 runs finished"):
        result = subprocess.run([*command, "--outputs", str(tmp_path)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {
        "prevalence_relu",
        "prevalence_linear",
        "sweep_relu",
        "phase_swimmer",
        "geometry",
        "deep_swimmer",
        "cone",
        "tau_clock",
    } <= names


def test_on_auto_the_mlps_stay_on_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = Member(small(0), Path("mlp"))
    images = Member(replace(small(0), model=ResNet()), Path("images"))
    assert parts([mlp, images], "auto") == {"auto": [mlp, images]}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parts([mlp, images], "auto") == {"cpu": [mlp], "cuda": [images]}
    assert parts([mlp, images], "cuda") == {"cuda": [mlp, images]}


def test_a_group_covers_its_data_sets() -> None:
    covered = datasets()
    assert covered["images"] == ["carla_2d", "carla_1d", "utkface"] and covered["swimmer"] == ["swimmer"]
    assert sorted(covered["tables"]) == ["hopper", "low_rank", "reacher", "swimmer"]
    assert set(covered["all"]) == {*covered["tables"], *covered["images"], "sgemm"}


def test_the_reproduction_is_what_the_experiments_declare() -> None:
    assert ("phase", "hopper") in chosen("all", "accelerated") and ("phase", "hopper") in chosen(
        "tables", "quick"
    )
    assert not [name for name, _ in chosen("all", "paper") if name.startswith("phase")]
    assert ("deep_utkface", "utkface") in chosen("images", "paper")
    assert ("deep_utkface", "utkface") not in chosen("all", "quick")
    assert ("sgemm", "sgemm") not in chosen("all", "quick")
    assert chosen("sgemm", "quick", with_file=True) == [("sgemm", "sgemm"), ("sgemm_decay", "sgemm")]
    assert {data for _, data in chosen("swimmer", "quick")} == {"swimmer"}
