"""Layers of the StyleGAN2 family: equalised learning rate, modulated convolution, mapping, residual discriminator.

A parameter is stored at unit scale and multiplied by a constant in the forward pass, so that one learning rate suits
all. Names are those of the official state dicts.
Sources: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958); Karras et al. 2018 (progressive GAN, arXiv:1710.10196),
sections 3 and 4.1. Which layer has which gain, padding and clamp: recorded figures of StyleGAN-V and MoStGAN-V.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import in_float32
from lavita.nn.resampling import LINEAR, downsample, normalised_taps, resample

SLOPE = 0.2
TINY = 1e-8


def activate(
    x: Tensor, bias: Tensor | None, activation: str = "lrelu", gain: float = 1.0, clamp: float | None = None
) -> Tensor:
    """Bias (C,) of axis 1, activation, gain, clamp, in this order, (B, C, ...) -> (B, C, ...).

    lrelu is leaky ReLU with slope 0.2 times sqrt 2, linear is x itself. The clamp is at clamp * gain.
    """
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if activation == "lrelu":
        x, gain_in_all = functional.leaky_relu(x, SLOPE), math.sqrt(2) * gain
    elif activation == "linear":
        gain_in_all = gain
    else:
        raise ValueError(f"activation: got {activation!r}, allowed: linear, lrelu")
    if gain_in_all != 1:
        x = x * gain_in_all
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def normalise(x: Tensor, axis: int = 1) -> Tensor:
    """x divided by the root of its mean square along an axis."""
    return x * (x.square().mean(axis, keepdim=True) + TINY).rsqrt()


class EqualLinear(nn.Module):
    """Linear layer, (..., in) -> (..., out): weight * m / sqrt(in), bias * m, then the activation.

    lr_multiplier: m. The initial weight is N(0, 1) / m; bias_init is what the bias is worth at the start.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier)) if bias else None
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(inputs), lr_multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.bias_gain
        x = functional.linear(x, self.weight * self.weight_gain, bias)  # (..., out)
        return activate(x, None, self.activation)


class Filtered(nn.Module):
    """Base of layers that carry the low-pass filter as a buffer `resample_filter`, (4, 4): an outer product."""

    def __init__(self) -> None:
        super().__init__()
        taps = normalised_taps(LINEAR)
        self.register_buffer("resample_filter", torch.outer(taps, taps))

    @property
    def taps(self) -> Tensor:
        """The filter of one axis, (4,), whose sum is 1."""
        return self.resample_filter.sum(0)


