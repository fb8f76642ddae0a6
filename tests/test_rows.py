"""Which axis is which, in which order the rows are, and which output is the prediction: by values, not by sizes."""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import nrc
from nrc.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:not measured")


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cka(h: Tensor, y: Tensor) -> float:
    """By N x N kernels."""
    h, y = (m.double() - m.double().mean(0) for m in (h, y))
    a, b = h @ h.T, y @ y.T
    return float((a * b).sum() / a.norm() / b.norm())


class Fed:
    """What a module is fed or puts out, by a hook of the test's own."""

    def __init__(self, model: nn.Module, name: str, *args: Tensor) -> None:
        path, out = name.removesuffix(":out"), name.endswith(":out")
        seen: list[Tensor] = []

        def hook(module, fed, made):
            x = made if out else fed[0]
            seen.append((x[0] if isinstance(x, tuple) else x).detach().clone())

        handle = model.get_submodule(path).register_forward_hook(hook)
        with torch.no_grad():
            model.eval()(*args)
        handle.remove()
        (self.x,) = seen


class Permuted(nn.Module):
    """Maps with the channels last between convolutions: normalised and mixed there, as ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.GELU()
        self.back, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.act(self.norm(self.stem(x).permute(0, 2, 3, 1)))
        return self.head(self.back(z.permute(0, 3, 1, 2)).mean((2, 3)))


def test_the_channels_of_a_map_are_told_by_the_modules_around_it():
    torch.manual_seed(0)
    model, x, y = Permuted(), rows(40, 3, 8, 8), rows(40, 2, seed=1)
    with pytest.raises(UserError, match=r"'norm' sees \(40, 4, 4, 6\).*measure after the pooling"):
        nrc.collect(model, [(x, y)], ["norm"])
    table = nrc.CollapseMonitor(model, ["stem:out", "back", "back:out"]).measure([(x, y)])
    for name in table:
        assert table[name]["cka"] == pytest.approx(cka(Fed(model, name, x).x.mean((2, 3)), y), abs=1e-5)
    said = nrc.CollapseMonitor(model, ["act", "act:out"], channels={"act": -1, "act:out": -1}).measure(
        [(x, y)]
    )
    for name in said:
        assert said[name]["cka"] == pytest.approx(cka(Fed(model, name, x).x.mean((1, 2)), y), abs=1e-5)


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(rows(9, 2))

    def forward(self, z: Tensor) -> Tensor:
        return (z * (1 + self.table.mean())).sin()


class Scaling(Opaque):
    """Affine, but a feature row for every position."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (1 + self.table.mean())


@pytest.mark.parametrize("block", [Opaque, Scaling])
@pytest.mark.parametrize("shape", [(7, 5, 6), (5, 6), (4, 5, 6, 3)])
def test_an_axis_that_nothing_tells_is_asked_for_and_then_right(shape, block):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = block(), nn.Linear(shape[-1], 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x.tanh()).flatten(1, -2).mean(1))

    model, x, y = Net(), rows(30, *shape), rows(30, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    monitor.measure([(x, y)])
    assert "layers=['block:out']" in monitor.skipped["block"]
    with pytest.raises(UserError, match=r"say so: channels=\{'block:out': 1\} or \{'block:out': -1\}"):
        nrc.collect(model, [(x, y)], ["block:out"])
    found = nrc.CollapseMonitor(model, ["block:out"], channels={"block:out": -1}).measure([(x, y)])[
        "block:out"
    ]
    assert found["cka"] == pytest.approx(
        cka(Fed(model, "block:out", x).x.flatten(1, -2).mean(1), y), abs=1e-5
    )
    with pytest.raises(UserError, match="channels names 'stem', which is not measured"):
        nrc.collect(model, [(x, y)], channels={"stem": 1})


@pytest.mark.parametrize(("dims", "conv", "norm"), [(1, nn.Conv1d, nn.BatchNorm1d), (2, nn.Conv2d, nn.BatchNorm2d),
                                                     (3, nn.Conv3d, nn.BatchNorm3d)])  # fmt: skip
def test_maps_of_one_two_and_three_dimensions(dims, conv, norm):
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8, 3), norm(8), nn.ReLU(), conv(8, 4, 1), nn.Flatten(), nn.LazyLinear(2))
    x, y = rows(24, 3, *[5] * dims), rows(24, 2, seed=1)
    model.eval()(x)
    names = ["0", "0:out", "1", "1:out", "2", "2:out", "3", "3:out"]
    table = nrc.CollapseMonitor(model, names).measure([(x[:10], y[:10]), (x[10:], y[10:])])
    for name in names:
        pooled = Fed(model, name, x).x.mean(tuple(range(2, 2 + dims)))
        assert table[name]["cka"] == pytest.approx(cka(pooled, y), abs=1e-5), name


