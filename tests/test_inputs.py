"""What users hand to the library: containers of inputs, layouts, widths, slips of the hand."""

import math
import re
from collections import UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import nrc
from nrc.errors import UserError
from nrc.metrics import measure_with_reasons


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


X, Y = rows(16, 5), rows(16, 2, seed=1)


# --- several inputs


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(a + b)


class Pairs(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return (X[i], 2 * X[i]), Y[i]


def test_a_data_loader_of_several_inputs_gives_them_one_by_one():
    (inputs, _), *_ = DataLoader(Pairs(), 8)
    assert type(inputs) is list, "what torch collates a tuple into"
    found = nrc.collect(Two(), DataLoader(Pairs(), 8))["head"]
    torch.testing.assert_close(found.mean_h, 3 * X.double().mean(0), atol=1e-6, rtol=0)


def test_a_list_of_rows_stays_one_input():
    a = nrc.collect(mlp(), [(list(X), list(Y))])["0"]
    assert torch.equal(a.sigma_h, nrc.collect(mlp(), [(X, Y)])["0"].sigma_h)
    pictures, model = list(rows(6, 3, 4, 4)), nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    assert nrc.collect(model, [(pictures, rows(6, 2))])["0"].count == 6


def test_containers_are_looked_through_to_any_depth():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 2)

        def forward(self, parts: list, scale: float = 1.0) -> dict:
            (inner,) = parts
            return {"out": (self.head(inner["x"][0] * scale), None)}

    x = X.double().numpy()  # to become a 32-bit tensor wherever it stands
    for inputs in (([{"x": (x,)}],), [[{"x": (x,)}]], {"parts": [{"x": [x]}], "scale": 1.0}):
        found = nrc.collect(Deep(), [(inputs, Y)])
        assert found.head == "head" and found["head"].count == 16


@pytest.mark.filterwarnings("ignore:not measured")
def test_one_tensor_given_three_times_is_self_attention():
    x = rows(3, 5, 8).double()
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    assert nrc.collect(model, [((x, x, x), rows(3, 5, 2))])[""].count == 15
    with pytest.raises(UserError, match="another input than its own"):
        nrc.collect(model, [((x, x + 1, x), rows(3, 5, 2))])


