"""FIR resampling along chosen axes: insert zeros, pad, filter, decimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

LINEAR = (1.0, 3.0, 3.0, 1.0)  # StyleGAN2's filter, before it is made to sum to 1


def normalised_taps(taps: Sequence[float]) -> Tensor:
    """Taps (K,) float32 whose sum is 1; divided in float64."""
    values = torch.tensor(taps, dtype=torch.float64)
    return (values / values.sum()).float()


def resample(
    x: Tensor,
    taps: Tensor,
    axes: Sequence[int] = (-2, -1),
    up: int = 1,
    down: int = 1,
    pads: tuple[int, int] = (0, 0),
    gain: float = 1.0,
    correlate: bool = False,
) -> Tensor:
    """Filter a tensor (B, C, ...) with the same taps (K,) along each of the axes, none of which is B or C.

    Along an axis of length n: up - 1 zeros after every sample, also after the last; pads[0] zeros before and pads[1]
    after, of which a negative number cuts samples off; true convolution without padding (correlate: correlation);
    every down-th sample, from the first. The length becomes ceil((up * n + pads[0] + pads[1] - K + 1) / down). The
    result is multiplied by gain once, however many axes there are.
    Source: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958), section 4.1 and appendix B.
    """
    taps = taps.to(x.dtype)
    taps = taps.flip(0) if correlate else taps
    for number, axis in enumerate(axes):
        x = along_axis(x, axis % x.ndim, taps * gain if number == 0 else taps, up, down, pads)
    return x


def along_axis(x: Tensor, axis: int, taps: Tensor, up: int, down: int, pads: tuple[int, int]) -> Tensor:
    """Resampling of one axis by true convolution with taps (K,)."""
    if axis < 2:
        raise ValueError(f"resample: axis {axis} is the batch or the channels, wanted a later one")
    shape, last = x.shape, axis == x.ndim - 1
    # Everything before the axis becomes channels: a convolution of its own for each channel is the fast kernel.
    if last:
        x = x.reshape(shape[0], -1, shape[-2] if x.ndim > 3 else 1, shape[-1])  # (B, M, H, n)
    else:
        x = x.reshape(shape[0], shape[1:axis].numel(), shape[axis], shape[axis + 1 :].numel())  # (B, M, n, H)
    weight = (taps if up > 1 else taps.flip(0)).view((1, 1, 1, -1) if last else (1, 1, -1, 1))
    weight, channels = weight.expand(x.shape[1], -1, -1, -1), x.shape[1]
    if up > 1:
        # A transposed convolution inserts the zeros and gives all samples that are not zero, (n - 1) * up + K.
        x = functional.conv_transpose2d(x, weight, stride=(1, up) if last else (up, 1), groups=channels)
        pads = (pads[0] - len(taps) + 1, pads[1] + up - len(taps))
    x = functional.pad(x, (*pads, 0, 0) if last else (0, 0, *pads))
    if up == 1:
        x = functional.conv2d(x, weight, stride=(1, down) if last else (down, 1), groups=channels)
    elif down > 1:
        x = x[..., ::down] if last else x[..., ::down, :]
    return x.reshape(*shape[:axis], x.shape[-1 if last else -2], *shape[axis + 1 :])


def upsample(x: Tensor, taps: Tensor, factor: int = 2, axes: Sequence[int] = (-2, -1), extra: int = 0) -> Tensor:
    """Each axis longer by the factor at the same amplitude, zeros outside; `extra` is padded on both sides."""
    before, after = (len(taps) + factor - 1) // 2 + extra, (len(taps) - factor) // 2 + extra
    return resample(x, taps, axes, up=factor, pads=(before, after), gain=float(factor ** len(axes)))


def downsample(
    x: Tensor,
    taps: Tensor,
    factor: int = 2,
    axes: Sequence[int] = (-2, -1),
    extra: int = 0,
    correlate: bool = False,
) -> Tensor:
    """Each axis shorter by the factor, zeros outside; `extra` is padded on both sides."""
    before, after = (len(taps) - factor + 1) // 2 + extra, (len(taps) - factor) // 2 + extra
    return resample(x, taps, axes, down=factor, pads=(before, after), correlate=correlate)
