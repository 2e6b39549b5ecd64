"""DiT, the image diffusion transformer, on video: every frame by itself, or all space-time tokens together.

Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"; state-dict names as in
github.com/facebookresearch/DiT at ed81ce2. Joint attention: Arnab et al. 2021 (ViViT), model 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lavita.nn.blocks import FinalLayer, ModulatedBlock, add_time, initialise_linear, unpatchify, zero_init
from lavita.nn.embeddings import LabelEmbedder, PatchEmbed, TimestepEmbedder, frozen_sincos_table, sincos_1d, sincos_2d
from lavita.shapes import check

# name: (depth, width, heads): the official sizes, and XXS and XS, which are ours, for a CPU.
SIZES = {
    "XXS": (4, 64, 2), "XS": (6, 128, 4), "S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}  # fmt: skip
MODES = ("frame", "joint")


@dataclass(frozen=True)
class DiTConfig:
    """What fixes every tensor shape of a DiT. side in latent pixels, width in channels.

    num_frames is needed in joint mode only, where time has a table; in frame mode any number of frames goes.
    """

    depth: int
    width: int
    num_heads: int
    patch_size: int
    channels: int
    side: int
    num_classes: int | None = None
    null_class: bool = True
    mode: str = "frame"
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"model.mode: got {self.mode!r}, allowed {', '.join(MODES)}")
        if self.side % self.patch_size:
            raise ValueError(
                f"model.patch_size: {self.patch_size} does not divide the {self.side}-pixel side of the "
                "latents; choose a divisor"
            )
        if self.mode == "joint" and not self.num_frames:
            raise ValueError(f"model.mode=joint needs the number of frames, got {self.num_frames}")


class DiT(nn.Module):
    """x (B, F, C, H, W), t (B,) in 0..999, y (B,) or None -> noise and variance (B, F, 2C, H, W), float.

    y holds class indices, num_classes meaning "no label". In frame mode frames never meet: given t and y they
    are independent, as if each were an image. In joint mode every token attends to all tokens of the clip.
    Source: Peebles & Xie 2023, section 3.2 and figure 3.
    """

    sizes = SIZES

    def __init__(self, shape: DiTConfig) -> None:
        super().__init__()
        self.shape = s = shape
        self.x_embedder = PatchEmbed(s.patch_size, s.channels, s.width)
        self.t_embedder = TimestepEmbedder(s.width)
        if s.num_classes is not None:
            self.y_embedder = LabelEmbedder(s.num_classes, s.width, null_row=s.null_class)
        self.pos_embed = frozen_sincos_table(sincos_2d(s.side // s.patch_size, s.width))  # (1, N, D)
        if s.mode == "joint":
            table = sincos_1d(np.arange(s.num_frames, dtype=np.float64), s.width)
            # Not persistent: a joint network keeps the keys of an official image checkpoint.
            self.register_buffer("time_table", torch.from_numpy(table).float()[None], persistent=False)
        self.blocks = nn.ModuleList(ModulatedBlock(s.width, s.num_heads) for _ in range(s.depth))
        self.final_layer = FinalLayer(s.width, s.patch_size, 2 * s.channels)
        self.initialise()

    def initialise(self) -> None:
        """The authors' start: Xavier linear layers, 0.02 embeddings, zero modulation and output."""
        initialise_linear(self)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        if self.shape.num_classes is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        zero_init(self)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        s = self.shape
        fixed = {"F": s.num_frames} if s.mode == "joint" else {}
        sizes = check(x, "B F C H W", "DiT input", C=s.channels, H=s.side, W=s.side, **fixed)
        patches = self.x_embedder(rearrange(x, "b f c h w -> (b f) c h w"))  # (B F, N, D)
        x = rearrange(patches + self.pos_embed, "(b f) n d -> b f n d", f=sizes["F"])  # (B, F, N, D)
        if s.mode == "joint":
            x = rearrange(add_time(x, self.time_table), "b f n d -> b 1 (f n) d")  # (B, 1, F N, D)
        c = self.condition(t, y)  # (B, 1, D)
        for block in self.blocks:
            x = block(x, c)  # (B, F, N, D), joint: (B, 1, F N, D)
        x = self.final_layer(x, c)  # (B, F, N, p p 2C), joint: (B, 1, F N, p p 2C)
        if s.mode == "joint":
            x = rearrange(x, "b 1 (f n) d -> b f n d", f=sizes["F"])  # (B, F, N, p p 2C)
        return unpatchify(x, s.patch_size)  # (B, F, 2C, H, W)

    def condition(self, t: Tensor, y: Tensor | None) -> Tensor:
        """One conditioning vector a clip, (B, 1, D): the same t and class for all of its frames."""
        c = self.t_embedder(t)  # (B, D)
        if self.shape.num_classes is not None:
            if y is None:
                raise ValueError("DiT was built with classes: y is needed (num_classes stands for no label)")
            c = c + self.y_embedder(y)  # (B, D)
        return c[:, None]  # (B, 1, D)
