"""Members trained as one program: the numbers, files and endings of separate runs."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_tools import FORKS

from nrc.data import LowRank
from nrc.models import MLP
from nrc.runs.directory import read_info, read_run
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings, fit
from nrc.training import stacked as module
from nrc.training.loop import batch_order, train_steps
from nrc.training.members import Member, stacks
from nrc.training.pool import run_all
from nrc.training.stacked import fit_stack
from nrc.training.stacked_step import StackedStepper, stacked_order
from nrc.training.steppers import HandStepper

DECAYS = (1e-2, 0.0, 1e-3)


def settings(weight_decay: float = 1e-3, seed: int = 0, **changes: Any) -> RunSettings:
    """160 rows in batches of 48, the last of 16; 25 epochs of 4 steps."""
    values = dict(
        data=LowRank(t=2, r=2, d=5, n=200),
        model=MLP(num_layers=3, width=16),
        optim=Optim(lr=0.05, momentum=0.9, weight_decay=weight_decay, batch_size=48),
        protocol=Protocol(epochs=25),
        measure=Measure(log_spaced=4, evenly=4, frames=2),
        seed=seed,
    )
    return RunSettings(**(values | changes))


def sweep(folder: Path, **changes: Any) -> list[Member]:
    """One member for each weight decay, each with a seed of its own."""
    chosen = [settings(decay, seed, **changes) for seed, decay in enumerate(DECAYS)]
    return [Member(one, folder / f"wd={one.optim.weight_decay:g}") for one in chosen]


def separately(members: list[Member], folder: Path) -> list[Path]:
    """The same members, run one by one in another folder."""
    places = [folder / member.directory.name for member in members]
    for member, place in zip(members, places, strict=True):
        fit(member.settings, place, device="cpu")
    return places


def same_run(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    """The same rows but for rounding, and the same parameters, snapshots and record."""
    (info, rows), (other_info, other_rows) = read_run(ours), read_run(theirs)
    labels = ["epoch", "step", "tau", "split", "layer", "metric"]
    assert rows[labels].equals(other_rows[labels])
    expected = pytest.approx(other_rows.value.to_numpy(), rel=tolerance, abs=1e-9, nan_ok=True)
    assert rows.value.to_numpy() == expected
    for one in (info, other_info):
        del one["seconds"], one["reason"], one["environment"]["path"], one["environment"]["threads"]
    assert info == other_info
    a, b = (torch.load(place / "checkpoint.pt", weights_only=True) for place in (ours, theirs))
    assert a["step"] == b["step"]
    assert a["model"].keys() == b["model"].keys()
    assert all((a["model"][name] - b["model"][name]).abs().max() < 1e-6 for name in a["model"])
    assert (ours / "config.yaml").read_bytes() == (theirs / "config.yaml").read_bytes()
    assert (ours / "snapshots.npz").exists()


def outcomes(members: list[Member], **arguments: Any) -> list[str]:
    found = fit_stack(members, **({"device": "cpu"} | arguments))
    return [found[member.directory] for member in members]


# --- the step


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("bias", "activation", "decay_biases"),
    [(True, "relu", True), (True, "none", False), (False, "relu", True), (False, "none", True)],
)
@pytest.mark.parametrize("milestones", [[], [0.25, 0.5]])
def test_stacked_steps_equal_separate_ones(
    momentum: float, bias: bool, activation: str, decay_biases: bool, milestones: list[float]
) -> None:
    """Parameters and velocity within 1e-6 after 200 steps, partial batches included; a GPU has `gpu_proof`."""
    data = LowRank(t=2, r=2, d=5, n=200).load()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optims = [
        Optim(0.05, momentum, decay, 48, milestones=milestones, decay_biases=decay_biases) for decay in DECAYS
    ]
    clock = Clock.of(optims[0], Protocol(epochs=50), len(x))
    assert clock.total_steps == 200 and len(clock.drops) == len(milestones)
    kind = MLP(num_layers=4, width=16, bias=bias, feature_activation=activation)
    alone, together = (
        [HandStepper(kind.build(5, 2, seed), optim) for seed, optim in enumerate(optims)] for _ in range(2)
    )
    stack = StackedStepper(together, x, y, 48)
    order = stacked_order(len(x), 48, [0, 1, 2])
    for first in range(0, 200, 25):  # three long programs and one short one at a time
        stack.advance(order, [clock.lr_at(step) for step in range(first, first + 25)])
    for seed, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        before = theirs.theta.clone()
        train_steps(theirs, x, y, batch_order(len(x), 48, seed), clock, 0, 200)
        assert (ours.theta - theirs.theta).abs().max() < 1e-6
        assert (ours.velocity - theirs.velocity).abs().max() < 1e-6
        assert (before - theirs.theta).abs().max() > 1e-2
        flat = torch.cat([p.detach().reshape(-1) for p in ours.model.parameters()])
        assert torch.equal(flat, ours.theta)  # the models follow
        ours.step(x, y, 0.01)  # and each stepper can go on alone
        theirs.step(x, y, 0.01)
        assert (ours.theta - theirs.theta).abs().max() < 1e-6


@pytest.mark.parametrize("start", [0, 3, 700])
def test_a_member_goes_through_the_rows_as_its_separate_run(start: int) -> None:
    order, alone = stacked_order(20, 8, [0, 5], start), [batch_order(20, 8, seed, start) for seed in (0, 5)]
    for _ in range(600):
        assert next(order).tolist() == [next(one).tolist() for one in alone]


# --- the runs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": MLP(num_layers=4, width=16, bias=False)},
        {
            "measure": Measure(log_spaced=0, evenly=4, samples=50, outputs=True, ranks=[1])
        },  # rows of its own each
    ],
)
def test_a_stack_writes_what_separate_runs_write(
    tmp_path: Path, changes: dict[str, Any], said: Callable[[], list[str]]
) -> None:
    members = sweep(tmp_path / "stack", **changes)
    assert outcomes(members, threads=3) == ["finished"] * 3  # measured by three threads
    assert any(line.startswith("stacked, 3 members, eager, on cpu: started, 100 steps") for line in said())
    for member, alone in zip(members, separately(members, tmp_path / "alone"), strict=True):
        same_run(member.directory, alone)
        assert read_info(member.directory)["environment"]["path"] == "stacked, 3 members, eager"
        assert read_info(alone)["environment"]["path"] == "separate, by hand"
        sizes = [(place / "checkpoint.pt").stat().st_size for place in (member.directory, alone)]
        assert sizes[0] < 1.5 * sizes[1]  # not the whole stack's parameters
    assert outcomes(members) == ["skipped"] * 3


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException] = KeyboardInterrupt) -> Any:
    """A stack dies when it would go beyond this step; call the result to mend it."""
    real = module.train_to_end

    def train_to_end(trials: Any, advance: Any, start: int, schedule: list[int], *rest: Any) -> Any:
        def cut(at: int, target: int, asked: Any) -> Any:
            if at >= step:
                raise error("cut")
            return advance(at, min(target, step), asked)

        return real(trials, cut, start, schedule, *rest)

    monkeypatch.setattr(module, "train_to_end", train_to_end)
    return lambda: monkeypatch.setattr(module, "train_to_end", real)


@pytest.mark.parametrize("step", [1, 25, 65])
def test_a_killed_stack_continues_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole, members = sweep(tmp_path / "whole"), sweep(tmp_path / "cut")
    outcomes(whole)
    mend = cut_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        outcomes(members, checkpoint_seconds=0)
    mend()
    with open(members[1].directory / "metrics.csv", "a") as handle:
        handle.write("9.0,99,1.0,train,fc3,nrc1,0.5\n9.0,100,1.0,tra")
    assert outcomes(members) == ["finished"] * 3
    for one, other in zip(whole, members, strict=True):
        same_run(one.directory, other.directory, tolerance=0)


def test_members_continue_from_their_own_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    """One that has come to step 65, one to step 25, one not begun: three groups, one after the other."""
    members = sweep(tmp_path / "stack")
    for part, step in ((members[:1], 65), (members[1:2], 25)):
        mend = cut_at(monkeypatch, step)
        with pytest.raises(KeyboardInterrupt):
            outcomes(part, checkpoint_seconds=0)
        mend()
    before = len(said())
    assert outcomes(members) == ["finished"] * 3
    begun = [line.split(": ")[1].split(",")[0] for line in said()[before:] if line.startswith("stacked")]
    assert begun == ["started", "resumed at step 25", "resumed at step 65"]
    for member, alone in zip(members, separately(members, tmp_path / "alone"), strict=True):
        same_run(member.directory, alone)


def test_a_stack_and_a_run_continue_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = sweep(tmp_path / "stack")
    mend = cut_at(monkeypatch, 25)
    with pytest.raises(KeyboardInterrupt):
        outcomes(members, checkpoint_seconds=0)
    mend()
    assert fit(members[0].settings, members[0].directory, device="cpu") == "finished"
    assert outcomes(members) == ["skipped", "finished", "finished"]
    paths = [read_info(member.directory)["environment"]["path"] for member in members]
    assert paths[0] == "stacked, 3 members, eager; then separate, by hand"
    assert paths[1] == "stacked, 3 members, eager; then stacked, 2 members, eager"
    for member, alone in zip(members, separately(members, tmp_path / "alone"), strict=True):
        same_run(member.directory, alone)


def test_one_diverging_member_ends_and_the_others_go_on(tmp_path: Path) -> None:
    """A weight decay with lr * lambda > 2 is unstable; its end is seen at the 64th step, not at a measurement."""
    few = Measure(log_spaced=2, evenly=0, frames=2)
    good = sweep(tmp_path / "stack", measure=few)
    wild = Member(settings(100.0, measure=few), tmp_path / "stack" / "wild")
    members = [good[0], wild, *good[1:]]
    assert outcomes(members) == ["finished", "diverged", "finished", "finished"]
    for member, alone in zip(good, separately(good, tmp_path / "alone"), strict=True):
        same_run(member.directory, alone)
    assert fit(wild.settings, tmp_path / "alone" / "wild", device="cpu") == "diverged"
    reasons = [read_info(place)["reason"] for place in (wild.directory, tmp_path / "alone" / "wild")]
    assert reasons[0] == reasons[1] and reasons[0].startswith("diverged at step 64")
    texts = [(place / "metrics.csv").read_text() for place in (wild.directory, tmp_path / "alone" / "wild")]
    assert texts[0].count("\n") == texts[1].count("\n") > 1  # what was measured before stays
    assert outcomes(members) == ["skipped", "diverged", "skipped", "skipped"]


def test_an_error_ends_those_still_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = Member(settings(100.0), tmp_path / "wild")
    members = [*sweep(tmp_path), wild]
    cut_at(monkeypatch, 75, RuntimeError)
    with pytest.raises(RuntimeError):
        outcomes(members)
    assert [read_info(m.directory)["status"] for m in members] == ["failed"] * 3 + ["diverged"]


def test_a_directory_that_cannot_be_had_costs_its_member_alone(tmp_path: Path) -> None:
    members = sweep(tmp_path)
    fit(settings(seed=7), members[1].directory, device="cpu")
    found = outcomes(members)
    assert found[1].startswith("error: ") and "seed is 7 there and 1 here" in found[1]
    assert found[::2] == ["finished", "finished"]


def test_a_signal_ends_the_stack_and_saves_every_member(tmp_path: Path) -> None:
    members = sweep(tmp_path, protocol=Protocol(epochs=20_000))
    process = FORKS.Process(target=fit_stack, args=(members,), kwargs={"device": "cpu"})
    process.start()
    until = time.monotonic() + 60
    while not all((m.directory / "metrics.csv").exists() for m in members) and time.monotonic() < until:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
    states = [torch.load(m.directory / "checkpoint.pt", weights_only=True)["step"] for m in members]
    found = [read_info(m.directory) for m in members]
    assert [info["status"] for info in found] == ["interrupted"] * 3
    assert [info["steps"] for info in found] == states and len(set(states)) == 1


# --- a sweep of both kinds


def test_a_sweep_stacks_what_it_can_and_runs_the_others_separately(tmp_path: Path) -> None:
    members = sweep(tmp_path / "sweep")
    other = [
        Member(settings(model=MLP(num_layers=3, width=16, norm="batch")), tmp_path / "sweep" / "batchnorm"),
        Member(settings(seed=9, optim=replace(settings().optim, lr=0.02)), tmp_path / "sweep" / "rate"),
        Member(settings(optim=replace(settings().optim, penalty="ufm")), tmp_path / "sweep" / "ufm"),
    ]
    everyone = [*members[:2], *other, *members[2:]]
    together, alone = stacks(everyone)
    assert together == [members, [other[1]]] and alone == [other[0], other[2]]
    found = run_all(everyone, workers=1, device="cpu", stacked=True)
    assert found == {member.directory: "finished" for member in everyone}
    paths = [read_info(member.directory)["environment"]["path"] for member in [*members, *other]]
    assert paths[:3] == ["stacked, 3 members, eager"] * 3 and paths[4] == "stacked, 1 member, eager"
    assert paths[3::2] == ["separate, autograd", "separate, autograd, UFM penalty"]
    [alone_again] = separately(other[1:2], tmp_path / "alone")
    same_run(other[1].directory, alone_again)
    assert set(run_all(everyone, device="cpu", stacked=True).values()) == {"skipped"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no GPU")
def test_a_sweep_on_a_gpu_is_stacked(tmp_path: Path) -> None:
    members = sweep(tmp_path)
    assert set(run_all(members, device="cuda").values()) == {"finished"}
    assert "CUDA graph" in read_info(members[0].directory)["environment"]["path"]
