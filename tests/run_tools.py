"""Run directories that a test writes or changes by hand."""

from pathlib import Path
from typing import Any

from nrc.runs.directory import RunDirectory, read_info


def record(path: Path, **facts: Any) -> None:
    """Record other facts of a run that has ended."""
    run = RunDirectory(path, read_info(path))
    run.end(run.info["status"], run.info["reason"], **facts)


def purpose(
    folder: str, data: str, wd: float, protocol: str, seed: int = 0, role: str = ""
) -> dict[str, Any]:
    """What run.json says of a run of the experiment in this folder; any positive weight decay is the headline's."""
    experiment = folder.removesuffix(f"-{protocol}")
    return {
        "experiment": experiment,
        "role": role or ("headline" if wd else "control"),
        "protocol": protocol,
        "overrides": [f"experiment={experiment}", f"data={data}", f"protocol={protocol}",
                      f"optim.weight_decay={wd:g}", f"seed={seed}"],
    }  # fmt: skip


def data_facts(data: str, kind: str, n: int = 2, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What run.json says of a data set; what follows a dash in its name makes it a variant."""
    name, _, ending = data.partition("-")
    return {
        "name": name, "variant": {"file": ending} if ending else {}, "kind": kind, "sha256": "0" * 64, "describe": "",
        "train": 1000, "test": 200, "inputs": 5, "targets": n, "target_rank": n, "image_size": list(size) if size else None,
    }  # fmt: skip
