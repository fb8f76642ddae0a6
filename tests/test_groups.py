"""Groups, the table and several ranks: against one measurement of the rows of each group, or of all rows."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import nrc
from nrc.errors import UserError
from nrc.features.table import Table


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


X, Y = rows(90, 5), rows(90, 2, seed=1)
BATCHES = [(X[:40], Y[:40]), (X[40:], Y[40:])]
LABELS = np.array(["left", "right", "right"] * 30)


@pytest.mark.parametrize(
    "groups",
    [
        LABELS,
        list(LABELS),
        lambda batch: np.where((batch[0][:, None] == X).all(2).int().argmax(1) % 3 == 0, "left", "right"),
    ],
    ids=["array", "list", "function"],
)
def test_each_group_is_measured_as_its_rows_alone(groups):
    model = mlp()
    table = nrc.CollapseMonitor(model).measure(BATCHES, groups=groups)
    assert set(table.groups) == {"left", "right"}
    plain = nrc.CollapseMonitor(model).measure(BATCHES)
    assert table["2"] == pytest.approx(plain["2"], nan_ok=True)
    with torch.no_grad():
        h = model[:2](X)
    for name, part in table.groups.items():
        here = torch.tensor(name == LABELS)
        alone = nrc.CollapseMonitor(model).measure([(X[here], Y[here])])
        for layer in ("0", "2"):
            expected = alone[layer] | {"nrc1_centred": math.nan}
            assert part[layer] == pytest.approx(expected, rel=1e-5, abs=1e-9, nan_ok=True)
        assert "group" in part.undefined["2"]["nrc1_centred"]
    left, right = (h[torch.tensor(name == LABELS)].double() for name in ("left", "right"))
    mean = h.double().mean(0)
    within = ((left - left.mean(0)).square().sum() + (right - right.mean(0)).square().sum()) / 90
    between = sum(len(g) / 90 * (g.mean(0) - mean).square().sum() for g in (left, right))
    expected = {
        "within": float(within),
        "between": float(between),
        "between_share": float(between / (within + between)),
    }
    assert table.spread["2"] == pytest.approx(expected, rel=1e-6)


def test_groups_without_a_head_keep_the_networks_own_error():
    model = nn.Sequential(*mlp(), nn.Tanh())
    table = nrc.CollapseMonitor(model).measure(BATCHES, groups=LABELS)
    for name, part in table.groups.items():
        here = torch.tensor(name == LABELS)
        with torch.no_grad():
            assert part["2"]["mse"] == pytest.approx(
                float((model(X[here]) - Y[here]).square().mean()), rel=1e-5
            )


def test_groups_of_positions_and_masks():
    model, x, y = nn.Linear(5, 2), rows(6, 4, 5), rows(6, 4, 2, seed=1)
    label, mask = torch.arange(24).reshape(6, 4) % 3, torch.arange(24).reshape(6, 4) % 5 > 0
    found = nrc.collect(model, [(x, y, mask)], groups=label).groups
    for name in range(3):
        kept = mask & (label == name)
        torch.testing.assert_close(found[name][""].mean_h, x[kept].double().mean(0))
        assert found[name][""].count == int(kept.sum())


def test_arrays_have_groups_too():
    h, w = rows(90, 6), rows(2, 6, seed=3)
    found = nrc.measure(h, Y, w, groups=LABELS)
    assert found == pytest.approx(nrc.measure(h, Y, w), nan_ok=True)
    for name, part in found.groups.items():
        here = torch.tensor(name == LABELS)
        assert part == pytest.approx(nrc.measure(h[here], Y[here], w), nan_ok=True)
    assert 0 < found.spread["between_share"] < 0.2
    with pytest.raises(UserError, match=r"groups have shape \(3,\), but there are 90 rows"):
        nrc.measure(h, Y, w, groups=LABELS[:3])


@pytest.mark.parametrize(
    ("groups", "words"),
    [(LABELS[:80], "groups has 80 labels, fewer"), (np.append(LABELS, "left"), "91 labels for 90 samples"),
     (lambda batch: [1, 2], r"groups of a batch have shape \(2,\); expected .*\(40,\)"),
     (lambda batch: np.random.default_rng(0).random(len(batch[0])), None)],
)  # fmt: skip
def test_wrong_groups_are_answered(groups, words):
    if words is None:
        groups, words = np.arange(1200), "more than 1000 different labels"
        batches = [(rows(1200, 5), rows(1200, 2))]
    else:
        batches = BATCHES
    with pytest.raises(UserError, match=words):
        nrc.collect(mlp(), batches, groups=groups)


MISSING = {
    "numbers": [0.0, math.nan, 1.0] * 30, "array": np.array([0.0, math.nan, 1.0] * 30),
    "tensor": torch.tensor([0.0, math.nan, 1.0] * 30), "None": ["a", None, "b"] * 30,
    "words": ["a", math.nan, "b"] * 30, "NA": pd.array(["a", pd.NA, "b"] * 30, dtype="string"),
    "column": pd.Series(["a", None, "b"] * 30), "integers": pd.array([1, pd.NA, 2] * 30, dtype="Int64"),
    "dates": np.array(["2020-01-01", "NaT", "2021-01-01"] * 30, dtype="datetime64[D]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_refused_alike_and_those_of_masked_rows_do_not_matter(kind):
    groups = MISSING[kind]
    for measured in (
        lambda: nrc.CollapseMonitor(mlp()).measure(BATCHES, groups=groups),
        lambda: nrc.measure(X, Y, groups=groups),
    ):
        with pytest.raises(
            UserError, match=r"groups holds \d+ missing labels \(.*\); give such rows a label"
        ):
            measured()
    mask = torch.arange(90) % 3 != 1
    found = nrc.collect(mlp(), [(X, Y, mask)], groups=groups).groups
    assert [part["0"].count for part in found.values()] == [30, 30]
    assert "nan" not in map(str, found)


def test_labels_of_several_types_stay_apart():
    groups = ["1", 1, "b"] * 30
    for found in (
        nrc.measure(X, Y, groups=groups),
        nrc.CollapseMonitor(mlp()).measure(BATCHES, groups=groups),
    ):
        assert list(found.groups) == ["1", 1, "b"]


def test_the_table_prints_draws_and_becomes_a_frame():
    import matplotlib

    matplotlib.use("Agg")
    monitor = nrc.CollapseMonitor(nn.Sequential(nn.Embedding(3, 5), nn.Flatten(), *mlp()))
    assert "not measured yet" in str(monitor)
    monitor = nrc.CollapseMonitor(mlp())
    table = monitor.measure(BATCHES, groups=LABELS)
    text = str(monitor).splitlines()
    assert text[0] == "CollapseMonitor of Sequential, head 2"
    assert text[1].split()[:3] == ["layer", "nrc1", "nrc2"]
    assert text[3].split()[1] == f"{table['2']['nrc1']:.3g}" and text[2].split()[2] == "-"
    frame = table.to_frame()
    assert (
        list(frame.index.names) == ["group", "layer"]
        and frame.loc[("left", "2"), "mse"] == table.groups["left"]["2"]["mse"]
    )
    with pytest.raises(UserError, match="a group is named 'all'"):
        Table(table, groups={"all": table}).to_frame()
    whole = Table(table).to_frame()
    assert list(whole.index) == ["0", "2"] and whole.loc["0", "noise"] == table["0"]["noise"]
    ax = table.plot(["noise", "cka"])
    lines = ax.get_lines()
    assert len(lines) == 6 and [label.get_text() for label in ax.get_xticklabels()] == ["0", "2"]
    assert list(lines[0].get_ydata()) == [table["0"]["noise"], table["2"]["noise"]]
    with pytest.raises(UserError, match="no metric 'nrc9' in the table; choose from: mse"):
        table.plot("nrc9")


# --- several ranks

RANKS = """
import json, sys, torch, nrc
from torch import nn
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
part = slice(0, 40) if rank == 0 else slice(40, 90)
found = {}
for kind in ("plain", "tanh", "ddp", "fsdp", "alone", "error"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    if kind == "tanh":
        model.append(nn.Tanh())
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 5, generator=g), torch.randn(90, 2, generator=g)
    label = (torch.arange(90) % 2)[part].tolist()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (2,))
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh)
    if kind == "error" and rank == 1:
        label = label[:3]
    try:
        monitor = nrc.CollapseMonitor(model, all_ranks=kind != "alone")
        table = monitor.measure([(x[part], y[part])], groups=label)
        groups = {str(name): values for name, values in table.groups.items()}
        found[kind] = {"table": table, "head": monitor.head, "groups": groups}
    except nrc.errors.UserError as error:
        found[kind] = {"error": str(error)}
