"""The discriminator of the super-resolution stage: StyleGAN2's, on small and large frames of a clip at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.resampling import upsample
from lavita.nn.stylegan2 import DiscriminatorBlock, DiscriminatorEpilogue

from .filters import Filter, triangle


@dataclass(frozen=True)
class PairConfig:
    """Sizes: frames of a pair of clips, the larger side of both, a power of two and a multiple of the smaller one.
    Channels at a side r are channel_base / r, at most channel_max.
    """

    frames: int
    side: int
    low_side: int
    channel_base: int = 16384
    channel_max: int = 512
    clamp: float = 256.0

    def channels(self, side: int) -> int:
        return min(self.channel_base // side, self.channel_max)


class SuperResolutionDiscriminator(nn.Module):
    """Small and large clips (B, F, 3, h, w) and (B, F, 3, H, W) -> logits (B,).

    Both are channels of one picture. No minibatch statistics. Source: Brooks et al. 2022 (arXiv:2206.03429), section
    3.2 and appendix B.
    """

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        c = self.config = config
        self.upsample = Filter(triangle(c.side // c.low_side))
        self.sides = []
        side = c.side
        while side > 4:
            first = 6 * c.frames if side == c.side else None
            channels = c.channels(side)
            block = DiscriminatorBlock(channels, channels, c.channels(side // 2), first, c.clamp)
            setattr(self, f"b{side}", block)
            self.sides.append(side)
            side //= 2
        self.b4 = DiscriminatorEpilogue(c.channels(4), c.channels(4), 1, group=None, clamp=c.clamp)

    def enlarged(self, low: Tensor) -> Tensor:
        """Small clips at the size of the large ones, linearly, zero outside."""
        return upsample(low, self.upsample.filter, self.config.side // self.config.low_side, axes=(3, 4))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low may be enlarged already."""
        if low.shape != high.shape:
            low = self.enlarged(low)
        x = torch.cat([low, high], dim=2)  # (B, F, 6, H, W)
        rows, columns = ((self.config.side - size) // 2 for size in x.shape[-2:])
        x = functional.pad(x, (columns, columns, rows, rows))
        x = x.transpose(1, 2).flatten(1, 2)  # (B, 6 F, side, side)
        for side in self.sides:
            x = getattr(self, f"b{side}")(x)  # (B, C, side / 2, side / 2)
        return self.b4(x)[0][:, 0]