class By(nn.Module):
    """A head on what `reads` makes of the inputs."""

    def __init__(self, reads, d: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.reads = nn.Linear(d, 2), reads

    def forward(self, *inputs: object) -> Tensor:
        return self.head(self.reads(*inputs))


def mean_of(model: nn.Module, batches: list) -> Tensor:
    found = nrc.collect(model, batches)
    assert found.head == "head"
    return found["head"].mean_h


class Items(Dataset):
    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> tuple[tuple, Tensor]:
        return self.make(i), Y[i]


@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_a_data_loader_of_inputs_with_one_number_a_sample(batch_size):
    lengths = DataLoader(Items(lambda i: (X[i], torch.tensor(i))), batch_size)
    scale = torch.arange(16.0)[:, None]
    found = mean_of(By(lambda x, length: x * length[:, None]), lengths)
    torch.testing.assert_close(found, (X * scale).double().mean(0), atol=1e-5, rtol=0)

    class Users(By):
        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return super().forward(user, item)

    pairs = DataLoader(Items(lambda i: (torch.tensor(i), torch.tensor(i % 3))), batch_size)
    found = mean_of(Users(lambda u, i: torch.stack((u, u * i), 1).float(), d=2), pairs)
    i = torch.arange(16.0)
    torch.testing.assert_close(found, torch.stack((i, i * (i % 3)), 1).double().mean(0), atol=1e-6, rtol=0)


def test_inputs_by_keyword_are_taken_in_the_order_of_the_layer():
    class Conditioned(nn.Linear):
        def forward(self, x: Tensor, cond: Tensor) -> Tensor:
            return super().forward(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = Conditioned(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(cond=x.flip(1), x=x)

    torch.testing.assert_close(mean_of(Model(), [(X, Y)]), X.double().mean(0), atol=1e-6, rtol=0)


TEXT = ["a", "bcd", "ef", "g"] * 4


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, lambda t: np.array(t, dtype=object)],
    ids=["list", "tuple", "array", "objects"],
)
def test_text_reaches_the_network_as_it_is(make):
    model = By(lambda words: torch.tensor([[float(len(w)), float(ord(w[0]))] for w in words]), d=2)
    expected = torch.tensor([[len(w), ord(w[0])] for w in TEXT]).double().mean(0)
    torch.testing.assert_close(mean_of(model, [(make(TEXT), Y)]), expected)


def test_text_beside_numbers_and_rows_of_several_lengths():
    loader = DataLoader(Items(lambda i: (X[i], TEXT[i])), 8)
    found = mean_of(By(lambda x, words: x * torch.tensor([[len(w)] for w in words])), loader)
    sizes = torch.tensor([[len(w)] for w in TEXT])
    torch.testing.assert_close(found, (X * sizes).double().mean(0), atol=1e-6, rtol=0)
    ragged = [rows(3 + i % 4, 5, seed=i).double() for i in range(16)]
    found = mean_of(By(lambda parts: torch.stack([part.mean(0) for part in parts])), [(ragged, Y)])
    torch.testing.assert_close(found, torch.stack([r.mean(0) for r in ragged]).mean(0), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"entry \[1\] is None, not a number"):
        nrc.collect(By(lambda x: x), [([1.0, None], Y[:2])])


class Attributes(UserDict):
    """As tokenisers put out: entries that are attributes, too."""

    def __getattr__(self, name: str) -> object:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


class Own(Mapping):
    """A mapping that keeps its entries in an attribute."""

    def __init__(self, **entries: object) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> object:
        return self.entries[name]

    def __iter__(self):
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def x(self) -> object:
        return self["x"]


@pytest.mark.parametrize("kind", [Attributes, Own])
@pytest.mark.parametrize("inside", [True, False])
def test_a_mapping_keeps_its_type(kind, inside):
    class Reads(By):
        def forward(self, batch: object) -> Tensor:
            assert type(batch) is kind
            return self.head(batch.x.sub_(1))

    given = kind(x=X.clone())
    found = mean_of(Reads(None), [((given,) if inside else given, Y)])
    torch.testing.assert_close(found, (X - 1).double().mean(0), atol=1e-6, rtol=0)
    assert torch.equal(given["x"], X)


# --- objects that the network writes into


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.x = x


@dataclass
class Record:
    x: Tensor


Row = namedtuple("Row", ["x", "name"])


def rewritten(model: nn.Module, graph: object) -> Tensor:
    graph.x = torch.relu(model.body(graph.x))
    return model.head(graph.x)


def in_place(model: nn.Module, graph: object) -> Tensor:
    return model.head(torch.relu(model.body(graph.x.sub_(1).div_(3))))


@pytest.mark.parametrize(
    ("make", "forward"),
    [
        (Graph, rewritten), (Graph, in_place), (Record, rewritten), (Record, in_place),
        (lambda x: Row(x, "a"), in_place), (lambda x: [Graph(x)], lambda m, graphs: rewritten(m, *graphs)),
    ],
    ids=["object", "object in place", "dataclass", "dataclass in place", "named tuple", "list"],
)  # fmt: skip
def test_an_object_that_the_network_rewrites_is_new_in_every_pass(make, forward):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, given: object) -> Tensor:
            return forward(self, given)

    given, model = make(X.clone()), Model()
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([((given,), Y)])["head"]["mse"]
    with torch.no_grad():
        expected = float((model(make(X.clone())) - Y).square().mean())
    assert found == pytest.approx(expected, rel=1e-5) and monitor.head == "head"
    assert torch.equal((given[0] if isinstance(given, list) else given).x, X)


# --- as many sequences as positions


