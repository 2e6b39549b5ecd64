"""I3D, the network that FVD is computed with: Inception-v1 inflated to video, 400 Kinetics classes.

Names and shapes of all parameters are those of the PyTorch port that VideoGPT, TATS, DIGAN, PVDM and LVDM score with,
so that its weight file `i3d_pretrained_400.pt` loads as it is. This module is written for reading; the extractor
computes the same function faster with `i3d_folded.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.shape import check

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
