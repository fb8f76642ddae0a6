"""The proof of the stacked path, at toy size on the CPU, and that it can fail."""

import logging

import pytest
import torch

from nrc.cli import gpu_proof
from nrc.training.stacked_step import StackedStepper


def test_the_proof_holds_on_the_cpu_and_prints_what_it_promises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        logging.getLogger("nrc"), "handlers", []
    )  # a command of another test may have set one up
    assert gpu_proof.prove("cpu", width=8, epochs=2, members=(1, 2), seconds=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:7]] == [
        "TF32 off",
        *(f"steps of {name}, stacked - separate" for name, _, _ in gpu_proof.cases(8)),
        "runs, stacked - separate",
        "resumed - uninterrupted",
    ]
    assert all(": ok, " in line for line in lines[1:7])
    assert lines[8].startswith("2 members: member-steps/s separate ")
    assert any("aten::bmm" in line for line in lines) and lines[-1].startswith("proved: ")


def test_the_proof_fails_where_steps_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = StackedStepper.finite

    def spoilt(self: StackedStepper) -> list[bool]:
        self.theta.mul_(1.01)
        return real(self)

    monkeypatch.setattr(StackedStepper, "finite", spoilt)  # looked at in runs alone
    monkeypatch.setattr(gpu_proof, "cases", lambda width: [])
    monkeypatch.setattr(gpu_proof, "resumed", lambda *arguments: (0.0, ""))
    monkeypatch.setattr(gpu_proof, "kernels", lambda *arguments: "")
    assert not gpu_proof.prove("cpu", width=8, epochs=1, members=(1,), seconds=0.01)
    assert capsys.readouterr().out.splitlines()[-1] == "NOT PROVED: runs, stacked - separate"


def test_nan_is_no_small_difference() -> None:
    nan = [torch.tensor([1.0, float("nan")])]
    assert not gpu_proof.apart(nan, nan) <= gpu_proof.PARAMETERS


def test_without_a_gpu_the_proof_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_proof.py"])
    with pytest.raises(SystemExit) as ended:
        gpu_proof.main()
    assert ended.value.code == 2
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no GPU")
def test_the_proof_holds_on_a_gpu() -> None:
    assert gpu_proof.prove("cuda", seconds=0.1)