class Inside(nn.Module):
    """Sequences first outside, positions first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Linear(5, 8), nn.GRU(8, 8)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and mask.shape != (x.shape[1], x.shape[1]):
            raise ValueError("the mask must be (T, T)")
        z = self.gru(self.embed(x).transpose(0, 1))[0]
        return self.head(self.middle(z).transpose(0, 1))


@pytest.mark.parametrize("sizes", [(6,), (6, 6), (3, 6), (6, 3)])
def test_layers_with_positions_first_are_left_out_also_where_the_axes_are_equal(sizes):
    torch.manual_seed(0)
    model = Inside()
    data = [(rows(b, 6, 5, seed=b), rows(b, 6, 2, seed=b + 1)) for b in sizes]
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure(data)
    assert list(table) == ["embed", "head"] and monitor.head == "head"
    assert "middle" in monitor.skipped
    if sizes[0] == 6:
        assert "positions before sequences" in monitor.skipped["middle"]
    with torch.no_grad():
        expected = torch.cat([(model(x) - y).square().flatten() for x, y in data]).mean()
    assert table["head"]["mse"] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(UserError, match=r"'middle' (puts positions before|sees)"):
        nrc.collect(model, data, ["middle", "head"])


def test_an_output_with_positions_first_is_no_prediction():
    class Turned(Inside):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).transpose(0, 1)

    table = nrc.CollapseMonitor(Turned()).measure([(rows(6, 6, 5), rows(6, 6, 2))])
    assert all(math.isnan(values["mse"]) for values in table.values())


@pytest.mark.filterwarnings("ignore:not measured")
def test_a_mask_as_large_as_the_batch_is_no_obstacle():
    x, y, mask = rows(6, 6, 5), rows(6, 6, 2), torch.ones(6, 6).triu()
    plain = nrc.collect(Inside(), [(x, y)])
    found = nrc.collect(Inside(), [((x, mask), y)])
    assert list(found) == list(plain) == ["embed", "head"]
    assert "positions before sequences" in found.skipped["middle"]


def test_where_no_sample_can_be_told_from_another_nothing_is_guessed():
    class Graph:
        x = rows(6, 6, 5)

    class OfGraph(Inside):
        def forward(self, graph: Graph) -> Tensor:
            return super().forward(graph.x)

    with pytest.raises(UserError, match=r"as many of both \(6\) in a batch; give batches of another size"):
        nrc.collect(OfGraph(), [(Graph(), rows(6, 6, 2))], ["middle", "head"])


def test_sequences_first_throughout_are_fine_when_the_axes_are_equal():
    model, x, y = nn.Linear(5, 2), rows(6, 6, 5), rows(6, 6, 2)
    assert torch.equal(
        nrc.collect(model, [(x, y)])[""].sigma_hy,
        nrc.collect(model, [(x.flatten(0, 1), y.flatten(0, 1))])[""].sigma_hy,
    )
    assert nrc.collect(model, [(x[:1, :1], y[:1, :1]), (x, y)])[""].count == 37


# --- what is left out, and named


def test_wide_layers_are_named_with_what_they_would_take():
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 20), nn.Linear(20, 2))
    monitor = nrc.CollapseMonitor(model, max_features=20)
    assert list(monitor.measure([(X, Y)])) == ["0", "3"]
    assert re.match(
        r"has 30 features, more than max_features=20: its sums would take \d+\.\d GB; name it in layers",
        monitor.skipped["2"],
    )
    assert list(nrc.collect(model, [(X, Y)], max_features=30)) == ["0", "2", "3"]
    assert list(nrc.collect(model, [(X, Y)], ["2", "3"], max_features=20)) == ["2", "3"]
    assert list(nrc.CollapseMonitor(model, ["2"], max_features=20).measure([(X, Y)])) == ["2"]


def test_a_head_on_a_map_as_wide_as_vggs_is_judged_by_its_output_alone():
    model = nn.Linear(25088, 2)
    body = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 25088), model)
    monitor = nrc.CollapseMonitor(body)
    table = monitor.measure([(X, Y)])
    assert list(table) == ["0", "1"] and "has 25088 features" in monitor.skipped["2"]
    assert "take 10.1 GB" in monitor.skipped["2"]
    with torch.no_grad():
        assert table["1"]["mse"] == pytest.approx(float((body(X) - Y).square().mean()), rel=1e-5)
    with pytest.raises(UserError, match="no layer could be measured: '' has 25088 features"):
        nrc.collect(model, [(rows(4, 25088), rows(4, 2))])
    named = nn.Sequential(nn.Linear(5, 30), nn.Linear(30, 2))
    assert nrc.collect(named, [(X, Y)], head="1", max_features=5).head == "1"


class Sometimes(nn.Module):
    """Uses a layer where the batch's mean is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.extra, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.always(x)
        return self.head(self.extra(h) if x.mean() > 0 else h)


