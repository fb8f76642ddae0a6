"""The residual networks, and the metrics of their convolutions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nrc
from nrc.errors import UserError
from nrc.features.collect import collect
from nrc.features.measure import measure_layers
from nrc.metrics import measure_with_reasons
from nrc.models import ResNet, ResNetNetwork

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def net() -> ResNetNetwork:
    return ResNet().build(0, 2, seed=0)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (24, 32, 48, 3), dtype=torch.uint8, generator=generator)
    return x, torch.randn(24, 2, generator=generator)


@pytest.mark.parametrize(("depth", "points"), [(18, 17), (34, 33)])
def test_measured_points_are_the_papers(depth: int, points: int) -> None:
    """deep_nrc, section 2: every conv of layer1..layer4 and fc; neither the stem nor the 1x1 shortcuts."""
    names = list(ResNet(depth=depth).build(0, 1, seed=0).measured_layers())
    assert len(names) == points and names[0] == "layer1.0.conv1" and names[-1] == "fc"
    assert not any("downsample" in name for name in names)


def test_the_network_is_torchvisions_with_its_own_last_layer(net: ResNetNetwork) -> None:
    assert sum(p.numel() for p in net.parameters()) == 11_176_512 + 512 * 2 + 2
    assert (net.net.fc.in_features, net.net.fc.out_features) == (512, 2)


def test_pixels_are_scaled_as_torchvision_does(net: ResNetNetwork, batch: tuple) -> None:
    """uint8 (B, H, W, 3) in; /255, minus ImageNet's mean, over its deviation."""
    x = batch[0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = torch.from_numpy(((x.numpy() / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(x), net.net(scaled), rtol=1e-3, atol=1e-4)
        half = ResNet(normalise="half").build(0, 2, seed=0).eval()
        torch.testing.assert_close(
            half(x), half.net((x.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5), rtol=1e-3, atol=1e-4
        )


def test_the_seed_makes_the_network_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (ResNet().build(0, 1, seed=s).net.fc.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())


def test_memory_layout_does_not_change_the_function(net: ResNetNetwork, batch: tuple) -> None:
    plain = ResNet(channels_last=False).build(0, 2, seed=0).eval()
    assert net.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(batch[0]), plain(batch[0]), rtol=1e-3, atol=1e-4)


def test_every_point_equals_measuring_its_pooled_input_directly(net: ResNetNetwork, batch: tuple) -> None:
    """All 17 points of one pass, against hooks of our own, pooling and numpy unfolding."""
    x, y = batch
    table = measure_layers(net, collect(net, [(x[:10], y[:10]), (x[10:], y[10:])]))
    seen: dict[str, torch.Tensor] = {}
    layers = net.measured_layers()
    handles = [
        m.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name, m in layers.items()
    ]
    with torch.no_grad():
        net.eval()(x)
    for handle in handles:
        handle.remove()
    assert list(table) == list(layers)
    for name in ("layer1.0.conv1", "layer2.0.conv1", "layer4.1.conv2", "fc"):
        features = seen[name].mean((2, 3)) if seen[name].ndim == 4 else seen[name]
        weight = layers[name].weight.detach().numpy()
        # c_in x (c_out kh kw), whose left singular vectors are this matrix's right ones
        unfolded = np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1])
        want = measure_with_reasons(features, y, unfolded).values
        for metric in (
            "noise",
            "cka",
            "stable_rank_weights",
            "feature_weight_alignment",
            "stable_rank_covariance",
        ):
            assert table[name][metric] == pytest.approx(want[metric], rel=1e-4), (name, metric)
        assert features.shape[1] == {"layer1.0.conv1": 64, "layer2.0.conv1": 64}.get(name, 512)


def test_every_position_as_a_sample(net: ResNetNetwork, batch: tuple) -> None:
    """positions='all': rows are pixels of the map, targets those of the image."""
    x, y = batch
    moments = collect(net, [(x, y)], ["layer1.0.conv1", "fc"], positions="all")
    assert moments["layer1.0.conv1"].count == 24 * 8 * 12 and moments["fc"].count == 24
    pooled = collect(net, [(x, y)], ["layer1.0.conv1"])["layer1.0.conv1"]
    torch.testing.assert_close(moments["layer1.0.conv1"].mean_h, pooled.mean_h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments["layer1.0.conv1"].mean_y, pooled.mean_y)
    # Sigma_HY needs the mean over positions alone, Sigma_H does not
    torch.testing.assert_close(moments["layer1.0.conv1"].sigma_hy, pooled.sigma_hy, rtol=1e-4, atol=1e-6)
    assert moments["layer1.0.conv1"].sigma_h.trace() > 1.5 * pooled.sigma_h.trace()


def test_measuring_uses_and_keeps_the_running_statistics(net: ResNetNetwork, batch: tuple) -> None:
    norm = net.net.bn1
    before = norm.running_mean.clone(), norm.num_batches_tracked.clone()
    net.train()
    first = collect(net, [batch])["fc"].sigma_h
    again = collect(net, [(batch[0][:8], batch[1][:8]), (batch[0][8:], batch[1][8:])])["fc"].sigma_h
    assert (
        net.training and torch.equal(before[0], norm.running_mean) and before[1] == norm.num_batches_tracked
    )
    torch.testing.assert_close(
        first, again, rtol=1e-4, atol=1e-7
    )  # batch statistics would depend on the split


def test_autocast_trains_in_bfloat16_and_measures_in_float32(batch: tuple) -> None:
    net = ResNet(autocast=True).build(0, 2, seed=0)
    seen: list[torch.dtype] = []
    net.net.layer4.register_forward_hook(lambda _, args, out: seen.append(args[0].dtype))
    assert net.train()(batch[0]).dtype == torch.float32
    collect(net, [batch])
    assert seen[0] == torch.bfloat16 and set(seen[1:]) == {torch.float32}


@pytest.mark.slow
def test_compiled_training_gives_the_same_gradients(batch: tuple) -> None:
    grads = []
    for compile in (False, True):
        net = ResNet(compile=compile).build(0, 2, seed=0).train()
        try:
            net(batch[0]).square().mean().backward()
        except Exception as error:  # the compiler itself is not ours
            pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        grads.append(net.net.fc.weight.grad)
        assert not any("_orig_mod" in key for key in net.state_dict())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-2, atol=1e-3)


