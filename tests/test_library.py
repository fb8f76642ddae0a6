"""`nrc` on other people's models: what is measured, what is named as not measured, wrappers, types, masks."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nrc
from nrc.errors import UserError
from nrc.features.measure import measure_layers
from nrc.metrics import measure_moments, measure_with_reasons
from nrc.models._torchvision import torchvision

REPO = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
    )


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(module: nn.Module, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a module is fed, by a hook of our own."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return seen[0]


def same(found: dict[str, float], expected: dict[str, float], **tolerance: float) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True, **tolerance), name


# --- the import


def test_importing_nrc_brings_neither_hydra_nor_drawing_nor_tables():
    heavy = ("hydra", "omegaconf", "matplotlib", "pandas", "torchvision", "minari", "gymnasium", "plotly")
    code = f"import sys, nrc; print([m for m in {heavy} if m in sys.modules])"
    result = python(code)
    assert result.stdout == "[]\n", result.stderr


FAKE = {
    "loads": "models = 'plain'",
    "broken": (
        "import torch\n"
        "@torch.library.register_fake('torchvision::nms')\n"
        "def nms(dets, scores, threshold): ...\n"
        "models = 'declared'"
    ),
    "other": "raise RuntimeError('something else')",
}


@pytest.mark.parametrize(
    ("kind", "printed"), [("loads", "plain False"), ("broken", "declared True"), ("other", "something else")]
)
def test_torchvision_is_imported_plainly_first_and_patched_only_where_its_operators_are_missing(
    tmp_path, kind, printed
):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(FAKE[kind])
    code = (
        "import torch\nfrom nrc.models._torchvision import torchvision\n"
        "print(torchvision.models, hasattr(torch.ops.torchvision, 'qnms'))"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    assert printed in (result.stdout if kind != "other" else result.stderr), result.stderr


# --- networks of others


def test_resnet18_measures_every_convolution_and_the_head():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    x, y = rows(12, 3, 32, 32), rows(12, 3, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x[:5], y[:5]), (x[5:], y[5:])])
    assert len(table) == 21 and list(table)[-1] == "fc" and monitor.skipped == {}
    expected = measure_with_reasons(inputs_of(model.fc, model, x), y, model.fc.weight, bias=model.fc.bias)
    same(table["fc"], expected.values, abs=1e-5)
    deep = inputs_of(model.layer4[1].conv2, model, x).mean((2, 3))
    same(table["layer4.1.conv2"], {"noise": nrc.measure(deep, y)["noise"]}, abs=1e-6)


def test_channels_last_changes_nothing():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2)
    x, y = rows(8, 3, 32, 32), rows(8, 2, seed=1)
    plain = nrc.collect(model, [(x, y)])
    last = nrc.collect(
        model.to(memory_format=torch.channels_last), [(x.to(memory_format=torch.channels_last), y)]
    )
    for label, moments in plain.items():
        torch.testing.assert_close(last[label].mean_h, moments.mean_h, atol=1e-5, rtol=1e-4)


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=2
    )


def test_a_vision_transformer_is_measured_where_there_is_one_row_a_picture():
    model = small_vit()
    x, y = rows(20, 3, 32, 32), rows(20, 2, seed=1)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts the head at zero
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    assert list(table) == ["conv_proj", "heads.head"]
    same(
        table["heads.head"],
        measure_with_reasons(
            inputs_of(model.heads.head, model, x), y, model.heads.head.weight, bias=model.heads.head.bias
        ).values,
        abs=1e-5,
    )
    block = "encoder.layers.encoder_layer_1"
    assert set(monitor.skipped) == {
        f"encoder.layers.encoder_layer_{k}.{part}"
        for k in (0, 1)
        for part in ("self_attention", "self_attention.out_proj", "mlp.0", "mlp.3")
    }
    assert "(20, 17, 32) but the targets are (20, 2)" in monitor.skipped[f"{block}.mlp.0"]
    assert "after the pooling" in monitor.skipped[f"{block}.mlp.0"]
    with pytest.warns(UserWarning, match=r"not measured: .* and 5 more"):
        nrc.collect(model, [(x, y)])
    with pytest.raises(UserError, match=r"mlp.0' sees \(20, 17, 32\).*after the pooling.*leave it out"):
        nrc.collect(model, [(x, y)], [f"{block}.mlp.0"])


def test_maps_with_the_channels_last_are_not_taken_for_others():
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2))
    with pytest.raises(UserError, match=r"'0' sees \(5, 4, 4, 6\).*measure after the pooling"):
        nrc.collect(model, [(rows(5, 4, 4, 6), rows(5, 2))], ["0"])
    assert nrc.collect(model, [(rows(5, 4, 4, 6), rows(5, 4, 4, 2))], ["0"])["0"].count == 80


class Tagger(nn.Module):
    """A GRU with a prediction at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0])


