"""LVDM's second stage: a U-Net over space whose attention blocks also attend over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.embeddings import TimestepFeatures
from lavita.nn.precision import Float32Layers
from lavita.nn.unet import GROUPS, normalization, pointwise, zeroed

SPACE, PADDING = (1, 3, 3), (0, 1, 1)  # a convolution's kernel: time is mixed in attention only


@dataclass(frozen=True)
class UNetConfig:
    """Sizes: width of the first level, multiples of it for each level, depth residual blocks a level (one more on the
    way up), attention at these reductions of the sides. temporal_length: the largest distance in time that relative
    positions distinguish. num_labels: rows of the table that is added to the time embedding, None for no table.
    """

    in_channels: int
    out_channels: int
    width: int
    multiples: tuple[int, ...]
    attention: tuple[int, ...]
    depth: int
    num_heads: int
    temporal_length: int
    num_labels: int | None = None

    def __post_init__(self) -> None:
        for multiple in self.multiples:
            if self.width * multiple % GROUPS or self.width * multiple % self.num_heads:
                raise ValueError(
                    f"model.width: a level has {self.width * multiple} channels, wanted a multiple of {GROUPS} (norm "
                    f"groups) and of {self.num_heads} heads"
                )


class Downsample(nn.Module):
    """Half the height and width, by a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv3d(width, width, SPACE, stride=(1, 2, 2), padding=PADDING)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # (B, D, T, h / 2, w / 2)


class Upsample(nn.Module):
    """Twice the height and width, by repetition and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, SPACE, padding=PADDING)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))  # (B, D, T, 2 h, 2 w)


class ResBlock(nn.Module):
    """Two convolutions, the time embedding as scale and shift after the second norm, (B, D, T, h, w) -> (B, D', ...).

    Source: Dhariwal & Nichol 2021, section 3 (adaptive group norm).
    """

    def __init__(self, width: int, out_width: int, embed_width: int) -> None:
        super().__init__()
        first = nn.Conv3d(width, out_width, SPACE, padding=PADDING)
        self.in_layers = nn.Sequential(normalization(width), nn.SiLU(), first)
        self.emb_layers = Float32Layers(nn.SiLU(), nn.Linear(embed_width, 2 * out_width))
        last = zeroed(nn.Conv3d(out_width, out_width, SPACE, padding=PADDING))
        # The released list has a dropout of 0 in the third place; its names count it.
        self.out_layers = nn.Sequential(normalization(out_width), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if width == out_width else nn.Conv3d(width, out_width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb_layers(emb)[:, :, None, None, None].chunk(2, dim=1)  # (B, D', 1, 1, 1) each
        h = self.out_layers[0](self.in_layers(x)) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class RelativePositions(nn.Module):
    """A learned vector for each distance in time, clamped to -L to L, shared by all heads.

    Source: Shaw et al. 2018, section 3.2.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.embeddings_table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * length + 1, width)))

    def forward(self, frames: int) -> Tensor:
        """Vector of every pair of frames, (T, T, c): entry (i, j) is that of the distance j - i."""
        position = torch.arange(frames, device=self.embeddings_table.device)
        distance = (position[None] - position[:, None]).clamp(-self.length, self.length)
        return self.embeddings_table[distance + self.length]


