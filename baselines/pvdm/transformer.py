"""The video transformers of PVDM's autoencoder: attention over time, then over space, and the projections.

Layout inside: tokens (B, F, P, D), P = side * side positions of a frame, side = resolution / patch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.models.embed import rotate


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder; the defaults are the official ones for 16 frames of 256 x 256 pixels."""

    embed_dim: int = 4
    channels: int = 384
    resolution: int = 256
    timesteps: int = 16
    splits: int = 1
    patch_size: int = 8
    depth: int = 8
    num_heads: int = 8
    head_width: int = 64
    projection_depth: int = 4
    projection_hidden: int = 512

    def __post_init__(self) -> None:
        if self.resolution % self.patch_size:
            raise ValueError(
                f"pvdm autoencoder: got resolution {self.resolution}, wanted a multiple of the patch size "
                f"{self.patch_size}; change one of the two"
            )
        if self.timesteps % self.splits:
            raise ValueError(
                f"pvdm autoencoder: got {self.timesteps} frames in {self.splits} splits, wanted equal splits"
            )
        if self.head_width % 4 or self.channels % 8:
            raise ValueError(
                f"pvdm autoencoder: got head_width {self.head_width} and channels {self.channels}, wanted "
                "multiples of 4 and 8 (axial positions and projection heads need them)"
            )

    @property
    def frames(self) -> int:
        """Frames of one projected piece."""
        return self.timesteps // self.splits

    @property
    def side(self) -> int:
        """Height and width of the xy plane."""
        return self.resolution // self.patch_size

    @property
    def latent_length(self) -> int:
        """Positions of the three planes together."""
        return self.side * (self.side + 2 * self.frames)


def frame_angles(num_frames: int, inv_freqs: Tensor) -> Tensor:
    """Angles (F, c) of the temporal positions.

    The frequencies are laid out in two halves while `rotate` turns neighbouring channels, so the two channels
    of a pair turn by different angles: that is what the released weights were trained with.
    """
    angles = torch.outer(torch.arange(num_frames, dtype=torch.float32), inv_freqs)
    return torch.cat([angles, angles], dim=-1)


def image_angles(side: int, scales: Tensor) -> Tensor:
    """Angles (side * side, c) of the spatial positions: rows in the first half of c, then columns."""
    line = torch.linspace(-1.0, 1.0, side)[:, None] * scales * math.pi  # (side, c / 4)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (side * side, c / 2)
    return angles.repeat_interleave(2, dim=-1)


class Frequencies(nn.Module):
    """A fixed table under its official key (for example `frame_rot_emb.inv_freqs`); it has no forward."""

    def __init__(self, name: str, table: Tensor) -> None:
        super().__init__()
        self.register_buffer(name, table)


class PreNorm(nn.Module):
    """LayerNorm before a layer; any further argument is passed on."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.fn = layer
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, *args) -> Tensor:
        return self.fn(self.norm(x), *args)


class Attention(nn.Module):
    """Self-attention over the second-last axis, (B, N, D) -> (B, N, D), or (B, 1, D) with first_only."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, first_only: bool = False) -> Tensor:
        qkv = rearrange(self.to_qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.num_heads)
        qk, v = (qkv[:2], qkv[2]) if rotary is None else (rotate(qkv[:2], rotary), qkv[2])
        q, k = qk.unbind()  # (B, heads, N, c) each
        if first_only:
            q = q[:, :, :1]  # (B, heads, 1, c)
        x = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, N, c)
        return self.to_out(rearrange(x, "b h n c -> b n (h c)"))  # (B, N, D)


class GatedGELU(nn.Module):
    """Half of the channels gates the other, (..., 2 D) -> (..., D). Source: Shazeer 2020, equation 6."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * functional.gelu(gate)


class FeedForward(nn.Module):
    """Two linear layers around an activation; the indices 0 and 3 are the official keys."""

    def __init__(self, width: int, first_width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, first_width), activation, nn.Dropout(0.0), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class VideoTransformer(nn.Module):
    """Blocks of temporal attention, spatial attention and MLP, (B, F, P, D) -> (B, F, P, D).

    Source: Bertasius et al. 2021 (TimeSformer), divided attention; rotary and axial rotary positions.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, c = config.channels, config.head_width
        inv_freqs = 1.0 / (10000 ** (torch.arange(0, c, 2).float() / c))
        scales = torch.logspace(0.0, math.log2(5.0), c // 4, base=2)
        self.frame_rot_emb = Frequencies("inv_freqs", inv_freqs)
        self.image_rot_emb = Frequencies("scales", scales)
        for name, angles in (
            ("time", frame_angles(config.frames, inv_freqs)),
            ("space", image_angles(config.side, scales)),
        ):
            self.register_buffer(f"{name}_cosine", angles.cos(), persistent=False)
            self.register_buffer(f"{name}_sine", angles.sin(), persistent=False)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, Attention(width, config.num_heads, c)),
                    PreNorm(width, Attention(width, config.num_heads, c)),
                    PreNorm(width, FeedForward(width, 8 * width, 4 * width, GatedGELU())),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        time, space = (self.time_cosine, self.time_sine), (self.space_cosine, self.space_sine)
        for time_attention, space_attention, feed_forward in self.layers:
            along_time = rearrange(x, "b f p d -> (b p) f d")
            x = x + rearrange(time_attention(along_time, time), "(b p) f d -> b f p d", b=b)  # (B, F, P, D)
            x = x + space_attention(x.flatten(0, 1), space).unflatten(0, (b, -1))  # (B, F, P, D)
            x = x + feed_forward(x)  # (B, F, P, D)
        return x


class VideoEncoder(VideoTransformer):
    """Patches of each frame, then the transformer: (B, F, 3, H, W) -> (B, F, P, D)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        self.patch_size = config.patch_size
        self.to_patch_embedding = nn.Linear(3 * config.patch_size**2, config.channels)

    def forward(self, video: Tensor) -> Tensor:
        p = self.patch_size
        patches = rearrange(video, "b f c (h p1) (w p2) -> b f (h w) (p1 p2 c)", p1=p, p2=p)
        return super().forward(self.to_patch_embedding(patches))  # (B, F, P, D)


class Projection(nn.Module):
    """A small transformer that reduces an axis to its first token, (B, N, D) -> (B, D).

    The last block is evaluated for that token alone: the others are never read.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, hidden = config.channels, config.projection_hidden
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, Attention(width, 4, width // 8)),
                    PreNorm(width, FeedForward(width, hidden, hidden, nn.GELU())),
                ]
            )
            for _ in range(config.projection_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for depth, (attention, feed_forward) in enumerate(self.layers, start=1):
            last = depth == len(self.layers)
            x = (x[:, :1] if last else x) + attention(x, None, last)  # (B, N or 1, D)
            x = x + feed_forward(x)  # (B, N or 1, D)
        return x[:, 0]  # (B, D)
