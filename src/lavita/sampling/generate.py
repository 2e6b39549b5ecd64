"""Noise to clips: a method sampled in batches, one seed per clip, stored for scoring and for looking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lavita.config.protocol import Protocol
from lavita.config.schema import GENERATION, DataConfig, SamplingConfig
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clip_folder import write_clips, write_grid, write_sprite
from lavita.data.clips import load_window, real_windows, to_tensor, to_uint8, window_starts
from lavita.diffusion.rng import derive_seed, seed_everything
from lavita.methods.base import VideoMethod
from lavita.nn.precision import mixed_precision
from lavita.results.resume_store import ResumeStore
from lavita.training import checkpoint, distributed
from lavita.training.compilation import compiled_blocks

SUFFIX = ".npz"
Arrays = dict[str, np.ndarray]


def in_parts(
    name: str,
    total: int,
    size: int,
    make: Callable[[slice], Arrays],
    report: Callable[[int, int], None],
    kept: ResumeStore | None = None,
    shared: bool = False,
) -> list[Arrays]:
    """What make gives for clips 0 .. total - 1, `size` at a time, in order; every part from kept where it is there.

    Every part begins from the same RNG state, whichever process makes it. shared: processes that work together
    make every world-th part each, and the first has them all (the others none): the parts are the same, and so are the
    clips. Raises Stopped between two parts where the process is asked to end.
    """
    parts = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    if shared and distributed.world() > 1:
        for part in parts[distributed.rank() :: distributed.world()]:
            one_part(named(name, part), lambda part=part: make(part), kept)
            report(part.stop, total)
        distributed.barrier()
        if not distributed.is_first():
            return []
    found = []
    for part in parts:
        found.append(one_part(named(name, part), lambda part=part: make(part), kept))
        report(part.stop, total)
    return found


def named(name: str, part: slice) -> str:
    """The name under which a part is kept."""
    return f"{name}-{part.start:06d}"


def one_part(name: str, make: Callable[[], Arrays], kept: ResumeStore | None) -> Arrays:
    """A part as it was kept, or made and kept."""
    path = None if kept is None else kept.load(name, SUFFIX)
    if path is not None:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    seed_everything(derive_seed("part", name))
    arrays = make()
    if kept is not None:
        kept.save(name, SUFFIX, lambda path: save(path, arrays))
        checkpoint.check()
    return arrays


def save(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # numpy would put .npz behind a name
        np.savez(file, **arrays)


def joined(parts: Sequence[Arrays], key: str) -> np.ndarray:
    """One array of all parts, along the first axis."""
    return np.concatenate([part[key] for part in parts])


def drop_parts(kept: ResumeStore, name: str) -> None:
    """Let go of the parts of a name: what was made from them is kept."""
    for part in kept.names(f"{name}-", SUFFIX):
        kept.delete(part, SUFFIX)


def seconds_of(parts: Sequence[dict[str, Any]]) -> float:
    """What all parts took, whichever processes made them."""
    return float(sum(float(part["seconds"]) for part in parts))


@dataclass(frozen=True)
class Conditions:
    """One real clip for each that is made, read when a batch asks for it: those of thousands would fill the memory.

    task: what is made from them; num_clips: how many clips are. windows: the (video, first frame) that they take in
    turn, read as data says.
    """

    data: DataConfig
    task: str
    num_clips: int
    windows: tuple[tuple[VideoEntry, int], ...]

    def __getitem__(self, part: slice) -> torch.Tensor:
        """The conditions of clips part.start .. part.stop - 1: float32 (n, F, 3, H, W) in [-1, 1]."""
        d = self.data
        chosen = [self.windows[k % len(self.windows)] for k in range(part.start, part.stop)]
        clips = [load_window(video, first, d.frames, d.interval, d.resolution) for video, first in chosen]
        return torch.stack([to_tensor(clip) for clip in clips])

    @property
    def remark(self) -> str:
        """What a row must say of itself."""
        return f"{self.task} of {self.num_clips} clips from {len(self.windows)} held-out windows"


def conditions_of(data: DataConfig, protocol: Protocol, task: str, catalogue: Catalogue) -> Conditions | None:
    """Held-out windows in an order drawn from the protocol's seed, again from the first where they are fewer than the
    clips; None for generation from noise alone. Raises ValueError where the held-out split has no window.
    """
    if task == GENERATION:
        return None
    d, p = data, protocol
    there = sum(len(window_starts(video.frames, d.frames, d.interval)) for video in catalogue.split("heldout"))
    wanted = max(1, min(there, p.n_generated))
    windows = real_windows(catalogue, "heldout", d.frames, d.interval, None, wanted, p.clip_seed)
    return Conditions(data, task, p.n_generated, tuple(windows))


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
    kept: ResumeStore | None = None,
    name: str = "sample",
    compile: str | bool = False,
) -> Generated:
    """Clips of seeds seed_start .. seed_start + N - 1; each batch is kept under the name as soon as it is made.

    Of several processes with one place to keep them each makes a part, and the first has them all.

    condition, float32 (N, F, 3, H, W) in [-1, 1] or what gives it batch by batch, holds the real clip that each is
    made from, where a task wants one. compile: as compute.compile says.
    In a class suite the clip of seed s has class classes[s modulo their number]; elsewhere classes are not used.
    """
    seeds = list(range(seed_start, seed_start + num_clips))
    labels = None
    if method.context.num_classes is not None:
        labels = [classes[seed % len(classes)] for seed in seeds]

    def make(part: slice) -> dict[str, np.ndarray]:
        started = time.monotonic()
        y = None if labels is None else torch.tensor(labels[part])
        own = None if condition is None else condition[part]
        clips = np.stack([to_uint8(clip) for clip in method.sample(seeds[part], y, sampling, own)])
        return {"clips": clips, "seconds": np.array(time.monotonic() - started)}

    with compiled_blocks(method, compile), mixed_precision(method.networks(), sampling.precision):
        parts = in_parts(name, num_clips, sampling.batch_clips, make, report, kept, shared=kept is not None)
    if not parts:
        return Generated(np.empty(0), labels, seeds, 0.0)  # the first process has them
    return Generated(joined(parts, "clips"), labels, seeds, seconds_of(parts))


def save_samples(
    folder: Path,
    made: Generated,
    method: str,
    cell: str,
    sampling: SamplingConfig,
    keep_clips: bool,
    condition: str | None = None,
) -> None:
    """The lossless folder that scoring reads (where keep_clips), and beside it a moving grid of the first clips, also
    as a sprite for the report (where keep_clips).

    method, cell: whose clips they are, by name. condition says which real clips they were made from, so that they are
    never taken for clips from noise alone.
    """
    if keep_clips:
        sidecar = {
            "method": method,
            "cell": cell,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "eta": sampling.eta,
            "guidance": sampling.guidance,
            "precision": sampling.precision,
            "task": sampling.task,
            "condition": condition,
        }
        names = [f"{seed:06d}" for seed in made.seeds]
        write_clips(folder, made.clips, names, sidecar | {"seeds": made.seeds, "classes": made.labels})
        write_sprite(folder.parent, folder.name, made.clips[:GRID_CLIPS])
    write_grid(folder.with_suffix(".gif"), made.clips[:GRID_CLIPS], columns=4)
