"""The low-resolution generator: white noise, lowpassed at many rates, becomes a latent of every frame, then video."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.resampling import downsample
from lavita.nn.stylegan2 import EqualLinear, activate, modulated, normalise, prenormalised

from .filters import ALL, TIME, Filter, InputMagnitude, LinearUpsample, centre, kaiser_lowpass, kaiser_taps

TIME_SCALE = 32  # frames of the output for one step of the first block
CLAMP = 256.0
# Block by block: channels in, channels out, whether it doubles frames, which of the five sizes its output has.
TEMPORAL = (
    (512, 512, True, 0), (512, 512, True, 1), (512, 512, True, 1), (512, 512, True, 2), (512, 256, True, 2),
    (256, 256, False, 2),
)  # fmt: skip
SPATIAL = ((256, 128, 3), (128, 128, 3), (128, 64, 4), (64, 64, 4))


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the generator.

    embedding_dim: channels of the lowpassed noise, a multiple of `filters`, the number of lowpasses. These have rates
    that grow geometrically from min_rate to max_rate, and half as many taps as their rate: so many frames they reach.
    padding: steps that every block reads on both sides beyond those it has to make. channel_divisor: of every block's
    width.
    """

    height: int
    width: int
    embedding_dim: int = 1024
    latent_dim: int = 1024
    filters: int = 128
    min_rate: float = 250.0
    max_rate: float = 10000.0
    padding: int = 8
    channel_divisor: int = 1

    @property
    def noise_channels(self) -> int:
        return self.embedding_dim // self.filters

    @property
    def longest_filter(self) -> int:
        return math.ceil(self.max_rate / 2)

    def input_lengths(self, length: int) -> list[int]:
        """Steps that each temporal block reads for an output of this many frames; then the output's."""
        lengths, scale = [length], 1
        for _, _, doubles, _ in reversed(TEMPORAL):
            scale *= 2 if doubles else 1
            lengths.insert(0, -(-length // scale) + 2 * self.padding)
        return lengths

    def noise_shape(self, length: int) -> tuple[int, int]:
        """(channels, steps) of the white noise of a clip of this many frames."""
        return self.noise_channels, TIME_SCALE * self.input_lengths(length)[0] + self.longest_filter - 1

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the maps, from the first block's to the output's."""
        scales = [max(1, max(self.height, self.width) // 2 ** (2 + k)) for k in range(5)]
        return [(-(-self.height // scale), -(-self.width // scale)) for scale in scales]


class TemporalNoise(nn.Module):
    """White noise (B, c, T + K - 1) -> (B, c * filters, T): each channel through every lowpass, at unit variance.

    The filters differ in length only, so some channels hardly change over a clip and others with every frame.
    Source: Brooks et al. 2022 (arXiv:2206.03429), section 3.1, "temporal latent".
    """

    def __init__(self, filters: int, min_rate: float, max_rate: float) -> None:
        super().__init__()
        # float64: an end of the range that is rounded up or down is another number of taps.
        exponents = np.linspace(math.log2(min_rate), math.log2(max_rate), filters).tolist()
        rates = [min(max(2.0**exponent, min_rate), max_rate) for exponent in exponents]
        longest = math.ceil(max_rate / 2)
        bank = np.zeros((filters, 1, longest), np.float32)
        for row, rate in zip(bank, rates, strict=True):
            taps = kaiser_taps(math.ceil(rate / 2), 2.0, 12.0, rate)
            row[0, longest - len(taps) :] = taps
        self.register_buffer("blur_filters", torch.from_numpy(bank))
        self.register_buffer("output_scale", self.blur_filters.square().sum(2).rsqrt().view(1, filters, 1))

    @in_float32
    def forward(self, noise: Tensor) -> Tensor:
        lowpassed = functional.conv1d(noise.flatten(0, 1)[:, None], self.blur_filters)  # (B c, filters, T)
        return (lowpassed * self.output_scale).view(len(noise), -1, lowpassed.shape[-1])


class LatentMapping(nn.Module):
    """Two layers at every step of (B, steps, inputs) -> (B, steps, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer_0 = EqualLinear(inputs, outputs, activation="lrelu", lr_multiplier=0.01)
        self.layer_1 = EqualLinear(outputs, outputs, activation="lrelu", lr_multiplier=0.01)

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        return self.layer_1(self.layer_0(normalise(x, axis=-1)))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """ "Same" convolution of clips, zero outside."""
    return functional.conv3d(x, weight, padding=tuple(size // 2 for size in weight.shape[2:]))


class Block(nn.Module):
    """Two modulated convolutions and a skip path on (B, I, T, H, W), with a latent of each of the T frames.

    kernel: of time. doubles_time, doubles_space: before the last activation. Source: Brooks et al. 2022, section 3.1
    and appendix B.
    """

    def __init__(
        self, inputs: int, outputs: int, latent: int, kernel: int, doubles_time: bool, doubles_space: bool
    ) -> None:
        super().__init__()
        self.weight_0 = nn.Parameter(torch.randn(inputs, inputs, kernel, 3, 3))
        self.weight_1 = nn.Parameter(torch.randn(outputs, inputs, kernel, 3, 3))
        self.weight_skip = nn.Parameter(torch.randn(outputs, inputs, 1, 1, 1))
        self.bias_0 = nn.Parameter(torch.zeros(inputs))
        self.bias_1 = nn.Parameter(torch.zeros(outputs))
        self.affine_0 = EqualLinear(latent, inputs, bias_init=1.0)
        self.affine_1 = EqualLinear(latent, inputs, bias_init=1.0)
        self.input_magnitude_ema_0 = InputMagnitude()
        self.input_magnitude_ema_1 = InputMagnitude()
        if doubles_time:
            self.temporal_upsample = LinearUpsample(TIME)
        if doubles_space:
            self.spatial_upsample = LinearUpsample(ALL)
        self.doubles_time, self.doubles_space = doubles_time, doubles_space

    def forward(self, x: Tensor, latent: Tensor, frames: int, size: tuple[int, int], beta: float = 1.0) -> Tensor:
        """latent: (B, T, D). Returns (B, O, frames, *size); beta: of the magnitudes."""
        x = self.input_magnitude_ema_0(x, beta)  # (B, I, T, H, W)
        y = self.modulated(x, self.weight_0, self.affine_0(latent))
        y = activate(y, self.bias_0, clamp=CLAMP)
        y = self.input_magnitude_ema_1(y, beta)
        y = self.modulated(y, self.weight_1, self.affine_1(latent))  # (B, O, T, H, W)
        y = (y + functional.conv3d(x, self.weight_skip / math.sqrt(x.shape[1]))) * math.sqrt(0.5)
        if self.doubles_time:
            y = self.temporal_upsample(y)
        y = centre(y, frames, 2)
        if self.doubles_space:
            y = self.spatial_upsample(y)
        y = centre(centre(y, size[0], 3), size[1], 4)
        return activate(y, self.bias_1, clamp=CLAMP)  # (B, O, frames, *size)

    @staticmethod
    def modulated(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
        """Demodulated convolution with the styles (B, T, I) of the frames."""
        weight, style = prenormalised(weight, style.transpose(1, 2))
        return modulated(x, weight, style, convolve)


class ToRGB(nn.Module):
    """Frames (B, I, T, H, W) to colours (B, 3, T, H, W), modulated but not demodulated."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = EqualLinear(latent, inputs, bias_init=1.0)
        self.input_magnitude_ema = InputMagnitude()

    @in_float32
    def forward(self, x: Tensor, latent: Tensor, beta: float) -> Tensor:
        x = self.input_magnitude_ema(x, beta)
        style = self.affine(latent).transpose(1, 2)  # (B, I, T)
        y = modulated(x, self.weight / math.sqrt(x.shape[1]), style, convolve, demodulate=False)
        return activate(y, self.bias, "linear", clamp=CLAMP)


class LowResolutionGenerator(nn.Module):
    """White noise (B, c, steps), as much as `config.noise_shape(length)` says, -> clips (B, length, 3, H, W).

    Values are about [-1, 1], not cut. Source: Brooks et al. 2022, section 3.1, figure 2 and appendix B.
    """

    output_scale = 0.25

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        c = self.config = config
        self.sizes = config.sizes()
        width, latent = c.channel_divisor, c.latent_dim
        self.temporal_emb = TemporalNoise(c.filters, c.min_rate, c.max_rate)
        self.latent_mapping = LatentMapping(c.embedding_dim, latent)
        self.temporal_downsample_latent = Filter(kaiser_lowpass(12, 1.0, 6.0, 8.0))
        first = TEMPORAL[0][0] // width
        self.w_to_temp_input = EqualLinear(latent, first)
        self.spatial_input = nn.Parameter(torch.randn(1, first, 1, *self.sizes[0]))
        self.temporal_layers, self.spatial_layers = nn.ModuleList(), nn.ModuleList()
        size = self.sizes[0]
        for inputs, outputs, doubles, number in TEMPORAL:
            grows, size = self.sizes[number] != size, self.sizes[number]
            self.temporal_layers.append(Block(inputs // width, outputs // width, latent, 3, doubles, grows))
        for inputs, outputs, number in SPATIAL:
            grows, size = self.sizes[number] != size, self.sizes[number]
            self.spatial_layers.append(Block(inputs // width, outputs // width, latent, 1, False, grows))
        self.to_rgb = ToRGB(SPATIAL[-1][1] // width, latent)

    def forward(self, noise: Tensor, length: int, beta: float = 1.0) -> Tensor:
        """beta < 1: of the magnitudes, which then move first; otherwise they are only read."""
        lengths = self.config.input_lengths(length)
        w = self.latent_mapping(self.temporal_emb(noise).transpose(1, 2))  # (B, steps, D)
        latents, full = self.latents(w, lengths)  # of each temporal block, and of the frames
        x = self.w_to_temp_input(latents[0]).transpose(1, 2)  # (B, C, T0)
        x = (x[..., None, None] + self.spatial_input) * math.sqrt(0.5)  # (B, C, T0, h0, w0)
        for layer, latent, frames, (*_, size) in zip(self.temporal_layers, latents, lengths[1:], TEMPORAL, strict=True):
            x = layer(x, latent, frames, self.sizes[size], beta)  # (B, C, T, h, w)
        for layer, (*_, size) in zip(self.spatial_layers, SPATIAL, strict=True):
            x = layer(x, full, length, self.sizes[size], beta)  # (B, C, length, h, w)
        return (self.to_rgb(x, full, beta).float() * self.output_scale).transpose(1, 2)  # (B, length, 3, H, W)

    @in_float32
    def latents(self, w: Tensor, lengths: list[int]) -> tuple[list[Tensor], Tensor]:
        """The latents (B, T, D) of each temporal block at the rate of what it reads, and those of the output's frames,
        out of w (B, steps, D) at the rate of frames.
        """
        full = centre(w, lengths[-1], 1)
        w, latents = w.transpose(1, 2), []  # (B, D, steps)
        for (_, _, doubles, _), length in zip(reversed(TEMPORAL), reversed(lengths[:-1]), strict=True):
            if doubles:
                w = downsample(w, self.temporal_downsample_latent.filter, axes=(2,))
            latents.insert(0, centre(w, length, 2).transpose(1, 2))
        return latents, full
