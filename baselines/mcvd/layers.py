"""Layers of MCVD's U-Net: dropout by clip, group norms that time and frames modulate, FIR resampling, attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import GroupNorm, full, in_float32

NEARLY_ZERO = 1e-10  # factor of the variance of weights that start next to 0
ATTENTION_SCALE = 0.1  # the same for queries, keys and values
SPATIN_EPS = ATTENTION_EPS = 1e-6
LOW_32_BITS = 0xFFFFFFFF


@torch.no_grad()
def initialised(layer: nn.Module, scale: float = 1.0) -> nn.Module:
    """The layer with uniform weights of variance scale / (mean of fan in and fan out), and biases of 0."""
    weight = layer.weight
    fans = (weight.shape[0] + weight.shape[1]) / 2 * math.prod(weight.shape[2:])
    limit = math.sqrt(3 * scale / fans)
    nn.init.uniform_(weight, -limit, limit)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(width: int, out_width: int, scale: float = 1.0, size: int = 3) -> nn.Module:
    """A convolution that keeps the size of its input."""
    return initialised(nn.Conv2d(width, out_width, size, padding=size // 2), scale)


def num_groups(width: int) -> int:
    """Groups of every group norm: the largest divisor of the width that is at most min(width // 4, 32)."""
    return next(groups for groups in range(max(1, min(width // 4, 32)), 0, -1) if width % groups == 0)


def hashed(x: Tensor) -> Tensor:
    """A hash of whole numbers below 2**32, int64, to the same range.

    Source: Chris Wellons, "Prospecting for Hash Functions" (2018), lowbias32: nullprogram.com/blog/2018/07/31.
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW_32_BITS
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW_32_BITS
    return x ^ (x >> 16)


def dropped(x: Tensor, probability: float, seeds: Tensor, layer: int) -> Tensor:
    """x (B, ...) with entries set to 0 at this probability, the others divided by the rest.

    Which ones follows from the clip's seed (B,), int64 below 2**32, the number of the layer and the place in the clip:
    the same on every device, for every batch, and when a block is computed a second time.
    """
    place = hashed(torch.arange(x[0].numel(), device=x.device))  # (N,)
    stream = hashed((seeds + layer * 0x9E3779B9) & LOW_32_BITS)  # (B,)
    kept = hashed(place ^ stream[:, None]) >= int(probability * 2**32)  # (B, N)
    return x * kept.view_as(x) / (1 - probability)


class TimeEmbedding(nn.Module):
    """Sinusoids of the label (B,) -> (B, width), sines first, periods up to 10000. Source: Ho et al. 2020's code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    @in_float32
    def forward(self, label: Tensor) -> Tensor:
        angles = label[:, None].float() * self.frequencies.float()  # (B, width / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 in mixed precision too: those of the time embedding."""

    forward = in_float32(nn.Linear.forward)


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 in mixed precision too: the last one."""

    forward = in_float32(nn.Conv2d.forward)


class SpatialNorm(nn.Module):
    """SPATIN: a group norm without weights whose scale and shift at every pixel come from the given frames.

    x (B, D, h, w), given (B, C, H, W) -> (B, D, h, w). Source: Voleti et al. 2022, section 3.3; Park et al. 2019.
    """

    def __init__(self, width: int, given_channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = GroupNorm(num_groups(width), width, eps=SPATIN_EPS, affine=False)
        self.mlp_shared = nn.Sequential(convolution(given_channels, hidden), nn.SiLU())
        self.mlp_gamma, self.mlp_beta = convolution(hidden, width), convolution(hidden, width)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        hidden = self.mlp_shared(functional.interpolate(given, x.shape[-2:], mode="nearest"))  # (B, hidden, h, w)
        return modulated(self.norm(x), self.mlp_gamma(hidden), self.mlp_beta(hidden))


@in_float32
def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x times (1 + scale) plus shift, in float32."""
    return x * (1 + scale) + shift


def norm_of(width: int, given_channels: int, spatin: int | None) -> nn.Module:
    """SPATIN of so many hidden channels, or a plain group norm without weights."""
    if spatin is None:
        return GroupNorm(num_groups(width), width, affine=False)
    return SpatialNorm(width, given_channels, spatin)


def normed(norm: nn.Module, x: Tensor, given: Tensor) -> Tensor:
    return norm(x, given) if isinstance(norm, SpatialNorm) else norm(x)


class TimeNorm(nn.Module):
    """A norm, then scale and shift from the time embedding (B, E): x (B, D, h, w) -> the same shape."""

    def __init__(self, width: int, embed_width: int, given_channels: int, spatin: int | None) -> None:
        super().__init__()
        self.Dense_0 = initialised(Float32Linear(embed_width, 2 * width))
        self.Norm_0 = norm_of(width, given_channels, spatin)

    def forward(self, x: Tensor, emb: Tensor, given: Tensor) -> Tensor:
        scale, shift = self.Dense_0(functional.silu(emb))[:, :, None, None].chunk(2, dim=1)  # (B, D, 1, 1) each
        return modulated(normed(self.Norm_0, x, given), scale, shift)


class LastNorm(nn.Module):
    """The norm at the end: no time; its own weights where the given frames do not modulate it."""

    def __init__(self, width: int, given_channels: int, spatin: int | None) -> None:
        super().__init__()
        plain = spatin is None
        self.Norm_0 = GroupNorm(num_groups(width), width) if plain else norm_of(width, given_channels, spatin)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return normed(self.Norm_0, x, given)


class Resample(nn.Module):
    """Half or twice the height and width, (B, D, h, w), through the filter [1, 3, 3, 1] / 8 along both, zeros beyond
    the edge; doubled along both going up, where every second value is 0 before.

    Source: Zhang 2019; Song et al. 2021 (score SDE), appendix H.
    """

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        along = doubled if self.up else halved
        return along(along(x).transpose(-1, -2)).transpose(-1, -2)


def halved(x: Tensor) -> Tensor:
    """Half the last axis, (..., w) -> (..., w / 2)."""
    wide = functional.pad(x, (1, 1))
    return (wide[..., :-3:2] + wide[..., 3::2] + 3 * (wide[..., 1:-2:2] + wide[..., 2:-1:2])) / 8


def doubled(x: Tensor) -> Tensor:
    """Twice the last axis, (..., w) -> (..., 2 w)."""
    wide = functional.pad(x, (1, 1))
    even, odd = (wide[..., :-2] + 3 * x) / 4, (3 * x + wide[..., 2:]) / 4
    return torch.stack([even, odd], dim=-1).flatten(-2)


class ResBlock(nn.Module):
    """Two convolutions, each after a norm that time modulates, (B, D, h, w) -> (B, D', h', w').

    Dropout is on where seeds (B,) are given. Source: Song et al. 2021 (NCSN++), appendix H; Voleti et al. 2022.
    """

    def __init__(
        self, width: int, out_width: int, embed_width: int, given_channels: int, spatin: int | None,
        dropout: float, layer: int, resample: Resample | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout, self.layer, self.resample = dropout, layer, resample
        self.actnorm0 = TimeNorm(width, embed_width, given_channels, spatin)
        self.Conv_0 = convolution(width, out_width)
        self.actnorm1 = TimeNorm(out_width, embed_width, given_channels, spatin)
        self.Conv_1 = convolution(out_width, out_width, NEARLY_ZERO)
        self.Conv_2 = convolution(width, out_width, size=1) if width != out_width or resample is not None else None

    def forward(self, x: Tensor, emb: Tensor, given: Tensor, seeds: Tensor | None) -> Tensor:
        h = functional.silu(self.actnorm0(x, emb, given))  # (B, D, h, w)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)  # (B, D, h', w')
        h = functional.silu(self.actnorm1(self.Conv_0(h), emb, given))  # (B, D', h', w')
        if seeds is not None and self.dropout:
            h = dropped(h, self.dropout, seeds, self.layer)
        skip = x if self.Conv_2 is None else full(self.Conv_2(x))  # (B, D', h', w')
        return (skip + self.Conv_1(h)) / math.sqrt(2)


class Matrix(nn.Module):
    """A linear layer whose matrix is stored as (in, out), (..., D) -> (..., D)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        limit = math.sqrt(3 * scale / width)
        self.W = nn.Parameter(torch.empty(width, width).uniform_(-limit, limit))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.W.t(), self.b)


class Attention(nn.Module):
    """Residual self-attention over all pixels, (B, D, h, w) -> (B, D, h, w), in heads of head_width channels."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.GroupNorm_0 = GroupNorm(num_groups(width), width, eps=ATTENTION_EPS)
        self.NIN_0, self.NIN_1, self.NIN_2 = (Matrix(width, ATTENTION_SCALE) for _ in range(3))  # query, key, value
        self.NIN_3 = Matrix(width, NEARLY_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)  # (B, N, D)
        heads = [
            matrix(tokens).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, heads, N, head width)
            for matrix in (self.NIN_0, self.NIN_1, self.NIN_2)
        ]
        h = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)  # (B, N, D)
        return (x + self.NIN_3(h).transpose(1, 2).unflatten(-1, x.shape[-2:])) / math.sqrt(2)