SIGNS = [(X.abs(), Y), (-X.abs(), Y)]


def test_a_layer_that_ran_in_some_batches_alone_is_named():
    monitor = nrc.CollapseMonitor(Sometimes())
    assert list(monitor.measure(SIGNS * 2)) == ["always", "head"]
    assert monitor.skipped == {"extra": "ran in 2 of 4 batches"}
    with pytest.raises(UserError, match="'extra' ran in 1 of 2 batches"):
        nrc.collect(Sometimes(), SIGNS, ["extra", "head"])


def test_the_last_layer_may_be_the_one_that_ran_in_some_batches_alone():
    class Late(Sometimes):
        def forward(self, x: Tensor) -> Tensor:
            out = self.head(self.always(x))
            return out + self.extra(out.repeat(1, 4))[:, :2] if x.mean() > 0 else out

    monitor = nrc.CollapseMonitor(Late())
    table = monitor.measure(SIGNS)
    assert list(table) == ["always", "head"] and monitor.skipped == {"extra": "ran in 1 of 2 batches"}
    assert math.isnan(table["head"]["nrc1_centred"])


def test_modules_with_a_weight_of_their_own_are_named():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.token = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(1, 5))
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act((x + self.token) @ self.matrix.T)

    monitor = nrc.CollapseMonitor(nn.Sequential(Own(), nn.Linear(8, 2)))
    assert list(monitor.skipped) == ["0"] and "Own, whose 'matrix'" in monitor.skipped["0"]
    assert nrc.collect(monitor.model, [(X, Y)], ["0:out"])["0:out"].d == 8


class Waves(nn.Module):
    """Complex numbers inside, real ones at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 8), nn.Linear(8, 2)
        self.mix = nn.Linear(8, 8, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.fft.fft(self.first(x))).abs())


def test_a_layer_that_cannot_be_read_is_left_out_by_name_and_no_other_is():
    torch.manual_seed(0)
    monitor = nrc.CollapseMonitor(Waves())
    table = monitor.measure([(X, Y)])
    assert list(table) == ["first", "head"] and monitor.head == "head"
    assert "passes complex numbers (torch.complex64)" in monitor.skipped["mix"]
    with pytest.raises(UserError, match="'mix' passes complex numbers"):
        nrc.collect(Waves(), [(X, Y)], ["mix", "head"])


class Clock(nn.Module):
    """Seconds since 1970, of which float32 keeps two minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, seconds: Tensor) -> Tensor:
        return self.head((seconds - 1.7e9).float())


@pytest.mark.parametrize("array", [True, False])
def test_inputs_keep_the_type_that_the_network_gets_in_training(array):
    torch.manual_seed(0)
    late = rows(16, 3).double()
    x = late + 1.7e9
    found = nrc.collect(Clock(), [(x.numpy() if array else x, Y)])
    torch.testing.assert_close(found["head"].mean_h, late.mean(0), atol=1e-6, rtol=0)


# --- slips of the hand


