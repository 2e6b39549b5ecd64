"""Sizes of Long Video GAN's networks, its filters by hand, and what reaches what. Figures: tests/parity/lvg_*.json."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lavita.baselines.long_video_gan.filters import centre, kaiser_lowpass, triangle
from lavita.baselines.long_video_gan.low_resolution import GeneratorConfig, LowResolutionGenerator, TemporalNoise
from lavita.baselines.long_video_gan.low_resolution_discriminator import (
    DiscriminatorConfig,
    LowResolutionDiscriminator,
)
from lavita.baselines.long_video_gan.super_resolution import (
    SuperResolutionGenerator,
    UpsamplerConfig,
    layer_samplings,
)
from lavita.baselines.long_video_gan.super_resolution_discriminator import PairConfig, SuperResolutionDiscriminator

SMALL = GeneratorConfig(16, 16, embedding_dim=8, latent_dim=8, filters=4, min_rate=20, max_rate=60, channel_divisor=64)
LARGER = UpsamplerConfig(32, 32, 16, 16, context=2, z_dim=8, w_dim=8, channel_base=64, channel_max=4)

OFFICIAL = {
    83_215_939: lambda: LowResolutionGenerator(GeneratorConfig(36, 64)),
    46_424_609: lambda: LowResolutionDiscriminator(DiscriminatorConfig(128, 64)),
    27_169_940: lambda: SuperResolutionGenerator(UpsamplerConfig(144, 256, 36, 64)),
    23_997_825: lambda: SuperResolutionDiscriminator(PairConfig(4, 256, 64)),
}


@pytest.mark.parametrize("parameters", OFFICIAL)
def test_official_parameter_counts(parameters):
    with torch.device("meta"):
        network = OFFICIAL[parameters]()
    assert sum(value.numel() for value in network.parameters()) == parameters


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


def noise_of(config: GeneratorConfig, clips: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(clips, *config.noise_shape(length), generator=torch.Generator().manual_seed(seed))


def test_a_kaiser_filter_by_its_definition():
    # Kaiser's formulas in numpy: attenuation of a transition of this width, its beta, a windowed sinc of sum 1.
    taps, cutoff, width, rate = 12, 1.0, 6.0, 8.0
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    assert attenuation > 50
    m = np.arange(taps) - (taps - 1) / 2
    expected = np.sinc(cutoff / (rate / 2) * m) * np.kaiser(taps, 0.1102 * (attenuation - 8.7))
    expected /= expected.sum()
    assert kaiser_lowpass(taps, cutoff, width, rate).numpy() == pytest.approx(expected, abs=1e-7)


def test_linear_filters():
    assert (triangle(2) * 8).tolist() == [1, 3, 3, 1]
    assert (triangle(4) * 32).tolist() == [1, 3, 5, 7, 7, 5, 3, 1]


def test_the_centre_leaves_the_later_of_an_odd_rest():
    assert centre(torch.arange(6)[None], 3, 1).tolist() == [[1, 2, 3]]


def test_lowpassed_noise_has_unit_variance_and_changes_as_slowly_as_its_filter():
    bank = TemporalNoise(4, 20.0, 400.0)
    noise = torch.randn(8, 2, 4199, generator=torch.Generator().manual_seed(0))
    y = bank(noise)
    assert y.shape == (8, 8, 4000)
    variances = y.square().mean((0, 2))  # noise channel major, filter minor
    # 8 x 4000 steps, of which about one in 200 is independent at the slowest rate: 160 values.
    assert variances.sub(1).abs().max() < 4 * math.sqrt(2 / 160)
    steps = (y[..., 1:] - y[..., :-1]).square().mean((0, 2)).view(2, 4)
    assert (steps[:, :-1] > 4 * steps[:, 1:]).all()  # rates grow by 2.7, squared steps fall by its square


def test_lengths_of_the_temporal_blocks():
    # Steps that t0 .. t5 read, then the frames of the output: the official sizes.
    assert GeneratorConfig(36, 64).input_lengths(128) == [20, 24, 32, 48, 80, 144, 128]
    assert GeneratorConfig(36, 64).input_lengths(160) == [21, 26, 36, 56, 96, 176, 160]


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (36, 64, [(3, 4), (5, 8), (9, 16), (18, 32), (36, 64)]),
        (64, 64, [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]),
        (8, 8, [(4, 4), (8, 8), (8, 8), (8, 8), (8, 8)]),
    ],
)
def test_sizes_of_maps(height, width, sizes):
    assert GeneratorConfig(height, width).sizes() == sizes


def test_a_square_clip_and_where_its_noise_is_seen():
    generator = seeded(lambda: LowResolutionGenerator(SMALL))
    noise = noise_of(SMALL, 2, 8)
    with torch.no_grad():
        video = generator(noise, 8)
        changed = noise.clone()
        changed[1, :, : noise.shape[2] // 2] += 1
        other = generator(changed, 8)
    assert video.shape == (2, 8, 3, 16, 16)
    assert torch.equal(other[0], video[0])  # a clip's noise is its own
    assert not torch.allclose(other[1], video[1])


def test_longer_clips_begin_and_end_around_the_same_middle():
    # Noise in the middle, filters and crops are centred: 8 and 40 frames share those of the middle but for the borders,
    # where zeros are padded 8 steps of 32 frames away.
    generator = seeded(lambda: LowResolutionGenerator(SMALL))
    noise = noise_of(SMALL, 1, 72)
    with torch.no_grad():
        long = generator(noise, 72)
        short = generator(centre(noise, SMALL.noise_shape(8)[1], 2), 8)
    middle = centre(long, 8, 1)
    assert (middle - short).abs().max() < 1e-3 * middle.abs().max()


def test_magnitudes_move_in_passes_that_ask_for_it():
    generator = seeded(lambda: LowResolutionGenerator(SMALL))
    block = generator.temporal_layers[0]
    seen = []
    block.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    noise = noise_of(SMALL, 2, 8)
    with torch.no_grad():
        generator(noise, 8)
        assert float(block.input_magnitude_ema_0.magnitude_ema) == 1
        generator(noise, 8, 0.75)
    expected = 0.75 + 0.25 * float(seen[1].square().mean())
    assert float(block.input_magnitude_ema_0.magnitude_ema) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("frames", "side", "shape"), [(8, 16, (2, 2)), (16, 32, (2, 4)), (128, 64, (16, 4))])
def test_the_low_resolution_discriminator_of_other_sizes(frames, side, shape):
    config = DiscriminatorConfig(frames, side, width=8, channel_divisor=16)
    assert config.out_shape() == shape
    with torch.device("meta"):
        logits = LowResolutionDiscriminator(config)(torch.zeros(2, frames, 3, side, side, device="meta"))
    assert logits.shape == (2,)


def test_a_wide_clip_is_a_square_one_with_black_rows():
    discriminator = seeded(lambda: LowResolutionDiscriminator(DiscriminatorConfig(4, 16, 8, 16)))
    wide = torch.randn(2, 4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(discriminator(wide), discriminator(functional.pad(wide, (0, 0, 2, 2))))


def test_the_official_layers():
    plan = layer_samplings(UpsamplerConfig(144, 256, 36, 64))
    assert [(*one.size, one.channels) for one in plan] == [
        *[(36, 29, 512)] * 3, *[(52, 38, 512)] * 2, *[(84, 56, 512)] * 2, *[(148, 92, 512)] * 2, (148, 92, 362),
        (276, 164, 256), (276, 164, 181), (276, 164, 128), (256, 144, 128), (256, 144, 3),
    ]  # fmt: skip


def test_each_large_frame_sees_its_own_neighbours():
    generator = seeded(lambda: SuperResolutionGenerator(LARGER))
    low = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        video = generator(low, z)
        changed = low.clone()
        changed[1, 0] += 1  # two frames before the first that is made
        other = generator(changed, z)
        window = generator(low[:, 1:6], z)
    assert video.shape == (2, 4, 3, 32, 32)
    assert torch.equal(other[0], video[0]) and torch.equal(other[1, 1:], video[1, 1:])
    assert not torch.allclose(other[1, 0], video[1, 0])
    # A window over the frames gives what the whole clip gives there: no frame knows its number.
    assert window[:, 0].numpy() == pytest.approx(video[:, 1].numpy(), abs=1e-5)


def test_a_pair_of_clips_has_one_logit():
    discriminator = seeded(lambda: SuperResolutionDiscriminator(PairConfig(2, 32, 16, channel_base=64, channel_max=4)))
    low, high = torch.zeros(3, 2, 3, 16, 16), torch.randn(3, 2, 3, 32, 32)
    with torch.no_grad():
        assert discriminator(low, high).shape == (3,)
        assert torch.equal(discriminator(low, high), discriminator(torch.zeros_like(high), high))
