"""The weight that a layer applies, whatever it stores: against weights written out by hand."""

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import nrc
from nrc.metrics import measure_with_reasons

D, OUT = 12, 7


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Masked(nn.Linear):
    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, out)
        self.register_buffer("mask", (rows(out, d, seed=3) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)

    def truth(self) -> Tensor:
        return self.weight * self.mask


class Codes(nn.Module):
    """Eight-bit codes and a scale for each row, in a module that is no Linear."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = d, out
        weight = rows(out, d, seed=4) * torch.logspace(0, -2, out)[:, None]
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("codes", (weight / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.codes.float() * self.scale).T

    def truth(self) -> Tensor:
        return self.codes.float() * self.scale


class Packed(nn.Linear):
    """Two four-bit codes a byte, as bitsandbytes keeps them: the weight has another shape."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, out)
        codes = torch.randint(16, (out, d), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        self.weight = nn.Parameter(codes[:, ::2] * 16 + codes[:, 1::2], requires_grad=False)

    def truth(self) -> Tensor:
        high, low = self.weight // 16, self.weight % 16
        return (torch.stack((high, low), 2).flatten(1).float() - 7.5) / 10

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.truth(), self.bias)


class Adapter(nn.Module):
    """base + scale B A, as LoRA."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(d, out)
        self.lora_A, self.lora_B = (
            nn.ModuleDict({"default": nn.Linear(d, 3, bias=False)}),
            nn.Linear(3, out, bias=False),
        )

    def forward(self, x: Tensor, *args: object) -> Tensor:
        return self.base_layer(x) + 2 * self.lora_B(self.lora_A["default"](x))

    def truth(self) -> Tensor:
        return self.base_layer.weight + 2 * self.lora_B.weight @ self.lora_A["default"].weight


class Transposed(nn.Module):
    """transformers' Conv1D: the weight is (d, out)."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.nf, self.nx = out, d
        self.weight, self.bias = nn.Parameter(rows(d, out, seed=5)), nn.Parameter(rows(out, seed=6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)

    def truth(self) -> Tensor:
        return self.weight.T


class TransposedLinear(nn.Linear):
    """A Linear that applies its (square) weight the other way round."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, d)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias

    def truth(self) -> Tensor:
        return self.weight.T


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x) + 1

    def truth(self) -> Tensor:
        return 3 * self.weight


class ByHook(nn.Linear):
    """A low-rank addition that a hook makes."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, out)
        self.extra = rows(out, d, seed=8)
        self.register_forward_hook(lambda module, args, y: y + args[0] @ module.extra.T)

    def truth(self) -> Tensor:
        return self.weight + self.extra


class WithChannels(nn.Module):
    """PyG's Linear: in_channels and out_channels."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = d, out
        self.weight, self.bias = nn.Parameter(rows(out, d, seed=7)), None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def truth(self) -> Tensor:
        return self.weight


class Dequantised(torch.Tensor):
    """A tensor subclass whose numbers are codes: only F.linear knows what they mean."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            x, w, *bias = args
            return F.linear(x, w.as_subclass(torch.Tensor) * 0.01, *bias)
        return super().__torch_function__(func, types, args, kwargs or {})


class Subclassed(nn.Linear):
    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, out)
        codes = (100 * rows(out, d, seed=9)).as_subclass(Dequantised)
        self.weight = nn.Parameter(codes, requires_grad=False)

    def truth(self) -> Tensor:
        return self.weight.as_subclass(torch.Tensor) * 0.01


def pruned(d: int, out: int) -> nn.Module:
    module = prune.l1_unstructured(nn.Linear(d, out), "weight", amount=0.5)
    module.truth = lambda: module.weight_orig * module.weight_mask  # type: ignore[assignment]
    return module


def weight_normed(d: int, out: int) -> nn.Module:
    module = parametrizations.weight_norm(nn.Linear(d, out))
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(torch.linspace(0.1, 5, out)[:, None])
    v, g = module.parametrizations.weight.original1, module.parametrizations.weight.original0
    module.truth = lambda: g * v / v.norm(dim=1, keepdim=True)  # type: ignore[assignment]
    return module


def spectral_normed(d: int, out: int) -> nn.Module:
    module = parametrizations.spectral_norm(nn.Linear(d, out), n_power_iterations=100)
    stored = module.parametrizations.weight.original
    module.truth = lambda: stored / torch.linalg.matrix_norm(stored, 2)  # type: ignore[assignment]
    return module


def by_old_hooks(d: int, out: int) -> nn.Module:
    module = nn.utils.weight_norm(nn.Linear(d, out))
    module.truth = lambda: module.weight_g * module.weight_v / module.weight_v.norm(dim=1, keepdim=True)  # type: ignore[assignment]
    return module


def plain(d: int, out: int) -> nn.Module:
    module = nn.Linear(d, out, bias=False)
    module.truth = lambda: module.weight  # type: ignore[assignment]
    return module


def lazy(d: int, out: int) -> nn.Module:
    module = nn.LazyLinear(out)
    module(torch.zeros(1, d))
    module.truth = lambda: module.weight  # type: ignore[assignment]
    return module


KINDS = (
    Masked, Codes, Packed, Adapter, Transposed, TransposedLinear, Scaled, ByHook, WithChannels, Subclassed,
    pruned, weight_normed, spectral_normed, by_old_hooks, plain, lazy,
)  # fmt: skip
BY_WEIGHT = ("stable_rank_weights", "weight_rank", "weight_rcond", "feature_weight_alignment")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", ["middle", "last"])
def test_the_weight_is_the_one_applied(kind, place):
    torch.manual_seed(0)
    layer = kind(D, OUT)
    width = layer.truth().shape[0]
    tail = [nn.ReLU(), nn.Linear(width, 2)] if place == "middle" else []
    model = nn.Sequential(nn.Linear(5, D), nn.Tanh(), layer, *tail)
    x, y = rows(200, 5), rows(200, 2 if tail else width, seed=1)
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(x[:90], y[:90]), (x[90:], y[90:])])["2"]
    with torch.no_grad():
        h, truth = model.eval()[:2](x).double(), layer.truth().detach().double()
        bias = layer(torch.zeros(1, D))[0].detach()
        expected = measure_with_reasons(h.float(), y, truth, bias=bias)
        error = float((model(x) - y).square().mean())
    for name in (*BY_WEIGHT, *(() if tail else ("nrc2", "nrc3", "mse"))):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    if not tail:
        assert monitor.head == "2" and found["mse"] == pytest.approx(error, rel=1e-5)


