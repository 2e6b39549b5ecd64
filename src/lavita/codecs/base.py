"""The contract of a codec: clip <-> latent. Frozen while a method trains; shared by all latent methods of a suite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lavita.diffusion.rng import SampleRNG
from lavita.shapes import slices

# Pixels of the frames that go through a codec's network at a time where no gradient is wanted: 32 frames of 256x256,
# which Stable Diffusion's autoencoder encodes in 5.4 GB and decodes in 6.4 GB of float32, and 2,048 of 32x32. Its
# largest tensor has 256 values a pixel, so a quarter of 2^31, beyond which kernels count wrong.
PIXELS_AT_ONCE = 32 * 256 * 256


def in_chunks(call: Callable[[Tensor], Tensor], values: Tensor, pixels: int, network: nn.Module) -> Tensor:
    """call(values) along the first axis, (n, ...), for at most PIXELS_AT_ONCE at a time; one item has `pixels`.

    Where a gradient is wanted, of the values or of the network, all go through at once: what it keeps would not be
    bounded by this.
    """
    parts = slices(len(values), pixels, PIXELS_AT_ONCE)
    if len(parts) < 2 or wants_gradient(values, network):
        return call(values)
    return torch.cat([call(values[part]) for part in parts])


def wants_gradient(values: Tensor, network: nn.Module) -> bool:
    """Whether a call of the network with values is recorded for a backward pass."""
    return torch.is_grad_enabled() and (
        values.requires_grad or any(parameter.requires_grad for parameter in network.parameters())
    )


class Codec(nn.Module):
    """Video float32 (B, F, 3, H, W) in [-1, 1] <-> latent float32 (B, F, C, h, w) of about unit variance.

    name says what it is in tables; downsample is H / h; trained_clips is what the suite spent on training it. However
    many clips it is given, it needs the memory of PIXELS_AT_ONCE (see `in_chunks`).
    """

    name: str
    latent_channels: int
    downsample: int
    trained_clips: int = 0
    has_posterior = True  # whether there are moments of a frame, from which its latent is drawn

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        """One draw of the latent of each clip, (B, F, C, h, w)."""
        raise NotImplementedError("an autoencoder defines encode")

    def moments(self, frames: Tensor) -> Tensor:
        """Mean and log-variance of the posterior of single frames: (n, 3, H, W) in [-1, 1] -> float32 (n, 2 C, h, w).

        Raises ValueError for an autoencoder that has none.
        """
        raise ValueError(
            f"data.latent_cache: autoencoder {self.name} has no posterior to store; set data.latent_cache=false"
        )

    def draw(self, moments: Tensor, rng: SampleRNG) -> Tensor:
        """The latent of each clip, (B, F, C, h, w), drawn from moments (B, F, 2 C, h, w) as `encode` draws it."""
        raise ValueError(f"autoencoder {self.name} has no posterior to draw from")

    def decode(self, latent: Tensor) -> Tensor:
        """Clip of each latent, (B, F, 3, H, W), clamped to [-1, 1]."""
        raise NotImplementedError("an autoencoder defines decode")

    def latent_side(self, resolution: int) -> int:
        """h of a clip of H = resolution pixels. Raises ValueError where it does not divide."""
        if resolution % self.downsample:
            raise ValueError(f"codec {self.name}: {resolution} pixels is not a multiple of {self.downsample}")
        return resolution // self.downsample

    def latent_bound(self) -> float:
        """The largest magnitude of real latents: sampling.clip_denoised clips a predicted x_0 to it."""
        raise NotImplementedError("an autoencoder defines latent_bound")


class PixelCodec(Codec):
    """Identity on (B, F, 3, H, W) in [-1, 1]; decode clamps."""

    name = "pixels"
    latent_channels = 3
    downsample = 1
    has_posterior = False

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        return video

    def decode(self, latent: Tensor) -> Tensor:
        return latent.clamp(-1, 1)

    def latent_bound(self) -> float:
        return 1.0