print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )
        for rank in range(2)
    ]  # fmt: skip
    answers = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), answers
    return [json.loads(out) for out, _ in answers]


@pytest.mark.parametrize("kind", ["plain", "tanh", "ddp", "fsdp"])
def test_two_ranks_measure_as_one_process_on_all_rows(kind, two_ranks):
    first, second = (found[kind] for found in two_ranks)
    assert first["head"] == second["head"] == (None if kind == "tanh" else "2")
    assert str(first) == str(second), "bit by bit on every rank"
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 5, generator=g), torch.randn(90, 2, generator=g)
    model = nn.Sequential(*mlp(), nn.Tanh()) if kind == "tanh" else mlp()
    alone = nrc.CollapseMonitor(model).measure([(x, y)], groups=(torch.arange(90) % 2).tolist())
    for layer in alone:
        assert first["table"][layer] == pytest.approx(alone[layer], rel=1e-6, abs=1e-9, nan_ok=True)
        for name, part in alone.groups.items():
            assert first["groups"][str(name)][layer] == pytest.approx(
                part[layer], rel=1e-6, abs=1e-9, nan_ok=True
            )


def test_a_rank_may_measure_alone_and_an_error_of_one_reaches_all(two_ranks):
    first, second = (found["alone"] for found in two_ranks)
    assert first["table"]["2"]["cka"] != second["table"]["2"]["cka"]
    first, second = (found["error"]["error"] for found in two_ranks)
    assert first == f"rank 1 could not measure: UserError: {second}" and "groups has 3 labels" in second
