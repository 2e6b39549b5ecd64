"""Clips -> feature vectors and class probabilities, frames -> feature vectors: what every feature network offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lavita.score.preprocess import INSIDE
from lavita.shape import check

# Git blob name (`git hash-object FILE`) of the I3D that StyleGAN-V, Latte and others score with.
I3D_TORCHSCRIPT_HASH = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"


class Extractor(ABC):
    """A network that describes clips.

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
    """A network that describes single frames, for a Frechet distance of images (FID).

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
