"""LAVITA, the latent video diffusion transformer in its four variants, one forward pass read top to bottom.

Source: "Latent Video Diffusion Models with Spatio-temporal Transformers" (ICLR 2024 submission) and Latte,
arXiv 2401.03048; state-dict names of variant 1 as in Vchitect/Latte@b27c24a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lavita.nn.blocks import (
    FactorisedBlock,
    FinalLayer,
    ModulatedBlock,
    ParallelBlock,
    TokenBlock,
    add_time,
    initialise_linear,
    unpatchify,
    zero_init,
)
from lavita.nn.embeddings import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    frozen_sincos_table,
    rotary_table,
    sincos_1d,
    sincos_2d,
)
from lavita.nn.precision import in_float32
from lavita.shapes import check

# name: (depth of variants 1 and 2, width, heads): DiT's sizes, and two for a CPU.
SIZES = {
    "XXS": (4, 64, 2), "XS": (6, 128, 4), "S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}  # fmt: skip


def depth_of_variant(variant: int, depth: int) -> int:
    """Blocks of a variant beside `depth` blocks of variant 1: a block of 3 or 4 has 22 D^2 weights, not 18 D^2."""
    return depth if variant in (1, 2) else round(depth * 18 / 22)


@dataclass(frozen=True)
class LavitaConfig:
    """What fixes every tensor shape of a LAVITA network. Sides in latent pixels, width in channels."""

    variant: int
    depth: int
    width: int
    num_heads: int
    patch_size: int
    num_frames: int
    channels: int
    side: int
    num_classes: int | None = None
    null_class: bool = True
    embedding: str = "uniform"
    tubelet_frames: int = 2
    conditioning: str = "s-adaln"
    time_positions: str = "sincos"

    def __post_init__(self) -> None:
        allowed = {
            "variant": (1, 2, 3, 4),
            "embedding": ("uniform", "compression"),
            "conditioning": ("s-adaln", "all-tokens"),
            "time_positions": ("sincos", "rotary"),
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise ValueError(f"model.{key}: got {getattr(self, key)!r}, allowed {', '.join(map(str, values))}")
        for key in ("depth", "width", "num_heads", "patch_size", "tubelet_frames"):
            if getattr(self, key) < 1:
                raise ValueError(f"model.{key}: got {getattr(self, key)}, wanted at least 1")
        if self.side % self.patch_size:
            raise ValueError(
                f"model.patch_size: {self.patch_size} does not divide the {self.side}-pixel side of the latents"
            )
        if self.variant in (1, 2) and self.depth % 2:
            raise ValueError(f"model.depth: variant {self.variant} needs an even number of blocks, got {self.depth}")
        if self.width % 4:
            raise ValueError(f"model.width: got {self.width}, wanted a multiple of 4 (sines and cosines of two axes)")
        if self.width % self.num_heads:
            raise ValueError(f"model.num_heads: got {self.num_heads}, wanted a divisor of model.width={self.width}")
        if self.variant == 4 and self.num_heads % 2:
            raise ValueError(
                f"model.num_heads: got {self.num_heads}, variant 4 wants an even number (half attend over time)"
            )
        if self.time_positions == "rotary" and self.width // self.time_heads % 2:
            raise ValueError(
                f"model.num_heads: got {self.num_heads} at model.width={self.width}; model.time_positions=rotary turns "
                f"pairs of channels and wants an even head width, not {self.width // self.time_heads}"
            )
        if self.embedding == "compression" and self.num_frames % self.tubelet_frames:
            raise ValueError(f"model.tubelet_frames: {self.tubelet_frames} does not divide {self.num_frames} frames")
        if self.conditioning == "all-tokens" and self.variant in (3, 4):
            raise ValueError("model.conditioning: all-tokens is defined for variants 1 and 2 (the paper studies 1)")

    @property
    def time_heads(self) -> int:
        """Heads of the attention over time: half of them in variant 4, where the other half attends over space."""
        return self.num_heads // 2 if self.variant == 4 else self.num_heads


class Lavita(nn.Module):
    """x (B, F, C, H, W), t (B,) in 0..999, y (B,) or None -> noise and variance (B, F, 2C, H, W), float.

    y holds class indices, num_classes meaning "no label". In image-video joint training the last num_images of the
    F frames are independent images with their own labels y_images (B, num_images); they never attend over time.
    """

    sizes = SIZES

    def __init__(self, shape: LavitaConfig) -> None:
        super().__init__()
        self.shape = shape
        s, width = shape, shape.width
        self.compress = s.tubelet_frames if s.embedding == "compression" else 1
        if self.compress == 1:
            self.x_embedder = PatchEmbed(s.patch_size, s.channels, width)
        else:
            kernel = (self.compress, s.patch_size, s.patch_size)
            self.x_embedder = nn.Conv3d(s.channels, width, kernel, stride=kernel)
            nn.init.xavier_uniform_(self.x_embedder.weight.view(width, -1))
            nn.init.zeros_(self.x_embedder.bias)
        self.t_embedder = TimestepEmbedder(width)
        if s.num_classes is not None:
            self.y_embedder = LabelEmbedder(s.num_classes, width, null_row=s.null_class)
        num_time = s.num_frames // self.compress
        self.pos_embed = frozen_sincos_table(sincos_2d(s.side // s.patch_size, width))  # (1, N, D)
        if s.time_positions == "sincos":
            self.temp_embed = frozen_sincos_table(sincos_1d(np.arange(num_time, dtype=np.float64), width))  # (1, T, D)
        else:
            cosine, sine = rotary_table(num_time, width // s.time_heads)
            self.register_buffer("rotary_cosine", cosine, persistent=False)
            self.register_buffer("rotary_sine", sine, persistent=False)
        by_variant = {1: ModulatedBlock, 2: ModulatedBlock, 3: FactorisedBlock, 4: ParallelBlock}
        block = TokenBlock if s.conditioning == "all-tokens" else by_variant[s.variant]
        self.blocks = nn.ModuleList(block(width, s.num_heads) for _ in range(s.depth))
        self.final_layer = FinalLayer(width, s.patch_size, 2 * s.channels, modulated=block is not TokenBlock)
        if self.compress > 1:
            kernel = (self.compress, 1, 1)
            self.frame_decoder = nn.ConvTranspose3d(2 * s.channels, 2 * s.channels, kernel, stride=kernel)
        self.initialise()

    def initialise(self) -> None:
        """DiT's start: Xavier linear layers, 0.02 embeddings, zero modulation and output."""
        initialise_linear(self)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        if self.shape.num_classes is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        zero_init(self)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, y_images: Tensor | None = None, num_images: int = 0
    ) -> Tensor:
        s = self.shape
        check(x, "B F C H W", "LAVITA input", F=s.num_frames + num_images, C=s.channels, H=s.side, W=s.side)
        if num_images and self.compress > 1:
            raise ValueError("joint training with images needs model.embedding=uniform: an image is no tubelet")
        x = self.embed(x) + self.pos_embed[:, None]  # (B, T + images, N, D)
        c_frames, c_clip = self.condition(t, y, y_images, num_images)
        x = self.run_blocks(x, c_frames, c_clip, num_video=x.shape[1] - num_images)  # (B, T + images, N, D)
        x = self.final_layer(x, None if s.conditioning == "all-tokens" else c_frames)  # (B, T + images, N, p p 2C)
        x = unpatchify(x, s.patch_size)  # (B, T + images, 2C, H, W)
        if self.compress > 1:
            x = self.decode_frames(x)
        return x  # (B, F, 2C, H, W)

    @in_float32
    def decode_frames(self, x: Tensor) -> Tensor:
        """Frames of each tubelet, (B, T, 2C, H, W) -> (B, F, 2C, H, W); part of the output, so float32."""
        return rearrange(self.frame_decoder(rearrange(x, "b t c h w -> b c t h w")), "b c f h w -> b f c h w")

    def embed(self, x: Tensor) -> Tensor:
        """Patches of each frame, or tubelets of `compress` frames: (B, F, C, H, W) -> (B, T, N, D)."""
        if self.compress > 1:
            tubelets = self.x_embedder(rearrange(x, "b f c h w -> b c f h w"))
            return rearrange(tubelets, "b d t h w -> b t (h w) d").contiguous()  # as those of PatchEmbed
        patches = self.x_embedder(rearrange(x, "b f c h w -> (b f) c h w"))
        return rearrange(patches, "(b f) n d -> b f n d", b=len(x))

    def condition(self, t: Tensor, y: Tensor | None, y_images: Tensor | None, num_images: int) -> tuple[Tensor, Tensor]:
        """Conditioning of every frame and of the clip, for spatial and temporal blocks.

        With S-AdaLN one vector, the sum of time and class: (B, 1 or T + images, D) and (B, 1, D). With all tokens
        K = 2 tokens, time and class (K = 1, time, without classes): (B, 1 + images, K, D) and (B, 1, K, D).
        """
        time = self.t_embedder(t)[:, None]  # (B, 1, D)
        label = self.label_vectors(y, y_images, num_images)  # (B, 1 + images, D) or None
        if self.shape.conditioning == "all-tokens":
            parts = [time.expand(-1, 1 + num_images, -1)] + ([] if label is None else [label])
            tokens = torch.stack(parts, dim=2)  # (B, 1 + images, K, D)
            return tokens, tokens[:, :1]
        if label is None:
            return time, time
        c = time + label  # (B, 1 + images, D)
        if not num_images:
            return c, c
        video = c[:, :1].expand(-1, self.shape.num_frames // self.compress, -1)  # (B, T, D)
        return torch.cat([video, c[:, 1:]], dim=1), c[:, :1]  # (B, T + images, D), (B, 1, D)

    def label_vectors(self, y: Tensor | None, y_images: Tensor | None, num_images: int) -> Tensor | None:
        """Class embedding of the clip and of each image, (B, 1 + images, D); None without classes."""
        if self.shape.num_classes is None:
            return None
        if y is None:
            raise ValueError("LAVITA was built with classes: y is needed (num_classes stands for no label)")
        if num_images and y_images is None:
            raise ValueError(f"joint training with {num_images} images and classes needs their labels y_images")
        labels = torch.cat([y[:, None], y_images], dim=1) if num_images else y[:, None]  # (B, 1 + images)
        return self.y_embedder(labels)  # (B, 1 + images, D)

    def rotary(self) -> tuple[Tensor, Tensor] | None:
        """Rotary tables over time, or None where the time positions are added."""
        if self.shape.time_positions == "sincos":
            return None
        return self.rotary_cosine, self.rotary_sine

    def run_blocks(self, x: Tensor, c_frames: Tensor, c_clip: Tensor, num_video: int) -> Tensor:
        """The variant's blocks on (B, F, N, D); what differs is where time is attended."""
        table = self.temp_embed if self.shape.time_positions == "sincos" else None
        if self.shape.variant in (3, 4):
            for index, block in enumerate(self.blocks):
                x = block(x, c_frames, num_video, self.rotary(), table if index == 0 else None)  # (B, F, N, D)
            return x
        half = len(self.blocks) // 2
        order = "st" * half if self.shape.variant == 1 else "s" * half + "t" * half
        state = {"s": c_frames, "t": c_clip}  # tokens are changed by the blocks, each kind of block has its own
        for index, (kind, block) in enumerate(zip(order, self.blocks, strict=True)):
            if kind == "s":
                x, state["s"] = self.run_one(block, x, state["s"], None)  # (B, F, N, D)
                continue
            if index == order.index("t") and table is not None:
                x = add_time(x, table)  # (B, F, N, D)
            video = rearrange(x[:, :num_video], "b f n d -> b n f d")  # (B, N, T, D)
            video, state["t"] = self.run_one(block, video, state["t"], self.rotary())  # (B, N, T, D)
            x = torch.cat([rearrange(video, "b n f d -> b f n d"), x[:, num_video:]], dim=1)  # (B, F, N, D)
        return x

    def run_one(self, block: nn.Module, x: Tensor, c: Tensor, rotary: tuple | None) -> tuple[Tensor, Tensor]:
        """One block of either kind of conditioning; returns tokens and the (possibly updated) conditioning."""
        if isinstance(block, TokenBlock):
            return block(x, c, token_rotary(rotary, c.shape[2]))
        return block(x, c, rotary), c


def token_rotary(rotary: tuple[Tensor, Tensor] | None, num_tokens: int) -> tuple[Tensor, Tensor] | None:
    """Rotary tables with `num_tokens` unrotated positions in front, for conditioning tokens."""
    if rotary is None:
        return None
    cosine, sine = (nn.functional.pad(table, (0, 0, num_tokens, 0)) for table in rotary)
    cosine[:num_tokens] = 1.0
    return cosine, sine