def test_a_gru_is_named_as_not_measured_and_can_be_measured_at_its_output():
    torch.manual_seed(0)
    model, x, y = Tagger(), rows(6, 5, 4), rows(6, 5, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    assert "GRU" in monitor.skipped["gru"] and "layers=['gru:out']" in monitor.skipped["gru"]
    table = monitor.measure([(x, y)])
    assert list(table) == ["head"] and list(monitor.skipped) == ["gru"]
    moments = nrc.collect(model, [(x, y)], ["gru", "gru:out", "head"])
    assert (moments["gru"].d, moments["gru:out"].d, moments["gru"].count) == (4, 16, 30)
    torch.testing.assert_close(moments["gru:out"].sigma_h, moments["head"].sigma_h)
    assert math.isnan(measure_layers(model, moments)["gru"]["weight_rank"])
    with pytest.raises(UserError, match=r"GRU has no Linear.*':out'"):
        nrc.CollapseMonitor(nn.GRU(4, 16))


def encoder(**options: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True, **options)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 2))


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_encoder_is_measured_inside(norm_first):
    model, x, y = encoder(norm_first=norm_first), rows(8, 5, 16), rows(8, 5, 2, seed=1)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(x, y)])
    parts = ("self_attn", "linear1", "linear2")
    assert list(table) == [f"0.layers.{k}.{part}" for k in (0, 1) for part in parts] + ["1"]
    assert set(monitor.skipped) == {f"0.layers.{k}.self_attn.out_proj" for k in (0, 1)}
    assert "nn.MultiheadAttention" in monitor.skipped["0.layers.0.self_attn.out_proj"]
    layer = model[0].layers[0]
    fed = layer.norm1(x) if norm_first else x
    # a normalised input has one direction of rounding alone: from sums, as here, it cannot be told apart as from rows
    sums = nrc.Moments().update(fed.detach().flatten(0, 1), y.flatten(0, 1))
    same(
        table["0.layers.0.self_attn"],
        measure_moments(sums, layer.self_attn.in_proj_weight, maps_to_targets=False).values,
        abs=1e-5,
    )
    with torch.no_grad():  # the last layer's input is what the unfused model computes
        mse = float((model.eval()(x) - y).square().mean())
    assert table["1"]["mse"] == pytest.approx(mse, rel=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(UserError, match=r"out_proj' is used by nn.MultiheadAttention as a function"):
        nrc.collect(model, [(x, y)], ["0.layers.0.self_attn.out_proj"])
    out = nrc.collect(model, [(x, y)], ["0.layers.0.self_attn:out"])["0.layers.0.self_attn:out"]
    assert (out.count, out.d) == (40, 16)


def test_a_padded_batch_goes_through_a_transformer_encoder_unpacked():
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(x, src_key_padding_mask=padding))

    torch.manual_seed(0)
    model, x, y = Padded(), rows(4, 5, 16), rows(4, 5, 2, seed=1)
    padding = (
        torch.arange(5) >= torch.tensor([4, 2, 3, 1])[:, None]
    )  # no row has all five: torch would cut them
    seen: list[torch.Tensor] = []
    for module in (model.encoder.layers[1].linear1, model.head):
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(x, padding)  # in training mode, with gradients: nothing is packed
    moments = nrc.collect(model, [((x, padding), y, ~padding)], ["encoder.layers.1.linear1", "head"])
    for features, found in zip(seen[:2], moments.values(), strict=True):
        torch.testing.assert_close(found.mean_h.float(), features[~padding].mean(0), atol=1e-5, rtol=1e-4)
        assert found.count == 10


