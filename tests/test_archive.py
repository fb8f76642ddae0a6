"""Archived runs: what is packed is what is unpacked, nothing else gets out of the file, and own runs stay apart."""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_runs import home as place_of
from report_runs import train

from nrc.cli import archive as command
from nrc.cli import check, reproduce
from nrc.errors import UserError
from nrc.figures import Runs, figures
from nrc.report.html import write_report
from nrc.report.scorecard import committed, scorecard, table
from nrc.runs import archive, frame
from nrc.runs.archive import MARK, _rounded, mark, pack, unpacked


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("outputs")
    for wd, seed in ((0.05, 0), (0.05, 1), (0.0, 0)):
        train(found, "prevalence", wd, seed)
    train(found, "deep", 0.05)
    train(found, "animation", 0.05, frames=4)
    return found


@pytest.fixture(scope="module")
def packed(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the archive and its manifest."""
    found = tmp_path_factory.mktemp("home")
    pack(outputs, "quick", found, processor="a toy")
    return found


def test_what_is_judged_and_drawn_is_the_same(outputs: Path, packed: Path, tmp_path: Path) -> None:
    place = unpacked(tmp_path / "archive", home=packed)
    ours, theirs = (table(scorecard(Runs(o))) for o in (outputs, place))
    columns = ["claim", "experiment", "data", "runs", "verdict", "measured", "spread", "bound"]
    assert ours[columns].equals(theirs[columns]) and (ours.verdict != "not run").sum() > 5
    for name in ("prevalence", "gamma", "evr", "deep"):
        [[a], [b]] = (figures()[name].drawings(Runs(o)) for o in (outputs, place))
        assert a.table.equals(b.table), name
        assert "archived runs, quick" in b.figure.texts[-1].get_text()
        assert "archived" not in a.figure.texts[-1].get_text()
    page = write_report(place)[0].read_text(encoding="utf-8")
    assert "ARCHIVED RUNS of " in page and "made on a toy, not on this machine" in page


def test_only_what_is_read_is_packed(outputs: Path, packed: Path, tmp_path: Path) -> None:
    manifest = json.loads((packed / "quick.json").read_text())
    assert manifest["runs"] == 4 and manifest["bytes"] == (packed / "quick.tar.xz").stat().st_size
    assert {path.rpartition("/")[2] for path in manifest["files"]} == set(archive.FILES)
    assert not [path for path in manifest["files"] if path.startswith("animation")]
    assert str(outputs) not in (packed / "quick.json").read_text()
    place = unpacked(tmp_path / "archive", home=packed)
    for path, known in manifest["files"].items():
        assert hashlib.sha256((place / path).read_bytes()).hexdigest() == known
    kept, control = (
        np.load(place / place_of(outputs, "prevalence", wd).relative_to(outputs) / "snapshots.npz")
        for wd in (0.05, 0.0)
    )
    assert "features_end" in kept and "weight_end" in control and "features_end" not in control


def test_equal_runs_give_equal_bytes(outputs: Path, packed: Path, tmp_path: Path) -> None:
    again = pack(outputs, "quick", tmp_path, processor="a toy")
    assert again["sha256"] == json.loads((packed / "quick.json").read_text())["sha256"]


def test_rounded_features_keep_three_digits() -> None:
    values = np.concatenate([np.geomspace(1e-30, 1e30, 999), [0.0, -2.5, np.inf, np.nan]]).astype(np.float32)
    found = _rounded(values)
    assert np.allclose(found, values, rtol=2.0**-11, atol=0, equal_nan=True) and found.dtype == np.float32
    assert found[999] == 0 and found[1000] == -2.5
    assert not (found[:999].view(np.uint32) & 0x1FFF).any()


def test_it_is_unpacked_once_and_again_for_another_edition(
    outputs: Path, packed: Path, tmp_path: Path
) -> None:
    place = unpacked(tmp_path / "archive", home=packed)
    (place / "figures").mkdir()
    assert unpacked(place, home=packed) == place and (place / "figures").is_dir()
    assert mark(place) is not None and "files" not in mark(place)  # type: ignore[operator]
    other = tmp_path / "home"
    train(tmp_path / "more", "prevalence", 0.05)
    pack(tmp_path / "more", "quick", other)
    unpacked(place, home=other)
    assert not (place / "figures").exists() and len(list(place.rglob("run.json"))) == 1


def test_a_folder_of_something_else_is_left_alone(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than archived runs; move it away"):
        unpacked(tmp_path / "archive", home=packed)
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["mine.txt"]


# --- damage and malice


def copied(packed: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in packed.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda home: flip(home / "quick.tar.xz"), "quick.tar.xz is damaged: its sha256 is not the one in quick.json"),
        (lambda home: (home / "quick.tar.xz").unlink(), "quick.tar.xz is missing beside quick.json"),
        (lambda home: (home / "quick.json").write_text("{"), "quick.json is damaged"),
        (lambda home: (home / "quick.json").write_text('{"sha256": 1, "files": []}'), "quick.json is damaged"),
        (lambda home: (home / "quick.json").unlink(), r"there are no archived runs \(.*; make reproduce-figures"),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_refused_in_one_line(
    packed: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    home = copied(packed, tmp_path / "home")
    damage(home)
    with pytest.raises(UserError, match=words) as told:
        unpacked(tmp_path / "archive", home=home)
    assert "\n" not in str(told.value)
    assert {path.name for path in tmp_path.iterdir()} - {".archive.lock"} == {"home"}


def crafted(home: Path, *members: tuple[tarfile.TarInfo, bytes], listed: dict[str, bytes]) -> None:
    """An archive whose own sha256 is right."""
    home.mkdir()
    with tarfile.open(home / "quick.tar.xz", "w:xz") as made:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            made.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256((home / "quick.tar.xz").read_bytes()).hexdigest()
    files = {name: hashlib.sha256(content).hexdigest() for name, content in listed.items()}
    (home / "quick.json").write_text(json.dumps({"sha256": digest, "files": files}))


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:/evil"])
def test_no_path_leads_outside(tmp_path: Path, name: str) -> None:
    crafted(tmp_path / "home", (tarfile.TarInfo(name), b"x"), listed={name: b"x"})
    with pytest.raises(UserError, match="points outside the archive; it is not unpacked"):
        unpacked(tmp_path / "archive", home=tmp_path / "home")
    assert {path.name for path in tmp_path.iterdir()} - {".archive.lock"} == {"home"}


@pytest.mark.parametrize(
    ("members", "listed", "words"),
    [
        ([(link("a", "/etc/passwd"), b"")], {"a": b""}, "'a' is not what its manifest lists"),
        ([(link("a", "/etc/passwd", tarfile.LNKTYPE), b"")], {"a": b""}, "'a' is not what its manifest lists"),
        ([(tarfile.TarInfo("a"), b"x")], {}, "'a' is not what its manifest lists"),
        ([(tarfile.TarInfo("a"), b"x")], {"a": b"y"}, "'a' is not what its manifest lists"),
        ([(tarfile.TarInfo("a"), b"x")] * 2, {"a": b"x"}, "'a' is not what its manifest lists"),
        ([(tarfile.TarInfo("a"), b"x")], {"a": b"x", "b": b"x"}, "lacks 1 files of its manifest, e.g. b"),
    ],
)  # fmt: skip
def test_nothing_but_what_is_listed_is_unpacked(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], listed: dict[str, bytes], words: str
) -> None:
    crafted(tmp_path / "home", *members, listed=listed)
    with pytest.raises(UserError, match=words):
        unpacked(tmp_path / "archive", home=tmp_path / "home")
    assert {path.name for path in tmp_path.iterdir()} - {".archive.lock"} == {"home"}


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    crafted(tmp_path / "home", listed={})
    file = tmp_path / "home" / "quick.tar.xz"
    file.write_bytes(b"no archive at all")
    manifest = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "files": {}}
    (tmp_path / "home" / "quick.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"quick.tar.xz cannot be unpacked \("):
        unpacked(tmp_path / "archive", home=tmp_path / "home")


def test_what_must_not_be_packed(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no finished runs of the quick protocol"):
        pack(tmp_path, "quick", tmp_path / "home")
    monkeypatch.setattr(archive, "MOST", 1000)
    with pytest.raises(UserError, match="the archive of 4 runs has"):
        pack(outputs, "quick", tmp_path / "home")
    monkeypatch.undo()
    train(tmp_path / "own", "prevalence", 0.05)
    config = place_of(tmp_path / "own", "prevalence", 0.05) / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["data"]["path"] = "/home/me/faces"
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=r"was made on a file of yours \(data.path\)"):
        pack(tmp_path / "own", "quick", tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


# --- never mixed with own runs


def test_archived_runs_are_no_runs_of_ones_own(outputs: Path, packed: Path, tmp_path: Path) -> None:
    train(tmp_path, "prevalence", 0.05)
    before = frame(tmp_path)
    place = unpacked(tmp_path / "archive", home=packed)
    assert frame(tmp_path).equals(before) and set(frame(place).seed) == {0, 1}
    assert len(Runs(tmp_path).of("prevalence")["low_rank"]) == 1
    write_report(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "ARCHIVED" not in page and "1 finished runs" in page


def test_nothing_trains_among_archived_runs(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = unpacked(tmp_path / "archive", home=packed)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--outputs", str(place)])
    with pytest.raises(UserError, match="holds archived runs, which stay as they are"):
        reproduce.main()


# --- the commands


def test_one_command_draws_all_and_says_where_it_comes_from(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = command.draw_all
    monkeypatch.setattr(command, "draw_all", lambda place, protocol: real(place, protocol, only=["gamma"]))
    monkeypatch.setattr(sys, "argv", ["archive.py", "--outputs", str(tmp_path), "--home", str(packed)])
    command.main()
    said = capsys.readouterr().out
    assert str(tmp_path / "archive" / "figures" / "gamma.png") in said
    assert "from archived runs, not your own: " in said.splitlines()[-1]
    assert (tmp_path / "archive" / "report" / "index.html").is_file() and (
        tmp_path / "archive" / MARK
    ).is_file()
    monkeypatch.setattr(sys, "argv", ["archive.py", "--outputs", str(tmp_path / "nowhere"), "--pack"])
    with pytest.raises(UserError, match="is no folder"):
        command.main()


def test_the_check_works_on_them(
    outputs: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    known = committed(table(scorecard(Runs(outputs))))
    monkeypatch.setattr(check, "read_committed", lambda: known)
    monkeypatch.setattr(check, "datasets", lambda: {"all": ["low_rank"]})
    monkeypatch.setattr(
        check, "unpacked", lambda place, protocol: unpacked(tmp_path / place, protocol, packed)
    )
    monkeypatch.setattr(sys, "argv", ["check.py", "--outputs", "archive"])
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 0, capsys.readouterr().out
    assert (tmp_path / "outputs" / "archive" / MARK).is_file()
