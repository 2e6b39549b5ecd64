"""Perceptual distances: LPIPS against a plain chain of layers, the stand-in by hand, files in and errors out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lavita.methods.perceptual import LPIPS, GradientPyramid, perceptual_distance


def test_gradient_pyramid_by_hand():
    distance = GradientPyramid(num_scales=2)
    x = torch.zeros(1, 3, 8, 8)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    # One step along x everywhere at full size, two after halving; nothing along y.
    assert float(distance(ramp, x)) == pytest.approx(1 + 2)
    assert float(distance(x + 0.7, x)) == pytest.approx(0, abs=1e-6)
    assert float(distance(ramp, ramp)) == 0


def test_lpips_equals_a_plain_chain_of_layers():
    torch.manual_seed(0)
    model = LPIPS()
    with torch.no_grad():
        for k in range(5):
            model.get_submodule(f"lin{k}")["model"][1].weight.abs_()
    state = model.state_dict()
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    layers, kept = [], []
    for k, name in enumerate(model.net):
        layers += [nn.MaxPool2d(2)] if k else []
        for convolution in model.net[name].values():
            layers += [convolution, nn.ReLU()]
        kept.append(len(layers) - 1)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total, a, b = 0, (x - shift) / scale, (y - shift) / scale
    for index, layer in enumerate(layers):
        a, b = layer(a), layer(b)
        if index in kept:
            difference = (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)) ** 2
            weights = state[f"lin{kept.index(index)}.model.1.weight"]
            total = total + (difference * weights).sum(1).mean((1, 2))
    torch.testing.assert_close(model(x, y), total, rtol=1e-4, atol=1e-6)
    assert torch.equal(model(x, x), torch.zeros(2))
    assert not any(p.requires_grad for p in model.parameters())


def lpips_files(folder) -> tuple[str, str, LPIPS]:
    """Paths of VGG16's and LPIPS's weight files with the keys of the released ones, and the model they came from."""
    model = LPIPS()
    vgg, linear = {"classifier.0.weight": torch.zeros(1)}, {}
    for key, value in model.state_dict().items():
        if key.startswith("net."):
            vgg["features." + key.split(".", 2)[2]] = value
        else:
            linear[key] = value
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return str(folder / "vgg16.pth"), str(folder / "vgg.pth"), model


def test_lpips_loads_the_released_files(tmp_path):
    vgg, linear, model = lpips_files(tmp_path)
    loaded = perceptual_distance(vgg, linear)
    assert loaded.name == "lpips-vgg16"
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="hold no net.slice1.0.weight"):
        perceptual_distance(linear, linear)


def test_without_weights_the_stand_in_says_its_name():
    assert perceptual_distance(None, None).name == "gradient-pyramid"
    with pytest.raises(ValueError, match="give both files, or neither"):
        perceptual_distance("vgg16.pth", None)
    with pytest.raises(ValueError, match="no such file"):
        perceptual_distance("absent.pth", "absent.pth")
