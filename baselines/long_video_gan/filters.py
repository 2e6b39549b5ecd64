"""Lowpass filters of Long Video GAN, and the small layers that lengthen or shorten with them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor, nn

from lavita.nn.resampling import LINEAR, normalised_taps, upsample
from lavita.training import distributed

ALL = (3, 4)  # axes of height and width in (B, C, T, H, W)
TIME = (2,)


def kaiser_lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """A lowpass of this many taps, float32 (taps,), whose sum is 1.

    cutoff and width of the transition are in the unit of the sampling rate. Source: Kaiser 1974; StyleGAN3 (Karras et
    al. 2021, arXiv:2106.12423), appendix C.1.
    """
    return torch.from_numpy(kaiser_taps(taps, cutoff, width, rate)).float()


def kaiser_taps(taps: int, cutoff: float, width: float, rate: float) -> np.ndarray:
    """The same in float64."""
    return firwin(taps, cutoff, width=width, fs=rate)


def triangle(scale: int) -> Tensor:
    """The filter of linear interpolation by a whole factor, float32 (2 scale,), whose sum is 1."""
    half = [0.5 / scale + k / scale for k in range(scale)]
    return normalised_taps([*half, *reversed(half)])


class LinearUpsample(nn.Module):
    """Linear interpolation by 2 along some axes of clips (B, C, T, H, W); zero outside, so the border is attenuated."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("filter", normalised_taps(LINEAR))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.filter, axes=self.axes)


class Filter(nn.Module):
    """Taps (K,) as a buffer under their official name."""

    def __init__(self, taps: Tensor) -> None:
        super().__init__()
        self.register_buffer("filter", taps)


def centre(x: Tensor, length: int, axis: int) -> Tensor:
    """The middle `length` entries of an axis; with an odd rest the later one is left out."""
    return x.narrow(axis, (x.shape[axis] - length) // 2, length)


@torch.no_grad()
def move_magnitude(magnitude: Tensor, x: Tensor, beta: float) -> None:
    """Move a running mean square, (), in place towards that of x over all processes: beta is how much of it stays.

    Source: StyleGAN3, section 3.2 ("flexible layer specifications" keep a running average of the input's magnitude).
    """
    magnitude.copy_(distributed.mean(x.detach().float().square().mean()).lerp(magnitude, beta))


class InputMagnitude(nn.Module):
    """Divides by the root of a running mean square, which a forward pass with beta < 1 moves first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        if beta != 1:
            move_magnitude(self.magnitude_ema, x, beta)
        return x * self.magnitude_ema.rsqrt().to(x.dtype)
