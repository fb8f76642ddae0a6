"""Collecting all layers of a model in one forward pass."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import nrc
from nrc.errors import UserError
from nrc.features.measure import measure_layers, measure_splits
from nrc.metrics import measure_with_reasons


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))


def batches(sizes=(32, 32, 7), d=5, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(b, d, generator=generator), torch.randn(b, n, generator=generator)) for b in sizes]


def test_every_layer_equals_measuring_its_features_directly():
    model, data = mlp(), batches()
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure(data)
    x, y = torch.cat([b[0] for b in data]), torch.cat([b[1] for b in data])
    with torch.no_grad():
        inputs = {"0": x, "2": model[:2](x), "4": model[:4](x)}
    assert list(table) == list(inputs)
    for label, features in inputs.items():
        module = model.get_submodule(label)
        last = label == "4"
        expected = measure_with_reasons(features, y, module.weight, bias=module.bias if last else None).values
        for name, value in expected.items():
            got = table[label][name]
            if name in {"mse", "r2", "nrc1_centred", "signal_share"} and not last:
                assert math.isnan(got)
            else:
                assert got == pytest.approx(value, abs=1e-6, nan_ok=True), (label, name)
    with torch.no_grad():
        assert table["4"]["mse"] == pytest.approx(float((model(x) - y).square().mean()), abs=1e-6)
    assert "last measured layer" in monitor.undefined["0"]["nrc1_centred"]


def test_one_forward_pass_a_batch_after_two_small_ones_and_no_trace_left():
    model, calls = mlp(), []
    model.register_forward_hook(lambda module, args, out: calls.append((len(out), torch.is_grad_enabled())))
    model.train()
    model[1].eval()
    nrc.collect(model, batches())
    assert calls == [(rows, False) for rows in (16, 16, 32, 8, 32, 7)]
    calls.clear()
    nrc.collect(model, batches(), trust=True)
    assert calls == [(rows, False) for rows in (32, 32, 7)]
    monitor = nrc.CollapseMonitor(model)
    monitor.measure(batches())
    calls.clear()
    monitor.measure(batches())
    assert [rows for rows, _ in calls] == [8, 32, 8, 32, 7], "a few samples beside batches 1, 2, 4, 8, ..."
    calls.clear()
    monitor.measure(batches([16] * 20))
    assert [rows for rows, _ in calls].count(8) == 5
    assert model.training and not model[1].training
    assert all(not m._forward_hooks for m in model[0:5])
    assert all(p.grad is None for p in model.parameters())


def test_hooks_and_mode_are_restored_after_an_error():
    model = mlp().train()
    with pytest.raises(RuntimeError):
        nrc.collect(model, [(torch.randn(3, 4), torch.randn(3, 2))])
    assert model.training and all(not m._forward_hooks for m in model)


def test_dropout_is_off_and_batch_norm_does_not_learn():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    before = model[1].running_mean.clone()
    a, b = nrc.collect(model, batches())["3"], nrc.collect(model, batches())["3"]
    assert torch.equal(a.sigma_h, b.sigma_h) and torch.equal(model[1].running_mean, before)


def test_names_outputs_and_the_models_own_labels():
    model = mlp()
    data = batches()
    assert list(nrc.collect(model, data, ["4", "2:out"])) == ["2:out", "4"]
    out = nrc.collect(model, data, ["2:out", "4"])
    before, after = out["2:out"], out["4"]
    assert before.d == after.d == 12 and float(before.mean_h.min()) < 0 <= float(after.mean_h.min())
    assert math.isnan(measure_layers(model, out)["2:out"]["weight_rank"])
    assert nrc.collect(model, data, ["1"])["1"].d == 16

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def measured_layers(self):
            return {"fc1": self.net[0], "fc3": self.net[4]}

        def forward(self, x):
            return self.net(x)

    assert list(nrc.collect(Named(), data)) == ["fc1", "fc3"]
    assert list(nrc.collect(Named(), data, ["fc3", "net.2", "fc1:out"])) == ["fc1:out", "net.2", "fc3"]
    with pytest.raises(UserError, match="'fc9' is not in Named; choose from: fc1, fc3"):
        nrc.collect(Named(), data, ["fc9"])


def test_convolutions_are_averaged_over_positions():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.randn(20, 3, 8, 8), torch.randn(20, 2)
    moments = nrc.collect(model, [(x, y)])
    assert {label: m.d for label, m in moments.items()} == {"0": 3, "2": 6, "4": 64}
    pooled = model[1](model[0](x)).mean((2, 3))
    torch.testing.assert_close(moments["2"].mean_h.float(), pooled.mean(0))
    table = measure_layers(model, moments)
    assert table["2"]["feature_weight_alignment_k"] == 2 and table["4"]["r2"] < 1


def test_sequences_need_a_target_for_every_position():
    model = nn.Linear(5, 2)
    x, y = torch.randn(4, 3, 5), torch.randn(4, 3, 2)
    m = nrc.collect(model, [(x, y)])[""]
    assert m.count == 12
    torch.testing.assert_close(m.mean_y.float(), y.mean((0, 1)))
    with pytest.raises(UserError, match=r"\(4, 3, 5\).*\(4, 2\)"):
        nrc.collect(model, [(x, y[:, 0])])


def test_layers_that_do_not_run():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(5, 2), nn.Linear(5, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(UserWarning, match="'idle' did not run"):
        assert list(nrc.collect(Idle(), batches())) == ["used"]
    with pytest.raises(UserError, match="'idle' did not run"):
        nrc.collect(Idle(), batches(), ["used", "idle"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty, or an iterator that is used up"),
        ([torch.randn(3, 5)], "pair"),
        ([(torch.randn(3, 5), torch.randn(4, 2))], r"\(4, 2\)"),
    ],
)
def test_bad_batches_are_named(data, words):
    with pytest.raises(UserError, match=words):
        nrc.collect(mlp(), data)


def test_nothing_to_measure_and_diverged_models():
    with pytest.raises(UserError, match="no Linear, convolution or attention"):
        nrc.collect(nn.ReLU(), batches())
    model = mlp()
    with torch.no_grad():
        model[2].weight.fill_(math.nan)
    with pytest.raises(UserError, match="NaN"):
        nrc.CollapseMonitor(model).measure(batches())


def test_numpy_batches_of_another_precision_and_target_vectors():
    model = nn.Linear(5, 1)
    x = np.random.default_rng(0).normal(size=(20, 5))
    assert nrc.collect(model, [(x, x[:, 0])])[""].n == 1


def test_beyond_the_budget_the_centred_metric_is_undefined_with_a_reason():
    model, data = mlp(), batches()
    within = measure_layers(model, nrc.collect(model, data, keep_bytes=71 * 12 * 4))["4"]
    beyond = measure_layers(model, nrc.collect(model, data, keep_bytes=71 * 12 * 4 - 1))["4"]
    assert 0 < within["nrc1_centred"] < 1
    assert math.isnan(beyond["nrc1_centred"]) and "keep_bytes=3407" in beyond.undefined["nrc1_centred"]


def test_splits_share_the_weight_and_take_the_map_from_the_first():
    model, train, test = mlp(), batches(), batches(seed=1)
    splits = {"train": nrc.collect(model, train), "test": nrc.collect(model, test)}
    table = measure_splits(model, splits)
    alone = measure_layers(model, splits["train"])
    assert table["train"]["4"].values == pytest.approx(alone["4"].values, rel=1e-12, nan_ok=True)
    assert table["test"]["4"]["nrc3"] == table["train"]["4"]["nrc3"]
    assert table["test"]["4"]["linear_mse"] > table["train"]["4"]["linear_mse"]
    only = measure_splits(model, splits, only=["noise"])["test"]["0"]
    assert only.values == {"noise": table["test"]["0"]["noise"]}


def test_a_bias_free_model_is_judged_without_an_intercept():
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    data = [(x, y + 5) for x, y in batches()]
    expected = torch.cat([(model(x) - y).square() for x, y in data]).mean().detach()
    assert nrc.CollapseMonitor(model).measure(data)["2"]["mse"] == pytest.approx(float(expected), rel=1e-5)


def test_an_unknown_metric_is_named_with_those_that_there_are():
    model = mlp()
    with pytest.raises(UserError, match=r"'4': there is no metric 'nrc9'; choose from: mse, r2, nrc1, "):
        measure_layers(model, nrc.collect(model, batches(), ["4"]), only=["nrc1", "nrc9"])


class Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def test_what_was_seen_of_modules_is_forgotten_with_them():
    model, data = mlp(), batches()
    monitor = nrc.CollapseMonitor(model)
    monitor.measure(data)
    model[2] = Adapted(model[2])
    assert list(monitor.measure(data)) == list(nrc.CollapseMonitor(model).measure(data)) == ["0", "2", "4"]
    model[2] = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 12))
    assert list(monitor.measure(data)) == ["0", "2.0", "2.2", "4"]