class ByLength(nn.Module):
    """Sorts its batch inside; `back` decides whether the output is put right."""

    def __init__(self, back: bool = True) -> None:
        super().__init__()
        self.first, self.middle, self.head, self.back = (
            nn.Linear(4, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
            back,
        )

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        order = length.argsort(stable=True)
        out = self.head(torch.relu(self.middle(torch.tanh(self.first(x))[order])))
        return out[order.argsort()] if self.back else out


def test_rows_in_another_order_are_put_right_by_the_output_or_left_out():
    torch.manual_seed(0)
    model, x = ByLength(), rows(90, 4)
    # nearly all of one length: few samples taken anywhere would be in order
    length = torch.where(torch.arange(90) % 30 == 7, torch.arange(90), 50)
    y = torch.stack((length.float(), rows(90)), 1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([((x[:40], length[:40]), y[:40]), ((x[40:], length[40:]), y[40:])])
    assert set(table) == {"first", "head"} and "another order" in monitor.skipped["middle"]
    with torch.no_grad():
        h = torch.relu(model.middle(torch.tanh(model.first(x))))
        error = float((model(x, length) - y).square().mean())
    assert monitor.head == "head" and table["head"]["mse"] == pytest.approx(error, rel=1e-5)
    assert table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)
    out = nrc.CollapseMonitor(ByLength(back=False))
    found = out.measure([((x, length), y)])
    assert set(found) == {"first"} and math.isnan(found["first"]["mse"])
    assert "another order" in out.undefined["first"]["mse"]


class Folded(nn.Module):
    """Samples and positions in one axis inside, samples moving slower or faster."""

    def __init__(self, outer: bool) -> None:
        super().__init__()
        self.first, self.head, self.outer = nn.Linear(5, 8), nn.Linear(8, 2), outer

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        z = x if self.outer else x.transpose(0, 1)
        out = self.head(torch.relu(self.first(z.flatten(0, 1))))
        return out.view(b, t, 2) if self.outer else out.view(t, b, 2).transpose(0, 1)


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("batch", [6, 7])
def test_folded_rows_get_the_targets_of_their_sample_and_position(outer, batch):
    torch.manual_seed(0)
    model, x, y = Folded(outer), rows(batch, 6, 5), rows(batch, 6, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    assert list(table) == ["first", "head"] and table["first"]["cka"] == pytest.approx(
        cka(x.flatten(0, 1), y.flatten(0, 1)), abs=1e-6
    )
    assert monitor.head == ("head" if outer else None)


def test_targets_may_be_folded_as_the_output_is():
    class Flat(Folded):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flatten(0, 1)

    torch.manual_seed(0)
    model, x, y = Flat(True), rows(6, 4, 5), rows(24, 2, seed=1)
    table = nrc.CollapseMonitor(model).measure([(x, y)])
    assert table["first"]["cka"] == pytest.approx(cka(x.flatten(0, 1), y), abs=1e-6)
    assert not math.isnan(table["head"]["mse"])


class Encoder(nn.Module):
    """A transformer over sequences, as long as its features are many."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.middle, self.head = (
            nn.TransformerEncoder(layer, 1),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.encoder(x))))


def test_as_many_positions_as_features_are_told_by_shorter_sequences():
    torch.manual_seed(0)
    model, x, y = Encoder(), rows(12, 8, 8), rows(12, 8, 2, seed=1)
    table = nrc.CollapseMonitor(model).measure([(x, y)])
    fed = Fed(model, "middle", x).x
    assert table["middle"]["cka"] == pytest.approx(cka(fed.flatten(0, 1), y.flatten(0, 1)), abs=1e-5)


class HiddenMixer(nn.Module):
    """Mixes over time among as many hidden channels as there are steps."""

    def __init__(self, steps: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.time, self.head = nn.Linear(3, hidden), nn.Linear(steps, steps), nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.time(torch.tanh(self.embed(x)).mT).mT))


def test_channels_do_not_pass_for_time_steps():
    torch.manual_seed(0)
    monitor = nrc.CollapseMonitor(HiddenMixer(6, 6))
    table = monitor.measure([(rows(20, 6, 3), rows(20, 6, 2, seed=1))])
    assert "time" not in table and "could not be told" in monitor.skipped["time"]
    assert "head" in table and monitor.head == "head"
    other = nrc.CollapseMonitor(HiddenMixer(6, 7)).measure([(rows(20, 6, 3), rows(20, 6, 2, seed=1))])
    assert "time" not in other and "head" in other


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("horizon", [6, 8])
def test_channels_do_not_pass_for_the_steps_of_a_forecast(horizon, mixes):
    """24 steps of 8 channels -> as many steps as channels, or fewer."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(net.time(x.mT).mT) if mixes else net.time(x.mT).mT,
        time=nn.Linear(24, horizon), head=nn.Linear(8, 8), other=nn.Linear(1, 1),
    )  # fmt: skip
    monitor = nrc.CollapseMonitor(model, output=None)
    try:
        assert "time" not in monitor.measure([(rows(32, 24, 8), rows(32, horizon, 8, seed=1))])
    except UserError as error:  # nothing is left
        assert not mixes and "time" in str(error)


class Net(nn.Module):
    """A forward pass given as a function of the network and its inputs."""

    def __init__(self, run, **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def sorted_inside(net: Net, x: Tensor, length: Tensor) -> Tensor:
    order = length.argsort(stable=True)
    return net.head(torch.relu(net.middle(torch.tanh(net.first(x))[order])))[order.argsort()]


def sorting(run=sorted_inside) -> Net:
    torch.manual_seed(0)
    return Net(run, first=nn.Linear(4, 8), middle=nn.Linear(8, 8), head=nn.Linear(8, 2))


def turned_back(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.relu(net.middle(torch.tanh(net.first(x)).flip(0)))).flip(0)


# --- later batches, and batches that tell little


LENGTH = torch.randint(9, (60,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("first", [1, 20])
def test_a_first_batch_that_shows_no_order_is_not_the_last_word(first):
    model, x, y, length = sorting(), rows(60, 4), rows(60, 2, seed=1), LENGTH.clone()
    length[:first] = 7
    data = [((x[a], length[a]), y[a]) for a in (slice(0, first), slice(first, 60))]
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure(data)
    assert list(table) == ["first"] and "in some batches" in monitor.skipped["middle"]
    with torch.no_grad():
        error = float(torch.cat([(model(*inputs) - y).square().flatten() for inputs, y in data]).mean())
    assert table["first"]["mse"] == pytest.approx(error, rel=1e-5)
    again = monitor.measure(data)
    h = torch.relu(model.middle(torch.tanh(model.first(x)))).detach()
    assert list(again) == ["first", "head"] and monitor.head == "head"
    assert again["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)


@pytest.mark.parametrize("sizes", [[2, 58], [2] * 30, [30, 30]])
def test_a_batch_turned_round_inside_is_told_in_batches_of_two_as_well(sizes):
    x, y = rows(60, 4).split(sizes), rows(60, 2, seed=1).split(sizes)
    monitor = nrc.CollapseMonitor(sorting(turned_back))
    table = monitor.measure(list(zip(x, y, strict=True)))
    assert "middle" not in table and "another order" in monitor.skipped["middle"]


def test_a_network_may_begin_to_sort_between_two_measurements():
    def run(net: Net, x: Tensor) -> Tensor:
        key = x[:, 0] if net.training_done else torch.arange(len(x))
        return sorted_inside(net, x, key)

    model, x, y = sorting(run), rows(60, 4), rows(60, 2, seed=1)
    model.training_done = False
    monitor = nrc.CollapseMonitor(model)
    assert list(monitor.measure([(x, y)])) == ["first", "middle", "head"]
    model.training_done = True
    assert list(monitor.measure([(x, y)])) == ["first", "head"] and monitor.head == "head"


def test_a_batch_regrouped_for_its_size_is_told_by_samples_run_alone():
    def run(net: Net, x: Tensor) -> Tensor:
        order = torch.arange(len(x))
        if len(x) == 64:
            order = order.view(-1, 4).T.flatten()
        return net.head(torch.relu(net.middle(torch.tanh(net.first(x))[order])))[order.argsort()]

    model, x, y = sorting(run), rows(64, 4), rows(64, 2, seed=1)
    table = nrc.CollapseMonitor(model).measure([(x, y)])
    h = torch.relu(model.middle(torch.tanh(model.first(x)))).detach()
    assert list(table) == ["first", "head"]
    assert table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)


def test_what_a_batch_changes_in_its_samples_is_no_other_order():
    torch.manual_seed(0)
    norms = nn.BatchNorm1d(8, track_running_stats=False), nn.BatchNorm1d(1, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 8), norms[0], nn.ReLU(), nn.Linear(8, 1), norms[1], nn.Linear(1, 1))
    monitor = nrc.CollapseMonitor(model)
    x, y = rows(200, 4).split(50), rows(200, 1).split(50)
    assert list(monitor.measure(list(zip(x, y, strict=True)))) == ["0", "3", "5"] and not monitor.skipped


@pytest.mark.parametrize("sizes", [[1, 59], [1] * 8])
def test_a_random_output_is_told_after_a_first_batch_of_one(sizes):
    model = Net(lambda net, x: net.head(x) + torch.randn(len(x), 2), head=nn.Linear(4, 2))
    x, y = rows(60, 4).split([*sizes, 60 - sum(sizes)]), rows(60, 2).split([*sizes, 60 - sum(sizes)])
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(a, b) for a, b in zip(x, y, strict=True) if len(a)])
    assert math.isnan(table["head"]["mse"]) and "is random" in monitor.undefined["head"]["mse"]


# --- inputs in containers, and batches that cannot be cut


@dataclass
class Fields:
    x: Tensor
    length: Tensor


class Named(NamedTuple):
    x: Tensor
    length: Tensor


class Plain:
    def __init__(self, x: Tensor, length: Tensor) -> None:
        self.x, self.length = x, length


@pytest.mark.parametrize("kind", [Fields, Named, Plain])
def test_samples_are_told_in_containers_and_objects_too(kind):
    x, y = rows(60, 4), rows(60, 2, seed=1)
    model = sorting(lambda net, batch: sorted_inside(net, batch.x, batch.length))
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(kind(x, LENGTH), y)])
    assert list(table) == ["first", "head"] and "another order" in monitor.skipped["middle"]
    h = torch.relu(model.middle(torch.tanh(model.first(x)))).detach()
    assert table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)
    noisy = Net(lambda net, batch: net.head(batch.x) + torch.randn(len(batch.x), 2), head=nn.Linear(4, 2))
    monitor = nrc.CollapseMonitor(noisy)
    assert math.isnan(monitor.measure([(kind(x, LENGTH), y)])["head"]["mse"])
    assert "is random" in monitor.undefined["head"]["mse"]
    mixed = Net(lambda net, batch: net.head(batch.x[batch.length.argsort()]), head=nn.Linear(4, 2))
    with pytest.raises(UserError, match="'head' has its rows in another order"):
        nrc.CollapseMonitor(mixed).measure([(kind(x, LENGTH), y)])


