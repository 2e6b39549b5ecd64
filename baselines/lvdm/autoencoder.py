"""LVDM's first stage: a 3D convolutional autoencoder, clip <-> a latent shorter and smaller than the clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.codecs.base import Codec, in_chunks
from lavita.diffusion.rng import SampleRNG
from lavita.nn.precision import GroupNorm, in_float32
from lavita.shapes import check

Triple = tuple[int, int, int]  # time, height, width
LOG_VARIANCE = (-30.0, 20.0)  # the range that a posterior's log-variance is held in


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes: reductions are frames, rows and columns of a clip per latent one, powers of two, not all 1. width is that
    of the first layer; each halving doubles it. Raises ValueError.
    """

    width: int = 32
    reductions: Triple = (4, 8, 8)
    latent_channels: int = 4
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if any(one < 1 or one & (one - 1) for one in self.reductions) or max(self.reductions) == 1:
            raise ValueError(f"model.reductions: got {list(self.reductions)}, wanted powers of two, one above 1")
        if 2 * self.width % self.norm_groups:
            raise ValueError(
                f"model.norm_groups: got {self.norm_groups}, wanted a divisor of {2 * self.width}, twice the "
                "autoencoder's width"
            )

    @property
    def strides(self) -> list[Triple]:
        """Of each block, first to last: 2 in an axis that is still to be halved, else 1."""
        halvings = [int(math.log2(one)) for one in self.reductions]
        blocks = range(max(halvings))
        return [tuple(2 if count > block else 1 for count in halvings) for block in blocks]  # type: ignore[misc]

    def widths(self) -> list[int]:
        """Channels of each block of the encoder; the decoder has them the other way round."""
        return [self.width * 2 ** (block + 1) for block in range(len(self.strides))]