def test_peak_memory_does_not_grow_with_the_number_of_images(net: ResNetNetwork) -> None:
    """Kept pooled features of all points would be 16 kB an image: 32 MB more here."""
    status = Path("/proc/self/clear_refs")
    if not status.exists():
        pytest.skip("needs Linux's /proc to reset the peak of a process")

    def peak(images: int) -> float:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (32, 24, 24, 3), dtype=torch.uint8, generator=generator)
        y = torch.randn(32, 2, generator=generator)
        status.write_text("5")
        collect(net, ((x.clone(), y) for _ in range(images // 32)), keep_bytes=0)
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024

    peak(512)  # the allocator's own growth comes first
    few = peak(512)
    assert peak(2560) - few < 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ResNet(depth=50), "model.depth is 50; choose 18 or 34"),
        (lambda: ResNet(normalise="none"), "model.normalise is 'none'"),
    ],
)
def test_bad_settings(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=words):
        make()


def test_pretrained_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    from nrc.models._torchvision import torchvision

    def refuse(**_: object) -> nn.Module:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models, "resnet18", refuse)
    with pytest.raises(UserError, match="could not be downloaded"):
        ResNet(pretrained=True).build(0, 1, seed=0)


def test_mlps_alone_do_not_load_torchvision() -> None:
    code = "import sys, nrc.training; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_collapsed_maps_are_seen_as_collapsed() -> None:
    """Channels that are the targets in every position: noise 0 and CKA 1 at a convolution, by both readings."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(64, 2, generator=generator)
    x = (y @ torch.linalg.qr(torch.randn(6, 2, generator=generator)).Q.T)[:, :, None, None].expand(
        -1, -1, 3, 3
    )
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    for positions in ("pool", "all"):
        values = measure_layers(model, nrc.collect(model, [(x, y)], positions=positions))["0"]
        assert values["noise"] < 1e-10 and values["cka"] > 1 - 1e-6
