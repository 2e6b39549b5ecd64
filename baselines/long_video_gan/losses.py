"""The losses of both stages for each clip, and how their networks are called: draws, augmentations, windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavita.diffusion.rng import SampleRNG
from lavita.methods.adversarial import Adam, discriminator_loss, generator_loss, r1_penalty
from lavita.nn.augmentation import BGC, augment, draw_transforms

from .augmentation import INPUT, INPUT_PROBABILITY, augmented, draw_changes
from .low_resolution import TIME_SCALE, LowResolutionGenerator
from .low_resolution_discriminator import LowResolutionDiscriminator
from .super_resolution import SuperResolutionGenerator
from .super_resolution_discriminator import SuperResolutionDiscriminator

GENERATOR_ADAM = Adam(0.003, 0.0, 0.99)
DISCRIMINATOR_ADAM = Adam(0.002, 0.0, 0.99)  # of low resolution, before the correction for lazy regularisation
PAIR_ADAM = Adam(0.003, 0.0, 0.99)  # of the super-resolution discriminator, likewise
R1_INTERVAL = 16  # updates of the discriminator for one of R1 alone, which counts as often
R1_GAMMA = 1.0
MAGNITUDE_STAYS = 0.999  # of the running magnitudes, in the generator's pass for its discriminator
LOW_SEEN = 0.1  # probability that the discriminator of pairs is shown the small clip


def windows(video: Tensor, start: Tensor, frames: int) -> Tensor:
    """Of each clip (B, F, ...) so many frames from its own start (B,) on."""
    number = start[:, None] + torch.arange(frames, device=video.device)  # (B, frames)
    return video[torch.arange(len(video), device=video.device)[:, None], number]


def made_smaller(video: Tensor, side: int) -> Tensor:
    """Square clips (B, F, 3, H, H) at a side that divides theirs: each pixel the mean of those it covers."""
    return functional.avg_pool2d(video.flatten(0, 1), video.shape[-1] // side).unflatten(0, video.shape[:2])


def low_resolution_clips(generator: LowResolutionGenerator, frames: int, rng: SampleRNG, updates: bool) -> Tensor:
    """Small clips (B, frames, 3, h, w) for training, each cut out of a longer one at a start of its own, so that all
    phases of the slowest layer are seen. updates: the running magnitudes move.
    """
    length = frames + TIME_SCALE
    noise = rng.normal(generator.config.noise_shape(length))
    start = rng.integers(TIME_SCALE)
    return windows(generator(noise, length, MAGNITUDE_STAYS if updates else 1.0), start, frames)


def low_resolution_logits(discriminator: LowResolutionDiscriminator, video: Tensor, rng: SampleRNG) -> Tensor:
    """Logits (B,) of small clips, which are changed at random first."""
    return discriminator(augmented(video, draw_changes(rng, video.shape[1], *video.shape[-2:])))


class LowResolutionLosses:
    """What the low-resolution stage minimises, of small real clips (B, F, 3, h, w), each (B,).

    Source: Brooks et al. 2022 (arXiv:2206.03429), section 3.1 and appendix C; recorded figures for what they don't say.
    """

    def __init__(self, generator: LowResolutionGenerator, discriminator: LowResolutionDiscriminator) -> None:
        self.generator, self.discriminator = generator, discriminator

    def of_generator(self, frames: int, rng: SampleRNG) -> Tensor:
        made = low_resolution_clips(self.generator, frames, rng, updates=False)
        return generator_loss(low_resolution_logits(self.discriminator, made, rng))

    def of_discriminator(self, real: Tensor, rng: SampleRNG, updates: bool = True) -> tuple[Tensor, Tensor]:
        """The loss, and the logits of real clips. updates: the generator's running magnitudes move first."""
        with torch.no_grad():
            made = low_resolution_clips(self.generator, real.shape[1], rng, updates)
        fake_logits = low_resolution_logits(self.discriminator, made, rng)
        real_logits = low_resolution_logits(self.discriminator, real, rng)
        return discriminator_loss(real_logits, fake_logits), real_logits

    def of_r1(self, real: Tensor, rng: SampleRNG) -> Tensor:
        """The regulariser's own update: gamma / 2 of the penalty, as often as it is left out."""
        real = real.detach().requires_grad_()
        with torch.enable_grad():
            penalty = r1_penalty(low_resolution_logits(self.discriminator, real, rng), real)
        return R1_INTERVAL * R1_GAMMA / 2 * penalty