def test_what_a_wrapper_is_made_of_is_not_measured_beside_it():
    torch.manual_seed(0)
    monitor = nrc.CollapseMonitor(nn.Sequential(nn.Linear(5, D), nn.ReLU(), Adapter(D, 2)))
    assert list(monitor.measure([(rows(64, 5), rows(64, 2, seed=1))])) == ["0", "2"]
    assert set(monitor.skipped) == {"2.base_layer", "2.lora_A.default", "2.lora_B"}
    assert all("a part of '2'" in reason for reason in monitor.skipped.values())
    named = nrc.CollapseMonitor(monitor.model, layers=["2.base_layer", "2"])
    assert set(named.measure([(rows(64, 5), rows(64, 2, seed=1))])) == {"2.base_layer", "2"}


class Half(nn.Linear):
    """Reads the first half of its columns."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.truth(), self.bias)

    def truth(self) -> Tensor:
        return self.weight * (torch.arange(D) < D // 2)


class HalfConvolution(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * (torch.arange(D)[:, None, None] < D // 2), bias)

    def truth(self) -> Tensor:
        return (self.weight * (torch.arange(D)[:, None, None] < D // 2))[:, :, 0, 0]


@pytest.mark.parametrize("kind", [Half, HalfConvolution])
def test_columns_without_features_do_not_hide_what_a_layer_applies(kind):
    torch.manual_seed(0)
    x, y = rows(100, D) * (torch.arange(D) < D // 2), rows(100, 2, seed=1)
    layer = Half(D, 2) if kind is Half else HalfConvolution(D, 2, 1)
    model = (
        nn.Sequential(layer)
        if kind is Half
        else nn.Sequential(nn.Unflatten(1, (D, 1, 1)), layer, nn.Flatten())
    )
    label = "0" if kind is Half else "1"
    found = nrc.CollapseMonitor(model).measure([(x, y)])[label]
    expected = nrc.measure(x, y, layer.truth().detach(), bias=layer.bias.detach())
    for name in ("mse", "nrc2", "nrc3", "weight_norm", "feature_weight_alignment"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_hook_that_changes_what_a_layer_gets_changes_no_weight():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    model[2].register_forward_pre_hook(lambda module, args: (F.normalize(args[0], dim=-1),))
    x, y = rows(60, 5), rows(60, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(x, y)])["2"]
    with torch.no_grad():
        h = F.normalize(model[:2](x), dim=-1)
    expected = nrc.measure(h, y, model[2].weight.detach(), bias=model[2].bias.detach())
    assert monitor.head == "2"
    for name in ("mse", "nrc1", "nrc2", "nrc3", "weight_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


class ClippedOut(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-1, 1)


class ClippedIn(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-1, 1))


class Gated(nn.Linear):
    """Another weight for rows of another domain."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 40, 2, 1) * super().forward(x)


