"""I3D, the network that FVD is computed with: Inception-v1 inflated to video, 400 Kinetics classes.

Names and shapes of all parameters are those of the PyTorch port that VideoGPT, TATS, DIGAN, PVDM and LVDM score with,
so that its weight file `i3d_pretrained_400.pt` loads as it is. This module is written for reading; the extractor
computes the same function faster with `i3d_folded.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.metrics.features.base import I3D_TRANSFORMS, Extractor, transform
from lavita.metrics.features.weights import git_blob_hash, load_strictly, read_state_dict
from lavita.shapes import check

NUM_CLASSES, SIZE = 400, 224
# Time is halved three times, rounding up, and then averaged over pairs: 9 frames leave two.
MIN_FRAMES = 9

# Name -> width of a convolution, or kernel and stride of a pooling, or the six widths of an Inception block: branch 0;
# branch 1, 1x1x1 and 3x3x3; branch 2, the same; branch 3 after its pooling.
LAYERS: dict[str, tuple[str, tuple]] = {
    "Conv3d_1a_7x7": ("conv", (3, 64, 7, 2)),
    "MaxPool3d_2a_3x3": ("pool", ((1, 3, 3), (1, 2, 2))),
    "Conv3d_2b_1x1": ("conv", (64, 64, 1, 1)),
    "Conv3d_2c_3x3": ("conv", (64, 192, 3, 1)),
    "MaxPool3d_3a_3x3": ("pool", ((1, 3, 3), (1, 2, 2))),
    "Mixed_3b": ("mixed", (192, 64, 96, 128, 16, 32, 32)),
    "Mixed_3c": ("mixed", (256, 128, 128, 192, 32, 96, 64)),
    "MaxPool3d_4a_3x3": ("pool", ((3, 3, 3), (2, 2, 2))),
    "Mixed_4b": ("mixed", (480, 192, 96, 208, 16, 48, 64)),
    "Mixed_4c": ("mixed", (512, 160, 112, 224, 24, 64, 64)),
    "Mixed_4d": ("mixed", (512, 128, 128, 256, 24, 64, 64)),
    "Mixed_4e": ("mixed", (512, 112, 144, 288, 32, 64, 64)),
    "Mixed_4f": ("mixed", (528, 256, 160, 320, 32, 128, 128)),
    "MaxPool3d_5a_2x2": ("pool", ((2, 2, 2), (2, 2, 2))),
    "Mixed_5b": ("mixed", (832, 256, 160, 320, 32, 128, 128)),
    "Mixed_5c": ("mixed", (832, 384, 192, 384, 48, 128, 128)),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that ceil(size / stride) windows fit; the odd one comes after.

    This is TensorFlow's SAME, with which I3D was trained.
    """
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """x (b, C, F, H, W) with zeros around its last three axes as `same_padding` says."""
    before_after = [same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    return functional.pad(x, [zeros for pair in reversed(before_after) for zeros in pair])


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU; `bare`: a convolution with a bias and nothing after it."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1, bare: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=bare)
        if not bare:
            self.bn = nn.BatchNorm3d(width)
        self.bare = bare

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))  # (b, width, F', H', W')
        return x if self.bare else functional.relu(self.bn(x))


class Pool(nn.Module):
    """Maximum over windows with SAME padding; what comes in is never negative, so zeros around it change nothing."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: four branches side by side."""

    def __init__(self, channels: int, w0: int, w1a: int, w1b: int, w2a: int, w2b: int, w3: int) -> None:
        super().__init__()
        self.b0 = Unit(channels, w0)
        self.b1a, self.b1b = Unit(channels, w1a), Unit(w1a, w1b, 3)
        self.b2a, self.b2b = Unit(channels, w2a), Unit(w2a, w2b, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(channels, w3)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)  # (b, w0 + w1b + w2b + w3, F, H, W)


class I3D(nn.Module):
    """video float32 (b, 3, F, 224, 224), -1..1, F >= 9 -> logits (b, 400), averaged over time.

    Source: Carreira & Zisserman 2017 (arXiv:1705.07750), figure 3; names, padding and the mean over time as in
    https://github.com/sihyun-yu/PVDM/blob/793172f7acbe51036a9f2c62a6d2bd1b0a0c6d90/evals/fvd/pytorch_i3d.py
    """

    def __init__(self) -> None:
        super().__init__()
        build = {"conv": Unit, "pool": Pool, "mixed": Mixed}
        for name, (kind, sizes) in LAYERS.items():
            self.add_module(name, build[kind](*sizes))
        self.logits = Unit(1024, NUM_CLASSES, bare=True)

    def forward(self, video: Tensor) -> Tensor:
        check_video(video)
        x = video
        for name in LAYERS:
            x = self.get_submodule(name)(x)  # at the end (b, 1024, ceil(F / 8), 7, 7)
        x = functional.avg_pool3d(x, (2, 7, 7), stride=1)  # (b, 1024, ceil(F / 8) - 1, 1, 1)
        return self.logits(x).mean(dim=(2, 3, 4))  # (b, 400)


def check_video(video: Tensor) -> None:
    """Raise ValueError unless video is (b, 3, F, 224, 224) with F >= 9."""
    frames = check(video, "B 3 F H W", "I3D video", H=SIZE, W=SIZE)["F"]
    if frames < MIN_FRAMES:
        raise ValueError(f"I3D: got clips of {frames} frames, wanted at least {MIN_FRAMES}; it halves time three times")


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
    """An Inception block; see `Mixed`. One ReLU for all branches: b0 is already non-negative."""

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


# What the TorchScript packaging does inside, up to rounding.
USUAL = "straight"


def read_i3d(path: Path | str) -> I3D:
    """Return the network of a file, in evaluation mode. Raises ValueError for any other file or network, naming what
    is missing, unknown or of another shape.
    """
    network = I3D()
    state = read_state_dict(Path(path), "I3D")
    load_strictly(network, state, "I3D", path)
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ValueError(f"I3D: {path} holds weights that are not finite")
    return network.eval()


class I3DExtractor(Extractor):
    """Our I3D: 400 logits averaged over time, of clips of at least 9 frames of any size.

    preprocess: a name of `preprocess.I3D_TRANSFORMS`; the name of the extractor says so unless it is "straight".
    Source: `lavita.metrics.features.i3d`.
    """

    num_features, num_classes = NUM_CLASSES, None

    def __init__(self, network: I3D, weights_hash: str, device: str = "cpu", preprocess: str = USUAL) -> None:
        self.transform = transform(preprocess, I3D_TRANSFORMS)
        self.network = FoldedI3D(network).to(device)
        self.weights_hash, self.device, self.preprocess = weights_hash, device, preprocess
        self.name = "i3d" if preprocess == USUAL else f"i3d-{preprocess}"

    def forward_features(self, clips: Tensor) -> Tensor:
        return self.network(self.transform(clips.to(self.device), SIZE))  # (b, 400)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor i3d: gives features only, no class probabilities; take c3d or embedded")


def load_i3d(path: Path | str, device: str = "cpu", preprocess: str = USUAL) -> I3DExtractor:
    """The extractor of a file; its weights_hash is the file's git blob name. Raises ValueError as `read_i3d`."""
    return I3DExtractor(read_i3d(path), git_blob_hash(path), device, preprocess)