def distorted(low: Tensor, rng: SampleRNG) -> Tensor:
    """Small clips as the super-resolution networks are given them in training, context frames included."""
    transforms = draw_transforms(INPUT, INPUT_PROBABILITY, rng)
    return augment(low, INPUT, transforms, rng.normal(low.shape[1:]))


class SuperResolutionLosses:
    """What the super-resolution stage minimises, of small real clips (B, T + 2 c, 3, h, w) and the large ones of their
    middle (B, T, 3, H, W), each (B,). p: of the augmentations before the discriminator.

    Source: Brooks et al. 2022, section 3.2 and appendix C; the project's description of the official loop for what they
    don't say.
    """

    def __init__(self, generator: SuperResolutionGenerator, discriminator: SuperResolutionDiscriminator) -> None:
        self.generator, self.discriminator = generator, discriminator

    def logits(self, low: Tensor, high: Tensor, p: Tensor | float, rng: SampleRNG) -> Tensor:
        """Of pairs of the same frames: both are transformed alike, then most small clips are hidden."""
        both = torch.cat([self.discriminator.enlarged(low), high], dim=1)  # (B, 2 T, 3, H, W)
        both = augment(both, BGC, draw_transforms(BGC, p, rng))
        low, high = both.chunk(2, dim=1)
        seen = (rng.uniform() < LOW_SEEN).to(low.dtype)
        return self.discriminator(low * seen.view(-1, 1, 1, 1, 1), high)

    def middle(self, low: Tensor) -> Tensor:
        """Small clips without their context."""
        context = self.generator.config.context
        return low[:, context : low.shape[1] - context]

    def made(self, low: Tensor, rng: SampleRNG, updates: bool) -> Tensor:
        """Large clips, each from one latent."""
        return self.generator(low, rng.normal((self.generator.config.z_dim,)), updates)

    def of_generator(self, low: Tensor, p: Tensor | float, rng: SampleRNG) -> Tensor:
        low = distorted(low, rng)
        return generator_loss(self.logits(self.middle(low), self.made(low, rng, updates=False), p, rng))

    def of_discriminator(
        self, low: Tensor, high: Tensor, p: Tensor | float, rng: SampleRNG, updates: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the logits of real clips. updates: the generator's running statistics move first."""
        given = distorted(low, rng)
        with torch.no_grad():
            made = self.made(given, rng, updates)
        fake_logits = self.logits(self.middle(given), made, p, rng)
        real_logits = self.logits(self.middle(distorted(low, rng)), high, p, rng)
        return discriminator_loss(real_logits, fake_logits), real_logits

    def of_r1(self, low: Tensor, high: Tensor, p: Tensor | float, rng: SampleRNG) -> Tensor:
        """The regulariser's own update, by the large clips alone."""
        high = high.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(distorted(self.middle(low), rng), high, p, rng)
            penalty = r1_penalty(logits, high)
        return R1_INTERVAL * R1_GAMMA / 2 * penalty


@torch.no_grad()
def generated(
    low_resolution: LowResolutionGenerator, super_resolution: SuperResolutionGenerator, frames: int, rng: SampleRNG
) -> Tensor:
    """Clips (B, frames, 3, H, W) in [-1, 1] out of the averaged networks: one latent of the second for a whole clip."""
    length = frames + 2 * super_resolution.config.context
    low = low_resolution(rng.normal(low_resolution.config.noise_shape(length)), length)  # (B, length, 3, h, w)
    return super_resolution(low, rng.normal((super_resolution.config.z_dim,))).clamp(-1, 1)
