"""The real clips that a cell's task starts from: held-out ones, so that nothing seen in training is given back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lavita.bench.suite import CellConfig
from lavita.config import GENERATION
from lavita.data.catalogue import Catalogue
from lavita.data.clip import to_tensor, window_starts
from lavita.data.windows import load_window, real_windows


@dataclass(frozen=True)
class Conditions:
    """video: float32 (n, F, 3, H, W) in [-1, 1], one real clip for each that is made; windows: how many differ."""

    video: torch.Tensor
    windows: int

    def remark(self, task: str) -> str:
        """What a row must say of itself."""
        return f"{task} of {len(self.video)} clips from {self.windows} held-out windows"


def conditions_of(cell: CellConfig, catalogue: Catalogue) -> Conditions | None:
    """Held-out windows in an order drawn from the protocol's seed, again from the first where they are fewer than the
    clips; None for generation from noise alone. Raises ValueError where the held-out split has no window.
    """
    if cell.sampling.task == GENERATION:
        return None
    d, p = cell.data, cell.protocol
    there = sum(len(window_starts(video.frames, d.frames, d.interval)) for video in catalogue.split("heldout"))
    windows = real_windows(
        catalogue, "heldout", d.frames, d.interval, None, max(1, min(there, p.n_generated)), p.clip_seed
    )
    clips = [to_tensor(load_window(video, start, d.frames, d.interval, d.resolution)) for video, start in windows]
    turns = torch.arange(p.n_generated) % len(clips)
    return Conditions(torch.stack(clips)[turns], len(clips))
