"""PVDM's second stage: a 2D U-Net shared by the three planes of a latent, with attention across them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.embeddings import TimestepFeatures
from lavita.nn.precision import Float32Layers
from lavita.nn.unet import normalization, pointwise, zeroed
from lavita.shapes import check

Planes = tuple[Tensor, Tensor]  # xy (B, D, h, w); yt and xt stacked (2 B, D, F, w)


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
        self.emb_layers = Float32Layers(nn.SiLU(), nn.Linear(embed_width, (2 if film else 1) * out_width))
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


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net; the defaults are the official ones. num_classes is ours: none are published."""

    image_size: int = 32
    frames: int = 16
    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 256
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_res_blocks: int = 2
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_heads: int = 8
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    cond_model: bool = False
    num_classes: int | None = None

    def __post_init__(self) -> None:
        halvings = 2 ** (len(self.channel_mult) - 1)
        # Group norm has nothing to normalise on a plane of one position.
        if self.image_size % halvings or self.frames % halvings or self.image_size == halvings:
            raise ValueError(
                f"pvdm unet: got planes of {self.image_size} and {self.frames} (side, frames), wanted "
                f"multiples of {halvings}, the side at least twice that; use fewer levels than channel_mult "
                f"{tuple(self.channel_mult)}"
            )
        if self.model_channels % 32 or self.model_channels % self.num_heads:
            raise ValueError(
                f"pvdm unet: got model_channels {self.model_channels}, wanted a multiple of 32 (group norm) "
                f"and of num_heads {self.num_heads}"
            )

    @property
    def latent_length(self) -> int:
        """Positions of the three planes together."""
        return self.image_size * (self.image_size + 2 * self.frames)