def test_a_batch_that_cannot_be_cut_is_run_whole_in_another_order():
    def run(net: Net, x: Tensor) -> Tensor:
        return sorted_inside(net, x + net.start, x[:, 0])

    model, x, y = sorting(run), rows(60, 4), rows(60, 2, seed=1)
    model.register_buffer("start", torch.zeros(30, 4))
    data = [(x[:30], y[:30]), (x[30:], y[30:])]
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure(data)
    assert list(table) == ["first", "head"] and "another order" in monitor.skipped["middle"]
    h = torch.relu(model.middle(torch.tanh(model.first(x)))).detach()
    assert table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)


def test_nodes_of_a_graph_that_the_network_keeps_are_measured():
    graph = torch.eye(60) + (rows(60, 60) > 1.5)
    model = Net(lambda net, x: net.head(graph @ torch.relu(net.body(graph @ x))), body=nn.Linear(4, 8), head=nn.Linear(8, 2))  # fmt: skip
    x, y = rows(60, 4), rows(60, 2, seed=1)
    table = nrc.CollapseMonitor(model).measure([(x, y)])
    h = graph @ torch.relu(model.body(graph @ x)).detach()
    assert table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)


class Graph:
    def __init__(self, x: Tensor, edges: Tensor) -> None:
        self.x, self.edges = x, edges