def test_cross_attention_is_named():
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            return self.head(self.attention(x, key=memory, value=memory)[0])

    monitor = nrc.CollapseMonitor(Cross())
    table = monitor.measure([((rows(3, 4, 8), rows(3, 6, 8)), rows(3, 4, 1))])
    assert list(table) == ["head"]
    assert "another input than its own" in monitor.skipped["attention"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.twice(self.twice(self.first(x))))


def test_a_module_that_runs_twice_is_left_out_and_named():
    data = [(rows(16, 5, seed=k), rows(16, 2, seed=k + 9)) for k in range(3)]
    monitor = nrc.CollapseMonitor(Shared())
    assert list(monitor.measure(data)) == ["first", "head"]
    assert list(monitor.skipped) == ["twice"] and "ran twice" in monitor.skipped["twice"]
    with pytest.warns(UserWarning, match="not measured: 'twice' ran twice"):
        moments = nrc.collect(monitor.model, data)
    assert moments["head"].centred is not None and moments["head"].count == 48
    with pytest.raises(UserError, match="'twice' ran twice"):
        nrc.collect(monitor.model, data, ["twice", "head"])


def test_the_last_layer_may_be_the_one_that_runs_twice():
    layer = nn.Linear(5, 5)
    model = nn.Sequential(nn.Linear(5, 5), layer, nn.ReLU(), layer)
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(rows(16, 5), rows(16, 2, seed=1))])
    assert list(table) == ["0"] and list(monitor.skipped) == ["1"]


def test_nothing_is_named_where_all_is_measured(recwarn):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    nrc.collect(model, [(rows(9, 5), rows(9, 2))])
    assert not recwarn.list and nrc.CollapseMonitor(model).skipped == {}


def test_embeddings_are_named_and_weight_normalised_layers_measured_once():
    model = nn.Sequential(
        nn.Embedding(10, 6), nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(18, 2))
    )
    monitor = nrc.CollapseMonitor(model)
    table = monitor.measure([(torch.arange(30).reshape(10, 3) % 10, rows(10, 2))])
    assert list(table) == ["2"] and list(monitor.skipped) == ["0"]
    assert table["2"]["weight_rank"] == 2


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_reads_each_channel_with_its_own_group(groups):
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 8, 3, groups=groups)
    dense = nn.Conv2d(4, 8, 3)
    with torch.no_grad():  # one channel on at a time tells which outputs read it
        dense.bias.copy_(grouped.bias)
        for channel in range(4):
            for i in range(3):
                for j in range(3):
                    x = torch.zeros(1, 4, 3, 3)
                    x[0, channel, i, j] = 1
                    dense.weight[:, channel, i, j] = (
                        grouped(x) - grouped.bias[None, :, None, None]
                    ).flatten()
    x, y = rows(16, 4, 3, 3), rows(16, 8, seed=1)
    tables = [
        nrc.CollapseMonitor(nn.Sequential(m, nn.Flatten(), nn.Linear(8, 8))).measure([(x, y)])["0"]
        for m in (grouped, dense)
    ]
    same(*tables, abs=1e-6)


def test_one_dimensional_convolutions_take_targets_for_the_sequence_or_for_every_position():
    torch.manual_seed(0)
    model, x = nn.Conv1d(3, 2, 3, padding=1), rows(6, 3, 10)
    whole = nrc.collect(model, [(x, rows(6, 2))])[""]
    torch.testing.assert_close(whole.mean_h, x.double().mean((0, 2)))
    assert whole.count == 6
    each = nrc.collect(model, [(x, rows(6, 10, 2))])[""]
    assert each.count == 60
    flat = x.double().movedim(1, 2).reshape(60, 3)
    torch.testing.assert_close(each.sigma_h, (flat - flat.mean(0)).T @ (flat - flat.mean(0)) / 60)


