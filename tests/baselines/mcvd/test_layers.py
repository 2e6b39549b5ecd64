"""Layers of MCVD against closed forms written out in numpy (recorded cases of the network are in tests/parity)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lavita.baselines.mcvd import layers
from lavita.baselines.mcvd.model import MCVDNet, UNetConfig
from lavita.parity.cases import fill_by_formula

TINY = dict(image_size=8, frames=2, past=1, width=8, multiples=(1, 2), attention=(4,), num_res_blocks=1, head_width=4)


def tiny(**sizes) -> MCVDNet:
    network = MCVDNet(UNetConfig(**(TINY | sizes)))
    fill_by_formula(network)  # its own start gives next to nothing, whatever the layers do
    return network


def inputs(batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 6, 8, 8, generator=generator)
    given = torch.randn(batch, 3, 8, 8, generator=generator)
    return x, given, torch.tensor([10, 900])[:batch]


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        (dict(width=192, head_width=96), 251_174_988),
        (dict(), 564_990_060),
        (dict(spatin=192), 739_438_572),
        (dict(spatin=192, future=4), 740_620_524),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(sizes, count):
    with torch.device("meta"):
        network = MCVDNet(UNetConfig(**sizes))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_groups_are_the_largest_divisor_allowed():
    for width in range(1, 400):
        allowed = [g for g in range(1, width + 1) if width % g == 0 and g <= max(1, min(width // 4, 32))]
        assert layers.num_groups(width) == max(allowed)


def upfirdn(image: np.ndarray, up: int, down: int, pad: tuple[int, int]) -> np.ndarray:
    """Zeros between pixels, a border of zeros, the filter, every down-th pixel: (H, W) -> (H', W')."""
    line = np.array([1.0, 3.0, 3.0, 1.0])
    kernel = np.outer(line, line) / 64 * up**2
    spread = np.zeros((image.shape[0] * up, image.shape[1] * up))
    spread[::up, ::up] = image
    padded = np.pad(spread, pad)
    rows, columns = (size - 3 for size in padded.shape)
    out = np.array([[(padded[i : i + 4, j : j + 4] * kernel).sum() for j in range(columns)] for i in range(rows)])
    return out[::down, ::down]


@pytest.mark.parametrize(("up", "factors"), [(False, (1, 2, (1, 1))), (True, (2, 1, (2, 1)))])
def test_resampling_is_the_filter_written_out(up, factors):
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = layers.Resample(up)(x)
    for b in range(2):
        for c in range(3):
            wanted = upfirdn(x[b, c].numpy(), *factors)
            np.testing.assert_allclose(out[b, c].numpy(), wanted, rtol=0, atol=1e-12)


def test_sinusoids_are_those_of_the_label():
    label, width = 37, 8
    wanted = [math.sin(37 * 10000 ** (-i / 3)) for i in range(4)] + [math.cos(37 * 10000 ** (-i / 3)) for i in range(4)]
    got = layers.TimeEmbedding(width)(torch.tensor([label]))[0]
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=0, atol=1e-5)  # 37 times a rounded frequency


def test_weights_start_with_the_variance_said():
    torch.manual_seed(0)
    weight = layers.convolution(32, 64).weight.detach()
    # Uniform of variance 1 / (9 (32 + 64) / 2); 18,432 draws know it to 1 in 100, four deviations of sqrt(0.8 / n).
    wanted = 1 / (9 * 48)
    assert float(weight.var()) == pytest.approx(wanted, rel=4 * math.sqrt(0.8 / weight.numel()))
    assert float(weight.abs().max()) <= math.sqrt(3 * wanted)
    assert float(layers.convolution(32, 64, layers.NEARLY_ZERO).weight.detach().abs().max()) <= 1e-5 * math.sqrt(
        3 * wanted
    )
    attention = layers.Attention(64, 32)
    assert float(attention.NIN_1.W.detach().var()) == pytest.approx(0.1 / 64, rel=4 * math.sqrt(0.8 / 64**2))
    assert float(attention.NIN_3.W.detach().abs().max()) <= 1e-5 * math.sqrt(3 / 64)


def test_dropout_keeps_the_share_said_and_the_mean():
    x, seeds = torch.ones(4, 16, 32, 32), torch.tensor([1, 2, 3, 2**32 - 1])
    out = layers.dropped(x, 0.1, seeds, 7)
    kept = out != 0
    assert torch.equal(out[kept], torch.full_like(out[kept], 1 / 0.9))
    # 16,384 independent draws a clip: five deviations of the share.
    for clip in kept:
        assert float(clip.float().mean()) == pytest.approx(0.9, abs=5 * math.sqrt(0.09 / clip.numel()))
    # Neighbouring seeds, layers and places have nothing in common: correlations of 16,384 draws.
    others = [kept[1], layers.dropped(x[:1], 0.1, seeds[:1], 8)[0] != 0, kept[0].roll(1, dims=-1)]
    for other in others:
        pair = torch.stack([kept[0].flatten(), other.flatten()]).float()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / math.sqrt(pair.shape[1])


def test_dropout_follows_from_the_clips_own_seed():
    x, seeds = torch.ones(3, 2, 4, 4), torch.tensor([5, 6, 7])
    together = layers.dropped(x, 0.5, seeds, 3)
    for k in range(3):
        assert torch.equal(layers.dropped(x[k : k + 1], 0.5, seeds[k : k + 1], 3)[0], together[k])
    assert not torch.equal(together[0], together[1])


@torch.no_grad()
def test_every_residual_block_has_dropout_of_its_own():
    network = tiny(dropout=0.5)
    blocks = [part for part in network.modules() if isinstance(part, layers.ResBlock)]
    assert len({block.layer for block in blocks}) == len(blocks)
    x, given, label = inputs()
    plain = network(x, given, label)
    seeds = torch.tensor([1, 2])
    assert torch.equal(network(x, given, label, None, seeds), network(x, given, label, None, seeds))
    assert not torch.allclose(network(x, given, label, None, seeds), plain)
    assert torch.equal(tiny(dropout=0.0)(x, given, label, None, seeds), plain)


@torch.no_grad()
@pytest.mark.parametrize("spatin", [None, 4])
def test_given_frames_label_and_class_reach_the_output(spatin):
    network = tiny(spatin=spatin, num_classes=3)
    x, given, label = inputs()
    classes = torch.tensor([0, 1])
    y = network(x, given, label, classes)
    assert y.shape == x.shape
    for changed in ((x, given + 1, label, classes), (x, given, label.flip(0), classes), (x, given, label, classes + 1)):
        assert float((network(*changed) - y).abs().max()) > 1e-3
    # A pixel of the given frames changes clip 1 only.
    spot = given.clone()
    spot[1, 0, 4, 4] += 1
    moved = (network(x, spot, label, classes) - y).abs().flatten(1).amax(dim=1)
    assert moved[0] == 0 and moved[1] > 1e-5


def test_spatin_takes_the_given_frames_in_its_norms_only():
    network = tiny(spatin=4)
    assert network.unet.all_modules[2].weight.shape[1] == 6
    norms = [part for part in network.modules() if isinstance(part, layers.SpatialNorm)]
    blocks = [part for part in network.modules() if isinstance(part, layers.ResBlock)]
    assert len(norms) == 2 * len(blocks) + 1
    assert tiny().unet.all_modules[2].weight.shape[1] == 9


@torch.no_grad()
def test_spatin_is_norm_scale_and_shift_by_pixel():
    torch.manual_seed(0)
    norm = layers.SpatialNorm(8, 3, 4)
    x, given = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 8, 8)
    small = given[..., ::2, ::2]  # nearest neighbour
    hidden = torch.nn.functional.silu(norm.mlp_shared[0](small))
    groups = x.view(1, 2, 4, 4, 4)
    mean = groups.mean(dim=(2, 3, 4), keepdim=True)
    variance = groups.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    plain = ((groups - mean) / (variance + 1e-6).sqrt()).view_as(x)
    torch.testing.assert_close(norm(x, given), plain * (1 + norm.mlp_gamma(hidden)) + norm.mlp_beta(hidden))


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="9 pixels, wanted a multiple of 2"):
        UNetConfig(**(TINY | {"image_size": 9}))
    with pytest.raises(ValueError, match="width 8 and head width 3"):
        UNetConfig(**(TINY | {"head_width": 3}))
    x, given, label = inputs()
    with pytest.raises(ValueError, match="mcvd given frames"):
        tiny()(x, given[:, :2], label)
    with pytest.raises(ValueError, match="no classes with num_classes=3"):
        tiny(num_classes=3)(x, given, label)
