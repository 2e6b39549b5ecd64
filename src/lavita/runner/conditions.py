"""The real clips that a cell's task starts from: held-out ones, so that nothing seen in training is given back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lavita.bench.suite import CellConfig
from lavita.config import GENERATION
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clip import to_tensor, window_starts
from lavita.data.windows import load_window, real_windows


@dataclass(frozen=True)
class Conditions:
    """One real clip for each that is made, read when a batch asks for it: those of thousands would fill the memory.

    windows: the (video, first frame) that the clips of a cell take in turn.
    """

    cell: CellConfig
    windows: tuple[tuple[VideoEntry, int], ...]

    def __getitem__(self, part: slice) -> torch.Tensor:
        """The conditions of clips part.start .. part.stop - 1: float32 (n, F, 3, H, W) in [-1, 1]."""
        d = self.cell.data
        turns = [self.windows[k % len(self.windows)] for k in range(part.start, part.stop)]
        clips = [load_window(video, first, d.frames, d.interval, d.resolution) for video, first in turns]
        return torch.stack([to_tensor(clip) for clip in clips])

    @property
    def remark(self) -> str:
        """What a row must say of itself."""
        n = self.cell.protocol.n_generated
        return f"{self.cell.sampling.task} of {n} clips from {len(self.windows)} held-out windows"


def conditions_of(cell: CellConfig, catalogue: Catalogue) -> Conditions | None:
    """Held-out windows in an order drawn from the protocol's seed, again from the first where they are fewer than the
    clips; None for generation from noise alone. Raises ValueError where the held-out split has no window.
    """
    if cell.sampling.task == GENERATION:
        return None
    d, p = cell.data, cell.protocol
    there = sum(len(window_starts(video.frames, d.frames, d.interval)) for video in catalogue.split("heldout"))
    wanted = max(1, min(there, p.n_generated))
    windows = real_windows(catalogue, "heldout", d.frames, d.interval, None, wanted, p.clip_seed)
    return Conditions(cell, tuple(windows))
