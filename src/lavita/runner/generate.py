"""Noise to clips: a method sampled in batches, one seed a clip, stored for scoring and for looking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lavita.bench.suite import CellConfig
from lavita.config import SamplingConfig
from lavita.data.clip import to_uint8
from lavita.kept import Kept
from lavita.runner.conditions import Conditions
from lavita.runner.in_parts import in_parts, joined, seconds_of
from lavita.score.frames import write_clips
from lavita.score.grid import write_grid
from lavita.score.sprite import write_sprite
from lavita.train.module import VideoMethod

GRID_CLIPS = 16


class Generated(NamedTuple):
    """clips uint8 (N, F, H, W, 3), their classes (None without) and seeds, and the seconds that making them took."""

    clips: np.ndarray
    labels: list[int] | None
    seeds: list[int]
    seconds: float


def generate(
    method: VideoMethod,
    sampling: SamplingConfig,
    num_clips: int,
    seed_start: int,
    classes: Sequence[int],
    report: Callable[[int, int], None],
    condition: torch.Tensor | Conditions | None = None,
    kept: Kept | None = None,
    name: str = "sample",
) -> Generated:
    """Clips of seeds seed_start .. seed_start + N - 1; each batch is kept under the name as soon as it is made.

    Of several processes with one place to keep them each makes a part, and the first has them all.

    condition, float32 (N, F, 3, H, W) in [-1, 1] or what gives it batch by batch, holds the real clip that each is
    made from, where a task wants one.
    In a class suite the clip of seed s has class classes[s modulo their number]; elsewhere classes are not used.
    """
    seeds = list(range(seed_start, seed_start + num_clips))
    labels = None
    if method.context.num_classes is not None:
        labels = [classes[seed % len(classes)] for seed in seeds]

    def make(part: slice) -> dict[str, np.ndarray]:
        started = time.monotonic()
        y = None if labels is None else torch.tensor(labels[part])
        given = None if condition is None else condition[part]
        clips = np.stack([to_uint8(clip) for clip in method.sample(seeds[part], y, sampling, given)])
        return {"clips": clips, "seconds": np.array(time.monotonic() - started)}

    parts = in_parts(name, num_clips, sampling.batch_clips, make, report, kept, shared=kept is not None)
    if not parts:
        return Generated(np.empty(0), labels, seeds, 0.0)  # the first process has them
    return Generated(joined(parts, "clips"), labels, seeds, seconds_of(parts))


def save_samples(
    folder: Path,
    clips: np.ndarray,
    seeds: list[int],
    classes: list[int] | None,
    cell: CellConfig,
    keep_clips: bool,
    condition: str | None = None,
) -> None:
    """The lossless folder that scoring reads (where keep_clips), and beside it a moving grid of the first clips, also
    as a sprite for the report (where keep_clips).

    condition says which real clips they were made from, so that they are never taken for clips from noise alone.
    """
    if keep_clips:
        sidecar = {
            "method": cell.method,
            "cell": cell.cell,
            "sampler": cell.sampling.sampler,
            "steps": cell.sampling.steps,
            "eta": cell.sampling.eta,
            "guidance": cell.sampling.guidance,
            "task": cell.sampling.task,
            "condition": condition,
        }
        names = [f"{seed:06d}" for seed in seeds]
        write_clips(folder, clips, names, sidecar | {"seeds": seeds, "classes": classes})
        write_sprite(folder.parent, folder.name, clips[:GRID_CLIPS])
    write_grid(folder.with_suffix(".gif"), clips[:GRID_CLIPS], columns=4)
