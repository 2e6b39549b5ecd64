"""The generator of StyleGAN-V and MoStGAN-V: each frame by itself, from one style a clip and its motion at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.nn.resampling import upsample
from lavita.nn.stylegan2 import (
    EqualLinear,
    Filtered,
    Mapping,
    activate,
    convolve,
    modulated,
)

from .motion import MotionConfig, MotionEncoder
from .styles import HyperNetwork, MotionStyles, Path, StylesConfig, diversity, modulated_by_motion

FIRST = 4  # the side of the first block


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes. A block of side r has min(channel_base // r, channel_max) channels; c_dim is the width of a label, 0 for
    none. styles: MoStGAN-V's motion styles, None for StyleGAN-V. clamp: of activations, None for none.
    """

    resolution: int
    c_dim: int = 0
    z_dim: int = 512
    w_dim: int = 512
    channel_base: int = 16384
    channel_max: int = 512
    clamp: float | None = 256.0
    mapping_layers: int = 2
    motion: MotionConfig = MotionConfig()
    styles: StylesConfig | None = None

    def __post_init__(self) -> None:
        if self.resolution < 2 * FIRST or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution: got {self.resolution}, wanted a power of 2, at least {2 * FIRST}")

    @property
    def sides(self) -> list[int]:
        """Sides of the blocks, from 4 to the resolution."""
        return [2**power for power in range(2, self.resolution.bit_length())]

    def channels(self, side: int) -> int:
        """Channels of the block of a side."""
        return min(self.channel_base // side, self.channel_max)


class SynthesisLayer(Filtered):
    """3x3 modulated convolution, bias, leaky ReLU, clamp: (N, I, H, W), w (N, w_dim) -> (N, O, H or 2 H, W or 2 W).

    hypernet: makes of the motion styles what the weights are modulated with beside; None in StyleGAN-V.
    """

    def __init__(
        self, inputs: int, outputs: int, config: GeneratorConfig, up: bool = False, styles: StylesConfig | None = None
    ) -> None:
        super().__init__()
        self.up, self.clamp = up, config.clamp
        self.affine = EqualLinear(config.w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.hypernet = HyperNetwork(inputs, styles) if styles else None

    def forward(self, x: Tensor, w: Tensor, motion: Tensor | None, path: Path) -> tuple[Tensor, Tensor | None]:
        """motion: the styles (N, K, dim). Also the scores of the attention, (N, K, O), None where there is none."""
        style, scores = self.affine(w), None  # (N, I)
        if self.hypernet is not None:
            tensors = self.hypernet(motion)  # (N, K, I, 3, 3)
            x, scores = modulated_by_motion(x, self.weight, style, tensors, self.taps, self.up, path)
        else:
            x = modulated(x, self.weight, style, lambda x, weight: convolve(x, weight, self.taps, up=self.up))
        return activate(x, self.bias, clamp=self.clamp), scores


class ToRGB(nn.Module):
    """1x1 modulated convolution to colours, without demodulation: (N, C, H, W), w (N, w_dim) -> (N, 3, H, W)."""

    def __init__(self, inputs: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.affine = EqualLinear(config.w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain, self.clamp = 1 / math.sqrt(inputs), config.clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated(x, self.weight, self.affine(w) * self.gain, nn.functional.conv2d, demodulate=False)
        return activate(x, self.bias, "linear", clamp=self.clamp)


class Constant(nn.Module):
    """The learned map that every frame begins with. Its name in the state dict is `input.input.const`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Module()
        self.input.const = nn.Parameter(torch.randn(1, channels, FIRST, FIRST))

    def forward(self, code: Tensor) -> Tensor:
        """Motion codes (N, V) -> (N, channels + V, 4, 4): the map, then the code spread over it."""
        const = self.input.const.to(code.dtype).expand(len(code), -1, -1, -1)
        return torch.cat([const, code[:, :, None, None].expand(-1, -1, FIRST, FIRST)], dim=1)


class SynthesisBlock(Filtered):
    """One side of the pyramid: features (N, C, H, W) doubled, and what they add to the picture."""

    def __init__(self, side: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.side = side
        channels = config.channels(side)
        styles = config.styles if config.styles and side in config.styles.sides else None
        if side == FIRST:
            self.input = Constant(channels)
            self.conv1 = SynthesisLayer(channels + 2 * config.motion.frequencies, channels, config, False, styles)
        else:
            self.conv0 = SynthesisLayer(config.channels(side // 2), channels, config, True, styles)
            self.conv1 = SynthesisLayer(channels, channels, config, False, styles)
        self.torgb = ToRGB(channels, config)

    def layers(self) -> list[SynthesisLayer]:
        """Its convolutions."""
        return [self.conv1] if self.side == FIRST else [self.conv0, self.conv1]


class Synthesis(nn.Module):
    """Styles w, times and motion noise -> frames; the networks of all sides add up to one picture.

    Source: StyleGAN-V, section 3.1; StyleGAN2, figure 7 (skip connections).
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_encoder = MotionEncoder(config.motion, config.c_dim)
        if config.styles:
            self.multimotionmap = MotionStyles(config.w_dim, 2 * config.motion.frequencies, config.styles)
        for side in config.sides:
            setattr(self, f"b{side}", SynthesisBlock(side, config))

    @property
    def num_styles(self) -> int:
        """Styles that the layers take, of which StyleGAN-V's are all equal: a convolution each and the last picture."""
        return 2 * len(self.config.sides)

    def forward(
        self, w: Tensor, t: Tensor, noise: Tensor, c: Tensor | None = None, fused: bool = False, mixed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Frames (B T, 3, R, R), and the similarity of the motion styles, () (0 without motion styles).

        w (B, w_dim), t (B, T) in frames, noise (B, L, noise_dim), c (B, c_dim). fused, mixed: the path of MoStGAN-V's
        arithmetic, of which `Path` tells: whether fused, and how many of the largest sides are normalised before.
        """
        code = self.motion_encoder(t, noise, c)  # (B T, V)
        w = w.repeat_interleave(t.shape[1], dim=0)  # (B T, w_dim)
        motion = self.multimotionmap(w, code) if self.config.styles else None  # (B T, K, dim)
        x, image, similarity = None, None, w.new_zeros(())
        for number, side in enumerate(self.config.sides):
            block = getattr(self, f"b{side}")
            normalised = number >= max(len(self.config.sides) - mixed, 1)  # the first block never
            path = Path(fused and not normalised, normalised)
            if side == FIRST:
                x = block.input(code)  # (B T, C + V, 4, 4)
            else:
                image = upsample(image, block.taps)
            for layer in block.layers():
                x, scores = layer(x, w, motion, path)
                if scores is not None:
                    similarity = similarity + diversity(scores)
            colours = block.torgb(x, w)  # (B T, 3, r, r)
            image = colours if image is None else image + colours
        return image, similarity / self.num_styles


class Generator(nn.Module):
    """z (B, z_dim), times (B, T), motion noise and labels -> frames (B, T, 3, R, R), values not held in [-1, 1]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.synthesis = Synthesis(config)
        self.mapping = Mapping(config.z_dim, config.c_dim, config.w_dim, config.mapping_layers, average_decay=0.995)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        noise: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        fused: bool = False,
        mixed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames, similarity of motion styles (), and w before truncation (B, w_dim)."""
        w = self.mapping(z, c)
        frames, similarity = self.synthesis(self.mapping.truncated(w, psi), t, noise, c, fused, mixed)
        return frames.unflatten(0, t.shape), similarity, w
