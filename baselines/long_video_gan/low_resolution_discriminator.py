"""The discriminator of low-resolution clips: 3D convolutions, then convolutions along time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.resampling import LINEAR, downsample, normalised_taps
from lavita.nn.stylegan2 import EqualLinear, activate

from .filters import ALL, TIME

# Block by block: channels in, channels out, kernel along time, frames from which on it halves time (None: never).
BLOCKS = ((32, 64, 1, None), (64, 128, 5, 4), (128, 256, 5, 8), (256, 512, 5, 16))
UNREDUCED = 32  # the first block halves larger clips only


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the discriminator: frames of a clip, the larger of its sides, the last layers' width, and what every
    block's width is divided by.
    """

    frames: int
    side: int
    width: int = 1024
    channel_divisor: int = 1
    clamp: float = 256.0

    def out_shape(self) -> tuple[int, int]:
        """(frames, side) of the maps after the blocks."""
        frames = self.frames
        for *_, least in BLOCKS:
            frames = -(-frames // 2) if least is not None and self.frames >= least else frames
        side = self.side // (2 ** len(BLOCKS) if self.side > UNREDUCED else 2 ** (len(BLOCKS) - 1))
        return frames, side


class Decimate(nn.Module):
    """Halves height and width, and frames, as asked, of clips (B, C, T, H, W)."""

    def __init__(self, time: bool, space: bool) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.register_buffer("_downsample_filter", normalised_taps(LINEAR))

    def forward(self, x: Tensor) -> Tensor:
        if self.space:
            x = downsample(x, self._downsample_filter, axes=ALL)
        return downsample(x, self._downsample_filter, axes=TIME) if self.time else x


class Convolution(nn.Module):
    """ "Same" convolution along all given axes with equalised learning rate, halving, bias, activation, clamp."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        activation: str = "lrelu",
        bias: bool = True,
        down: tuple[bool, bool] = (False, False),
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))
        self._bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain = 1 / math.sqrt(inputs * math.prod(kernel))
        self.padding = tuple(size // 2 for size in kernel)
        self.convolution = functional.conv3d if len(kernel) == 3 else functional.conv1d
        self.activation, self.clamp = activation, clamp
        self.downsample = Decimate(*down) if any(down) else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x, self.weight * self.weight_gain, padding=self.padding)
        if self.downsample is not None:
            x = self.downsample(x)
        return activate(x, self._bias, self.activation, clamp=self.clamp)


class Block(nn.Module):
    """Residual block of clips (B, I, T, H, W) -> (B, O, T', H', W'); the first begins with a layer on colours."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, down: tuple[bool, bool], first: bool, clamp: float
    ) -> None:
        super().__init__()
        size = (kernel, 3, 3)
        self.conv_vid = Convolution(3, inputs, (1, 1, 1), clamp=clamp) if first else nn.Identity()
        self.conv_0 = Convolution(inputs, inputs, size, clamp=clamp)
        self.conv_1 = Convolution(inputs, outputs, size, down=down, clamp=clamp)
        self.conv_skip = Convolution(inputs, outputs, (1, 1, 1), "linear", bias=False, down=down, clamp=clamp)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_vid(x)
        return (self.conv_1(self.conv_0(x)) + self.conv_skip(x)) * math.sqrt(0.5)


class Epilogue(nn.Module):
    """Maps (B, C, T, h, w) -> logits (B, 1), in float32: four layers along time, two of all that is left."""

    def __init__(self, channels: int, frames: int, side: int, width: int) -> None:
        super().__init__()
        self.conv1d_0 = Convolution(channels * side**2, width, (1,))
        self.conv1d_1 = Convolution(width, width, (3,))
        self.conv1d_2 = Convolution(width, width, (3,))
        self.conv1d_3 = Convolution(width, width, (3,))
        self.linear_0 = EqualLinear(width * frames, width, activation="lrelu")
        self.linear_1 = EqualLinear(width, 1)

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, C h w, T)
        for layer in (self.conv1d_0, self.conv1d_1, self.conv1d_2, self.conv1d_3):
            x = layer(x)  # (B, width, T)
        return self.linear_1(self.linear_0(x.flatten(1)))


class LowResolutionDiscriminator(nn.Module):
    """Clips (B, F, 3, H, W) -> logits (B,). Source: Brooks et al. 2022 (arXiv:2206.03429), section 3.1, appendix B."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        c = self.config = config
        self.blocks = nn.ModuleList()
        for number, (inputs, outputs, kernel, least) in enumerate(BLOCKS):
            down = (least is not None and c.frames >= least, number > 0 or c.side > UNREDUCED)
            widths = inputs // c.channel_divisor, outputs // c.channel_divisor
            self.blocks.append(Block(*widths, kernel, down, number == 0, c.clamp))
        self.epilogue = Epilogue(BLOCKS[-1][1] // c.channel_divisor, *c.out_shape(), c.width)

    def forward(self, video: Tensor) -> Tensor:
        height, width = video.shape[-2:]
        rows, columns = (self.config.side - height) // 2, (self.config.side - width) // 2
        x = functional.pad(video.transpose(1, 2), (columns, columns, rows, rows))  # (B, 3, F, side, side)
        for block in self.blocks:
            x = block(x)  # (B, C, T, h, w)
        return self.epilogue(x)[:, 0]