@pytest.mark.parametrize("kind", [ClippedOut, ClippedIn, Gated])
def test_a_head_that_is_linear_on_some_rows_alone_has_no_weight_and_the_networks_own_mse(kind):
    torch.manual_seed(0)
    x, y = 3 * rows(400, 5), rows(400, 2, seed=1)
    looked_at = torch.linspace(0, 399, 16, dtype=torch.float64).long()
    x[::7, 0] += 60
    x[looked_at] *= 0.001
    monitor = nrc.CollapseMonitor(nn.Sequential(kind(5, 2)))
    found = monitor.measure([(x, y)])["0"]
    with torch.no_grad():
        error = float((monitor.model(x) - y).square().mean())
    assert monitor.head is None and found["mse"] == pytest.approx(error, rel=1e-5)
    assert math.isnan(found["nrc2"]) and math.isnan(found["weight_norm"])
    assert re.search("not affine|no one weight", monitor.undefined["0"]["weight_norm"])


class Domains(nn.Module):
    """Layers whose weights belong to the batch's domain."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 2)
        self.weights = [[nn.Linear(5, 8), nn.Linear(8, 2)] for _ in range(2)]

    def forward(self, x: Tensor, domain: int) -> Tensor:
        for layer, own in zip((self.body, self.head), self.weights[domain], strict=True):
            x = torch.func.functional_call(layer, {"weight": own.weight, "bias": own.bias}, x)
        return x


@pytest.mark.parametrize("domains", [[0, 1], [0, 0, 0, 1, 0]])
def test_a_weight_that_changes_from_batch_to_batch_is_no_weight(domains):
    torch.manual_seed(0)
    batches = [((rows(30, 5, seed=k), d), rows(30, 2, seed=9 + k)) for k, d in enumerate(domains)]
    monitor = nrc.CollapseMonitor(Domains())
    table = monitor.measure(batches)
    with torch.no_grad():
        error = torch.cat([monitor.model(*inputs) - y for inputs, y in batches]).square().mean()
    assert monitor.head is None and table["head"]["mse"] == pytest.approx(float(error), rel=1e-5)
    for label in table:
        assert math.isnan(table[label]["weight_norm"])
        assert "another weight in another batch" in monitor.undefined[label]["weight_norm"]


def test_a_weight_that_changes_in_a_late_batch_shows_in_the_error():
    torch.manual_seed(0)
    domains = [int(k == 9) for k in range(11)]
    batches = [((rows(30, 5, seed=k), d), rows(30, 2, seed=20 + k)) for k, d in enumerate(domains)]
    monitor = nrc.CollapseMonitor(Domains())
    table = monitor.measure(batches)
    with torch.no_grad():
        error = torch.cat([monitor.model(*inputs) - y for inputs, y in batches]).square().mean()
    assert monitor.head is None and table["head"]["mse"] == pytest.approx(float(error), rel=1e-5)
    assert "no one weight to all rows" in monitor.undefined["head"]["nrc2"]


class Rounding(nn.Linear):
    """Rounds its input to a few levels, as dynamic quantisation does: no weight gives that output."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((4 * x).round() / 4)