def replicated(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """x (B, C, F, H, W) with kernel - stride more values in each axis, copies of the outermost; an odd one in front.

    Channels come last in memory, where convolutions of few channels take half the time on a CPU.
    """
    sides: list[int] = []
    for size, step in zip(reversed(kernel), reversed(stride), strict=True):  # the last axis comes first
        missing = size - step
        sides += [missing - missing // 2, missing // 2]
    wider = functional.pad(x, sides, mode="replicate") if any(sides) else x
    return wider.to(memory_format=torch.channels_last_3d)


class SameConv(nn.Module):
    """A 3D convolution that divides F, H and W by its stride, on a replicated border."""

    def __init__(self, width: int, out_width: int, kernel: int, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, out_width, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(replicated(x, self.conv.kernel_size, self.conv.stride))  # (B, D', F / s, H / s, W / s)


class SameConvTransposed(nn.Module):
    """A transposed 3D convolution that multiplies F, H and W by its stride, on a replicated border."""

    def __init__(self, width: int, out_width: int, kernel: int, stride: Triple) -> None:
        super().__init__()
        self.convt = nn.ConvTranspose3d(width, out_width, kernel, stride, padding=kernel - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(replicated(x, self.convt.kernel_size, self.convt.stride))  # (B, D', F s, H s, W s)


class ResidualBlock(nn.Module):
    """x plus twice norm, SiLU and a 3x3x3 convolution of it, (B, D, F, H, W)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = normalization(width, groups), SameConv(width, width, 3)
        self.norm2, self.conv2 = normalization(width, groups), SameConv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(h)))


def normalization(width: int, groups: int) -> GroupNorm:
    """Group norm of a clip's channels over time and space together."""
    return GroupNorm(groups, width, eps=1e-6)


class Encoder(nn.Module):
    """Clip (B, 3, F, H, W) in [-1, 1] -> (B, 2 C, f, h, w), the moments before the last 1x1x1 convolution."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.conv_first = SameConv(3, config.width, 3)
        self.conv_blocks = nn.ModuleList()
        width = config.width
        for out_width, stride in zip(config.widths(), config.strides, strict=True):
            parts = {
                "down": SameConv(width, out_width, 4, stride),
                "res": ResidualBlock(out_width, config.norm_groups),
            }
            self.conv_blocks.append(nn.ModuleDict(parts))
            width = out_width
        last = SameConv(width, 2 * config.latent_channels, 3)
        self.final_block = nn.Sequential(normalization(width, config.norm_groups), nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_first(x)
        for block in self.conv_blocks:
            h = block["res"](block["down"](h))
        return self.final_block(h)


class Decoder(nn.Module):
    """Latent (B, C, f, h, w) -> clip (B, 3, F, H, W), without a bound. Strides come in the encoder's order."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.conv_blocks = nn.ModuleList()
        width = config.latent_channels
        for out_width, stride in zip(reversed(config.widths()), config.strides, strict=True):
            parts = {
                "up": SameConvTransposed(width, out_width, 4, stride),
                "res1": ResidualBlock(out_width, config.norm_groups),
                "res2": ResidualBlock(out_width, config.norm_groups),
            }
            self.conv_blocks.append(nn.ModuleDict(parts))
            width = out_width
        self.conv_out = SameConv(width, 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        for block in self.conv_blocks:
            z = block["res2"](block["res1"](block["up"](z)))
        return self.to_pixels(z)

    @in_float32
    def to_pixels(self, h: Tensor) -> Tensor:
        """Pixels of the last features, (B, D, F, H, W) -> (B, 3, F, H, W)."""
        return self.conv_out(h)


class VideoAutoencoder(nn.Module):
    """Clips (B, F, 3, H, W) in [-1, 1] <-> latents (B, C, f, h, w), whose posterior is a diagonal Gaussian.

    Names and shapes of parameters are the official ones. Source: He et al. 2022 (LVDM), section 3.1;
    github.com/YingqingHe/LVDM at d251dcc, lvdm/models/modules/aemodules3d.py.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = SameConv(2 * channels, 2 * channels, 1)
        self.post_quant_conv = SameConv(channels, channels, 1)

    def latent_shape(self, frames: int, resolution: int) -> tuple[int, int, int, int]:
        """(C, f, h, w) of a clip's latent. Raises ValueError where the reductions do not divide its sides."""
        sides, reductions = (frames, resolution, resolution), self.config.reductions
        if any(side % one for side, one in zip(sides, reductions, strict=True)):
            raise ValueError(
                f"model.reductions: got {list(reductions)} for clips of {frames} frames of {resolution} pixels, wanted "
                "divisors of these"
            )
        f, h, w = (side // one for side, one in zip(sides, reductions, strict=True))
        return self.config.latent_channels, f, h, w

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, (B, C, f, h, w) each, for clips (B, F, 3, H, W) in [-1, 1].

        Without gradients a few clips at a time go through the encoder.
        """
        sizes = check(video, "B F 3 H W", "video")
        self.latent_shape(sizes["F"], sizes["H"])
        pixels = sizes["F"] * sizes["H"] * sizes["W"]
        mean, log_variance = in_chunks(self._moments, video, pixels, self).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def _moments(self, video: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(video.transpose(1, 2)))  # (B, 2 C, f, h, w)

    def sample(self, video: Tensor, noise: Tensor) -> Tensor:
        """A draw of the posterior of each clip, (B, C, f, h, w), with standard normal noise of that shape."""
        return drawn(*self.moments(video), noise)

    def decode(self, z: Tensor) -> Tensor:
        """Clip of each latent (B, C, f, h, w), (B, F, 3, H, W), not held in any range."""
        f, h, w = (a * b for a, b in zip(z.shape[2:], self.config.reductions, strict=True))
        return in_chunks(self._decode, z, f * h * w, self)

    def _decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z)).transpose(1, 2)  # (B, F, 3, H, W)

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction (B, F, 3, H, W) of a draw, mean, log-variance): what training needs."""
        mean, log_variance = self.moments(video)
        return self.decode(drawn(mean, log_variance, noise)), mean, log_variance


def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A draw of a diagonal Gaussian, all of one shape. Source: Kingma & Welling 2014, equation 10."""
    return mean + torch.exp(0.5 * log_variance) * noise


class VideoCodec(Codec):
    """Clip float32 (B, F, 3, H, W) in [-1, 1] <-> latent float32 (B, C, f, h, w), for reconstruction scores.

    A view: it holds the autoencoder that it is given, trained or not, and has no weights of its own.
    """

    name = "lvdm-3d"

    def __init__(self, autoencoder: VideoAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.latent_channels = autoencoder.config.latent_channels
        self.downsample = autoencoder.config.reductions[1]

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        shape = self.autoencoder.latent_shape(video.shape[1], video.shape[3])
        return self.autoencoder.sample(video, rng.normal(shape))  # (B, C, f, h, w)

    def decode(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent).clamp(-1, 1)  # (B, F, 3, H, W)
