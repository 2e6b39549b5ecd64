"""Losses of both stages: what they depend on, what they move, and that clips stand alone."""

from __future__ import annotations

import pytest
import torch

from lavita.baselines.long_video_gan import losses
from lavita.baselines.long_video_gan.losses import (
    LowResolutionLosses,
    SuperResolutionLosses,
    generated,
    made_smaller,
    windows,
)
from lavita.baselines.long_video_gan.low_resolution import GeneratorConfig, LowResolutionGenerator
from lavita.baselines.long_video_gan.low_resolution_discriminator import (
    DiscriminatorConfig,
    LowResolutionDiscriminator,
)
from lavita.baselines.long_video_gan.super_resolution import SuperResolutionGenerator, UpsamplerConfig
from lavita.baselines.long_video_gan.super_resolution_discriminator import PairConfig, SuperResolutionDiscriminator
from lavita.diffusion.rng import SampleRNG

LOW = GeneratorConfig(8, 8, embedding_dim=8, latent_dim=8, filters=4, min_rate=20, max_rate=60, channel_divisor=64)
SEEDS = [9, 10, 11]
HIGH = UpsamplerConfig(16, 16, 8, 8, context=1, z_dim=8, w_dim=8, channel_base=64, channel_max=4)


@pytest.fixture
def low():
    torch.manual_seed(0)
    return LowResolutionLosses(
        LowResolutionGenerator(LOW), LowResolutionDiscriminator(DiscriminatorConfig(4, 8, 8, 16))
    )


@pytest.fixture
def high():
    torch.manual_seed(0)
    return SuperResolutionLosses(
        SuperResolutionGenerator(HIGH), SuperResolutionDiscriminator(PairConfig(2, 16, 8, 64, 4))
    )


def clips(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rng(*seeds: int) -> SampleRNG:
    return SampleRNG(seeds or (1, 2, 3))


def magnitudes(network) -> list[float]:
    return [float(value) for name, value in network.named_buffers() if name.endswith("magnitude_ema")]


def test_windows_begin_where_they_are_told():
    video = torch.arange(12).view(2, 6)
    assert windows(video, torch.tensor([0, 3]), 3).tolist() == [[0, 1, 2], [9, 10, 11]]


def test_smaller_clips_are_means_of_squares():
    video = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 2, 3, 4, 4)
    assert made_smaller(video, 2)[0, 1, 2].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_the_generator_alone_is_moved_by_its_loss(low):
    loss = low.of_generator(4, rng())
    assert loss.shape == (3,)
    loss.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in low.generator.parameters())
    assert magnitudes(low.generator) == [1.0] * 21


def test_the_discriminator_is_moved_without_the_generator_whose_magnitudes_move(low):
    loss, real_logits = low.of_discriminator(clips(3, 4, 3, 8, 8), rng())
    assert loss.shape == real_logits.shape == (3,)
    loss.mean().backward()
    assert all(value.grad is None for value in low.generator.parameters())
    assert all(value != 1.0 for value in magnitudes(low.generator))


def test_the_penalty_is_the_squared_slope_of_the_logit_before_augmentation(low):
    # Central differences in float64 along random directions: the mean of (slope along a unit Gaussian direction)^2 is
    # the squared norm of the gradient; here the gradient itself is compared along one direction.
    low.discriminator.double()
    real = clips(1, 4, 3, 8, 8).double()
    direction = clips(1, 4, 3, 8, 8, seed=1).double()

    def logit(x):
        return float(losses.low_resolution_logits(low.discriminator, x, rng(5)).detach())

    slope = (logit(real + 1e-6 * direction) - logit(real - 1e-6 * direction)) / 2e-6
    point = real.clone().requires_grad_()
    losses.low_resolution_logits(low.discriminator, point, rng(5)).sum().backward()
    assert float((point.grad * direction).sum()) == pytest.approx(slope, rel=1e-4)
    expected = 16 / 2 * float(point.grad.square().sum())
    assert float(low.of_r1(real, rng(5)).detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("update", ["generator", "discriminator", "r1"])
def test_a_clip_alone_has_the_loss_that_it_has_beside_others(low, high, update):
    small, pair = clips(3, 4, 3, 8, 8), (clips(3, 4, 3, 8, 8), clips(3, 2, 3, 16, 16, seed=1))

    def of_low(k):
        if update == "generator":
            return low.of_generator(4, SampleRNG(SEEDS[k]))
        if update == "discriminator":
            return low.of_discriminator(small[k], SampleRNG(SEEDS[k]), updates=False)[0]
        return low.of_r1(small[k], SampleRNG(SEEDS[k]))

    def of_high(k):
        draws, a, b = SampleRNG(SEEDS[k]), pair[0][k], pair[1][k]
        if update == "generator":
            return high.of_generator(a, 0.4, draws)
        if update == "discriminator":
            return high.of_discriminator(a, b, 0.4, draws, updates=False)[0]
        return high.of_r1(a, b, 0.4, draws)

    for loss in (of_low, of_high):
        together = loss(slice(None))
        for k in range(3):
            # Reflected margins are as wide as the furthest clip of a batch needs: rounding of the grid's coordinates.
            assert float(loss(slice(k, k + 1)).detach()) == pytest.approx(float(together[k].detach()), rel=1e-4)


def test_the_super_resolution_losses_move_their_own_network(high):
    small, large = clips(3, 4, 3, 8, 8), clips(3, 2, 3, 16, 16, seed=1)
    high.of_generator(small, 0.5, rng()).mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in high.generator.parameters())
    assert magnitudes(high.generator) == [1.0] * 15
    high.generator.zero_grad(set_to_none=True)
    high.discriminator.zero_grad(set_to_none=True)
    loss, _ = high.of_discriminator(small, large, 0.5, rng())
    loss.mean().backward()
    assert all(value.grad is None for value in high.generator.parameters())
    assert all(value.grad is not None for value in high.discriminator.parameters())
    assert all(value != 1.0 for value in magnitudes(high.generator))
    assert high.generator.SG3.mapping.w_avg.any()


def test_small_clips_are_shown_to_one_discriminator_in_ten(high):
    shown = []
    high.discriminator.forward = lambda small, large: (
        shown.append(small.abs().sum((1, 2, 3, 4)) > 0) or small[:, 0, 0, 0, 0]
    )
    high.logits(
        torch.ones(1, 2, 3, 8, 8).expand(500, -1, -1, -1, -1), torch.ones(500, 2, 3, 16, 16), 0.0, rng(*range(500))
    )
    # 50 of 500 expected; four standard deviations are 27.
    assert 23 < int(shown[0].sum()) < 77


def test_a_generated_clip_is_its_seeds(low, high):
    both = generated(low.generator.eval(), high.generator.eval(), 4, rng(3, 4))
    assert both.shape == (2, 4, 3, 16, 16)
    assert both.abs().max() <= 1
    alone = generated(low.generator, high.generator, 4, rng(4))
    assert torch.allclose(alone[0], both[1], atol=1e-5)
