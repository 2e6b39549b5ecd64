"""Embeddings: patches, diffusion time, class labels, fixed sine-cosine positions and rotary positions."""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lavita.nn.precision import in_float32


class PatchEmbed(nn.Module):
    """Non-overlapping p x p patches of an image, (B, C, H, W) -> (B, N, D); row-major over space.

    Source: Dosovitskiy et al. 2021, section 3.1; DiT, section 3.2.
    """

    def __init__(self, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous: blocks are compiled once for each layout of their tokens.
        return rearrange(self.proj(x), "b d h w -> b (h w) d").contiguous()  # (B, N, D)


class TimestepFeatures(nn.Module):
    """Sinusoidal features of diffusion time, (B,) -> (B, dim) float32, cosines first.

    Source: Vaswani et al. 2017, section 3.5, in the order that IDDPM and DiT use.
    """

    def __init__(self, dim: int, max_period: float = 10000.0) -> None:
        super().__init__()
        self.dim, half = dim, dim // 2
        frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)  # (dim / 2,), where the network is

    @in_float32
    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies.float()[None]  # (B, dim / 2)
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)  # (B, dim)
        return torch.cat([features, torch.zeros_like(features[:, :1])], dim=-1) if self.dim % 2 else features


class TimestepEmbedder(nn.Module):
    """Diffusion time (B,) -> (B, D), float32 in mixed precision too. Source: DiT, section 3.2."""

    def __init__(self, width: int, num_features: int = 256) -> None:
        super().__init__()
        self.features = TimestepFeatures(num_features)
        self.mlp = nn.Sequential(nn.Linear(num_features, width), nn.SiLU(), nn.Linear(width, width))

    @in_float32
    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(self.features(t).to(next(self.mlp.parameters()).dtype))  # (B, D)


class LabelEmbedder(nn.Module):
    """Class index (...,) -> (..., D); the row after the last class stands for "no label".

    Labels are dropped by the caller, who owns the random generator. Source: Ho & Salimans 2022; DiT, section 3.2.
    """

    def __init__(self, num_classes: int, width: int, null_row: bool = True) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + int(null_row), width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)  # (..., D)


def sincos_1d(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed table for positions (N,) -> float64 (N, width): sines, then cosines, base 10000.

    Source: Vaswani et al. 2017, section 3.5, sines and cosines in two halves as in MAE and DiT.
    """
    if width % 2:
        raise ValueError(f"sincos_1d: width {width} is odd, wanted an even number")
    frequencies = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = np.outer(positions.reshape(-1), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(side: int, width: int) -> np.ndarray:
    """Fixed table of a side x side grid, float64 (side * side, width), row-major.

    The first half of the width encodes the column, the second half the row, as in MAE and DiT.
    """
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    halves = [sincos_1d(axis.astype(np.float64), width // 2) for axis in (columns, rows)]
    return np.concatenate(halves, axis=1)


def frozen_sincos_table(table: np.ndarray) -> nn.Parameter:
    """A position table as a float32 parameter (1, N, D) without gradient, so that it is kept in a state dict."""
    # Not from_numpy, which would stay on the CPU where a network is built without memory (meta device).
    return nn.Parameter(torch.tensor(table, dtype=torch.float32)[None], requires_grad=False)


def rotary_table(num_positions: int, head_width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, float32 (num_positions, head_width), for `rotate`.

    Source: Su et al. 2021 (RoFormer), equation 15.
    """
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    angles = torch.repeat_interleave(angles, 2, dim=-1)  # (N, head_width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs of channels by their position's angle, (..., N, c) -> (..., N, c), at least in float32.

    Source: Su et al. 2021 (RoFormer), equation 34.
    """
    wide = torch.promote_types(x.dtype, torch.float32)  # half-precision angles would be those of other positions
    cosine, sine = (table.to(wide) for table in tables)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)  # (..., N, c)
    return (x * cosine + turned * sine).to(x.dtype)
