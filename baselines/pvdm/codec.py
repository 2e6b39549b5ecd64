"""PVDM's autoencoder under the contract of a codec, so that its reconstruction is scored like the suite's own."""

from __future__ import annotations

from torch import Tensor

from lavita.codec.base import Codec
from lavita.diffusion.draws import ClipDraws

from .autoencoder import TriplaneAutoencoder


class TriplaneCodec(Codec):
    """Clip float32 (B, F, 3, H, W) in [-1, 1] <-> latent of three planes float32 (B, C, N) in (-1, 1).

    A view: it holds the autoencoder that it is given, trained or not, and has no weights of its own. Encoding is
    deterministic, so the draws are not used.
    """

    name = "pvdm-triplane"

    def __init__(self, autoencoder: TriplaneAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.latent_channels = autoencoder.config.embed_dim
        self.downsample = autoencoder.config.patch_size

    def encode(self, video: Tensor, draws: ClipDraws) -> Tensor:
        return self.autoencoder.encode(video)  # (B, C, N)

    def decode(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent).clamp(-1, 1)  # (B, F, 3, H, W)

    def latent_bound(self) -> float:
        return 1.0
