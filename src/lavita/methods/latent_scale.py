"""Latents as the diffusion sees them: shifted and scaled to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lavita.training import distributed


def scaled(z: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The autoencoder's latent as the diffusion sees it; shift broadcasts, scale is (). The shift comes first."""
    return scale * (z + shift)


def unscaled(latent: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    return latent / scale - shift


class LatentScale(nn.Module):
    """Shift and scale of one autoencoder's latents, and the largest magnitude of a latent as the diffusion sees it; 0,
    1 and `bound` until they are measured.

    The shift is one number (), or one a value of a latent, of the latent's shape; the scale is always one number.
    Source: LVDM's configurations, which have one number each.
    """

    def __init__(self, shape: tuple[int, ...] = (), bound: float = torch.inf) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bound", torch.full((), bound))

    def apply_to(self, z: Tensor) -> Tensor:
        """The autoencoder's latent z as the diffusion sees it."""
        return scaled(z, self.shift, self.scale)

    def undo(self, latent: Tensor) -> Tensor:
        """The autoencoder's latent of what the diffusion sees."""
        return unscaled(latent, self.shift, self.scale)

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Take the numbers that give latents (B, ...), those of all processes together, mean 0 and variance 1."""
        shape, device = self.shift.shape, self.shift.device
        sums = torch.zeros((3, *shape), dtype=torch.float64, device=device)  # count, values, squares
        ends = torch.full((2, *shape), -torch.inf, dtype=torch.float64, device=device)  # largest, minus smallest
        for z in (latent.double() for latent in latents):
            one_each = z.reshape(-1, *shape)  # of all latents, the values that share a shift
            sums += torch.stack([torch.ones_like(one_each).sum(0), one_each.sum(0), one_each.square().sum(0)])
            ends = torch.maximum(ends, torch.stack([one_each.amax(0), -one_each.amin(0)]))
        sums, ends = distributed.total(sums), distributed.largest(ends)
        mean = sums[1] / sums[0]
        scale = (sums[2] / sums[0] - mean.square()).mean().rsqrt()
        self.shift.copy_(-mean)
        self.scale.copy_(scale)
        self.bound.copy_(scale * torch.maximum(ends[0] - mean, ends[1] + mean).max())