@pytest.mark.parametrize("many", [60, 200])
@pytest.mark.parametrize("wrapped", [False, True])
def test_edges_as_many_as_nodes_do_not_pass_for_nodes(many, wrapped):
    def run(net: Net, x: Tensor | Graph, edges: Tensor | None = None) -> Tensor:
        x, edges = (x.x, x.edges) if isinstance(x, Graph) else (x, edges)
        sent = torch.relu(net.edge(torch.cat((x[edges[0]], x[edges[1]]), 1)))
        return net.head(torch.relu(net.node(x)).index_add(0, edges[1], sent))

    torch.manual_seed(0)
    model = Net(run, node=nn.Linear(5, 8), edge=nn.Linear(10, 8), head=nn.Linear(8, 2))
    x, y, ring = rows(60, 5), rows(60, 2, seed=1), torch.randperm(60)
    edges = torch.stack((ring, ring.roll(1))) if many == 60 else torch.randint(60, (2, many))
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(Graph(x, edges) if wrapped else (x, edges), y)])
    assert list(table) == ["node", "head"] and "edge" in monitor.skipped
    fed = Fed(model, "head", *((Graph(x, edges),) if wrapped else (x, edges))).x
    assert table["head"]["cka"] == pytest.approx(cka(fed, y), abs=1e-5)


