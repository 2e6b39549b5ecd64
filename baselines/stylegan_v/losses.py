"""What a clip's two updates compute: which frames are seen, the generator's loss, the discriminator's with R1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.diffusion.rng import SampleRNG
from lavita.methods.adversarial import discriminator_loss, generator_loss, r1_penalty
from lavita.nn.augmentation import AugmentConfig, augment, draw_transforms
from lavita.training import distributed

from .discriminator import Discriminator
from .generator import Generator

LARGEST_SPAN = 32  # frames from the first to the last that the discriminator sees


def spans(length: int, count: int) -> list[int]:
    """Distances from the first to the last of `count` frames of a clip with `length`: powers of two that have room.

    Raises ValueError where there is none.
    """
    allowed = [2**power for power in range(6) if count - 1 <= 2**power <= min(length - 1, LARGEST_SPAN)]
    if not allowed:
        raise ValueError(f"{count} frames at a distance that is a power of two have no room in clips of {length}")
    return allowed


def frame_times(length: int, count: int, rng: SampleRNG, whole: bool) -> Tensor:
    """Times of `count` frames of each clip, ascending, float32 (B, count), in frames from the clip's first.

    The span is drawn from `spans`, then where it begins: at a frame (whole, for real clips), or anywhere (generated
    ones); the frames between are whole steps from the first, distinct.
    Source: StyleGAN-V, section 3.3, and its released training settings.
    """
    allowed = spans(length, count)
    span = torch.tensor(allowed, device=rng.device)[rng.integers(len(allowed))]  # (B,)
    start, keys = rng.uniform(), rng.normal((allowed[-1] - 1,))
    start = (start * (length - span)).floor() if whole else start * (length - span - 1)  # (B,)
    between = torch.arange(1, allowed[-1], device=rng.device)  # candidates
    keys = keys.masked_fill(between >= span[:, None], -float("inf"))
    inner = keys.topk(count - 2, dim=1).indices.sort(dim=1).values + 1  # (B, count - 2)
    steps = torch.cat([torch.zeros_like(span)[:, None], inner, span[:, None]], dim=1)  # (B, count)
    return start[:, None] + steps


def frames_at(video: Tensor, t: Tensor) -> Tensor:
    """The frames (B, T, 3, H, W) of clips (B, F, 3, H, W) at whole times t (B, T)."""
    return video[torch.arange(len(video), device=video.device)[:, None], t.long()]


@dataclass(frozen=True)
class Players:
    """Both networks and how they are trained: count: frames that the discriminator sees of a clip of `length`. pipe:
    augmentations, at the probability p. path: fused and mixed of the generator. diversity: weight of the similarity of
    motion styles. gamma: of R1, which every `interval`-th update of the discriminator has.
    """

    generator: Generator
    discriminator: Discriminator
    length: int
    count: int
    pipe: AugmentConfig
    p: Tensor
    fused: bool
    mixed: int
    diversity: float
    gamma: float
    interval: int

    def generated(self, c: Tensor | None, rng: SampleRNG) -> tuple[Tensor, Tensor, Tensor]:
        """New clips' frames (B, T, 3, R, R), their times (B, T), and the similarity of motion styles ()."""
        config = self.generator.config
        t = frame_times(self.length, self.count, rng, whole=False)
        z = rng.normal((config.z_dim,))
        noise = rng.normal((config.motion.trajectory(self.length - 1), config.motion.noise_dim))
        frames, similarity, w = self.generator(z, t, noise, c, fused=self.fused, mixed=self.mixed)
        if self.generator.training:
            self.generator.mapping.update_average(distributed.mean(w.detach().mean(0)))
        return frames, t, similarity

    def logits(self, frames: Tensor, t: Tensor, c: Tensor | None, rng: SampleRNG) -> Tensor:
        """The discriminator's logits (B,) of frames (B, T, 3, R, R) after augmentation."""
        transforms = draw_transforms(self.pipe, self.p, rng)
        noise = rng.normal(frames.shape[1:]) if self.pipe.noise else None
        return self.discriminator(augment(frames, self.pipe, transforms, noise), t, c)[0]

    def generator_update(self, c: Tensor | None, rng: SampleRNG) -> dict[str, Tensor]:
        """Parts of the generator's loss, (B,) each; the discriminator gets no gradient.

        Source: StyleGAN-V, section 3.3; MoStGAN-V, equation 8 (diversity).
        """
        with without_gradient(self.discriminator):
            frames, t, similarity = self.generated(c, rng)
            adversarial = generator_loss(self.logits(frames, t, c, rng))  # (B,)
        parts = {"loss": adversarial, "generator": adversarial}
        if self.generator.config.styles is not None:
            parts["similarity"] = similarity.expand_as(adversarial)
            if self.diversity:
                parts["loss"] = adversarial + self.diversity * similarity
        return parts

    def discriminator_update(
        self, video: Tensor, c: Tensor | None, rng: SampleRNG, penalised: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Parts of the discriminator's loss, (B,) each, and the logits of the real clips (B, F, 3, H, W).

        penalised: with R1, whose weight is `interval` times what it would be in every update. Its gradient is by the
        frames before augmentation.
        """
        with torch.no_grad():
            fake, t_fake, _ = self.generated(c, rng)
        of_fake = self.logits(fake, t_fake, c, rng)
        t = frame_times(self.length, self.count, rng, whole=True)
        penalised = penalised and torch.is_grad_enabled()
        real = frames_at(video, t).requires_grad_(penalised)
        of_real = self.logits(real, t, c, rng)
        loss = discriminator_loss(of_real, of_fake)  # (B,)
        parts = {"loss": loss, "discriminator": loss}
        if penalised:
            penalty = r1_penalty(of_real, real, kept_axes=2).mean(1)  # (B,), mean over frames
            parts |= {"loss": loss + self.interval * self.gamma / 2 * penalty, "r1": penalty}
        return parts, of_real.detach()


@contextmanager
def without_gradient(network: nn.Module) -> Iterator[None]:
    """Inside, the parameters of a network need no gradient; what goes through it may."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
