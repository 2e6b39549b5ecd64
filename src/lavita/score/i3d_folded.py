"""I3D computed faster: the same function of the same weights, rewritten for inference.

Batch norm goes into the convolutions before it; the three 1x1x1 convolutions that read the input of an Inception block
are one; a maximum over a box is three maxima along its axes; channels lie innermost in memory (channels_last_3d).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.score.i3d import I3D, LAYERS, Mixed, Pool, Unit, check_video, pad_same, same_padding

LAYOUT = torch.channels_last_3d


class FoldedUnit(nn.Module):
    """Units that read the same input, as one convolution: batch norm folded in (in float64), then ReLU."""

    def __init__(self, *units: Unit) -> None:
        super().__init__()
        weights, biases = zip(*map(folded, units), strict=True)
        self.register_buffer("weight", torch.cat(weights).contiguous(memory_format=LAYOUT))
        self.register_buffer("bias", torch.cat(biases))
        self.kernel, self.stride = units[0].conv3d.kernel_size, units[0].conv3d.stride
        self.widths = [len(bias) for bias in biases]

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1, 1):  # as many zeros before an axis as after it
            padding = self.kernel[0] // 2
            return functional.conv3d(x, self.weight, self.bias, padding=padding).relu_()
        return functional.conv3d(pad_same(x, self.kernel, self.stride), self.weight, self.bias, self.stride).relu_()


def folded(unit: Unit) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, of the one convolution that equals a unit's convolution and batch norm."""
    norm = unit.bn
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return (unit.conv3d.weight.double() * scale.view(-1, 1, 1, 1, 1)).float(), bias.float()


class FoldedPool(nn.Module):
    """Maximum over boxes, one axis after the other: equal bit for bit, and fewer comparisons."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.kernel, self.stride = pool.kernel, pool.stride

    def forward(self, x: Tensor) -> Tensor:
        for axis, kernel, stride in zip((2, 3, 4), self.kernel, self.stride, strict=True):
            x = x if kernel == 1 else max_along(x, axis, kernel, stride)
        return x


def max_along(x: Tensor, axis: int, kernel: int, stride: int) -> Tensor:
    """Maximum over windows of one axis of x (b, C, F, H, W) with SAME padding."""
    windows = -(-x.shape[axis] // stride)
    x = functional.pad(x, [0, 0] * (4 - axis) + list(same_padding(x.shape[axis], kernel, stride)))
    # Entry `start` of all windows, for every start.
    entries = [x[(slice(None),) * axis + (slice(start, start + stride * windows, stride),)] for start in range(kernel)]
    largest = torch.maximum(entries[0], entries[1])
    for entry in entries[2:]:
        largest = torch.maximum(largest, entry)
    return largest


class FoldedMixed(nn.Module):
    """An Inception block; see `lavita.score.i3d.Mixed`."""

    def __init__(self, block: Mixed) -> None:
        super().__init__()
        self.pointwise = FoldedUnit(block.b0, block.b1a, block.b2a)
        self.b1b, self.b2b = FoldedUnit(block.b1b), FoldedUnit(block.b2b)
        self.pool, self.b3b = FoldedPool(block.b3a), FoldedUnit(block.b3b)

    def forward(self, x: Tensor) -> Tensor:
        b0, b1, b2 = self.pointwise(x).split(self.pointwise.widths, dim=1)
        return torch.cat([b0, self.b1b(b1), self.b2b(b2), self.b3b(self.pool(x))], dim=1)


class FoldedI3D(nn.Module):
    """video float32 (b, 3, F, 224, 224), -1..1, F >= 9 -> logits (b, 400), averaged over time; for inference only."""

    def __init__(self, network: I3D) -> None:
        super().__init__()
        fold = {Unit: FoldedUnit, Pool: FoldedPool, Mixed: FoldedMixed}
        with torch.no_grad():
            layers = [network.get_submodule(name) for name in LAYERS]
            self.layers = nn.Sequential(*(fold[type(layer)](layer) for layer in layers))
            self.register_buffer("weight", network.logits.conv3d.weight.flatten(1).clone())
            self.register_buffer("bias", network.logits.conv3d.bias.clone())
        self.eval()

    def forward(self, video: Tensor) -> Tensor:
        check_video(video)
        x = self.layers(video.contiguous(memory_format=LAYOUT))  # (b, 1024, ceil(F / 8), 7, 7)
        x = x.mean(dim=(3, 4))  # (b, 1024, ceil(F / 8))
        pairs = (x[:, :, 1:] + x[:, :, :-1]) / 2  # (b, 1024, ceil(F / 8) - 1)
        return functional.linear(pairs.mean(dim=2), self.weight, self.bias)  # (b, 400)
