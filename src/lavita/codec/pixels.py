"""The codec that leaves clips as they are: a method then works in pixels."""

from __future__ import annotations

from torch import Tensor

from lavita.codec.base import Codec
from lavita.diffusion.draws import ClipDraws


class PixelCodec(Codec):
    """Identity on (B, F, 3, H, W) in [-1, 1]; decode clamps."""

    name = "pixels"
    latent_channels = 3
    downsample = 1

    def encode(self, video: Tensor, draws: ClipDraws) -> Tensor:
        return video

    def decode(self, latent: Tensor) -> Tensor:
        return latent.clamp(-1, 1)

    def latent_bound(self) -> float:
        return 1.0
