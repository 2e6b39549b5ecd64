"""Pieces of PVDM's U-Net, applied to the three planes with the same weights, and the attention across them.

Layout: the xy plane (B, D, h, w), and the yt and xt planes, which have one shape, stacked on the batch axis
(2 B, D, F, w), so that every layer runs twice and not three times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Planes = tuple[Tensor, Tensor]  # xy (B, D, h, w); yt and xt stacked (2 B, D, F, w)


def normalization(width: int) -> nn.GroupNorm:
    """Group norm over 32 groups."""
    return nn.GroupNorm(32, width)


def pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of length one on the last axis, (..., D) -> (..., D')."""
    return functional.linear(x, layer.weight[..., 0], layer.bias)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero, so that its branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Upsample(nn.Module):
    """Twice the height and width by repetition; with a 3x3 convolution where learned."""

    def __init__(self, width: int, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)  # (B, D, 2 h, 2 w)


class Downsample(nn.Module):
    """Half the height and width, by a strided 3x3 convolution where learned, else by averaging."""

    def __init__(self, width: int, learned: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # (B, D, h / 2, w / 2)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding between them, (B, D, h, w) -> (B, D', h', w').

    Source: Dhariwal & Nichol 2021, section 3 (residual block with adaptive group norm, BigGAN resampling).
    """

    def __init__(
        self, width: int, out_width: int, embed_width: int, film: bool, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.film, self.resample = film, resample
        self.in_layers = nn.Sequential(normalization(width), nn.SiLU(), nn.Conv2d(width, out_width, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed_width, (2 if film else 1) * out_width))
        self.out_layers = nn.Sequential(
            normalization(out_width),
            nn.SiLU(),
            nn.Dropout(0.0),
            zeroed(nn.Conv2d(out_width, out_width, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if width == out_width else nn.Conv2d(width, out_width, 1)

    def forward(self, planes: Planes, emb: Tensor) -> Planes:
        emb = self.emb_layers(emb)[:, :, None, None]  # (B, D' or 2 D', 1, 1)
        xy, temporal = planes
        return self.convolve(xy, emb), self.convolve(temporal, torch.cat([emb, emb]))

    def convolve(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:-1](x)  # (B, D, h, w)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)  # (B, D, h', w')
        h = self.in_layers[-1](h)  # (B, D', h', w')
        if self.film:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)  # (B, D', h', w')
        else:
            h = self.out_layers(h + emb)  # (B, D', h', w')
        return self.skip_connection(x) + h


class SequenceAttention(nn.Module):
    """Residual self-attention over all positions, (B, D, N) -> (B, D, N).

    Source: Dhariwal & Nichol 2021, section 3; heads are split before query, key and value are.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = normalization(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = zeroed(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        # The 1x1 convolutions run as linear layers on (B, N, D), the layout that attention wants anyway.
        qkv = pointwise(self.qkv, self.norm(x).transpose(1, 2))  # (B, N, 3 D)
        heads = qkv.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, h, N, 3 c)
        h = functional.scaled_dot_product_attention(*heads.chunk(3, dim=-1))  # (B, h, N, c)
        return x + pointwise(self.proj_out, h.transpose(1, 2).flatten(2)).transpose(1, 2)  # (B, D, N)


class PlaneAttention(SequenceAttention):
    """Self-attention inside each plane."""

    def forward(self, planes: Planes) -> Planes:
        xy, temporal = (super(PlaneAttention, self).forward(x.flatten(2)).view_as(x) for x in planes)
        return xy, temporal


class CrossPlaneAttention(SequenceAttention):
    """Self-attention over the positions of all three planes: where they meet. Source: PVDM, section 3.2."""

    def forward(self, planes: Planes) -> Planes:
        xy, temporal = planes
        yt, xt = temporal.chunk(2)
        parts = [xy.flatten(2), yt.flatten(2), xt.flatten(2)]
        joint = super().forward(torch.cat(parts, dim=-1))  # (B, D, N)
        new_xy, new_yt, new_xt = joint.split([part.shape[-1] for part in parts], dim=-1)
        return new_xy.reshape(xy.shape), torch.cat([new_yt, new_xt]).view_as(temporal)


class Layers(nn.Sequential):
    """Layers applied in order to both planes; residual blocks also read the time embedding."""

    def forward(self, planes: Planes, emb: Tensor) -> Planes:
        for layer in self:
            if isinstance(layer, ResBlock):
                planes = layer(planes, emb)
            elif isinstance(layer, PlaneAttention):
                planes = layer(planes)
            else:
                planes = (layer(planes[0]), layer(planes[1]))
        return planes
