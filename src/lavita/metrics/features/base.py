"""Clips -> feature vectors and class probabilities, frames -> feature vectors: what every feature network offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavita.shapes import check

# Where the network resizes and scales by itself (the TorchScript packaging of I3D, C3D).
INSIDE = "inside"


def bilinear(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 (N, C, H, W) -> (N, C, *size)."""
    return functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)


def single_frames(clips: Tensor) -> Tensor:
    """uint8 (b, F, H, W, 3), 0..255 -> float32 (b * F, 3, H, W), 0..255."""
    check(clips, "B F H W 3", "clips", dtype=torch.uint8)
    return clips.flatten(0, 1).float().permute(0, 3, 1, 2).contiguous()


def as_video(frames: Tensor, clips: Tensor) -> Tensor:
    """Frames (b * F, 3, H, W) of these clips -> (b, 3, F, H, W), contiguous."""
    return frames.unflatten(0, clips.shape[:2]).transpose(1, 2).contiguous()


def straight(clips: Tensor, size: int) -> Tensor:
    """uint8 (b, F, H, W, 3), 0..255 -> float32 (b, 3, F, size, size), -1..1: resized whatever the shape of a frame.

    Source: https://github.com/songweige/content-debiased-fvd/blob/a1e037ab7cb087debd2221d14ae4a001ec054201/cdfvd/
    third_party/i3d/utils.py; the same in TATS and, after levels became whole numbers, in LVDM.
    """
    return as_video(2.0 * bilinear(single_frames(clips), (size, size)) / 255.0 - 1, clips)


def straight_truncated(clips: Tensor, size: int) -> Tensor:
    """As `straight`, after what LVDM does to real frames: to -1..1 and back to whole numbers, cutting the fraction.

    Rounding in between makes the levels 1 to 63 one less. LVDM's generated clips are whole numbers already: they take
    `straight`. Source: https://github.com/YingqingHe/LVDM/blob/d251dccfbf6352826f5c5681abd86e87ed7e6371/scripts/
    eval_cal_fvd_kvd.py (real clips) and lvdm/data/ucf.py (their range).
    """
    check(clips, "B F H W 3", "clips", dtype=torch.uint8)
    levels = torch.arange(256, dtype=torch.float32)
    cut = ((((levels / 255 - 0.5) * 2) + 1) * 255 / 2).to(torch.uint8)
    return straight(cut.to(clips.device)[clips.long()], size)


def short_side(clips: Tensor, size: int) -> Tensor:
    """uint8 (b, F, H, W, 3), 0..255 -> float32 (b, 3, F, size, size), -1..1: shorter side to size, centre cut out.

    The longer side is rounded up from a float64 product that can lie above a whole number: square frames of some
    sides (100, 200, 400) become 225 rows high, of which the last is cut off. The odd pixel is cut off at the end.
    Source: https://github.com/sihyun-yu/PVDM/blob/793172f7acbe51036a9f2c62a6d2bd1b0a0c6d90/evals/fvd/fvd.py; the same
    in VideoGPT and DIGAN, and up to rounding (3.6e-7) in MCVD.
    """
    frames = single_frames(clips) / 255.0
    height, width = frames.shape[2:]
    scale = size / min(height, width)
    resized = (size, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), size)
    frames = bilinear(frames, resized)
    top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
    return as_video(frames[:, :, top : top + size, left : left + size] - 0.5, clips) * 2


def unit(clips: Tensor, size: int) -> Tensor:
    """uint8 (b, F, H, W, 3), 0..255 -> float32 (b, 3, F, size, size), 0..1: resized whatever the shape of a frame.

    No mean is taken off: that is how the content-debiased FVD feeds VideoMAE. Source:
    https://github.com/songweige/content-debiased-fvd/blob/a1e037ab7cb087debd2221d14ae4a001ec054201/cdfvd/
    third_party/VideoMAEv2/utils.py
    """
    check(clips, "B F H W 3", "clips", dtype=torch.uint8)
    # Time stands where channels do: torch sums in another order there, and its order is part of "bit for bit".
    channels_first = clips.permute(0, 4, 1, 2, 3).float() / 255  # (b, 3, F, H, W)
    return torch.stack([bilinear(clip, (size, size)) for clip in channels_first])