class Normed(nn.Linear):
    """A cosine layer: not affine."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


@pytest.mark.parametrize("kind", [Rounding, Normed])
@pytest.mark.parametrize("place", ["middle", "last"])
def test_a_layer_without_a_weight_has_no_metric_of_one_and_a_reason(kind, place):
    torch.manual_seed(0)
    width = 6 if place == "middle" else 2
    tail = [nn.ReLU(), nn.Linear(width, 2)] if place == "middle" else []
    model = nn.Sequential(nn.Linear(5, D), nn.Tanh(), kind(D, width), *tail)
    monitor = nrc.CollapseMonitor(model)
    x, y = rows(64, 5), rows(64, 2, seed=1)
    found = monitor.measure([(x, y)])["2"]
    assert all(math.isnan(found[name]) for name in (*BY_WEIGHT, "nrc2")) and found["noise"] > 0
    assert "not affine" in monitor.undefined["2"]["weight_rank"]
    if not tail:
        assert monitor.head is None
        with torch.no_grad():
            assert found["mse"] == pytest.approx(float((model(x) - y).square().mean()), rel=1e-5)


def test_tied_weights_are_measured_in_each_of_their_layers():
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    table = nrc.CollapseMonitor(nn.Sequential(first, nn.Tanh(), second)).measure(
        [(rows(64, 6), rows(64, 6, seed=1))]
    )
    assert list(table) == ["0", "2"] and table["0"]["weight_rcond"] == table["2"]["weight_rcond"] > 0


class MaskedConvolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(self.weight[0].numel()).reshape(self.weight.shape[1:]) % 3 > 0
        return self._conv_forward(x, self.weight * mask, self.bias)

    def truth(self) -> Tensor:
        return self.weight * (torch.arange(self.weight[0].numel()).reshape(self.weight.shape[1:]) % 3 > 0)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"padding": 1, "stride": 2}, {"dilation": 2, "padding": 2}]
)
def test_a_convolution_that_applies_another_kernel_is_read_off(options):
    torch.manual_seed(0)
    layer = MaskedConvolution(3, 4, 3, **options)
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, y = rows(12, 3, 9, 9), rows(12, 2, seed=1)
    found = nrc.CollapseMonitor(model).measure([(x, y)])["0"]
    expected = nrc.measure(x.mean((2, 3)), y, layer.truth().detach())
    assert {name: found[name] for name in BY_WEIGHT} == pytest.approx(
        {name: expected[name] for name in BY_WEIGHT}, rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_reason_to_doubt_a_weight_nor_to_miss_a_mask(dtype):
    torch.manual_seed(0)
    x, y = rows(64, 5).to(dtype), rows(64, 2, seed=1)
    for layer, true in ((nn.Linear(D, 8), 8), (Masked(D, 8), None)):
        model = nn.Sequential(nn.Linear(5, D), nn.Tanh(), layer, nn.Tanh(), nn.Linear(8, 2)).to(dtype)
        weight = (layer.truth() if true is None else layer.weight).detach().float()
        found = nrc.CollapseMonitor(model).measure([(x, y)])["2"]
        expected = nrc.measure(rows(20, D), rows(20, 2), weight)["stable_rank_weights"]
        assert found["stable_rank_weights"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4)])
def test_a_head_of_1x1_convolutions_is_found_and_measured_on_pooled_features(pool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), pool, nn.Flatten())
    x, y = rows(40, 3, 4, 4), rows(40, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    found = monitor.measure([(x, y)])["2"]
    with torch.no_grad():
        h = model[:2](x).mean((2, 3))
    expected = nrc.measure(h, y, model[2].weight[:, :, 0, 0], bias=model[2].bias)
    assert monitor.head == "2"
    for name in ("mse", "nrc1", "nrc2", "nrc3"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