class SpaceTimeAttention(nn.Module):
    """Self-attention over the positions of each frame, then over the frames at each position, each added to its input;
    (B, D, T, h, w) -> the same.

    Source: LVDM, section 3.2; github.com/YingqingHe/LVDM at d251dcc, lvdm/models/modules/openaimodel3d.py.
    """

    def __init__(self, width: int, num_heads: int, temporal_length: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_s, self.norm_t = normalization(width), normalization(width)
        self.qkv_s, self.qkv_t = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, 3 * width, 1)
        self.relative_position_k = RelativePositions(temporal_length, width // num_heads)
        self.relative_position_v = RelativePositions(temporal_length, width // num_heads)
        self.proj_out_s, self.proj_out_t = zeroed(nn.Conv1d(width, width, 1)), zeroed(nn.Conv1d(width, width, 1))

    def heads(self, layer: nn.Conv1d, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B', heads, N, c) of x (B', D, N)."""
        qkv = pointwise(layer, x.transpose(1, 2)).unflatten(-1, (3, self.num_heads, -1))  # (B', N, 3, heads, c)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        frames = x.transpose(1, 2).flatten(3).flatten(0, 1)  # (B T, D, h w)
        q, k, v = self.heads(self.qkv_s, self.norm_s(frames))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B T, h w, D)
        frames = frames + pointwise(self.proj_out_s, out).transpose(1, 2)
        lines = frames.unflatten(0, (b, t)).permute(0, 3, 2, 1).flatten(0, 1)  # (B h w, D, T)
        q, k, v = self.heads(self.qkv_t, self.norm_t(lines))
        out = self.over_time(q, k, v).transpose(1, 2).flatten(2)  # (B h w, T, D)
        lines = lines + pointwise(self.proj_out_t, out).transpose(1, 2)
        return lines.unflatten(0, (b, h, w)).permute(0, 3, 4, 1, 2).contiguous()

    def over_time(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with relative positions, (B', heads, T, c) each.

        The key term stands transposed: the logit of query i and key j gets that of query j and key i. Shaw et al. have
        it the other way round; released weights were trained with it as it is here. The table is not scaled.
        """
        frames, fourth_root = q.shape[2], q.shape[3] ** 0.25
        q, k = q / fourth_root, k / fourth_root
        of_keys = torch.einsum("bhic,ijc->bhij", q, self.relative_position_k(frames).to(q.dtype))
        logits = q @ k.transpose(-2, -1) + of_keys.transpose(-2, -1)
        at_least_float32 = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.softmax(dim=-1, dtype=at_least_float32).to(v.dtype)  # (B', heads, T, T)
        of_values = torch.einsum("bhij,ijc->bhic", weights, self.relative_position_v(frames).to(v.dtype))
        return weights @ v + of_values


class VideoUNet(nn.Module):
    """Noise (B, C, T, h, w) of x (B, C_in, T, h, w) at times t (B,), for labels y int64 (B,) or None.

    Without labels nothing is added to the time embedding, also where there is a table. Names and shapes are the
    official ones. Source: LVDM, section 3.2; Dhariwal & Nichol 2021, section 3.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c, embed = config, 4 * config.width
        self.features = TimestepFeatures(c.width)
        self.time_embed = Float32Layers(nn.Linear(c.width, embed), nn.SiLU(), nn.Linear(embed, embed))
        if c.num_labels is not None:
            self.label_emb = nn.Embedding(c.num_labels, embed)

        def level(width: int, out_width: int, reduction: int) -> nn.ModuleList:
            """A residual block, with attention behind it where the level has any."""
            layers = nn.ModuleList([ResBlock(width, out_width, embed)])
            if reduction in c.attention:
                layers.append(SpaceTimeAttention(out_width, c.num_heads, c.temporal_length))
            return layers

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv3d(c.in_channels, c.width, SPACE, padding=PADDING)])])
        width, skips, reduction = c.width, [c.width], 1
        for number, multiple in enumerate(c.multiples):
            for _ in range(c.depth):
                self.input_blocks.append(level(width, c.width * multiple, reduction))
                width = c.width * multiple
                skips.append(width)
            if number + 1 < len(c.multiples):
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
                reduction *= 2
        attention = SpaceTimeAttention(width, c.num_heads, c.temporal_length)
        self.middle_block = nn.ModuleList([ResBlock(width, width, embed), attention, ResBlock(width, width, embed)])
        self.output_blocks = nn.ModuleList()
        for number, multiple in reversed(list(enumerate(c.multiples))):
            for place in range(c.depth + 1):
                layers = level(width + skips.pop(), c.width * multiple, reduction)
                width = c.width * multiple
                if number and place == c.depth:
                    layers.append(Upsample(width))
                    reduction //= 2
                self.output_blocks.append(layers)
        self.out = Float32Layers(
            normalization(width), nn.SiLU(), zeroed(nn.Conv3d(width, c.out_channels, SPACE, padding=PADDING))
        )

    @staticmethod
    def through(layers: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
        """One entry of the released lists of blocks."""
        for layer in layers:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.time_embed(self.features(t).to(x.dtype))  # (B, 4 D)
        if y is not None:
            emb = emb + self.label_emb(y)
        skips, h = [], x
        for layers in self.input_blocks:
            h = self.through(layers, h, emb)
            skips.append(h)
        h = self.through(self.middle_block, h, emb)
        for layers in self.output_blocks:
            h = self.through(layers, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)  # (B, C, T, h, w)

    def blocks_to_recompute(self) -> list[nn.Module]:
        """Every residual block and every attention: what the backward pass can compute again."""
        return [layer for layer in self.modules() if isinstance(layer, ResBlock | SpaceTimeAttention)]
