"""I3D computed faster: the same function of the same weights, rewritten for inference.

Clips are (b, F, H, W, C) throughout: channels lie innermost in memory. Batch norm goes into the convolutions before it.
A convolution of 3x3x3 is one over space that reads neighbouring frames as further channels, for which torch has the
faster code; one of 1x1x1 is a matrix product, and the three that read the input of an Inception block are one.
No padding is written out that a pooling can do by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.score.i3d import I3D, LAYERS, Mixed, Pool, Unit, check_video, same_padding


def folded(unit: Unit) -> tuple[Tensor, Tensor]:
    """Weight (width, C, k, k, k) and bias (width,), float32, of a unit's convolution with its batch norm folded in."""
    norm = unit.bn
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return (unit.conv3d.weight.double() * scale.view(-1, 1, 1, 1, 1)).float(), bias.float()


class Pointwise(nn.Module):
    """1x1x1 units that read the same input, without their ReLU: (b, F, H, W, C) -> (b, F, H, W, sum of widths)."""

    def __init__(self, *units: Unit) -> None:
        super().__init__()
        weights, biases = zip(*map(folded, units), strict=True)
        self.register_buffer("weight", torch.cat(weights).flatten(1))
        self.register_buffer("bias", torch.cat(biases))
        self.widths = [len(bias) for bias in biases]

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Stem(nn.Module):
    """The first unit, 7x7x7 with stride 2, without its ReLU: (b, F, H, W, 3) -> (b, F / 2, H / 2, W / 2, 64).

    As a convolution over video: seven frames as channels of one would be 33 MB to write for a clip.
    """

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        weight, bias = folded(unit)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last_3d))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        video = pad_zeros(x, 7, 2).permute(0, 4, 1, 2, 3)  # (b, 3, F + 5, H + 5, W + 5)
        return functional.conv3d(video, self.weight, self.bias, stride=2).permute(0, 2, 3, 4, 1)


class Convolution(nn.Module):
    """A unit of 3x3x3 without its ReLU: (b, F, H, W, C) -> (b, F, H, W, width)."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        weight, bias = folded(unit)
        # Channels of the frame before, then of the frame itself, then of the one after.
        weight = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        padded, count = pad_zeros(x, 3, 1), x.shape[1]
        x = torch.cat([padded[:, start : start + count] for start in range(3)], dim=4)  # (b, F, H + 2, W + 2, 3 C)
        frames = x.flatten(0, 1).permute(0, 3, 1, 2)  # (b F, 3 C, H + 2, W + 2)
        frames = functional.conv2d(frames, self.weight, self.bias)  # (b F, width, H, W)
        return frames.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def pad_zeros(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x (b, F, H, W, C) with zeros around F, H and W as `same_padding` says."""
    pads = [same_padding(size, kernel, stride) for size in x.shape[1:4]]
    return functional.pad(x, [0, 0] + [zeros for pair in reversed(pads) for zeros in pair])


class FoldedPool(nn.Module):
    """A pooling with SAME padding of x (b, F, H, W, C); equal bit for bit.

    Zeros before an axis are padding; zeros after it are at most one more, which is a last window that reaches over the
    end (ceil_mode). Left out of the maximum instead of being zeros, they change nothing: no input is negative.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.kernel, self.stride = pool.kernel, pool.stride

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[1:4], self.kernel, self.stride, strict=True)
        padding = tuple(same_padding(*axis)[0] for axis in sizes)
        video = x.permute(0, 4, 1, 2, 3)  # (b, C, F, H, W)
        video = functional.max_pool3d(video, self.kernel, self.stride, padding, ceil_mode=True)
        return video.permute(0, 2, 3, 4, 1)


class FoldedMixed(nn.Module):
    """An Inception block; see `lavita.score.i3d.Mixed`. One ReLU for all branches: b0 has no negative left by then."""

    def __init__(self, block: Mixed) -> None:
        super().__init__()
        self.pointwise = Pointwise(block.b0, block.b1a, block.b2a)
        self.b1b, self.b2b = Convolution(block.b1b), Convolution(block.b2b)
        self.pool, self.b3b = FoldedPool(block.b3a), Pointwise(block.b3b)

    def forward(self, x: Tensor) -> Tensor:
        b0, b1, b2 = self.pointwise(x).relu_().split(self.pointwise.widths, dim=4)
        return torch.cat([b0, self.b1b(b1), self.b2b(b2), self.b3b(self.pool(x))], dim=4).relu_()


def folded_layer(layer: Unit | Pool | Mixed) -> nn.Module:
    """The fast form of a layer of I3D."""
    if isinstance(layer, Unit):
        kind = {1: Pointwise, 3: Convolution, 7: Stem}[layer.conv3d.kernel_size[0]]
        return nn.Sequential(kind(layer), nn.ReLU(inplace=True))
    return FoldedPool(layer) if isinstance(layer, Pool) else FoldedMixed(layer)


class FoldedI3D(nn.Module):
    """video float32 (b, 3, F, 224, 224), -1..1, F >= 9 -> logits (b, 400), averaged over time; for inference only."""

    def __init__(self, network: I3D) -> None:
        super().__init__()
        with torch.no_grad():
            self.layers = nn.Sequential(*(folded_layer(network.get_submodule(name)) for name in LAYERS))
            self.register_buffer("weight", network.logits.conv3d.weight.flatten(1).clone())
            self.register_buffer("bias", network.logits.conv3d.bias.clone())
        self.eval()

    def forward(self, video: Tensor) -> Tensor:
        check_video(video)
        x = self.layers(video.permute(0, 2, 3, 4, 1).contiguous())  # (b, ceil(F / 8), 7, 7, 1024)
        x = x.mean(dim=(2, 3))  # (b, ceil(F / 8), 1024)
        pairs = (x[:, 1:] + x[:, :-1]) / 2  # (b, ceil(F / 8) - 1, 1024)
        return functional.linear(pairs.mean(dim=1), self.weight, self.bias)  # (b, 400)