TRANSFORMS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "straight": straight,
    "straight-truncated": straight_truncated,
    "short-side": short_side,
    "unit": unit,
}


# Those that end in -1..1, as I3D was trained.
I3D_TRANSFORMS = ("straight", "straight-truncated", "short-side")


def transform(name: str, allowed: tuple[str, ...]) -> Callable[[Tensor, int], Tensor]:
    """The transform of a name. Raises ValueError for a name that is not among the allowed ones."""
    if name not in allowed:
        raise ValueError(f"preprocess: got {name!r}, allowed {', '.join(allowed)}")
    return TRANSFORMS[name]


class Extractor(ABC):
    """A network that gives features of clips.

    name: as in metric names; weights_hash: of exactly these weights; num_features: width of a feature vector,
    0 if it gives none; num_classes: None if it gives no probabilities; preprocess: how clips are brought to the
    network, a name of `preprocess.TRANSFORMS`, or "inside" where the network does it by itself.
    """

    name: str
    weights_hash: str
    num_features: int
    num_classes: int | None
    preprocess: str = INSIDE
    # One clip a forward pass: what a clip's neighbours are, and how many, cannot change a bit of its
    # features.
    inner_batch = 1

    @abstractmethod
    def forward_features(self, clips: Tensor) -> Tensor:
        """uint8 (b, F, H, W, 3), 0..255, b <= inner_batch -> (b, num_features)."""

    @abstractmethod
    def forward_probabilities(self, clips: Tensor) -> Tensor:
        """uint8 (b, F, H, W, 3), 0..255, b <= inner_batch -> (b, num_classes), rows summing to 1."""

    def features(self, clips: np.ndarray | Tensor) -> Tensor:
        """Return float32 (B, num_features) on the CPU for clips uint8 (B, F, H, W, 3), 0..255.

        Raises ValueError for clips of another shape or dtype, or an extractor that has no features.
        """
        if not self.num_features:
            raise ValueError(f"extractor {self.name}: gives class probabilities only, no features")
        return by_inner_batch(self.forward_features, clips, self.inner_batch)

    def probabilities(self, clips: np.ndarray | Tensor) -> Tensor | None:
        """Return float32 (B, num_classes), rows summing to 1, for clips as in `features`; None without
        classes.
        """
        if self.num_classes is None:
            return None
        return by_inner_batch(self.forward_probabilities, clips, self.inner_batch)


class FrameExtractor(ABC):
    """A network that gives features of single frames, for a Frechet distance of images (FID).

    name: as in metric names; weights_hash: of exactly these weights; num_features: width of a feature vector.
    """

    name: str
    weights_hash: str
    num_features: int

    @abstractmethod
    def forward_frames(self, frames: Tensor) -> Tensor:
        """uint8 (F, H, W, 3), 0..255, the frames of one clip -> (F, num_features)."""

    def frame_features(self, clips: np.ndarray | Tensor) -> Tensor:
        """Return float32 (B * F, num_features) on the CPU for clips uint8 (B, F, H, W, 3), 0..255: all frames of the
        first clip, then those of the second, and so on. Raises ValueError for clips of another shape or dtype.
        """
        return by_inner_batch(lambda clip: self.forward_frames(clip[0]), clips, 1)


@torch.no_grad()
def by_inner_batch(forward: Callable[[Tensor], Tensor], clips: np.ndarray | Tensor, size: int) -> Tensor:
    """Rows of forward for clips uint8 (B, F, H, W, 3), in their order, computed for at most `size` clips at once."""
    batch = torch.from_numpy(np.ascontiguousarray(clips)) if isinstance(clips, np.ndarray) else clips
    check(batch, "B F H W 3", "clips", dtype=torch.uint8)
    if not len(batch):
        raise ValueError("clips: got none, wanted at least one")
    with exact_arithmetic():
        return torch.cat([forward(part).float().cpu() for part in batch.split(size)])


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 on GPUs too (torch rounds the inputs of their convolutions to 10 bits, TF32), the same algorithm
    every time, and TorchScript run as it is written: kernels fused after a few calls would change the last bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            torch.jit.optimized_execution(False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
