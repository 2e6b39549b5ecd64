"""The loader of a stage and the fixed held-out batch, the same for methods and for the suite's own codec."""

from __future__ import annotations

import torch

from lavita.bench.suite import CellConfig
from lavita.data.catalogue import Catalogue
from lavita.data.clip import window_starts
from lavita.data.module import ClipDataModule


def stage_data(cell: CellConfig, catalogue: Catalogue, seed: int, batch: int, start: int, stop: int) -> ClipDataModule:
    """Training clips start .. stop - 1 under a seed, in batches of `batch`."""
    d = cell.data
    return ClipDataModule(
        catalogue,
        frames=d.frames,
        interval=d.interval,
        resolution=d.resolution,
        flip=d.flip,
        seed=seed,
        batch=batch,
        start=start,
        stop=stop,
        num_workers=d.num_workers,
        cache_bytes=d.cache_bytes,
    )


def heldout_batch(data: ClipDataModule, most: int) -> dict[str, torch.Tensor]:
    """A fixed batch of held-out clips, as many as there are up to `most`."""
    videos = data.catalogue.split("heldout")
    n = min(most, sum(len(window_starts(video.frames, data.frames, data.interval)) for video in videos))
    return {"video": data.heldout_clips(n), "label": data.heldout_labels(n), "clip_index": torch.arange(n)}
