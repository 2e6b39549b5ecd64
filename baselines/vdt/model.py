"""VDT, the video diffusion transformer with modular temporal attention, one forward pass read top to bottom.

Source: Lu et al. 2023, "VDT: General-purpose Video Diffusion Transformers via Mask Modeling" (2305.13311);
state-dict names as in github.com/RERV/VDT at cdbad2b, models.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lavita.nn.blocks import (
    FinalLayer,
    ModulatedBlock,
    SelfAttention,
    add_time,
    attend,
    initialise_linear,
    unpatchify,
    zero_init,
)
from lavita.nn.embeddings import LabelEmbedder, PatchEmbed, TimestepEmbedder, frozen_sincos_table, sincos_1d, sincos_2d
from lavita.nn.precision import LayerNorm
from lavita.shapes import check

# name: (depth, width, heads): S and L are the official sizes; XXS, XS and B are ours (for a
# CPU, and DiT-B's numbers); a block of XXS has two attentions, so three of them cost what four of the others do.
SIZES = {"XXS": (3, 64, 2), "XS": (6, 128, 4), "S": (12, 384, 6), "B": (12, 768, 12), "L": (28, 1152, 16)}


@dataclass(frozen=True)
class VDTConfig:
    """What fixes every tensor shape of a VDT. side in latent pixels, width in channels.

    The label table has num_classes + 1 rows, also in unconditional use, where the official ones have a class.
    """

    depth: int
    width: int
    num_heads: int
    patch_size: int
    num_frames: int
    channels: int
    side: int
    num_classes: int = 1

    def __post_init__(self) -> None:
        if self.side % self.patch_size:
            raise ValueError(
                f"model.patch_size: {self.patch_size} does not divide the {self.side}-pixel side of the "
                "latents; choose a divisor"
            )


class VDTBlock(ModulatedBlock):
    """Temporal attention, then DiT's modulated spatial attention and MLP; tokens (B, F, N, D), c (B, 1, D).

    The temporal part is not modulated: an affine norm, attention over the frames of each position, one more
    linear layer, and a plain residual sum, so unlike the rest of the block it does not start as the identity.
    Source: Lu et al. 2023, section 3.2, figure 3; RERV/VDT at cdbad2b for the linear layer.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.temporal_norm1 = LayerNorm(width)
        self.temporal_attn = SelfAttention(width, num_heads)
        self.temporal_fc = nn.Linear(width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = rearrange(self.temporal_norm1(x), "b f n d -> b n f d")  # (B, N, F, D)
        y = rearrange(attend(self.temporal_attn, y), "b n f d -> b f n d")  # (B, F, N, D)
        x = x + self.temporal_fc(y)  # (B, F, N, D)
        return super().forward(x, c)  # (B, F, N, D)


class VDT(nn.Module):
    """x (B, F, C, H, W), t (B,) in 0..999, y (B,) or None -> noise and variance (B, F, 2C, H, W), float.

    y holds rows of the label table: 0..num_classes-1 are classes, num_classes means "no label". Without y
    row 0 is added, as in official sampling.
    """

    sizes = SIZES

    def __init__(self, shape: VDTConfig) -> None:
        super().__init__()
        self.shape = s = shape
        self.x_embedder = PatchEmbed(s.patch_size, s.channels, s.width)
        self.t_embedder = TimestepEmbedder(s.width)
        self.y_embedder = LabelEmbedder(s.num_classes, s.width)
        self.pos_embed = frozen_sincos_table(sincos_2d(s.side // s.patch_size, s.width))  # (1, N, D)
        frames = np.arange(s.num_frames, dtype=np.float64)
        self.time_embed = frozen_sincos_table(sincos_1d(frames, s.width))  # (1, F, D)
        self.blocks = nn.ModuleList(VDTBlock(s.width, s.num_heads) for _ in range(s.depth))
        self.final_layer = FinalLayer(s.width, s.patch_size, 2 * s.channels)
        self.initialise()

    def initialise(self) -> None:
        """The authors' start: Xavier linear layers, 0.02 embeddings, zero modulation and output."""
        initialise_linear(self)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        zero_init(self)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        s = self.shape
        check(x, "B F C H W", "VDT input", F=s.num_frames, C=s.channels, H=s.side, W=s.side)
        patches = self.x_embedder(rearrange(x, "b f c h w -> (b f) c h w")) + self.pos_embed  # (B F, N, D)
        x = rearrange(patches, "(b f) n d -> b f n d", f=s.num_frames)  # (B, F, N, D)
        x = add_time(x, self.time_embed)  # (B, F, N, D)
        label = torch.zeros_like(t, dtype=torch.int64) if y is None else y  # (B,)
        c = (self.t_embedder(t) + self.y_embedder(label))[:, None]  # (B, 1, D)
        for block in self.blocks:
            x = block(x, c)  # (B, F, N, D)
        x = self.final_layer(x, c)  # (B, F, N, p p 2C)
        return unpatchify(x, s.patch_size)  # (B, F, 2C, H, W)