def used_up() -> object:
    batches = iter([(X, Y)])
    nrc.collect(mlp(), batches)
    return batches


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda: dict(batches=[]), "it is empty, or an iterator that is used up; give a list or a DataLoader"),
        (lambda: dict(batches=used_up()), "used up"),
        (lambda: dict(batches=None), "batches is NoneType; give a list"),
        (lambda: dict(batches=3), "batches is int; give a list"),
        (lambda: dict(batches=TensorDataset(X, Y)), "no batch axis: wrap a data set into a DataLoader"),
        (lambda: dict(batches=[(X[:1], Y[0, 0])]), r"one number without a batch axis; give \(B,\) or \(B, n\)"),
        (lambda: dict(batches=[(X[:0], Y[:0])]), "no row of the batches counts: they are empty or masked"),
        (lambda: dict(layers=[]), "layers is empty; choose from: 0, 2"),
        (lambda: dict(layers=[2]), "layers holds 2, which is no name; choose from: 0, 2"),
        (lambda: dict(layers=2), "layers holds 2, which is no name"),
        (lambda: dict(layers=[nn.ReLU()]), r"layers holds ReLU\(\), which is no name"),
        (lambda: dict(positions="every"), "positions is 'every'; choose pool or all"),
        (lambda: dict(model=lambda x: x), "the model is a function; give the nn.Module itself"),
        (lambda: dict(model=torch.jit.trace(mlp(), X)), "the model is a TopLevelTracedModule; .* nothing scripted"),
        (lambda: dict(batches=[(X, np.ma.masked_greater(Y.numpy(), 0))]), "targets: a masked array with"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_slip_is_answered_in_one_line_that_names_it(arguments, words):
    with pytest.raises(UserError, match=words):
        nrc.collect(**({"model": mlp(), "batches": [(X, Y)]} | arguments()))


@pytest.mark.parametrize("rank", [2.0, "2", True])
def test_a_rank_that_is_no_whole_number_is_named(rank):
    with pytest.raises(UserError, match=f"rank={rank!r}; give a whole number"):
        nrc.measure(X, Y, rank=rank)
    with pytest.raises(UserError, match="rank="):
        nrc.CollapseMonitor(mlp(), rank=rank).measure([(X, Y)])


def test_numbers_that_are_not_finite_are_traced_to_features_or_targets_and_the_layer():
    bad = X.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(UserError, match="layer '0': features contain NaN"):
        nrc.CollapseMonitor(mlp()).measure([(bad, Y)])
    with pytest.raises(UserError, match="layer '0': targets contain NaN"):
        nrc.CollapseMonitor(mlp()).measure([(X, torch.full_like(Y, torch.inf))])
    model = mlp()
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    with pytest.raises(UserError, match="layer '2': the bias contains NaN"):
        nrc.CollapseMonitor(model).measure([(X, Y)])


def test_arrays_of_every_make():
    h, y, w = X.double().numpy(), Y.double().numpy(), rows(2, 5).double().numpy()
    expected = nrc.measure(h, y, w)
    frozen = h.copy()
    frozen.flags.writeable = False
    same = [
        (h[::-1], y[::-1], w), (h.astype(">f8"), y, w), (torch.tensor(h).to_sparse(), y, w),
        (np.ma.masked_array(h, mask=False), y, w), (frozen, y, w), (pd.DataFrame(h), pd.DataFrame(y), w),
        (h, y, w[:, ::-1][:, ::-1]),
    ]  # fmt: skip
    for arrays in same:
        assert nrc.measure(*arrays) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
    with pytest.raises(UserError, match=r"features: a masked array with 1 masked entries"):
        nrc.measure(np.ma.masked_array(h, mask=h == h.max()), y, w)


def test_what_is_no_number_is_named():
    h, y, w = X.double().numpy(), Y.double().numpy(), rows(2, 5).double().numpy()
    frame = pd.DataFrame(h)
    assert nrc.measure(frame.astype(object), y, w) == pytest.approx(nrc.measure(h, y, w), nan_ok=True)
    text = frame.astype(object)
    text.iloc[2, 1] = "x"
    missing = frame.astype("Float64")
    missing.iloc[0, 3] = pd.NA
    for features, words in (
        (text, r"features: entry \[2, 1\] is 'x', not a number"),
        (missing, r"features: entry \[0, 3\] is <NA>, not a number"),
        ([["a"], ["b"]], r"features: entry \[0, 0\] is "),
    ):
        with pytest.raises(UserError, match=words):
            nrc.measure(features, y[: len(features)])
    with pytest.raises(UserError, match=r"weight: got the module Linear, not numbers; give its \.weight"):
        nrc.measure(h, y, nn.Linear(5, 2))
    with pytest.raises(UserError, match=r"give it transposed, weight\.T"):
        nrc.measure(h, y, w.T)


@pytest.mark.parametrize("shape", [(16,), (16, 3)])
def test_a_mask_of_single_targets_is_answered_with_what_to_do(shape):
    x, y = rows(*shape, 5), rows(*shape, 2, seed=1)
    mask, model = rows(*shape, 2, seed=2) > 0, mlp()
    with pytest.raises(
        UserError, match=r"the mask has the shape of the targets.*measure one at a time: outputs=\[k\]"
    ):
        nrc.CollapseMonitor(model).measure([(x, y, mask)])
    for k in range(2):
        found = nrc.CollapseMonitor(model, outputs=[k]).measure([(x, y[..., k : k + 1], mask[..., k])])
        with torch.no_grad():
            error = (model(x) - y)[..., k][mask[..., k]].square().mean()
        assert found["2"]["mse"] == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize(
    "outputs",
    [np.arange(2), torch.arange(2), np.array([0, 1]).tolist(), range(2), [np.int64(0), torch.tensor(1)]],
)
def test_columns_of_every_make(outputs):
    model = nn.Sequential(nn.Linear(5, 4))
    expected = nrc.CollapseMonitor(model, outputs=[0, 1]).measure([(X, Y)])["0"]
    assert nrc.CollapseMonitor(model, outputs=outputs).measure([(X, Y)])["0"] == pytest.approx(
        expected, nan_ok=True
    )
    one = nrc.CollapseMonitor(model, outputs=np.int64(1)).measure([(X, Y[:, :1])])["0"]
    assert one == pytest.approx(
        nrc.CollapseMonitor(model, outputs=1).measure([(X, Y[:, :1])])["0"], nan_ok=True
    )


@pytest.mark.parametrize("outputs", [[], [True], [0.0], "01", 1.5, np.array([0.5]), [-1], True, {}])
def test_columns_that_are_no_whole_numbers_are_named(outputs):
    with pytest.raises(UserError, match=r"outputs is .*; give the numbers of the columns"):
        nrc.CollapseMonitor(mlp(), outputs=outputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore::DeprecationWarning")
def test_a_scripted_part_is_left_out_by_name():
    body = torch.jit.script(nn.Sequential(nn.Linear(5, 8), nn.ReLU()))
    model = nn.Sequential(body, nn.Linear(8, 2))
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(X, Y)])
    with torch.no_grad():
        expected = nrc.measure(body(X), Y, model[1].weight, bias=model[1].bias)
    assert list(found) == ["1"] and "is scripted or traced" in monitor.skipped["0"]
    for name in ("mse", "nrc1", "nrc2", "cka"):
        assert found["1"][name] == pytest.approx(expected[name], rel=1e-4)
    with pytest.raises(UserError, match="layer '0' is scripted or traced"):
        nrc.CollapseMonitor(model, layers=["0", "1"])


