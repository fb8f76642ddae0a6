"""Which layer counts as the last one: that whose W h + b the network puts out, and no other."""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import nrc
from nrc.errors import UserError
from nrc.features.hooks import _picked
from nrc.features.measure import measure_splits
from nrc.features.rows import Unmeasurable

LAST = ("mse", "r2", "nrc2", "nrc3", "signal_share")


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(b, 5, generator=generator), torch.randn(b, 2, generator=generator)) for b in (40, 24)
    ]


def body() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.h = body(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.f(x))


class Gauss(nn.Module):
    """A mean and a log-variance, each from a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.mean, self.log_variance = body(), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.f(x)
        return self.mean(h), self.log_variance(h)


class Skip(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.h(self.f(x))


class Squashed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.h(self.f(x)))


class Custom(nn.Module):
    """A bottleneck as wide as the targets are many, and a head that is no Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.narrow, self.wide = body(), nn.Linear(8, 2), nn.Linear(2, 16)
        self.w = nn.Parameter(torch.randn(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.narrow(self.f(x))) @ self.w


class Hooked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.h.register_forward_hook(lambda module, args, out: out * 0.5)


class Named(Plain):
    """A dictionary as Hugging Face's models put out: the loss first."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(loss=torch.zeros(()), logits=super().forward(x))


@dataclass
class Output:
    hidden: Tensor
    prediction: Tensor


class AsDataclass(Plain):
    def forward(self, x: Tensor) -> Output:
        return Output(self.f(x), super().forward(x))


def prediction(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = model.eval()(x)
    return {
        "OrderedDict": lambda: out["logits"],
        "Output": lambda: out.prediction,
        "tuple": lambda: out[0],
    }.get(type(out).__name__, lambda: out)()


@pytest.mark.parametrize(
    ("make", "head", "judged"),
    [
        (Plain, "h", "h"), (Gauss, "mean", "mean"), (Named, "h", "h"), (AsDataclass, "h", "h"),
        (Skip, None, "skip"), (Squashed, None, "h"), (Custom, None, "wide"), (Hooked, "h", "h"),
    ],
)  # fmt: skip
def test_mse_is_the_networks_own_and_only_the_layer_that_puts_it_out_is_its_head(make, head, judged):
    model, data = make(), batches()
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure(data)
    assert monitor.head == head
    y = torch.cat([y for _, y in data])
    error = (torch.cat([prediction(model, x) for x, _ in data]) - y).square()
    expected = {"mse": float(error.mean()), "r2": 1 - float(error.sum() / (y - y.mean(0)).square().sum())}
    if make is Skip:  # whichever of the two ran last
        judged = list(table)[-1]
    for label, values in table.items():
        undefined = {name for name in LAST if math.isnan(values[name])}
        if label == judged:
            assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
            assert undefined == (set() if head else {"nrc2", "nrc3", "signal_share"})
        else:
            assert undefined == set(LAST)
    if head is None and make is not Custom:
        assert (
            "not the network's output; if W counts as its last weight, name head="
            in (monitor.undefined[judged]["nrc2"])
        )


def test_the_head_may_be_named():
    model, data = Squashed(), batches()
    plain = Plain()
    plain.load_state_dict(model.state_dict())
    found = nrc.CollapseMonitor(model, head="h").measure(data)["h"]
    same = nrc.CollapseMonitor(plain).measure(data)["h"]
    for name in ("nrc1", "nrc2", "nrc3", "signal_share"):
        assert found[name] == same[name]
    error = torch.cat([(prediction(model, x) - y).square() for x, y in data]).mean()
    assert found["mse"] == pytest.approx(float(error), rel=1e-5) and found["mse"] != same["mse"]
    assert nrc.collect(model, data, head="h").head == "h"


def test_a_model_that_is_a_layer_itself_may_be_named_by_its_empty_name():
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    data = [(torch.randn(50, 4), torch.randn(50, 2))]
    monitor = nrc.CollapseMonitor(layer, head="", output=lambda out: 2 * out)
    alone = monitor.measure(data)[""]
    child = nrc.CollapseMonitor(nn.Sequential(layer), head="0", output=lambda out: 2 * out).measure(data)["0"]
    assert monitor.head == "" and "head the model itself" in str(monitor)
    assert alone["nrc2"] == child["nrc2"] and alone["mse"] == child["mse"]


class Pooled(nn.Module):
    """Predicts by a 1x1 convolution whose maps are averaged one axis after the other."""

    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, outputs, 1)

    def forward(self, x):
        return self.head(self.body(x).relu()).mean(2).mean(2)


def test_some_outputs_of_a_head_whose_maps_are_averaged():
    torch.manual_seed(1)
    data = [(torch.randn(40, 3, 8, 8), torch.randn(40, 2))]
    for model, outputs in ((Pooled(2), None), (Pooled(4), [0, 1])):
        monitor = nrc.CollapseMonitor(model, outputs=outputs)
        table = monitor.measure(data)
        assert monitor.head == "head" and table["head"]["nrc2"] > 0


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("g", "head is 'g', which is not measured; choose from: f.0, h"),
        ("f.0", r"'f.0': weight of shape \(8, 5\) cannot"),
    ],
)
def test_a_wrong_head_is_named(head, words):
    with pytest.raises(UserError, match=words):
        nrc.CollapseMonitor(Plain(), head=head).measure(batches())


def test_a_head_that_was_not_measured_is_an_error():
    class Twice(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.f(x)) + self.h(self.f(-x))

    with pytest.raises(UserError, match="'h' ran twice"):
        nrc.collect(Twice(), batches(), head="h")


def test_without_an_output_of_the_targets_shape_nothing_is_claimed():
    class Pieces(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).T

    monitor = nrc.CollapseMonitor(Pieces())
    assert all(math.isnan(values["mse"]) for values in monitor.measure(batches()).values())
    assert monitor.head is None
    named = nrc.CollapseMonitor(monitor.model, head="h")
    assert named.measure(batches())["h"]["mse"] == pytest.approx(
        float(torch.cat([(prediction(named.model, x).T - y).square() for x, y in batches()]).mean()), rel=1e-5
    )


def test_one_target_with_and_without_its_axis():
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.h = body(), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.f(x)).squeeze(-1)

    for y in (lambda y: y[:, 0], lambda y: y[:, :1]):
        assert nrc.collect(Squeezed(), [(x, y(t)) for x, t in batches()]).head == "h"


def test_a_convolution_whose_maps_are_bent_before_they_are_pooled_is_no_head_and_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    monitor = nrc.CollapseMonitor(model)
    monitor.measure([(torch.randn(30, 3, 6, 6), torch.randn(30, 2))])
    assert monitor.head is None and "W h + b is not the network's output" in monitor.undefined["1"]["nrc2"]


def test_masked_rows_do_not_count_in_the_error():
    model, (x, y) = Squashed(), batches()[0]
    mask = torch.arange(40) % 3 > 0
    dirty = torch.where(mask[:, None], y, torch.nan)
    found = nrc.CollapseMonitor(model).measure([(x, dirty, mask)])["h"]["mse"]
    assert found == pytest.approx(float((prediction(model, x) - y)[mask].square().mean()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_head_is_found_in_other_precisions(dtype):
    assert nrc.collect(Plain().to(dtype), batches()).head == "h"
    with torch.autocast("cpu", torch.bfloat16):
        assert nrc.collect(Plain(), batches()).head == "h"


def test_a_head_that_is_the_output_in_some_batches_alone_is_none():
    class Now(Plain):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = super().forward(x)
            return out if self.calls == 1 else 2 * out

    assert nrc.collect(Now(), batches()).head is None


def test_each_split_is_judged_by_its_own_error():
    model, (train, test) = Squashed(), batches()
    table = measure_splits(model, {"train": nrc.collect(model, [train]), "test": nrc.collect(model, [test])})
    for split, (x, y) in (("train", train), ("test", test)):
        expected = float((prediction(model, x) - y).square().mean())
        assert table[split]["h"]["mse"] == pytest.approx(expected, rel=1e-5)


def test_an_output_that_overflows_gives_no_number():
    class Overflow(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.inf

    monitor = nrc.CollapseMonitor(Overflow())
    assert math.isnan(monitor.measure(batches())["h"]["mse"])
    assert monitor.undefined["h"]["mse"] == "the network's output holds NaN or infinity"


class With(nn.Module):
    """Two heads on a body, and whatever `put_out` makes of them and of the targets."""

    def __init__(self, put_out, n=2):
        super().__init__()
        self.f, self.h, self.more = body(), nn.Linear(8, n), nn.Linear(8, 3 * n)
        self.put_out = put_out

    def forward(self, x, y=None):
        h = self.f(x)
        return self.put_out(self.h(h), self.more(h).view(len(x), -1, 3), y)


LOSSES = {
    "squares": nn.MSELoss(reduction="none"),
    "log-cosh": lambda a, y: (a - y).cosh().log(),
    "quantile": lambda a, y: torch.maximum(0.9 * (y - a), 0.1 * (a - y)),
    "Huber": nn.HuberLoss(reduction="none", delta=0.3),
    "smooth": nn.SmoothL1Loss(reduction="none", beta=0.1),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("rows", [40, 1])
def test_what_follows_the_targets_that_the_network_gets_is_no_prediction(loss, n, rows):
    x, y = batches()[0]
    x, y = x[:rows], y[:rows, :n]
    for put_out in (lambda a, b, y: LOSSES[loss](a, y), lambda a, b, y: {"each": LOSSES[loss](a, y)}):
        alone = nrc.CollapseMonitor(With(put_out, n))
        table = alone.measure([((x, y), y)])
        assert alone.head is None and all(math.isnan(values["mse"]) for values in table.values())
        last = alone.undefined[list(table)[-1]]["mse"]
        assert "follows them: it is a loss for each sample" in last
    beside = nrc.CollapseMonitor(With(lambda a, b, y: (LOSSES[loss](a, y), 2 * a), n))
    found = beside.measure([({"y": y, "x": x}, y)])
    with torch.no_grad():
        expected = float((beside.model(x, y)[1] - y).square().mean())
    assert found[list(found)[-1]]["mse"] == pytest.approx(expected, rel=1e-5)


def test_an_autoencoder_predicts_what_it_gets():
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.h = body(), nn.Linear(10, 5)

        def forward(self, x: Tensor, c: Tensor) -> dict[str, Tensor]:
            return {"x": x, "decoded": torch.tanh(self.h(torch.cat((self.f(x), c), 1)))}

    x, c = batches()[0]
    model = Conditional()
    table = nrc.CollapseMonitor(model).measure([((x, c), x)])
    with torch.no_grad():
        expected = float((model(x, c)["decoded"] - x).square().mean())
    assert table["h"]["mse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("put_out", "words"),
    [
        (lambda a, b, y: {"quantiles": b, "target": y}, "or the targets themselves"),
        (lambda a, b, y: {"quantiles": b, "echo": y}, "or the targets themselves"),
        (lambda a, b, y: {"quantiles": b, "scale": a.exp()}, "no prediction by its name"),
        (lambda a, b, y: {"quantiles": b, "var": a.exp()}, "no prediction by its name"),
        (lambda a, b, y: {"quantiles": b, "uncertainty": a}, "no prediction by its name"),
        (lambda a, b, y: (b, a.exp()), r"but \[0\] \(40, 2, 3\) may hold the prediction"),
        (lambda a, b, y: (b.mT, a), r"but \[0\] \(40, 3, 2\) may hold the prediction"),
    ],
)
def test_what_alone_has_the_shape_of_the_targets_need_not_be_the_prediction(put_out, words):
    x, y = batches()[0]
    monitor = nrc.CollapseMonitor(With(put_out))
    table = monitor.measure([((x, y), y)])
    assert all(math.isnan(values["mse"]) for values in table.values())
    assert re.search(words, monitor.undefined[list(table)[-1]]["mse"])


@pytest.mark.parametrize(
    "put_out",
    [lambda a, b, y: {"quantiles": b, "mean": a}, lambda a, b, y: (a, b), lambda a, b, y: (b, b[..., 1])],
)
def test_a_prediction_beside_its_quantiles_is_found(put_out):
    x, y = batches()[0]
    model = With(put_out)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    with torch.no_grad():
        a, b = model.h(model.f(x)), model.more(model.f(x)).view(40, 2, 3)
    out = put_out(a, b, y)
    expected = out["mean"] if isinstance(out, dict) else next(p for p in out if p.shape == y.shape)
    found = table[monitor.head or list(table)[-1]]["mse"]
    assert found == pytest.approx(float((expected - y).square().mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["features", "weekly", "hidden"])
@pytest.mark.parametrize("key", [None, "prediction"])
def test_the_name_of_the_layer_that_makes_the_only_output_does_not_matter(name, key):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Sequential(body(), nn.Linear(8, 1)))

        def forward(self, x: Tensor):
            out = getattr(self, name)(x)
            return out if key is None else {key: out}

    x, y = batches()[0]
    monitor = nrc.CollapseMonitor(Named())
    assert monitor.measure([(x, y[:, :1])])[f"{name}.1"]["mse"] > 0 and monitor.head == f"{name}.1"


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("positions", [4, 6])
def test_channels_first_of_as_many_positions_as_targets_are_turned_or_doubted(kernel, positions):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, kernel, padding=kernel // 2))
    x = torch.randn(20, 3, positions)
    y = model(x).detach().mT + torch.arange(4)
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(x[:12], y[:12]), (x[12:], y[12:])])["0"]["mse"]
    if kernel == 3 and positions == 4:
        assert math.isnan(found) and "second axis or on its last" in monitor.undefined["0"]["mse"]
        monitor = nrc.CollapseMonitor(model, output=lambda out: out.mT)
        found = monitor.measure([(x, y)])["0"]["mse"]
    assert found == pytest.approx((0 + 1 + 4 + 9) / 4)


def test_channels_last_of_as_many_positions_as_targets_are_as_they_are():
    torch.manual_seed(0)
    for tail in ([], [nn.Tanh()]):
        model, x = nn.Sequential(nn.Linear(3, 4), *tail), torch.randn(20, 4, 3)
        y = model(x).detach() + torch.arange(4)
        assert nrc.CollapseMonitor(model).measure([(x, y)])["0"]["mse"] == pytest.approx(14 / 4)


class OneToken(nn.Module):
    """A head at every token, of which one goes out."""

    def __init__(self, at: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.h, self.at = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 1), at

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.gru(x)[0]))[:, self.at]


@pytest.mark.parametrize("at", [0, 2, -1])
def test_of_tokens_with_equal_outputs_nothing_says_which_goes_out(at):
    model = OneToken(at)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, 4, generator=generator)
    y = x[:, at, :1]
    with torch.no_grad():
        h = torch.relu(model.gru(x)[0])[:, at]
    found = nrc.CollapseMonitor(model).measure([(x, y)])["h"]
    assert found["linear_mse"] == pytest.approx(nrc.measure(h, y)["linear_mse"], rel=1e-4)
    nn.init.zeros_(model.h.weight)  # as a head begins
    with pytest.raises(UserError, match="'h' has several positions that make the network's output"):
        nrc.CollapseMonitor(model).measure([(x, y)])


def test_a_position_found_in_one_batch_settles_those_that_do_not_tell():
    x, made = torch.randn(1, 3, 4), torch.zeros(1, 3, 1)
    for token in (0, 1, -1):
        assert torch.equal(_picked(x, made, made[:, 0], token)[0], x[:, token])
    with pytest.raises(Unmeasurable, match="several positions"):
        _picked(x, made, made[:, 0])
    assert torch.equal(_picked(x[:, :1].expand(1, 3, 4), made, made[:, 0])[0], x[:, 0])


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": 1, "padding_mode": "circular"}, {"stride": 2}]
)
def test_a_convolution_that_makes_of_its_maps_more_or_fewer_positions_is_no_head(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 2, 1, **options), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(40, 8, 4, 4), torch.randn(40, 2)
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(x, y)])["0"]["mse"]
    assert monitor.head is None and found == pytest.approx((model(x) - y).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("output", [1, None, lambda out: out[1]])
def test_the_columns_that_go_out_apart_from_others_of_their_head(output):
    torch.manual_seed(0)

    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.h = body(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.h(self.f(x)).chunk(2, 1)

    model, (x, y) = Chunked(), batches()[0]
    monitor = nrc.CollapseMonitor(model, output=output, outputs=[2, 3])
    found = monitor.measure([(x, y)])["h"]
    with torch.no_grad():
        expected = nrc.measure(model.f(x), y, model.h.weight[2:], bias=model.h.bias[2:])
    assert monitor.head == "h"
    for name in ("mse", "nrc1", "nrc2", "nrc3"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    for wrong in ([1, 2], [4, 5]):
        with pytest.raises(UserError, match="but the network puts out 2 columns"):
            nrc.CollapseMonitor(model, output=output, outputs=wrong).measure([(x, y)])


def test_a_head_may_be_named_by_any_of_its_names():
    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(body(), nn.Linear(8, 2))
            self.head = self.net[1]

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.net(x))

    model = Alias()
    expected = nrc.CollapseMonitor(model, head="net.1").measure(batches())
    monitor = nrc.CollapseMonitor(model, head="head")
    assert monitor.measure(batches()) == {k: pytest.approx(v, nan_ok=True) for k, v in expected.items()}
    assert monitor.head == "net.1" and expected["net.1"]["nrc2"] > 0
    assert nrc.collect(model, batches(), ["head"], head="net.1").head == "head"
