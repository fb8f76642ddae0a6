"""The demonstration: its runs are the reproduction's own, and what it says of the picture is in them."""

import sys
from pathlib import Path

import pytest
from report_runs import home, train

from nrc.cli import config, demo
from nrc.errors import UserError
from nrc.runs.directory import read_run


def end(place: Path, metric: str, split: str = "train") -> float:
    _, rows = read_run(place)
    return rows[(rows.metric == metric) & (rows.split == split)].value.iloc[-1]


def test_it_says_what_the_runs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wd, data, seed in (
        (0.05, "swimmer", 0),
        (0.0, "swimmer", 0),
        (0.05, "swimmer", 1),
        (0.05, "reacher", 2),
    ):
        train(tmp_path, "prevalence_linear", wd, seed, name=data)
    train(
        tmp_path, "prevalence", 0.05, name="swimmer"
    )  # after a reproduction: drawn first, and not the one meant
    monkeypatch.setattr(demo, "run_all", lambda members, **_: {m.directory: "skipped" for m in members})
    monkeypatch.setattr(sys, "argv", ["demo.py", "--outputs", str(tmp_path)])
    demo.main()
    said = capsys.readouterr().out
    picture = tmp_path / "demo" / "prevalence_linear.png"
    assert picture.is_file() and f"The picture is {picture} " in said
    main, control = home(tmp_path, "prevalence_linear", 0.05), home(tmp_path, "prevalence_linear", 0.0)
    assert f"to {end(main, 'nrc1'):.2g}.\n" in said
    assert f"ends at {end(control, 'nrc1'):.2g}.\n" in said
    assert f"unseen states is {end(main, 'r2', 'test'):.2f}.\n" in said
    assert (
        set((tmp_path / "demo" / "prevalence_linear.csv").read_text().split("swimmer"))
        and "reacher" not in (tmp_path / "demo" / "prevalence_linear.csv").read_text()
    )
    assert not (tmp_path / "figures").exists()  # the reproduction's own stay as they are


def test_its_runs_are_those_of_the_reproduction() -> None:
    all_of_them = {
        member.directory: member.settings
        for member in config.sweep_members("prevalence_linear", "swimmer", "quick", Path("outputs"))
    }
    ours = config.sweep_members("prevalence_linear", "swimmer", "quick", Path("outputs"), ["seed=0"])
    assert len(ours) == 2 and {m.settings.role for m in ours} == {"headline", "control"}
    for member in ours:
        same = all_of_them[member.directory]
        assert same == member.settings and set(same.overrides) == set(member.settings.overrides)


def test_a_run_that_fails_ends_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run_all", lambda members, **_: {m.directory: "diverged" for m in members})
    monkeypatch.setattr(sys, "argv", ["demo.py", "--outputs", str(tmp_path)])
    with pytest.raises(UserError, match=r"wd=.*seed=0: diverged"):
        demo.main()