# --- wrappers


@pytest.mark.parametrize("wrap", ["parallel", "compiled", "both", "in place", "inside"])
def test_wrapped_models_give_the_names_and_numbers_of_the_network_inside(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 2))
    x, y = rows(32, 5), rows(32, 2, seed=1)
    expected = nrc.CollapseMonitor(model).measure([(x, y)])
    wrapped = model
    if wrap in ("compiled", "both"):
        wrapped = torch.compile(model, backend="eager")
    if wrap in ("parallel", "both"):
        wrapped = nn.DataParallel(wrapped)
    if wrap == "in place":
        model.compile(backend="eager")
    if wrap == "inside":
        model[1] = nn.DataParallel(torch.compile(model[1], backend="eager"))
    wrapped.eval()
    with torch.no_grad():
        wrapped(x)  # compiled before any hook is there
    monitor = nrc.CollapseMonitor(wrapped)
    assert monitor.measure([(x, y)]) == {
        label: pytest.approx(v, nan_ok=True, rel=1e-9) for label, v in expected.items()
    }
    assert monitor.skipped == {}
    assert list(nrc.collect(wrapped, [(x, y)], ["2"])) == ["2"]
    paths = [path for path, module in wrapped.named_modules() if isinstance(module, nn.Linear)]
    assert nrc.collect(wrapped, [(x, y)], paths).keys() == set(paths)


def test_a_compiled_model_is_measured_uncompiled_and_stays_compiled():
    runs: list[int] = []

    def backend(graph, inputs):
        return lambda *values: (runs.append(1), graph(*values))[1]

    model, x = torch.compile(nn.Linear(5, 2), backend=backend), rows(8, 5)
    model(x)
    assert len(runs) == 1
    assert nrc.collect(model, [(x, rows(8, 2))])[""].count == 8
    assert len(runs) == 1
    model(x)
    assert len(runs) == 2


def test_distributed_data_parallel_is_measured_without_talking_to_the_others(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(5, 2)))
        assert list(nrc.collect(model, [(rows(8, 5), rows(8, 2))])) == ["0"]
    finally:
        torch.distributed.destroy_process_group()


# --- number types


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


