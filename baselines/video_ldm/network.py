"""Video LDM's two denoisers: an image U-Net, and the video U-Net that has temporal layers between that one's layers.

Both are diffusers' classes. The video network holds the image network's layers themselves, not copies of them: what
the image phase trains is what the temporal phase finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from lavita.nn.precision import GroupNorm, LayerNorm, in_float32
from lavita.nn.unet import GROUPS, zeroed

from .given_frames import GivenFrames, see_given_frames

MIX_START = 0.5  # of every mixing factor, before the sigmoid
RES_EPS = 1e-5  # of the group norms of residual blocks; diffusers' video class has 1e-6 in some
TEMPORAL = ("temporal_res_block", "temporal_transformer_blocks", "time_pos_embed", "time_mixer")


@dataclass(frozen=True)
class UNetConfig:
    """Sizes: width of the first level, multiples of it for each level, depth residual blocks a level (one more on the
    way up), attention at these reductions of the sides (and in the middle), heads of head_width. num_labels: rows of
    the table that is added to the time embedding, None for no table. Raises ValueError.
    """

    in_channels: int
    out_channels: int
    width: int
    multiples: tuple[int, ...]
    attention: tuple[int, ...]
    depth: int
    head_width: int
    num_labels: int | None = None

    def __post_init__(self) -> None:
        for width in self.widths:
            if width % GROUPS or width % self.head_width:
                raise ValueError(
                    f"model.width: a level has {width} channels, wanted a multiple of {GROUPS} (norm groups) and of "
                    f"{self.head_width} (model.head_width)"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * multiple for multiple in self.multiples)

    @property
    def has_attention(self) -> tuple[bool, ...]:
        """Whether each level has attention."""
        return tuple(2**level in self.attention for level in range(len(self.multiples)))

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Heads of each level."""
        return tuple(width // self.head_width for width in self.widths)


class Float32TimestepEmbedding(TimestepEmbedding):
    """Two linear layers on sinusoids, in float32."""

    forward = in_float32(TimestepEmbedding.forward)


class Float32Conv2d(nn.Conv2d):
    """A convolution in float32: the last layer."""

    forward = in_float32(nn.Conv2d.forward)


FLOAT32 = {nn.GroupNorm: GroupNorm, nn.LayerNorm: LayerNorm, TimestepEmbedding: Float32TimestepEmbedding}


class NoLabels(nn.Module):
    """In place of a label table: nothing is added to the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, labels: Tensor) -> Tensor:
        return torch.zeros(len(labels), self.width, device=labels.device)  # (B, D)


def spatio_temporal_unet(
    config: UNetConfig, context_width: int, layers: int = 1, added_width: int = 1
) -> UNetSpatioTemporalConditionModel:
    """The network of Stable Video Diffusion at these sizes, cross-attention and added embedding included.

    context_width: of the tokens that cross-attention reads; layers: of each transformer; added_width: of the vector
    that is embedded beside the time. num_labels plays no part.
    Source: Blattmann et al. 2023 (Align your Latents), section 3.1; Stability-AI/generative-models at 0ad7de9,
    sgm/modules/diffusionmodules/video_model.py.
    """
    down = ["CrossAttnDownBlockSpatioTemporal" if one else "DownBlockSpatioTemporal" for one in config.has_attention]
    up = ["CrossAttnUpBlockSpatioTemporal" if one else "UpBlockSpatioTemporal" for one in config.has_attention[::-1]]
    unet = UNetSpatioTemporalConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=config.widths,
        layers_per_block=config.depth,
        cross_attention_dim=context_width,
        transformer_layers_per_block=layers,
        num_attention_heads=config.num_heads,
        projection_class_embeddings_input_dim=added_width,
    )
    for block in unet.modules():
        if isinstance(block, SpatioTemporalResBlock):
            norms = [part for part in block.modules() if isinstance(part, nn.GroupNorm)]
            for norm in norms:
                norm.eps = RES_EPS
        elif isinstance(block, AlphaBlender):
            # Made anew: diffusers' own always lies on the CPU, also where a network is counted without memory.
            block.mix_factor = nn.Parameter(torch.full((1,), MIX_START))
    return unet


class VideoUNet(nn.Module):
    """Noise (B, F, C, h, w) of clips x (B, F, C_in, h, w) at times t (B,), for labels y int64 (B,) or None.

    sees_given: it is told which first frames are given, (B, F, C + 1, h, w) of `first_frames`, at every call.
    Source: Blattmann et al. 2023 (Align your Latents), section 3.1. Their network has text; without it there is no
    cross-attention, and a label is added to the time embedding.
    """

    def __init__(self, config: UNetConfig, sees_given: bool = False) -> None:
        super().__init__()
        self.config = config
        unet = spatio_temporal_unet(config, context_width=1)
        embed = 4 * config.width
        unet.add_embedding = nn.Identity()
        unet.add_time_proj = NoLabels(embed) if config.num_labels is None else nn.Embedding(config.num_labels, embed)
        without_cross_attention(unet)
        start_at_zero(unet)
        in_single_precision(unet)
        if sees_given:
            see_given_frames(unet, config.in_channels + 1)
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        # It stays set until the next call: layers that run again in the backward pass see it too.
        for part in self.modules():
            if isinstance(part, GivenFrames):
                part.given = given
        labels = torch.zeros_like(t) if y is None else y
        context = x.new_zeros(len(x), 1, 1)  # asked for, and read by no layer
        return self.unet(x, t, context, labels, return_dict=False)[0]  # (B, F, C, h, w)

    def blocks_to_recompute(self) -> list[nn.Module]:
        """What the backward pass can compute again: every residual block and every transformer, both with time."""
        return [
            part for part in self.modules() if isinstance(part, SpatioTemporalResBlock | TransformerSpatioTemporalModel)
        ]

    def temporal_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the temporal layers and of the mixing, by name."""
        return {name: value for name, value in self.named_parameters() if is_temporal(name)}

    def spatial_parameters(self) -> dict[str, nn.Parameter]:
        """All others, by name: those of the image network."""
        return {name: value for name, value in self.named_parameters() if not is_temporal(name)}

    def mixing(self) -> Tensor:
        """Weight of the image layer at every mixing, in (0, 1): 1 where a temporal layer is not used."""
        return torch.cat([part.mix_factor for part in self.modules() if isinstance(part, AlphaBlender)]).sigmoid()


class ImageUNet(nn.Module):
    """Noise (N, C, h, w) of images x (N, C_in, h, w) at times t (N,), for labels y int64 (N,) or None: the video
    network without its temporal layers, which shares all other layers with it.
    """

    def __init__(self, video: VideoUNet) -> None:
        super().__init__()
        c = video.config
        down = ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in c.has_attention]
        up = ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in c.has_attention[::-1]]
        self.unet = UNet2DConditionModel(
            in_channels=c.in_channels,
            out_channels=c.out_channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=c.widths,
            layers_per_block=c.depth,
            cross_attention_dim=1,
            attention_head_dim=c.num_heads,  # diffusers' name for the number of heads
            use_linear_projection=True,
            num_class_embeds=c.num_labels,
        )
        share_layers(self.unet, video.unet)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.unet(x, t, None, class_labels=y, return_dict=False)[0]  # (N, C, h, w)

    def blocks_to_recompute(self) -> list[nn.Module]:
        """What the backward pass can compute again: every residual block and every transformer."""
        return [part for part in self.modules() if isinstance(part, ResnetBlock2D | Transformer2DModel)]


