"""The super-resolution generator: StyleGAN3 frame by frame, with neighbouring small frames as input of every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.resampling import downsample, resample, upsample
from lavita.nn.stylegan2 import EqualLinear, Mapping, activate, modulated
from lavita.training import distributed

from .filters import centre, kaiser_lowpass, move_magnitude

LAYERS = 14  # and the one that makes colours
CRITICAL = 2  # of them, at the end, have no room between cutoff and half the sampling rate
FIRST_CUTOFF, FIRST_STOPBAND, LAST_STOPBAND = 2.0, 2**2.1, 2**0.3
TAPS = 6  # of a filter, for each step of its rate
CLAMP = 256.0
MAGNITUDE_STAYS, AVERAGE_STAYS = 0.999, 0.998  # in a pass that updates


@dataclass(frozen=True)
class UpsamplerConfig:
    """Sizes of the generator.

    context: small frames on both sides of the one that is made larger. margin: pixels around every layer's maps, and
    around the small frames. Channels of a layer with cutoff c are channel_base / (2 c), at most channel_max.
    """

    height: int
    width: int
    low_height: int
    low_width: int
    context: int = 4
    z_dim: int = 512
    w_dim: int = 512
    channel_base: int = 32768
    channel_max: int = 512
    margin: int = 10

    @property
    def low_side(self) -> int:
        return max(self.low_height, self.low_width)

    @property
    def condition_channels(self) -> int:
        return 3 * (2 * self.context + 1)


@dataclass(frozen=True)
class Sampling:
    """The grid on which a layer's output lies, and its band: what the layer after it reads.

    size: (width, height), the margin included. half_width: of the transition from cutoff to stopband.
    """

    size: tuple[int, int]
    rate: int
    cutoff: float
    half_width: float
    channels: int


def layer_samplings(config: UpsamplerConfig) -> list[Sampling]:
    """The outputs of all layers in order, colours last. Source: StyleGAN3 (Karras et al. 2021, arXiv:2106.12423),
    appendix B ("flexible layer specifications"), config T.
    """
    c, largest = config, max(config.width, config.height)
    found = []
    for number in range(LAYERS + 1):
        part = min(number / (LAYERS - CRITICAL), 1)
        cutoff = FIRST_CUTOFF * (largest / 2 / FIRST_CUTOFF) ** part
        stopband = FIRST_STOPBAND * (largest / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** part
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, largest)))
        size = (
            math.ceil(rate * min(1, c.width / c.height)) + 2 * c.margin,
            math.ceil(rate * min(1, c.height / c.width)) + 2 * c.margin,
        )
        channels = round(min(c.channel_base / 2 / cutoff, c.channel_max))
        if number >= LAYERS - 1:
            size = (c.width, c.height)
        if number == LAYERS:
            channels = 3
        found.append(Sampling(size, rate, cutoff, max(stopband, rate / 2) - cutoff, channels))
    return found


class Layer(nn.Module):
    """Modulated convolution of images (N, I, h, w), then the activation at a higher rate -> (N, O, h', w').

    before, after: the grids of input and output. inputs: its channels, the condition's included. to_rgb: no
    demodulation, no activation, no resampling. Source: StyleGAN3, section 3 and figure 4.
    """

    def __init__(self, before: Sampling, after: Sampling, inputs: int, w_dim: int, to_rgb: bool) -> None:
        super().__init__()
        kernel = 1 if to_rgb else 3
        self.to_rgb, self.kernel = to_rgb, kernel
        self.affine = EqualLinear(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        between = max(before.rate, after.rate) * (1 if to_rgb else 2)
        self.up, self.down = between // before.rate, between // after.rate
        taps = [1, 1]
        if self.up > 1 and not to_rgb:
            taps[0] = TAPS * self.up
            self.register_buffer("up_filter", kaiser_lowpass(taps[0], before.cutoff, 2 * before.half_width, between))
        if self.down > 1 and not to_rgb:
            taps[1] = TAPS * self.down
            self.register_buffer("down_filter", kaiser_lowpass(taps[1], after.cutoff, 2 * after.half_width, between))
        self.pads = [self.axis_pads(*sizes, taps) for sizes in zip(before.size, after.size, strict=True)]

    def axis_pads(self, size: int, wanted: int, taps: list[int]) -> tuple[int, int]:
        """Samples to add before and after an axis, at the higher rate, so that `wanted` come out."""
        total = (wanted - 1) * self.down + 1 - (size + self.kernel - 1) * self.up + sum(taps) - 2
        before = (total + self.up) // 2
        return before, total - before

    def forward(self, x: Tensor, w: Tensor, updates: bool = False) -> Tensor:
        """w: (N, w_dim). updates: the magnitude moves first."""
        if updates:
            move_magnitude(self.magnitude_ema, x, MAGNITUDE_STAYS)
        y = activate(self.convolved(x, self.affine(w)), self.bias, "linear")  # (N, O, h + 2, w + 2)
        for axis, pads in zip((3, 2), self.pads, strict=True):
            if self.up > 1:
                y = resample(y, self.up_filter, (axis,), up=self.up, pads=pads, gain=float(self.up))
            else:
                y = functional.pad(y, (*pads, 0, 0) if axis == 3 else (0, 0, *pads))
        y = activate(y, None, "linear" if self.to_rgb else "lrelu", clamp=CLAMP)
        return resample(y, self.down_filter, down=self.down) if self.down > 1 else y  # (N, O, h', w')

    def convolved(self, x: Tensor, style: Tensor) -> Tensor:
        """Without bias. Weights and styles of unit size keep half precision in its range; demodulation undoes that."""
        weight = self.weight
        if self.to_rgb:
            style = style / math.sqrt(x.shape[1])
        else:
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            style = style * style.square().mean(1, keepdim=True).rsqrt()
        y = modulated(x, weight, style, self.convolve, demodulate=not self.to_rgb)
        return y * self.magnitude_ema.rsqrt().to(y.dtype)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Zero outside; every side grows by kernel - 1."""
        return functional.conv2d(x, weight, padding=self.kernel - 1)