@pytest.mark.parametrize("points", [16, 20, 21])
def test_points_that_the_samples_share_do_not_pass_for_samples(points):
    model = Net(
        lambda net, u, c: net.branch(u) @ net.trunk(c).T, branch=nn.Linear(5, 8), trunk=nn.Linear(1, 8)
    )
    monitor = nrc.CollapseMonitor(model)
    assert list(monitor.measure([((rows(20, 5), rows(points, 1)), rows(20, points))])) == ["branch"]
    assert "trunk" in monitor.skipped


# --- the order of positions


def flipped(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.cat((net.ahead(x), net.back(x.flip(1)).flip(1)), -1))


def folded_flipped(net: Net, x: Tensor) -> Tensor:
    b, t, d = x.shape
    return net.head(torch.cat((net.ahead(x), net.back(x.flip(1).reshape(-1, d)).view(b, t, 8).flip(1)), -1))


def rolled(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.cat((net.ahead(x), net.back(x.roll(2, 1)).roll(-2, 1)), -1))


def transposed(net: Net, x: Tensor) -> Tensor:
    back = net.back(x.transpose(1, 2)).transpose(1, 2)
    return net.head(torch.cat((net.ahead(x), back), -1))


@pytest.mark.parametrize("batch", [1, 2, 30])
@pytest.mark.parametrize(
    ("run", "shape"),
    [(flipped, (7,)), (flipped, (5,)), (flipped, (2,)), (folded_flipped, (7,)), (rolled, (7,)), (rolled, (6, 4)),
     (transposed, (6, 6))],
)  # fmt: skip
def test_positions_in_another_order_are_told(run, shape, batch):
    torch.manual_seed(0)
    model = Net(run, ahead=nn.Linear(5, 8), back=nn.Linear(5, 8), head=nn.Linear(16, 2))
    x, y = rows(batch, *shape, 5), rows(batch, *shape, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    assert list(table) == ["ahead", "head"] and re.search("positions in .*order", monitor.skipped["back"])
    many = len(shape)
    expected = cka(x.flatten(0, many), y.flatten(0, many))
    assert table["ahead"]["cka"] == pytest.approx(expected, abs=1e-5)
    fed = Fed(model, "head", x).x
    assert table["head"]["cka"] == pytest.approx(cka(fed.flatten(0, many), y.flatten(0, many)), abs=1e-5)


def test_positions_are_looked_at_again_after_a_first_batch_with_one_alone():
    torch.manual_seed(0)
    model = Net(flipped, ahead=nn.Linear(5, 8), back=nn.Linear(5, 8), head=nn.Linear(16, 2))
    data = [(rows(20, t, 5, seed=t), rows(20, t, 2)) for t in (1, 6)]
    monitor = nrc.CollapseMonitor(model)
    assert list(monitor.measure(data)) == ["ahead", "head"] and "another order" in monitor.skipped["back"]


def test_a_recurrent_branch_that_runs_backwards_is_told():
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(torch.cat((net.ahead(x)[0], net.back(x.flip(1))[0].flip(1)), -1))

    gru = {name: nn.GRU(5, 8, batch_first=True) for name in ("ahead", "back")}
    model, x, y = Net(run, **gru, head=nn.Linear(16, 2)), rows(30, 7, 5), rows(30, 7, 2)
    assert list(nrc.collect(model, [(x, y)], ["ahead:out", "head"])) == ["ahead:out", "head"]
    with pytest.raises(UserError, match="'back:out' has its positions in another order"):
        nrc.collect(model, [(x, y)], ["back:out"])


class Block(nn.Module):
    """Attention over positions and what follows it, with or without the sum around them."""

    def __init__(self, d: int, causal: bool, residual: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.mlp = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, d)
        self.causal, self.residual = causal, residual

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        z = nn.functional.scaled_dot_product_attention(3 * q, 3 * k, v, is_causal=self.causal)
        x = x + self.out(z) if self.residual else self.out(z)
        return x + self.mlp(torch.tanh(x))


@pytest.mark.parametrize("steps", [3, 7, 40])
@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize(("causal", "residual"), [(True, True), (False, True), (False, False)])
def test_layers_that_mix_positions_are_measured(steps, batch, causal, residual):
    torch.manual_seed(0)
    blocks = [Block(12, causal, residual) for _ in range(2)]
    model = nn.Sequential(nn.Linear(5, 12), *blocks, nn.Linear(12, 2))
    monitor = nrc.CollapseMonitor(model)
    x, y = rows(batch, steps, 5), rows(batch, steps, 2, seed=1)
    table = monitor.measure([(x, y)])
    assert len(table) == 8 and not monitor.skipped
    fed = Fed(model, "2.out", x).x
    assert table["2.out"]["cka"] == pytest.approx(cka(fed.flatten(0, 1), y.flatten(0, 1)), abs=1e-5)


@pytest.mark.parametrize("batch", [2, 17])
def test_maps_are_measured_where_convolutions_mix_their_positions(batch):
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(torch.relu(net.b(torch.relu(net.a(x))))).movedim(1, -1),
        a=nn.Conv2d(3, 6, 3, padding=1), b=nn.Conv2d(6, 6, 5, padding=2), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    monitor = nrc.CollapseMonitor(model)
    assert list(monitor.measure([(rows(batch, 3, 8, 8), rows(batch, 8, 8, 2))])) == ["a", "b", "head"]


@pytest.mark.parametrize("hidden", [6, 7])
def test_hidden_channels_do_not_pass_for_the_steps_that_a_convolution_mixes(hidden):
    model = Net(
        lambda net, x: net.head(torch.relu(net.time(net.embed(x)))),
        embed=nn.Linear(3, hidden), time=nn.Conv1d(6, 6, 1), head=nn.Linear(hidden, 2),
    )  # fmt: skip
    monitor = nrc.CollapseMonitor(model)
    assert list(monitor.measure([(rows(20, 6, 3), rows(20, 6, 2, seed=1))])) == ["embed", "head"]
    assert "time" in monitor.skipped


@pytest.mark.parametrize("turn", [False, True])
def test_pixels_in_one_axis_with_the_samples_get_their_own_targets(turn):
    def run(net: Net, x: Tensor) -> Tensor:
        z = x.transpose(1, 2) if turn else x
        out = net.head(torch.relu(net.body(z.flatten(0, 2)))).view(*z.shape[:3], 2)
        return net.last(out.transpose(1, 2) if turn else out)

    torch.manual_seed(0)
    model = Net(run, body=nn.Linear(3, 8), head=nn.Linear(8, 2), last=nn.Linear(2, 2))
    side = 4 if turn else 5
    x, y = rows(6, 4, side, 3), rows(6, 4, side, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    if turn:
        assert list(table) == ["last"] and "its positions in another order" in monitor.skipped["body"]
    else:
        assert table["body"]["cka"] == pytest.approx(cka(x.flatten(0, 2), y.flatten(0, 2)), abs=1e-6)
        assert len(table) == 3


def test_folded_targets_may_have_other_lengths_in_other_batches():
    torch.manual_seed(0)
    model = Net(lambda net, x: net.head(torch.relu(net.body(x))).flatten(0, 1), body=nn.Linear(5, 8), head=nn.Linear(8, 2))  # fmt: skip
    data = [(rows(b, t, 5, seed=t), rows(b * t, 2, seed=t + 1)) for b, t in ((6, 6), (6, 5), (4, 4))]
    table = nrc.CollapseMonitor(model).measure(data)
    x, y = torch.cat([x.flatten(0, 1) for x, _ in data]), torch.cat([y for _, y in data])
    assert table["body"]["cka"] == pytest.approx(cka(x, y), abs=1e-6)
    with pytest.raises(UserError, match="23 target rows for 6 samples"):
        nrc.CollapseMonitor(model).measure([data[0], (rows(6, 4, 5), rows(23, 2))])


def test_a_batch_of_one_may_lose_its_axis_and_vmap_is_named():
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(net.pool(torch.relu(net.body(x))).squeeze()),
        body=nn.Conv2d(3, 8, 3), pool=nn.AdaptiveAvgPool2d(1), head=nn.Linear(8, 2),
    )  # fmt: skip
    x, y = rows(33, 3, 6, 6), rows(33, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x[at : at + 16], y[at : at + 16]) for at in (0, 16, 32)])
    h = Fed(model, "head", x).x
    assert monitor.head == "head" and table["head"]["cka"] == pytest.approx(cka(h, y), abs=1e-5)
    body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"inside torch\.vmap"):
        nrc.collect(Net(lambda net, x: torch.vmap(net.body)(x), body=body), [(X, Y)])


