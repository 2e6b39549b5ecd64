"""Layers of the StyleGAN2 family against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lavita.nn.resampling import LINEAR, normalised_taps
from lavita.nn.stylegan2 import (
    DiscriminatorBlock,
    EqualConv2d,
    EqualLinear,
    Mapping,
    activate,
    convolve,
    demodulation,
    minibatch_deviation,
    modulated,
    normalise,
    prenormalised,
    projected,
)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_activation_adds_bias_first_and_clamps_last():
    x, bias = torch.tensor([[1.0, -6.0], [100.0, 4.0]]), torch.tensor([0.0, 1.0])
    y = activate(x, bias, "lrelu", gain=0.5, clamp=8.0)
    expected = [[0.5 * 2**0.5, -0.5 * 2**0.5], [4.0, 2.5 * 2**0.5]]
    assert torch.allclose(y, torch.tensor(expected), rtol=1e-6)
    assert activate(x, None, "linear") is x
    with pytest.raises(ValueError, match="relu6"):
        activate(x, None, "relu6")


def test_stored_weights_have_unit_scale_whatever_the_multiplier():
    torch.manual_seed(0)
    layer = EqualLinear(400, 300, lr_multiplier=0.01, bias_init=1.0)
    assert float(layer.weight.detach().std()) == pytest.approx(100, rel=4 / (2 * 120_000) ** 0.5)
    x = seeded(5, 400).float()
    expected = x @ (layer.weight * 0.01 / 20).T + 1
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert float(EqualConv2d(8, 4, 3).weight_gain) == 1 / math.sqrt(72)


def test_doubling_and_halving_by_explicit_zeros():
    x, weight = seeded(2, 3, 6, 6), seeded(4, 3, 3, 3, seed=1)
    taps = normalised_taps(LINEAR).double()
    square = torch.outer(taps, taps).expand(4, 1, 4, 4)
    stretched = torch.zeros(2, 3, 13, 13, dtype=torch.float64)
    stretched[..., ::2, ::2][..., :6, :6] = x
    # True convolution: the kernel is turned where torch correlates.
    wide = functional.conv2d(functional.pad(stretched, (2, 1, 2, 1))[..., :15, :15], weight.flip(2, 3))
    doubled = functional.conv2d(functional.pad(wide, (1, 1, 1, 1)), 4 * square, groups=4)
    assert torch.allclose(convolve(x, weight, taps, up=True), doubled, rtol=0, atol=1e-13)
    blurred = functional.conv2d(functional.pad(x, (2, 2, 2, 2)), square[:3], groups=3)
    halved = functional.conv2d(blurred, weight, stride=2)
    assert torch.allclose(convolve(x, weight, taps, down=True), halved, rtol=0, atol=1e-13)
    pointwise = functional.conv2d(blurred[..., 1:-1, 1:-1][..., ::2, ::2], weight[..., :1, :1])
    assert torch.allclose(convolve(x, weight[..., :1, :1], taps, down=True), pointwise, rtol=0, atol=1e-13)


def test_modulation_is_a_weight_for_each_image():
    x, weight, style = seeded(2, 3, 5, 5), seeded(4, 3, 3, 3, seed=1), seeded(2, 3, seed=2)
    ours = modulated(x, weight, style, lambda x, w: functional.conv2d(x, w, padding=1))
    for number in range(2):
        own = weight * style[number].view(1, 3, 1, 1)
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        wanted = functional.conv2d(x[number : number + 1], own, padding=1)
        assert torch.allclose(ours[number : number + 1], wanted, rtol=0, atol=1e-12)


def test_frames_are_demodulated_by_their_own_styles():
    x, weight, style = seeded(2, 3, 4, 5, 5), seeded(4, 3, 1, 3, 3, seed=1), seeded(2, 3, 4, seed=2)
    ours = modulated(x, weight, style, lambda x, w: functional.conv3d(x, w, padding=(0, 1, 1)))
    for frame in range(4):
        wanted = modulated(
            x[:, :, frame], weight[:, :, 0], style[..., frame], lambda x, w: functional.conv2d(x, w, padding=1)
        )
        assert torch.allclose(ours[:, :, frame], wanted, rtol=0, atol=1e-12)


def test_prenormalisation_is_undone_by_demodulation():
    weight, style = 50 * seeded(4, 3, 3, 3), 9 * seeded(2, 3, seed=2)
    small_weight, small_style = prenormalised(weight, style)
    assert torch.equal(small_style.abs().amax(1), torch.ones(2, dtype=torch.float64))
    for w, s in ((weight, style), (small_weight, small_style)):
        own = w[None] * s[:, None, :, None, None]
        result = own * demodulation(w, s)[:, :, None, None, None]
        assert torch.allclose(result.square().sum((2, 3, 4)), torch.ones(2, 4, dtype=torch.float64), atol=1e-5)


def test_mapping_of_noise_and_labels():
    torch.manual_seed(0)
    mapping = Mapping(6, 3, 8, average_decay=0.9).double()
    z, c = seeded(4, 6), seeded(4, 3, seed=1)
    x = torch.cat([normalise(z), normalise(mapping.embed(c))], dim=1)
    for layer in (mapping.fc0, mapping.fc1):
        x = functional.leaky_relu(x @ (layer.weight * 0.01 / x.shape[1] ** 0.5).T, 0.2) * 2**0.5
    w = mapping(z, c)
    assert torch.allclose(w, x, rtol=0, atol=1e-12)
    mapping.update_average(w.mean(0))
    assert torch.allclose(mapping.w_avg, 0.1 * w.mean(0), rtol=0, atol=1e-12)
    assert torch.equal(mapping.truncated(w, 1), w)
    assert torch.allclose(mapping.truncated(w, 0.25), 0.75 * mapping.w_avg + 0.25 * w, rtol=0, atol=1e-12)


def test_a_groups_deviation_is_one_number_for_its_members():
    x = seeded(4, 3, 2, 2)
    y = minibatch_deviation(x, 2)
    for first in (0, 1):  # members are 0 and 2, 1 and 3
        pair = x[[first, first + 2]]
        wanted = (pair.var(0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(y[[first, first + 2], 3], wanted.expand(2, 2, 2), rtol=0, atol=1e-13)
    assert torch.equal(y[:, :3], x)
    assert minibatch_deviation(x, 16)[:, 3].unique().numel() == 1
    assert torch.equal(minibatch_deviation(x, 3), y)


def test_projection_and_block():
    assert projected(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.tensor([[1.0, 2.0, 9.0, 9.0]])).tolist() == [5.5]
    torch.manual_seed(0)
    block = DiscriminatorBlock(4, 4, 6, image_channels=3, clamp=256.0)
    names = {
        "fromrgb.weight",
        "fromrgb.bias",
        "conv0.weight",
        "conv0.bias",
        "conv1.weight",
        "conv1.bias",
        "skip.weight",
    }
    assert {name for name, _ in block.named_parameters()} == names
    assert block(torch.randn(2, 3, 8, 8)).shape == (2, 6, 4, 4)