class Synthesis(nn.Module):
    """All layers, under official names that hold their sizes."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        samplings, self.names = layer_samplings(config), []
        for number, after in enumerate(samplings):
            before = samplings[max(number - 1, 0)]
            inputs = config.condition_channels + (before.channels if number else 0)
            name = f"L{number}_{after.size[0]}_{after.size[1]}_{after.channels}"
            self.names.append(name)
            setattr(self, name, Layer(before, after, inputs, config.w_dim, to_rgb=number == LAYERS))

    def layers(self) -> list[Layer]:
        return [getattr(self, name) for name in self.names]


class Conditioning(nn.Module):
    """Small frames (N, 3, side, side) resampled to the rate of one layer's input."""

    def __init__(self, rate: int, side: int) -> None:
        super().__init__()
        self.shorter, self.longer = math.ceil(side / rate), math.ceil(rate / side)
        self.factor = max(self.shorter, self.longer)
        if self.factor > 1:
            self.register_buffer("filter", kaiser_lowpass(TAPS * self.factor, 1.0, 6.0, 4.0 * self.factor))

    def forward(self, x: Tensor) -> Tensor:
        q = self.factor
        if self.shorter > 1:
            return downsample(functional.pad(x, (q,) * 4, mode="replicate"), self.filter, q, extra=-q)
        if self.longer > 1:
            return upsample(functional.pad(x, (1,) * 4, mode="replicate"), self.filter, q, extra=-q)
        return x


def fitted(x: Tensor, size: int, axis: int) -> Tensor:
    """The middle of an axis of images (N, C, h, w), or the axis with its border repeated, as long as is wanted."""
    missing = size - x.shape[axis]
    if missing <= 0:
        return centre(x, size, axis)
    pads = (missing // 2, missing - missing // 2)
    return functional.pad(x, (*pads, 0, 0) if axis == 3 else (0, 0, *pads), mode="replicate")


class StyleGAN3(nn.Module):
    """Mapping, layers, and the resampling of what every layer is given."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config.z_dim, 0, config.w_dim, average_decay=AVERAGE_STAYS)
        self.synthesis = Synthesis(config)
        samplings = layer_samplings(config)
        self.before = [samplings[max(number - 1, 0)] for number in range(LAYERS + 1)]
        self.resamples = nn.ModuleList(Conditioning(one.rate, config.low_side) for one in self.before)

    def forward(self, low: Tensor, w: Tensor, updates: bool) -> Tensor:
        """low: small clips (B, T + 2 c, 3, h, w); w: (B, w_dim). Returns (B T, 3, H, W)."""
        frames = low.shape[1] - 2 * self.config.context
        w = w.repeat_interleave(frames, dim=0)  # (B T, w_dim)
        conditions = self.conditions(low)
        x = conditions[0][:, :0]
        for layer, condition in zip(self.synthesis.layers(), conditions, strict=True):
            x = layer(torch.cat([x, condition], dim=1), w, updates)  # (B T, C, h, w)
        return x

    @in_float32
    def conditions(self, low: Tensor) -> list[Tensor]:
        """For every layer the small frames around each frame that is made, (B T, 3 (2 c + 1), h, w), colour major."""
        c, (height, width) = self.config, low.shape[-2:]
        rows, columns = c.low_side - height, c.low_side - width
        pads = [columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2]
        square = functional.pad(low.flatten(0, 1), [pad + c.margin for pad in pads], mode="replicate")
        made: dict[tuple[int, tuple[int, int]], Tensor] = {}
        for before, conditioning in zip(self.before, self.resamples, strict=True):
            key = (before.rate, before.size)
            if key not in made:
                frames = conditioning(square)
                frames = fitted(fitted(frames, before.size[0], 3), before.size[1], 2)
                made[key] = self.windows(frames.unflatten(0, low.shape[:2]))
        return [made[before.rate, before.size] for before in self.before]

    def windows(self, frames: Tensor) -> Tensor:
        """Frames (B, T + 2 c, 3, h, w), each with its neighbours: (B T, 3 (2 c + 1), h, w)."""
        around = frames.unfold(1, 2 * self.config.context + 1, 1)  # (B, T, 3, h, w, 2 c + 1)
        return rearrange(around, "b t c h w n -> (b t) (c n) h w")


class SuperResolutionGenerator(nn.Module):
    """Small clips (B, T + 2 c, 3, h, w) and a latent z (B, z_dim) -> clips (B, T, 3, H, W), about [-1, 1], not cut.

    Each frame is made from itself and its c neighbours on both sides. Source: Brooks et al. 2022 (arXiv:2206.03429),
    section 3.2 and appendix B.
    """

    output_scale = 0.25

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.SG3 = StyleGAN3(config)

    def forward(self, low: Tensor, z: Tensor, updates: bool = False) -> Tensor:
        """updates: the running magnitudes, and that of the latents w, move first."""
        w = self.SG3.mapping(z)  # (B, w_dim)
        if updates:
            self.SG3.mapping.update_average(distributed.mean(w.detach().mean(0)))
        x = self.SG3(low, w, updates).float() * self.output_scale  # (B T, 3, H, W)
        return x.unflatten(0, (len(low), -1))
