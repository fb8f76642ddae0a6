"""Training on images: from a memory map, cut and continued, measured layer by layer, and refused in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import SCRIPTS

import nrc.training.placement as placement
from nrc.data import RegressionData
from nrc.errors import UserError
from nrc.models import MLP, ResNet
from nrc.runs.directory import read_run
from nrc.training import Clock, Measure, Optim, Protocol, RunSettings, fit
from nrc.training.measuring import Measurer
from nrc.training.placement import Batches, place, rows


@dataclass(frozen=True)
class Noise:
    """Random images in a read-only memory map, two targets."""

    folder: str
    train: int = 40
    kind: str = "synthetic"
    left_out: tuple[str, ...] = ()

    def load(self) -> RegressionData:
        rng = np.random.default_rng(0)
        file = Path(self.folder) / f"pixels{self.train}.npy"
        n = self.train + 10
        if not file.exists():
            np.save(file, rng.integers(0, 256, (n, 24, 32, 3), dtype=np.uint8))
        x = np.load(file, mmap_mode="r")
        y = np.stack([x.mean((1, 2, 3)) - 127, x[:, :12].mean((1, 2, 3)) - 127], 1).astype(np.float32)
        k = self.train
        return RegressionData(
            "noise",
            x[:k],
            y[:k],
            x[k:],
            y[k:],
            ("image",),
            ("a", "b"),
            self.kind,
            {"pixels_sha256": "0" * 64, "left_out": list(self.left_out)},
        )


def settings(folder: Path, **changes: object) -> RunSettings:
    values = {
        "data": Noise(str(folder)),
        "model": ResNet(),
        "optim": Optim(
            lr=0.003, momentum=0.9, weight_decay=0.01, batch_size=16, loss_scale=1.0, milestones=[0.5]
        ),
        "protocol": Protocol(epochs=2),
        "measure": Measure(log_spaced=0, evenly=2, layers="last"),
    }
    return RunSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    measure = Measure(log_spaced=0, evenly=2, layers="all")
    assert fit(settings(folder, measure=measure), folder / "run") == "finished"
    return folder


def _final(rows: pd.DataFrame, split: str, layer: str, metric: str) -> float:
    chosen = rows[(rows.split == split) & (rows.layer == layer) & (rows.metric == metric)]
    return float(chosen.sort_values("step").value.iloc[-1])


def test_all_17_points_are_in_the_metrics(run: Path) -> None:
    info, table = read_run(run / "run")
    layers = [name for name in table.layer.unique() if name != "model"]
    assert len(layers) == 17 and layers[-1] == "fc" and info["environment"]["threads"] == 1
    for metric in ("noise", "cka", "feature_weight_alignment", "stable_rank_weights"):
        values = [_final(table, "train", layer, metric) for layer in layers]
        assert np.isfinite(values).all() and len(set(values)) == 17, metric
    assert {"nrc1", "nrc2", "nrc3", "nrc1_centred", "evr_5"} <= set(table[table.layer == "fc"].metric)


def test_recorded_errors_are_the_networks_own_with_running_statistics(run: Path) -> None:
    _, table = read_run(run / "run")
    data = Noise(str(run)).load()
    net = ResNet().build(0, 2, seed=0)
    net.load_state_dict(torch.load(run / "run/checkpoint.pt", weights_only=True)["model"])
    net.eval()
    with torch.no_grad():
        found = net(torch.from_numpy(np.array(data.x_test))).double() - torch.from_numpy(data.y_test)
    assert _final(table, "test", "model", "mse") == pytest.approx(float(found.square().mean()), rel=1e-4)


def test_a_cut_run_continues_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, running statistics, momentum and the order of the batches all come back."""
    whole = settings(tmp_path)
    fit(whole, tmp_path / "whole")
    import nrc.training.run as module

    real = module.train_steps

    def cut(*args: object) -> int:
        first, last = args[5], args[6]
        if first >= 2:
            raise KeyboardInterrupt
        return real(*args[:6], min(last, 2), *args[7:])  # type: ignore[operator,arg-type]

    monkeypatch.setattr(module, "train_steps", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(whole, tmp_path / "cut", checkpoint_seconds=0)
    monkeypatch.setattr(module, "train_steps", real)
    assert fit(whole, tmp_path / "cut") == "finished"
    assert (tmp_path / "cut/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    a, b = (torch.load(tmp_path / d / "checkpoint.pt", weights_only=True)["model"] for d in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_end_says_how_fast_it_was_and_that_the_images_are_a_stand_in(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    fit(settings(tmp_path, data=Noise(str(tmp_path), kind="stand-in")), tmp_path / "run")
    info, _ = read_run(tmp_path / "run")
    assert info["images_per_second"] > 0 and f"{info['images_per_second']:.0f} images/s" in said()[-1]
    # 2 epochs of 40 images, in less time than the whole run
    assert info["images_per_second"] > 80 / info["seconds"]
    assert "on stand-in data; NRC1" in said()[-1] and "finished in" in said()[-1]
    fit(settings(tmp_path), tmp_path / "other")
    assert "stand-in" not in said()[-1]


def test_files_left_out_are_all_in_the_record(tmp_path: Path) -> None:
    names = [f"{i}.jpg (cut short)" for i in range(9)]
    fit(settings(tmp_path, data=Noise(str(tmp_path), left_out=tuple(names))), tmp_path / "run")
    assert read_run(tmp_path / "run")[0]["data"]["left_out"] == names


def test_samples_limit_both_parts_alike(tmp_path: Path) -> None:
    placed = place(Noise(str(tmp_path)).load(), "cpu")  # 40 train and 10 test images
    model = ResNet().build(0, 2, seed=0)

    def counts(samples: int | None) -> tuple[list[int], list[int]]:
        plan = Measure(log_spaced=0, evenly=0, samples=samples)
        measurer = Measurer(model, placed, plan, Clock.of(Optim(), Protocol(epochs=1), 40), seed=3)
        parts = (measurer.train, placed.y_train), (measurer.test, placed.y_test)
        train, test = ([int((y == row).all(1).nonzero()) for row in p.targets] for p, y in parts)
        return train, test

    assert counts(None) == counts(40) == (list(range(40)), list(range(10)))
    train, test = counts(20)
    assert len(set(train)) == 20 and len(set(test)) == 5 and (train, test) == counts(20)
    assert [len(part) for part in counts(2)] == [2, 1]


def test_pixels_stay_uint8_in_the_memory_map(tmp_path: Path) -> None:
    data = Noise(str(tmp_path)).load()
    placed = place(data, "cpu")
    assert placed.x_train.dtype == torch.uint8
    assert placed.x_train.data_ptr() == data.x_train.ctypes.data  # nothing was copied
    index = torch.tensor([3, 0])
    batch = rows(placed.x_train, index, placed.device)
    assert batch.dtype == torch.uint8 and (batch.numpy() == data.x_train[[3, 0]]).all()


def test_where_images_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto: on the device when they take at most half of its free memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    assert placement._goes_to_device(500, "cuda", "auto") and not placement._goes_to_device(
        501, "cuda", "auto"
    )
    assert not placement._goes_to_device(1, "cuda", "stream") and not placement._goes_to_device(
        1, "cpu", "auto"
    )
    with pytest.raises(UserError, match=r"use resident=stream"):
        placement._goes_to_device(501, "cuda", "device")


def test_another_word_for_where_images_go_is_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resident is 'gpu'; choose auto, device, stream"):
        fit(settings(tmp_path), tmp_path / "run", resident="gpu")
    assert not list(tmp_path.iterdir())


def test_batches_read_all_rows_or_the_chosen_ones_in_order() -> None:
    x, y = torch.arange(10).view(10, 1), torch.arange(10.0).view(10, 1)
    assert [len(b[0]) for b in Batches(x, y, 4)] == [4, 4, 2]
    chosen = Batches(x, y, 2, torch.tensor([1, 5, 9]))
    assert [b[0].flatten().tolist() for b in chosen] == [[1, 5], [9]]
    assert chosen.first(3)[1].flatten().tolist() == chosen.targets.flatten().tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": MLP()}, "noise holds images, but this model takes a table; use model=resnet18"),
        ({"optim": Optim(batch_size=39)}, "holds one row, and BatchNorm needs two"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit(settings(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run/metrics.csv").exists()


def test_a_table_given_to_a_resnet(tmp_path: Path) -> None:
    from nrc.data import LowRank

    with pytest.raises(UserError, match="holds a table, but this model takes images"):
        fit(settings(tmp_path, data=LowRank(t=2, r=2, d=5, n=50)), tmp_path / "run")


@pytest.mark.slow
def test_positions_are_another_measurement(run: Path, tmp_path: Path) -> None:
    measure = Measure(log_spaced=0, evenly=0, positions="all", samples=20)
    fit(settings(run, measure=measure, protocol=Protocol(epochs=1)), tmp_path / "run")
    _, every = read_run(tmp_path / "run")
    _, pooled = read_run(run / "run")

    def noise(table: pd.DataFrame) -> float:
        start = table[(table.step == 0) & (table.layer == "layer1.0.conv1") & (table.metric == "noise")]
        return float(start.value.iloc[0])

    assert noise(every) != noise(pooled)
    with pytest.raises(UserError, match=r"measure\.positions is 'some'"):
        Measure(positions="some")


@pytest.mark.slow
def test_a_sweep_on_drawn_images_ends_without_a_warning(tmp_path: Path) -> None:
    """The bar of a worker has a lock of its own: tqdm's is a semaphore, which Python then calls leaked."""
    settings = (
        "experiment=images data=carla_2d data.rendered=60 data.size=[22,50] protocol.tau=0.1 protocol.epochs=null "
        "optim.weight_decay=0,1e-3 seed=0 measure.evenly=0 measure.log_spaced=0 data.cache=cache"
    )
    command = [sys.executable, str(SCRIPTS / "train.py"), "-m", *settings.split()]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0 and "2 runs finished" in ended.stdout + ended.stderr
    assert "leaked" not in ended.stderr