def convolve(x: Tensor, weight: Tensor, taps: Tensor, up: bool = False, down: bool = False) -> Tensor:
    """ "Same" convolution of images (B, I, H, W) with a weight (O, I, k, k), k odd, which also doubles or halves them.

    Doubling: transposed convolution with stride 2, then the filter. Halving: the filter, then a convolution with stride
    2; with k = 1 the filter and decimation, then the convolution. Source: StyleGAN2, appendix B.
    """
    size = weight.shape[-1]
    if up:
        x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # (B, O, 2 H + 1, 2 W + 1) for k = 3
        return resample(x, taps, pads=(2 - size // 2, 2 - size // 2), gain=4.0)  # (B, O, 2 H, 2 W)
    if down and size == 1:
        return functional.conv2d(downsample(x, taps), weight)  # (B, O, H / 2, W / 2)
    if down:
        x = resample(x, taps, pads=(size // 2 + 1, size // 2 + 1))  # (B, I, H + 1, W + 1) for k = 3
        return functional.conv2d(x, weight, stride=2)  # (B, O, H / 2, W / 2)
    return functional.conv2d(x, weight, padding=size // 2)  # (B, O, H, W)


class EqualConv2d(Filtered):
    """Convolution of images with equalised learning rate, (B, I, H, W) -> (B, O, H', W').

    clamp: values are cut to +-clamp * gain after the activation; None: not.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        bias: bool = True,
        activation: str = "linear",
        down: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain = 1 / math.sqrt(inputs * size**2)
        self.activation, self.down, self.clamp = activation, down, clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        x = convolve(x, self.weight * self.weight_gain, self.taps, down=self.down)
        return activate(x, self.bias, self.activation, gain, self.clamp)  # (B, O, H', W')


@in_float32
def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Factors that bring each output channel back to unit variance: weight (O, I, ...), style (..., I) -> (..., O).

    Source: StyleGAN2, equation 3.
    """
    power = weight.square().flatten(2).sum(2)  # (O, I)
    return (functional.linear(style.square(), power) + TINY).rsqrt()


def prenormalised(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (O, I, ...) divided by the largest of each output and by the root of its inputs, style (B, I, ...) by the
    largest of each image: half precision then holds all products. Demodulation undoes it.

    Source: Karras et al. 2020 (StyleGAN2-ADA, arXiv:2006.06676), appendix D.1.
    """
    axes = tuple(range(1, weight.ndim))
    weight = weight / (math.sqrt(weight[0].numel()) * weight.abs().amax(axes, keepdim=True))
    return weight, style / style.abs().amax(tuple(range(1, style.ndim)), keepdim=True)


def modulated(
    x: Tensor, weight: Tensor, style: Tensor, convolution: Callable[[Tensor, Tensor], Tensor], demodulate: bool = True
) -> Tensor:
    """Convolution whose input channels are scaled by a style: (B, I, *space) -> (B, O, *space').

    The input is scaled, convolved with the one weight (O, I, ...), and what comes out is demodulated: the same as a
    weight for each sample. style is (B, I), or (B, I, T) where x is (B, I, T, ...): then each output frame is
    demodulated by its own style. convolution(x, weight) may resample, but not the axis T.
    Source: StyleGAN2, section 2.2.
    """
    extra = [1] * (x.ndim - style.ndim)
    y = convolution(x * style.to(x.dtype).view(*style.shape, *extra), weight)
    if not demodulate:
        return y
    factors = demodulation(weight, style.movedim(1, -1)).movedim(-1, 1)  # (B, O) or (B, O, T)
    return y * factors.to(y.dtype).view(*factors.shape, *extra)


class Mapping(nn.Module):
    """Latents z (B, z_dim) and labels c (B, c_dim), float, of which either may be absent (width 0) -> w (B, w_dim).

    average_decay: w_avg, the running mean of w, is kept for truncation; None: there is none.
    Source: Karras et al. 2019 (StyleGAN, arXiv:1812.04948), section 2; StyleGAN2-ADA, appendix D (labels).
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        average_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_layers, self.average_decay = z_dim, c_dim, num_layers, average_decay
        if c_dim:
            self.embed = EqualLinear(c_dim, w_dim)
        widths = [z_dim + (w_dim if c_dim else 0), *[w_dim] * num_layers]
        for number in range(num_layers):
            layer = EqualLinear(widths[number], w_dim, activation="lrelu", lr_multiplier=lr_multiplier)
            setattr(self, f"fc{number}", layer)
        if average_decay is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    @in_float32
    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        parts = [normalise(z)] if self.z_dim else []
        if self.c_dim:
            parts.append(normalise(self.embed(c)))
        x = torch.cat(parts, dim=1)  # (B, z_dim + w_dim)
        for number in range(self.num_layers):
            x = getattr(self, f"fc{number}")(x)
        return x  # (B, w_dim)

    @torch.no_grad()
    def update_average(self, mean: Tensor) -> None:
        """Move w_avg towards the mean of w over a batch, (w_dim,)."""
        self.w_avg.copy_(mean.to(self.w_avg.dtype).lerp(self.w_avg, self.average_decay))

    def truncated(self, w: Tensor, psi: float) -> Tensor:
        """w moved towards its average: 1 leaves it, 0 is the average. Source: StyleGAN, appendix B."""
        return w if psi == 1 else self.w_avg.lerp(w, psi)


class DiscriminatorBlock(Filtered):
    """Residual block of images, (B, I, H, W) -> (B, O, H / 2, W / 2); with image_channels it begins with a 1x1 layer
    on images (B, image_channels, H, W).

    channels: after the first convolution. Source: StyleGAN2, section 4.1 and figure 7.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        image_channels: int | None = None,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.first = image_channels is not None
        if image_channels is not None:
            self.fromrgb = EqualConv2d(image_channels, inputs, 1, activation="lrelu", clamp=clamp)
        self.conv0 = EqualConv2d(inputs, channels, 3, activation="lrelu", clamp=clamp)
        self.conv1 = EqualConv2d(channels, outputs, 3, activation="lrelu", down=True, clamp=clamp)
        self.skip = EqualConv2d(inputs, outputs, 1, bias=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = self.fromrgb(x)  # (B, I, H, W)
        y = self.skip(x, math.sqrt(0.5))  # (B, O, H / 2, W / 2)
        return y + self.conv1(self.conv0(x), math.sqrt(0.5))  # (B, O, H / 2, W / 2)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """One more channel, (B, C, H, W) -> (B, C + 1, H, W): how far the members of a group are apart.

    A group's members are i, i + B / group, ...: the root of their variance (over the group, biased), mean over channels
    and pixels, the same at all pixels of all members. Groups are as large as `group` where that divides B, else the
    largest below that does.
    Source: Karras et al. 2018 (progressive GAN), section 3; StyleGAN2's code groups.
    """
    batch, channels, height, width = x.shape
    group = next(size for size in range(min(group, batch), 0, -1) if batch % size == 0)
    y = x.reshape(group, batch // group, channels, height, width)
    y = (y.var(0, correction=0) + TINY).sqrt()  # (B / group, C, H, W)
    y = y.mean((1, 2, 3)).repeat(group).view(batch, 1, 1, 1)  # (B, 1, 1, 1)
    return torch.cat([x, y.expand(-1, -1, height, width)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The last block, on maps (B, C, side, side) -> (logits or features (B, outputs), hidden (B, hidden)), in float32.

    group: of the minibatch deviation; None: there is none. hidden: width of the linear layer, whose output after its
    activation comes second. Source: StyleGAN2-ADA, figure 24 and appendix D.
    """

    def __init__(
        self, channels: int, hidden: int, outputs: int, side: int = 4, group: int | None = 4, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.group = group
        inputs = channels + (0 if group is None else 1)
        self.conv = EqualConv2d(inputs, channels, 3, activation="lrelu", clamp=clamp)
        self.fc = EqualLinear(channels * side**2, hidden, activation="lrelu")
        self.out = EqualLinear(hidden, outputs)

    @in_float32
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.group is not None:
            x = minibatch_deviation(x, self.group)  # (B, C + 1, side, side)
        hidden = self.fc(self.conv(x).flatten(1))  # (B, hidden)
        return self.out(hidden), hidden


def projected(features: Tensor, condition: Tensor) -> Tensor:
    """Logit of each sample, (B,): features (B, D) along its condition (B, D), over sqrt D.

    Source: Miyato & Koyama 2018 (projection discriminator), equation 3; StyleGAN2-ADA, appendix D.
    """
    return (features * condition).sum(1) / math.sqrt(features.shape[1])
