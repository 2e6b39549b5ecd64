"""Latents as the diffusion sees them: shifted and scaled to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lavita.training import distributed


def scaled(z: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The autoencoder's latent as the diffusion sees it; shift and scale are (). The shift comes first."""
    return scale * (z + shift)


def unscaled(latent: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    return latent / scale - shift


class LatentScale(nn.Module):
    """Shift and scale of one autoencoder's latents, one number each for all channels, and the largest magnitude of a
    latent as the diffusion sees it; 0, 1 and infinity until they are measured. Source: LVDM's configurations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bound", torch.full((), torch.inf))

    def apply_to(self, z: Tensor) -> Tensor:
        """The autoencoder's latent z as the diffusion sees it."""
        return scaled(z, self.shift, self.scale)

    def undo(self, latent: Tensor) -> Tensor:
        """The autoencoder's latent of what the diffusion sees."""
        return unscaled(latent, self.shift, self.scale)

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Take the numbers that give latents, those of all processes together, mean 0 and variance 1."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.shift.device)  # count, values, squares
        ends = torch.full((2,), -torch.inf, dtype=torch.float64, device=self.shift.device)  # largest, minus smallest
        for z in (latent.double() for latent in latents):
            sums += torch.stack([torch.ones_like(z).sum(), z.sum(), z.square().sum()])
            ends = torch.maximum(ends, torch.stack([z.max(), -z.min()]))
        if distributed.world() > 1:
            sums, ends = distributed.total(sums), distributed.largest(ends)
        mean = sums[1] / sums[0]
        scale = (sums[2] / sums[0] - mean.square()).rsqrt()
        self.shift.copy_(-mean)
        self.scale.copy_(scale)
        self.bound.copy_(scale * torch.maximum(ends[0] - mean, ends[1] + mean))