def test_a_network_without_an_evaluation_mode_is_answered_in_one_line():
    class Exported(nn.Sequential):
        """As torch.export's."""

        def train(self, mode: bool = True) -> nn.Module:
            raise NotImplementedError("Calling train() is not supported yet.")

    model = nn.Sequential(nn.Linear(5, 5), Exported(nn.Linear(5, 2)))
    with pytest.raises(UserError, match=r"cannot be put into evaluation mode .* give the nn.Module itself"):
        nrc.collect(model, [(X, Y)])
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("outputs", [[7, 9], [0, 2]])
def test_columns_that_the_network_does_not_put_out(outputs):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    for output in (None, lambda out: out):
        monitor = nrc.CollapseMonitor(model, outputs=outputs, output=output)
        with pytest.raises(
            UserError, match=r"outputs=\[., .\], but the network puts out 2 columns; give numbers from 0 to 1"
        ):
            monitor.measure([(X, Y)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e100])
def test_the_scale_of_the_features_does_not_matter(scale):
    h, y, w = X.double(), Y.double(), rows(2, 5).double()
    expected, found = measure_with_reasons(h, y, w), measure_with_reasons(h * scale, y, w / scale)
    free = {
        name
        for name in expected.values
        if name not in ("nrc1_raw", "nrc2_raw", "noise_abs", "feature_norm", "weight_norm")
    }
    for name in free:
        assert found[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name