class PlaneUNet(nn.Module):
    """Noise prediction on planes, float32 (B, C, N) -> (B, C, N), with the official state-dict keys.

    t (B,) diffusion time; cond (B, C, N) latent of the previous clip, or None (zeros in its place) in a
    cond_model; labels (B,) where num_classes is given, num_classes standing for "no label".
    Source: Yu et al. 2023 (PVDM), section 3.2; github.com/sihyun-yu/PVDM at 793172f, models/ddpm/unet.py.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or UNetConfig()
        width = cfg.model_channels
        self.embed_width = 4 * width
        if cfg.cond_model:
            self.register_buffer("zeros", torch.zeros(1, cfg.in_channels, cfg.latent_length))
        self.time_features = TimestepFeatures(width)
        self.time_embed = Float32Layers(
            nn.Linear(width, self.embed_width), nn.SiLU(), nn.Linear(self.embed_width, self.embed_width)
        )
        if cfg.num_classes is not None:
            self.label_emb = nn.Embedding(cfg.num_classes + 1, self.embed_width)
        inputs = cfg.in_channels * (2 if cfg.cond_model else 1)
        self.input_blocks = nn.ModuleList([Layers(nn.Conv2d(inputs, width, 3, padding=1))])
        self.input_attns = nn.ModuleList([nn.Identity()])
        skips = self.add_inputs()
        width = cfg.channel_mult[-1] * cfg.model_channels
        self.middle_block = Layers(self.block(width, width), self.attention(width), self.block(width, width))
        self.mid_attn = CrossPlaneAttention(width, cfg.num_heads)
        self.output_blocks, self.output_attns = nn.ModuleList(), nn.ModuleList()
        self.add_outputs(width, skips)
        width = cfg.channel_mult[0] * cfg.model_channels
        self.out = Float32Layers(
            normalization(width), nn.SiLU(), zeroed(nn.Conv2d(width, cfg.out_channels, 3, padding=1))
        )

    def block(self, width: int, out_width: int, resample: nn.Module | None = None) -> ResBlock:
        return ResBlock(width, out_width, self.embed_width, self.config.use_scale_shift_norm, resample)

    def attention(self, width: int) -> PlaneAttention:
        return PlaneAttention(width, self.config.num_heads)

    def resampled(self, width: int, kind: type[Upsample] | type[Downsample]) -> nn.Module:
        """A change of size: inside a residual block, or by a convolution of its own."""
        if self.config.resblock_updown:
            return self.block(width, width, kind(width, learned=False))
        return kind(width, learned=True)

    def add_inputs(self) -> list[int]:
        """Build the way down; returns the widths that the way up reads."""
        cfg, width, rate = self.config, self.config.model_channels, 1
        skips = [width]
        for level, multiple in enumerate(cfg.channel_mult):
            for _ in range(cfg.num_res_blocks):
                layers: list[nn.Module] = [self.block(width, multiple * cfg.model_channels)]
                width = multiple * cfg.model_channels
                if rate in cfg.attention_resolutions:
                    layers.append(self.attention(width))
                self.input_blocks.append(Layers(*layers))
                skips.append(width)
            if level != len(cfg.channel_mult) - 1:
                self.input_blocks.append(Layers(self.resampled(width, Downsample)))
                skips.append(width)
                rate *= 2
        self.input_attns.extend(CrossPlaneAttention(skip, cfg.num_heads) for skip in skips[1:])
        return skips

    def add_outputs(self, width: int, skips: list[int]) -> None:
        """Build the way up from the middle's width and the widths of the way down."""
        cfg, skips = self.config, list(skips)
        for level, multiple in reversed(list(enumerate(cfg.channel_mult))):
            for index in range(cfg.num_res_blocks + 1):
                layers: list[nn.Module] = [self.block(width + skips.pop(), multiple * cfg.model_channels)]
                width = multiple * cfg.model_channels
                if 2**level in cfg.attention_resolutions:
                    layers.append(self.attention(width))
                if level and index == cfg.num_res_blocks:
                    layers.append(self.resampled(width, Upsample))
                self.output_blocks.append(Layers(*layers))
                self.output_attns.append(CrossPlaneAttention(width, cfg.num_heads))

    def split(self, x: Tensor) -> Planes:
        """Latent (B, C, N) -> planes."""
        side, frames = self.config.image_size, self.config.frames
        xy, yt, xt = x.split([side * side, frames * side, frames * side], dim=-1)
        return xy.unflatten(-1, (side, side)), torch.cat([yt, xt]).unflatten(-1, (frames, side))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        cfg = self.config
        check(x, "B C N", "pvdm latent", C=cfg.in_channels, N=cfg.latent_length)
        if cond is not None and not cfg.cond_model:
            raise ValueError("pvdm unet: got a previous clip, but the network has cond_model=false")
        if (labels is None) != (cfg.num_classes is None):
            raise ValueError(
                f"pvdm unet: got {'no ' if labels is None else ''}labels with num_classes={cfg.num_classes}; "
                "labels are needed exactly when num_classes is given"
            )
        emb = self.time_embed(self.time_features(t).to(x.dtype))  # (B, E)
        if labels is not None:
            emb = emb + self.label_emb(labels)  # (B, E)
        if cfg.cond_model:
            x = torch.cat([x, self.zeros.expand_as(x) if cond is None else cond], dim=1)  # (B, 2 C, N)
        planes, skips = self.split(x), []
        for block, attention in zip(self.input_blocks, self.input_attns, strict=True):
            planes = attention(block(planes, emb))
            skips.append(planes)
        planes = self.mid_attn(self.middle_block(planes, emb))
        for block, attention in zip(self.output_blocks, self.output_attns, strict=True):
            merged = [torch.cat(pair, dim=1) for pair in zip(planes, skips.pop(), strict=True)]
            planes = attention(block((merged[0], merged[1]), emb))
        xy, temporal = (self.out(plane).flatten(2) for plane in planes)  # (B, C, h w), (2 B, C, F w)
        return torch.cat([xy, *temporal.chunk(2)], dim=-1)  # (B, C, N)