class LastToken(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(30, 12), nn.GRU(12, 12, batch_first=True)
        self.score, self.which = nn.Linear(12, 1), which

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        logits = self.score(self.gru(self.embed(ids))[0])
        at = {"last": torch.full((len(ids),), -1), "first": torch.zeros(len(ids), dtype=torch.long),
              "unpadded": (ids != 0).sum(1) - 1}[self.which]  # fmt: skip
        return {"logits": logits[torch.arange(len(ids)), at]}


@pytest.mark.parametrize("which", ["last", "first", "unpadded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_at_every_token_is_measured_at_the_token_that_goes_out(which, dtype):
    torch.manual_seed(0)
    model, y = LastToken(which).to(dtype), rows(50, 1, seed=1)
    ids = torch.randint(1, 30, (50, 6), generator=torch.Generator().manual_seed(0))
    ids[torch.arange(6) >= (torch.arange(50) % 5 + 2)[:, None]] = 0
    monitor = nrc.CollapseMonitor(model)
    if which == "unpadded" and dtype == torch.bfloat16:
        return  # outputs of eight bits coincide: nothing says which of two tokens it was
    found = monitor.measure([(ids[:30], y[:30]), (ids[30:], y[30:])])["score"]
    at = {
        "last": torch.full((50,), 5),
        "first": torch.zeros(50, dtype=torch.long),
        "unpadded": (ids != 0).sum(1) - 1,
    }
    h = Fed(model, "score", ids).x[torch.arange(50), at[which]]
    assert monitor.head == "score" and found["cka"] == pytest.approx(cka(h, y), abs=1e-4)


# --- which output is the prediction


class Outputs(nn.Module):
    """A body, two heads, and whatever `put_out` makes of them."""

    def __init__(self, put_out, n: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.a, self.b, self.put_out = (
            nn.Linear(5, 16),
            nn.Linear(16, n),
            nn.Linear(16, n),
            put_out,
        )

    def forward(self, x: Tensor, y: Tensor | None = None):
        h = torch.relu(self.body(x))
        return self.put_out(self.a(h), self.b(h), y)


X, Y = rows(60, 5), rows(60, 2, seed=1)


@pytest.mark.parametrize(
    ("put_out", "which"),
    [
        (lambda a, b, y: (a, b), None),
        (lambda a, b, y: [a, torch.tanh(b)], None),
        (lambda a, b, y: {"mean": a, "log_std": b}, "a"),
        (lambda a, b, y: {"logvar": a, "mean": b}, "b"),
        (lambda a, b, y: {"latent": a, "prediction": b}, "b"),
        (lambda a, b, y: {"hidden_states": (a,), "logits": b}, "b"),
        (lambda a, b, y: {"latent": a}, "named"),
        (lambda a, b, y: (torch.zeros(()), a, a), "a"),
    ],
)
def test_the_prediction_is_the_one_tensor_that_can_be_it_or_none(put_out, which):
    model = Outputs(put_out)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(X, Y)])
    made = {
        name: (getattr(model, name)(torch.relu(model.body(X))) - Y).square().mean().item() for name in "ab"
    }
    if which in ("a", "b"):
        assert monitor.head == which and table[which]["mse"] == pytest.approx(made[which], rel=1e-5)
    else:
        assert monitor.head is None and all(math.isnan(metrics["mse"]) for metrics in table.values())
        words = "no prediction by its name" if which == "named" else "several tensors of the targets' shape"
        assert words in monitor.undefined["b"]["mse"] and words in str(monitor)
    for name in "ab":  # the user says, and is right
        said = nrc.CollapseMonitor(model, head=name).measure([(X, Y)])[name]
        if which != "named" and not (which == "a" and name == "b"):
            assert math.isnan(said["mse"]) or said["mse"] == pytest.approx(made[name], rel=1e-5)


@pytest.mark.parametrize(("output", "name"), [(1, "b"), (0, "a"), (lambda out: out[1], "b")])
def test_the_user_says_which_output_it_is(output, name):
    monitor = nrc.CollapseMonitor(Outputs(lambda a, b, y: (a, b)), output=output)
    assert monitor.measure([(X, Y)])[name]["mse"] > 0 and monitor.head == name


@pytest.mark.parametrize(
    ("output", "words"),
    [(2, r"output=2 is not in what the network puts out.*choose from: \[0\], \[1\]"), ("x", "output='x' is not in"),
     (lambda out: 3, "gives int"), (lambda out: out[0][:, :1], r"has shape \(60, 1\), but the targets are \(60, 2\)")],
)  # fmt: skip
def test_a_wrong_output_is_answered(output, words):
    with pytest.raises(UserError, match=words):
        nrc.CollapseMonitor(Outputs(lambda a, b, y: (a, b)), output=output).measure([(X, Y)])


@pytest.mark.parametrize(
    "loss", [lambda a, y: (a - y).square(), lambda a, y: (a - y).abs(), nn.HuberLoss(reduction="none")]
)
def test_a_loss_for_each_sample_is_no_prediction(loss):
    y = rows(60, 1, seed=2)
    alone = nrc.CollapseMonitor(Outputs(lambda a, b, y: loss(a, y).squeeze(-1), 1), layers=["body", "a"])
    table = alone.measure([((X, y), y)])
    assert math.isnan(table["a"]["mse"]) and "a loss for each sample" in alone.undefined["a"]["mse"]
    beside = nrc.CollapseMonitor(Outputs(lambda a, b, y: (loss(a, y).squeeze(-1), a), 1))
    assert beside.measure([((X, y), y)])["a"]["mse"] > 0 and beside.head == "a"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_added_to_a_heads_output_makes_it_no_head(dtype, in_place):
    class Residual(Outputs):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.body(x))
            out, more = self.a(h), 0.02 * self.b(h)
            return out.add_(more) if in_place else out + more

    monitor = nrc.CollapseMonitor(Residual(None).to(dtype))
    table = monitor.measure([(X, Y)])
    with torch.no_grad():
        error = float((monitor.model(X.to(dtype)).float() - Y).square().mean())
    assert monitor.head is None and table["b"]["mse"] == pytest.approx(error, rel=1e-4)


def test_some_columns_alone_may_be_means():
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
    monitor = nrc.CollapseMonitor(model, outputs=[2, 0])
    found = monitor.measure([(X, Y)])["2"]
    with torch.no_grad():
        h = model[:2](X)
        expected = nrc.measure(h, Y, model[2].weight[[2, 0]], bias=model[2].bias[[2, 0]])
    assert monitor.head == "2"
    for name in ("mse", "nrc1", "nrc2", "nrc3"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    with pytest.raises(UserError, match="outputs is"):
        nrc.CollapseMonitor(model, outputs=[-1])


def test_noise_on_the_output_is_said_and_the_users_random_numbers_are_left_alone():
    model = Outputs(lambda a, b, y: a + torch.randn_like(a))
    monitor = nrc.CollapseMonitor(model)
    assert math.isnan(monitor.measure([(X, Y)])["a"]["mse"]) and "is random" in monitor.undefined["b"]["mse"]
    quiet = nrc.CollapseMonitor(Outputs(lambda a, b, y: a))
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    quiet.measure([(X, Y)])
    assert torch.equal(torch.randn(2), expected)
