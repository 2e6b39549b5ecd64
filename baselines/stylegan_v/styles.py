"""MoStGAN-V's motion styles: several a frame, of which the weights of each layer attend to some.

Source: Shen et al. 2023 (MoStGAN-V, arXiv:2304.02777), sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.resampling import resample
from lavita.nn.stylegan2 import SLOPE, TINY, EqualConv2d, EqualLinear, convolve, prenormalised

SIZE = 3  # of the kernels


@dataclass(frozen=True)
class StylesConfig:
    """count: motion styles a frame. dim: their width. sides: of the blocks whose weights they change. rank: of what
    changes them.
    """

    count: int = 8
    dim: int = 128
    sides: tuple[int, ...] = (16, 32, 64, 128)
    rank: int = 1


@dataclass(frozen=True)
class Path:
    """How a layer with motion styles computes; these are different functions.

    fused: each image is convolved with its own weight, which the motion styles have changed. Otherwise the plain weight
    is, and the motion styles act through the demodulation of each channel alone. normalised: weight and style are
    divided by their largest values before, as for half precision; the attention is flatter then.
    """

    fused: bool
    normalised: bool


class MotionStyles(nn.Sequential):
    """Style w and motion code of each frame -> its motion styles, (N, w_dim), (N, V) -> (N, K, dim)."""

    def __init__(self, w_dim: int, code_dim: int, config: StylesConfig) -> None:
        super().__init__(
            EqualLinear(w_dim + code_dim, config.count * w_dim, activation="lrelu"),
            EqualLinear(config.count * w_dim, config.count * config.dim),
        )
        self.count = config.count

    @in_float32
    def forward(self, w: Tensor, code: Tensor) -> Tensor:
        return super().forward(torch.cat([w, code], dim=1)).unflatten(1, (self.count, -1))


class HyperNetwork(nn.Module):
    """Motion styles (N, K, dim) -> a tensor of rank r for each, shaped as one output of a weight, (N, K, I, 3, 3)."""

    def __init__(self, inputs: int, config: StylesConfig) -> None:
        super().__init__()
        self.inputs, self.rank = inputs, config.rank
        self.conv0 = EqualConv2d(config.dim, config.rank * (inputs + 2 * SIZE), 1, bias=False, activation="lrelu")

    @in_float32
    def forward(self, motion: Tensor) -> Tensor:
        x = self.conv0(motion.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)  # (N, K, r (I + 6))
        inputs, rows, columns = x.unflatten(2, (self.rank, -1)).split([self.inputs, SIZE, SIZE], dim=3)
        return torch.einsum("nkri,nkrh,nkrw->nkihw", inputs, rows, columns) / math.sqrt(self.rank)


@in_float32
def attended(weight: Tensor, style: Tensor, tensors: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of each image (N, O, I, 3, 3), scaled by its style and changed by the motion styles, and the scores
    (N, K, O).

    weight (O, I, 3, 3), style (N, I), tensors (N, K, I, 3, 3). Source: MoStGAN-V, section 3.3.
    """
    scaled = tensors * style[:, None, :, None, None]
    scores = functional.linear(scaled.flatten(2), weight.flatten(1)) / math.sqrt(weight[0].numel())  # (N, K, O)
    change = torch.einsum("nko,nkihw->noihw", scores.softmax(1), tensors)
    change = change / change.abs().amax((1, 2, 3, 4), keepdim=True)
    change = functional.leaky_relu(change, SLOPE)
    return weight * style[:, None, :, None, None] * (1 + change), scores


def modulated_by_motion(
    x: Tensor, weight: Tensor, style: Tensor, tensors: Tensor, taps: Tensor, up: bool, path: Path
) -> tuple[Tensor, Tensor]:
    """Convolution of images (N, I, H, W), modulated by style (N, I) and motion tensors (N, K, I, 3, 3), with the scores
    of the attention (N, K, O). Path says along which arithmetic.
    """
    if path.normalised:
        weight, style = prenormalised(weight, style)
    own, scores = attended(weight, style, tensors)  # (N, O, I, 3, 3)
    factors = (own.square().sum((2, 3, 4)) + TINY).rsqrt()  # (N, O)
    if path.fused:
        return convolve_each(x, own * factors[:, :, None, None, None], taps, up), scores
    x = convolve(x * style.to(x.dtype)[:, :, None, None], weight, taps, up=up)
    return x * factors.to(x.dtype)[:, :, None, None], scores


def convolve_each(x: Tensor, weight: Tensor, taps: Tensor, up: bool) -> Tensor:
    """Each image (N, I, H, W) with its own weight (N, O, I, 3, 3); see `lavita.nn.stylegan2.convolve`."""
    count, outputs, inputs = weight.shape[:3]
    images = x.reshape(1, count * inputs, *x.shape[2:])  # (1, N I, H, W)
    if up:
        turned = weight.transpose(1, 2).reshape(count * inputs, outputs, SIZE, SIZE)
        images = functional.conv_transpose2d(images, turned, stride=2, groups=count)
        images = resample(images, taps, pads=(1, 1), gain=4.0)
    else:
        images = functional.conv2d(images, weight.flatten(0, 1), padding=SIZE // 2, groups=count)
    return images.reshape(count, outputs, *images.shape[2:])


def diversity(scores: Tensor) -> Tensor:
    """How alike the motion styles act, (): mean squared cosine of the scores (N, K, O) of all pairs, all images.

    The norms take no gradient. Source: MoStGAN-V, section 3.4.
    """
    rows = scores.flatten(0, 1)  # (N K, O)
    rows = rows / (rows.norm(dim=1, keepdim=True).detach() + 1e-6)
    return (rows @ rows.T).square().mean()
