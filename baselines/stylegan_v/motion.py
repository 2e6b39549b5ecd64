"""The motion of a clip as a continuous function of time: noise, its convolution, and a code for any time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.stylegan2 import SLOPE, EqualLinear

LR_MULTIPLIER = 0.01  # of the convolutions over time


@dataclass(frozen=True)
class MotionConfig:
    """noise_dim: width of the noise; width: of the codes that the convolutions make of it. distance: frames from one
    code to the next. A frame's code has 2 * frequencies numbers, whose periods run from min_period to max_period.
    max_frames: a trajectory reaches at least as far.
    """

    noise_dim: int = 512
    width: int = 512
    distance: int = 16
    kernel: int = 11
    frequencies: int = 256
    min_period: int = 16
    max_period: int = 1024
    max_frames: int = 1024

    def trajectory(self, latest: float = 0.0) -> int:
        """Steps of noise for times up to `latest`: two codes around each, and what two convolutions eat."""
        return math.ceil(max(self.max_frames - 1, latest) / self.distance) + 2 + 2 * (self.kernel - 1)


class EqualConv1d(nn.Module):
    """Convolution over time without padding, (B, I, L) -> (B, O, L - k + 1), leaky ReLU without a gain."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel) / LR_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = LR_MULTIPLIER / math.sqrt(inputs * kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv1d(x, self.weight * self.gain, self.bias * LR_MULTIPLIER)
        return functional.leaky_relu(x, SLOPE)


class TimeEncoder(nn.Module):
    """Waves of time whose period and phase a trajectory's codes choose, made zero at the codes' own times.

    Source: Skorokhodov et al. 2022 (StyleGAN-V, arXiv:2112.14683), section 3.1, equations 3 to 6.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        count = config.frequencies
        ends = math.log2(config.min_period), math.log2(config.max_period)
        periods = 2 ** torch.linspace(*ends, count, dtype=torch.float64).flip(0)  # longest first
        freqs = 2 * math.pi / periods
        self.register_buffer("freqs", freqs.float()[None])  # (1, F)
        self.register_buffer("phase_scales", (config.max_period / periods).float()[None])  # (1, F)
        self.periods_predictor = EqualLinear(config.width, count, bias=False)
        self.phase_predictor = EqualLinear(config.width, count, bias=False)
        self.aligners_predictor = EqualLinear(config.width, 2 * count, bias=False)

    def forward(self, left: Tensor, right: Tensor, t: Tensor, distance: int) -> Tensor:
        """Codes (M, width) at either side of times t (M,) -> (M, 2 F)."""
        period = self.periods_predictor(left).tanh() + 1  # (M, F)
        phase = self.phase_predictor(left)  # (M, F)

        def waves(t: Tensor) -> Tensor:
            angles = self.freqs * period * t[:, None] + phase * self.phase_scales  # (M, F)
            return torch.cat([angles.sin(), angles.cos()], dim=1)  # (M, 2 F)

        into = t.remainder(distance)  # (M,)
        share = (into / distance)[:, None]  # (M, 1), of the right code
        before = t - into
        ends = waves(before).lerp(waves(before + distance), share)
        aligned = self.aligners_predictor(left).lerp(self.aligners_predictor(right), share)
        return waves(t) - ends + aligned  # (M, 2 F)


class MotionEncoder(nn.Module):
    """Noise of a trajectory and times -> the code of each frame, float32 in mixed precision too.

    Source: StyleGAN-V, section 3.1 and appendix B.
    """

    def __init__(self, config: MotionConfig, c_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.time_encoder = TimeEncoder(config)
        self.conv = nn.ModuleList([
            EqualConv1d(config.noise_dim + c_dim, config.noise_dim, config.kernel),
            EqualConv1d(config.noise_dim, config.width, config.kernel),
        ])  # fmt: skip

    def neighbours(self, t: Tensor, noise: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """The codes to the left and right of times t (B, T), (B, T, width) each.

        noise: (B, L, noise_dim), L as `MotionConfig.trajectory` says for the latest time; more is not needed, and
        changes nothing. c: (B, c_dim).
        """
        x = noise  # (B, L, noise_dim)
        if c is not None:
            x = torch.cat([x, c[:, None].expand(-1, x.shape[1], -1)], dim=2)
        x = x.transpose(1, 2)  # (B, noise_dim + c_dim, L)
        for layer in self.conv:
            x = layer(x)
        codes = x.transpose(1, 2)  # (B, L - 20, width)
        number = t.div(self.config.distance, rounding_mode="floor").long()  # (B, T)
        clip = torch.arange(len(t), device=t.device)[:, None]
        return codes[clip, number], codes[clip, number + 1]

    @in_float32
    def forward(self, t: Tensor, noise: Tensor, c: Tensor | None) -> Tensor:
        left, right = self.neighbours(t, noise, c)
        return self.time_encoder(left.flatten(0, 1), right.flatten(0, 1), t.flatten(), self.config.distance)
