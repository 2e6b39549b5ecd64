"""Diffusion in the suite's autoencoder by IDDPM, video to loss: what all transformers of the comparison share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lavita.config.schema import SamplingConfig
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import check_guidance, guided, sample_latent
from lavita.diffusion.schedule import Schedule
from lavita.methods.base import MethodContext, VideoMethod
from lavita.shapes import check


class LatentDiffusion(VideoMethod):
    """Noise prediction with learned variance on latents. Subclasses define `build_network`.

    The network takes x (B, F, C, h, w), t (B,) in 0..999 and y int64 (B,) or None, and returns (B, F, 2C, h, w).
    Source: Nichol & Dhariwal 2021; Peebles & Xie 2023.
    """

    unchanged = ("codec",)

    def __init__(self, context: MethodContext, config: Any) -> None:
        super().__init__(context, config)
        self.codec = context.codec.requires_grad_(False).eval()
        self.reads_latents = self.codec.has_posterior
        self.schedule = Schedule.linear()
        side = self.codec.latent_side(context.resolution)
        self.latent_shape = (context.num_frames, self.codec.latent_channels, side, side)
        self.network = self.build_network()

    def build_network(self) -> nn.Module:
        """The denoiser for self.latent_shape (F, C, h, w), self.context.num_classes and self.config."""
        raise NotImplementedError("a latent method defines build_network")

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x0 = self.clip_latent(batch, rng)  # (B, F, C, h, w)
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(x0.shape[1:])  # (B, F, C, h, w)
        y, y_images = self.labels(batch["label"], rng), None  # (B,) or None
        if self.joint_images:
            # Drawn after the clip, so that its time, noise and label are those of training without images.
            images, y_images = self.images(batch, rng)  # (B, n, C, h, w), (B, n) or None
            x0 = torch.cat([x0, images], dim=1)  # (B, F + n, C, h, w)
            noise = torch.cat([noise, rng.normal(images.shape[1:])], dim=1)  # (B, F + n, C, h, w)
        x_t = self.schedule.add_noise(x0, t, noise)  # (B, F + n, C, h, w)
        eps, v = self.predict(x_t, t, y, y_images).chunk(2, dim=2)  # (B, F + n, C, h, w) each
        return hybrid_loss(self.schedule, x0, t, noise, eps, v)

    def predict(self, x_t: Tensor, t: Tensor, y: Tensor | None, y_images: Tensor | None) -> Tensor:
        """The network's output in training, (B, F + n, 2C, h, w), for x_t (B, F + n, C, h, w).

        A method that sets joint_images = n overrides this: the last n frames are images with labels y_images (B, n).
        """
        return self.network(x_t, t, y)  # (B, F, 2C, h, w)

    @torch.no_grad()
    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        """Latent (B, F, C, h, w) of a clip, of which the autoencoder gets no gradient."""
        return self.codec.encode(video, rng)

    def clip_latent(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """Latent (B, F, C, h, w) of the clips of a batch: encoded, or drawn from their stored moments."""
        if "moments" in batch:
            return self.drawn(batch["moments"], "moments", self.context.num_frames, rng)
        self.check_batch(batch)
        return self.encode(batch["video"], rng)

    @torch.no_grad()
    def drawn(self, moments: Tensor, name: str, frames: int, rng: SampleRNG) -> Tensor:
        """Latents (B, frames, C, h, w) from stored moments (B, frames, 2 C, h, w)."""
        _, channels, side, _ = self.latent_shape
        check(moments, "B F C H W", name, F=frames, C=2 * channels, H=side, W=side)
        return self.codec.draw(moments, rng)

    def images(self, batch: dict[str, Tensor], rng: SampleRNG) -> tuple[Tensor, Tensor | None]:
        """Latents (B, n, C, h, w) and labels (B, n) of the images of joint training; None without classes."""
        side, n = self.context.resolution, self.joint_images
        if "image_moments" in batch:
            latents = self.drawn(batch["image_moments"], "image_moments", n, rng)  # (B, n, C, h, w)
        elif "images" in batch:
            check(batch["images"], "B N 3 H W", "images", N=n, H=side, W=side)
            latents = self.encode(batch["images"], rng)  # (B, n, C, h, w)
        else:
            raise ValueError(
                f"joint training: got a batch without images, wanted {n} a clip (ClipDataModule(images={n}))"
            )
        if self.context.num_classes is None:
            return latents, None
        labels = [self.labels(label, rng) for label in batch["image_labels"].unbind(1)]  # n of (B,)
        return latents, torch.stack(labels, dim=1)  # (B, n)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_generation(sampling, condition)
        rng = SampleRNG(seeds, self.device)
        latent = sample_latent(
            sampling.sampler,
            sampling.steps,
            self.denoiser(classes, sampling),
            self.schedule,
            rng.normal(self.latent_shape),
            lambda step: rng.normal(self.latent_shape),
            sampling.eta,
            sampling.clip_denoised,
            self.codec.latent_bound(),
        )  # (n, F, C, h, w)
        return self.codec.decode(latent)  # (n, F, 3, H, W)

    def denoiser(self, classes: Tensor | None, sampling: SamplingConfig):
        """The network as a function of (x, t), guided where the suite has classes."""
        null = self.context.num_classes
        check_guidance(sampling.guidance, null, classes)
        if classes is None or null is None:
            return lambda x, t: self.network(x, t, None)
        return guided(self.network, classes.to(self.device), null, sampling.guidance, sampling.guided_channels)