def is_temporal(name: str) -> bool:
    """Whether a parameter of the video network belongs to its temporal layers or their mixing."""
    return any(part in TEMPORAL for part in name.split("."))


def without_cross_attention(unet: nn.Module) -> None:
    """Take cross-attention out of every transformer block: there are no tokens to attend to."""
    for part in unet.modules():
        if hasattr(part, "attn2"):
            part.attn2 = part.norm2 = None


def start_at_zero(unet: UNetSpatioTemporalConditionModel) -> None:
    """Let every residual branch begin as the identity, the temporal ones too, and the output at 0.

    Source: Dhariwal & Nichol 2021, whose image U-Net it is; Stability-AI/generative-models at 0ad7de9.
    """
    for part in unet.modules():
        if isinstance(part, SpatioTemporalResBlock):
            zeroed(part.spatial_res_block.conv2)
            zeroed(part.temporal_res_block.conv2)
        elif isinstance(part, TransformerSpatioTemporalModel):
            zeroed(part.proj_out)
    zeroed(unet.conv_out)


def in_single_precision(unet: nn.Module) -> None:
    """Let norms, embeddings of time and the last layer compute in float32 in mixed precision too."""
    for part in unet.modules():
        # The class alone changes: weights, names and, outside of autocast, numbers stay.
        part.__class__ = FLOAT32.get(type(part), type(part))
    unet.conv_out.__class__ = Float32Conv2d


def share_layers(image: UNet2DConditionModel, video: UNetSpatioTemporalConditionModel) -> None:
    """Put the video network's spatial layers in the image network's places."""
    for name in ("conv_in", "time_embedding", "conv_norm_out", "conv_out"):
        setattr(image, name, getattr(video, name))
    if image.class_embedding is not None:
        image.class_embedding = video.add_time_proj
    for ours, theirs in block_pairs(image, video):
        for number, block in enumerate(theirs.resnets):
            ours.resnets[number] = block.spatial_res_block
        for one, other in zip(getattr(ours, "attentions", ()), getattr(theirs, "attentions", ()), strict=True):
            for name in ("norm", "proj_in", "transformer_blocks", "proj_out"):
                setattr(one, name, getattr(other, name))
        for name in ("downsamplers", "upsamplers"):
            if getattr(ours, name, None) is not None:
                setattr(ours, name, getattr(theirs, name))


def block_pairs(image: nn.Module, video: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The blocks of both networks, each beside the other's."""
    yield from zip(image.down_blocks, video.down_blocks, strict=True)
    yield image.mid_block, video.mid_block
    yield from zip(image.up_blocks, video.up_blocks, strict=True)
