"""The discriminator of StyleGAN-V and MoStGAN-V: some frames of a clip, joined half-way, and the times between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.nn.precision import in_float32
from lavita.nn.stylegan2 import DiscriminatorBlock, DiscriminatorEpilogue, Mapping, projected

TABLE_WIDTH = 256  # of the learned code of a time difference
JOIN = 16  # the side at which a clip's frames become one map
JOIN_DIVISOR = 2  # of the channels that a frame has there
LAST = 4


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes, as in the generator. frames: T of a clip. hidden: width before the logit, None for that of the last block.
    differences: also show the differences of neighbouring frames (MoStGAN-V). group: of the minibatch deviation.
    """

    resolution: int
    c_dim: int = 0
    frames: int = 3
    max_frames: int = 1024
    channel_base: int = 16384
    channel_max: int = 512
    clamp: float | None = 256.0
    mapping_layers: int = 2
    group: int = 4
    hidden: int | None = None
    differences: bool = False

    def __post_init__(self) -> None:
        if self.resolution <= JOIN or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution: got {self.resolution}, wanted a power of 2 above {JOIN}")
        if self.frames < 2:
            raise ValueError(f"frames of the discriminator: got {self.frames}, wanted at least 2")

    def channels(self, side: int) -> int:
        """Channels of the block of a side."""
        return min(self.channel_base // side, self.channel_max)


class FourierTime(nn.Module):
    """Sines and cosines of whole differences, (M,) -> (M, 2 n), all sines first; n octaves below a period of 4."""

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        count = math.ceil(math.log2(max_frames))
        coefficients = 2.0 ** torch.arange(count, dtype=torch.float64) * math.pi / 2**count
        self.register_buffer("fourier_coefs", coefficients.float()[None])  # (1, n)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.fourier_coefs
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeCode(nn.Module):
    """Times of a clip's frames (B, T) -> codes of the T - 1 differences, joined (B, (T - 1) width)."""

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        self.const_embed = nn.Embedding(max_frames, TABLE_WIDTH)
        self.time_encoder = FourierTime(max_frames)

    @property
    def width(self) -> int:
        """Numbers of one difference."""
        return TABLE_WIDTH + 2 * self.time_encoder.fourier_coefs.shape[1]

    @in_float32
    def forward(self, t: Tensor) -> Tensor:
        apart = t.diff(dim=1).float().flatten()  # (B (T - 1),)
        codes = torch.cat([self.const_embed(apart.round().long()), self.time_encoder(apart)], dim=1)
        return codes.view(len(t), -1)


class Discriminator(nn.Module):
    """Frames (B, T, 3, R, R) at times t (B, T), labels c (B, c_dim) -> logits (B,), hidden (B, hidden).

    Source: StyleGAN-V, section 3.3; MoStGAN-V, section 3.4 (differences).
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.time_encoder = TimeCode(config.max_frames)
        self.sides = [2**power for power in range(config.resolution.bit_length() - 1, 2, -1)]  # R .. 8
        images = config.frames * (2 if config.differences else 1)
        for side in self.sides:
            channels, outputs = config.channels(side), config.channels(side // 2)
            inputs = channels
            if side == 2 * JOIN:
                outputs //= JOIN_DIVISOR
            elif side == JOIN:
                inputs = images * (channels // JOIN_DIVISOR)
            first = 3 if side == config.resolution else None
            setattr(self, f"b{side}", DiscriminatorBlock(inputs, channels, outputs, first, config.clamp))
        width = config.channels(LAST)
        condition = config.c_dim + (config.frames - 1) * self.time_encoder.width
        self.mapping = Mapping(0, condition, width, config.mapping_layers)
        self.b4 = DiscriminatorEpilogue(width, config.hidden or width, width, LAST, config.group, config.clamp)

    def condition(self, t: Tensor, c: Tensor | None) -> Tensor:
        """What features are projected on, (B, D), from times (B, T) and labels."""
        code = self.time_encoder(t)
        return self.mapping(None, code if c is None else torch.cat([c, code], dim=1))

    def forward(self, frames: Tensor, t: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.config.differences:
            frames = torch.cat([frames, frames - frames.roll(-1, dims=1)], dim=1)  # (B, 2 T, 3, R, R)
        batch = len(frames)
        x = frames.flatten(0, 1)  # (B T, 3, R, R)
        for side in self.sides:
            if side == JOIN:
                x = x.reshape(batch, -1, JOIN, JOIN)  # (B, T C, 16, 16), frames outermost
            x = getattr(self, f"b{side}")(x)
        features, hidden = self.b4(x)
        return projected(features, self.condition(t, c)), hidden