def test_under_autocast_16_bit_features_are_summed_in_64_bits():
    model, x, y = mlp(), rows(4096, 5), rows(4096, 2, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        table = nrc.CollapseMonitor(model).measure([(x[:999], y[:999]), (x[999:], y[999:])])
        fed = inputs_of(model[4], model, x)
    assert fed.dtype == torch.bfloat16
    expected = measure_with_reasons(fed, y, model[4].weight, bias=model[4].bias).values
    same(table["4"], expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_model_gives_the_32_bit_numbers_up_to_its_rounding(dtype):
    x, y = rows(512, 5), rows(512, 2, seed=1)
    expected = nrc.CollapseMonitor(mlp()).measure([(x, y)])
    found = nrc.CollapseMonitor(mlp().to(dtype)).measure([(x, y)])
    for label in ("0", "2", "4"):
        # linear_mse is no such number: directions below the rounding of the features are left out of the map
        names = ("noise", "cka", "stable_rank_weights", "feature_weight_alignment", "weight_rank")
        same(found[label], {name: expected[label][name] for name in names}, rel=0.05)
    same(found["4"], {name: expected["4"][name] for name in ("mse", "nrc1", "nrc2", "evr_1")}, rel=0.05)


# --- targets and masks


def test_targets_of_every_shape():
    x, y = rows(24, 5), rows(24, 2, seed=1)
    one = nn.Linear(5, 1)
    a, b = (nrc.collect(one, [(x, t)])[""] for t in (y[:, 0], y[:, :1]))
    assert a.n == b.n == 1 and torch.equal(a.sigma_hy, b.sigma_hy)
    flat = nrc.collect(nn.Linear(5, 2), [(x, y)])[""]
    sequences = nrc.collect(nn.Linear(5, 2), [(x.view(4, 6, 5), y.view(4, 6, 2))])[""]
    assert flat.count == sequences.count == 24
    torch.testing.assert_close(flat.sigma_hy, sequences.sigma_hy)


@pytest.mark.parametrize("as_array", [lambda m: m, lambda m: m.numpy(), lambda m: m.tolist()])
def test_masked_rows_are_left_out_whatever_they_hold(as_array):
    torch.manual_seed(0)
    model, x, y = Tagger(), rows(6, 5, 4), rows(6, 5, 2, seed=1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    y[~mask] = math.nan
    table = nrc.CollapseMonitor(model).measure([(x[:2], y[:2], mask[:2]), (x[2:], y[2:], as_array(mask[2:]))])
    with torch.no_grad():
        features = model.gru(x)[0][mask]
    expected = measure_with_reasons(features, y[mask], model.head.weight, bias=model.head.bias).values
    same(table["head"], expected, abs=1e-6)


def test_masks_of_tables_of_single_targets_and_of_whole_batches():
    x, y = rows(24, 5), rows(24, 2, seed=1)
    kept = torch.arange(24) % 3 > 0
    expected = nrc.collect(nn.Linear(5, 2), [(x[kept], y[kept])])[""]
    found = nrc.collect(nn.Linear(5, 2), [(x, y, kept), (x, y, kept & False), (x[:0], y[:0], None)])[""]
    assert found.count == 16
    torch.testing.assert_close(found.sigma_h, expected.sigma_h)
    single = nrc.collect(nn.Linear(5, 1), [(x.view(4, 6, 5), y[:, 0].view(4, 6), kept.view(4, 6))])[""]
    assert (single.count, single.n) == (16, 1)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(24, 2, 1, dtype=torch.bool), r"bool of shape \(24, 2, 1\) beside targets \(24, 2\)"),
        (torch.ones(23, dtype=torch.bool), r"shape \(23,\)"),
        (torch.ones(24), r"float32.*write mask\.bool\(\)"),
        (torch.arange(24), r"int64 .*leave out indices"),
        (torch.ones(24, dtype=torch.long), r"write mask\.bool\(\) for one of 0 and 1"),
        (torch.zeros(24, dtype=torch.bool), "no row of the batches counts"),
    ],
)
def test_bad_masks_are_named(mask, words):
    with pytest.raises(UserError, match=words):
        nrc.collect(nn.Linear(5, 2), [(rows(24, 5), rows(24, 2), mask)])


def test_inputs_may_be_several_or_named():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 2)

        def forward(self, a, b, scale=1.0):
            return self.head((a + b) * scale)

    a, b, y = rows(8, 5), rows(8, 5, seed=1), rows(8, 2, seed=2)
    model = Two()
    expected = nrc.collect(model, [((a, b), y)])["head"]
    torch.testing.assert_close(expected.mean_h, (a + b).double().mean(0), atol=1e-6, rtol=0)
    named = nrc.collect(model, [({"a": a.numpy(), "b": b.double(), "scale": 2.0}, y)])["head"]
    torch.testing.assert_close(named.mean_h, 2 * expected.mean_h)


def test_packed_sequences_pass_through():
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, packed):
            return self.head(self.gru(packed)[1][0])

    packed = nn.utils.rnn.pack_sequence([rows(3, 4), rows(2, 4), rows(1, 4)])
    assert nrc.collect(Last(), [(packed, rows(3, 2))], ["head"])["head"].count == 3


def test_arrays_of_numpy_and_lists():
    x = np.random.default_rng(0).normal(size=(20, 5))
    a, b = (
        nrc.collect(nn.Linear(5, 1), [(x, x[:, 0])])[""],
        nrc.collect(nn.Linear(5, 1), [(x.tolist(), x[:, 0].tolist())])[""],
    )
    assert torch.equal(a.sigma_h, b.sigma_h)
