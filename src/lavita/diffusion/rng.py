"""Random numbers with one generator per clip, so that no clip depends on its neighbours, the batch or the device."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators; seed 0 .. 2**63 - 1."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine and run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class SampleRNG:
    """Random numbers for B clips. Values are drawn on the CPU and then moved, so every device gets the same numbers.

    seeds: one integer a clip. A second call continues each clip's stream.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.device = device

    @classmethod
    def for_training(cls, seed: int, stage: str, clip_index: Tensor, device: torch.device | str) -> SampleRNG:
        """Random numbers that depend on (seed, stage, clip index) only; clip_index, int64 (B,), counts over the run."""
        return cls((derive_seed(seed, stage, index) for index in clip_index.tolist()), device)

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal values, float32 (B, *shape)."""
        return self._stack(torch.randn(tuple(shape), generator=g) for g in self.generators)

    def uniform(self) -> Tensor:
        """Uniform values in [0, 1), float32 (B,)."""
        return self._stack(torch.rand((), generator=g) for g in self.generators)

    def integers(self, high: int) -> Tensor:
        """Uniform integers in 0..high-1, int64 (B,)."""
        return self._stack(torch.randint(high, (), generator=g) for g in self.generators)

    def _stack(self, rows: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(rows)).to(self.device)
