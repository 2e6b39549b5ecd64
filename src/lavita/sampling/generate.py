"""Noise to clips: a method sampled in batches, one seed per clip, stored for scoring and for looking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lavita.config.protocol import Protocol
from lavita.config.schema import FROM_NOISE, DataConfig, SamplingConfig
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


class Part(Mapping[str, np.ndarray]):
    """The arrays of a part by name: in memory, or in the file that keeps them, where each is read when it is asked for
    and not kept: the clips of thousands would fill the memory.
    """

    def __init__(self, source: Arrays | Path) -> None:
        self.source = source

    def __getitem__(self, key: str) -> np.ndarray:
        if not isinstance(self.source, Path):
            return self.source[key]
        with np.load(self.source, allow_pickle=False) as file:
            return file[key]

    def __iter__(self) -> Iterator[str]:
        if not isinstance(self.source, Path):
            return iter(self.source)
        with np.load(self.source, allow_pickle=False) as file:
            return iter(list(file.files))

    def __len__(self) -> int:
        return len(list(iter(self)))


def in_parts(
    name: str,
    total: int,
    size: int,
    make: Callable[[slice], Arrays],
    report: Callable[[int, int], None],
    kept: ResumeStore | None = None,
    shared: bool = False,
) -> list[Part]:
    """What make gives for clips 0 .. total - 1, `size` at a time, in order; every part from kept where it is there.

    Every part begins from the same RNG state, whichever process makes it. shared: processes that work together
    make every world-th of the parts that are not there, and the first has them all (the others none): the parts are the
    same, and so are the clips. Raises Stopped between two parts where the process is asked to end.
    """
    parts = {named(name, start): slice(start, min(start + size, total)) for start in range(0, total, size)}
    if shared and distributed.world() > 1:
        return parts_of_all(name, parts, make, report, kept)
    found = []
    for part_name, part in parts.items():
        path = None if kept is None else kept.load(part_name, SUFFIX)
        found.append(Part(path) if path is not None else make_part(part_name, part, make, kept))
        if path is None:
            checkpoint.check()
        report(part.stop, total)
    return found


def parts_of_all(
    name: str,
    parts: Mapping[str, slice],
    make: Callable[[slice], Arrays],
    report: Callable[[int, int], None],
    kept: ResumeStore,
) -> list[Part]:
    """The parts of `in_parts`, made by all processes. The first one says what is there already, and is told the file of
    every part that another one makes: a network file system may list new files late."""
    total = max(part.stop for part in parts.values())
    there = distributed.from_first(lambda: whole_files(kept, parts))
    missing = [part_name for part_name in parts if part_name not in there]
    count = f"{name} {distributed.from_first(lambda: len(missing))}"
    clips = {part_name: part.stop - part.start for part_name, part in parts.items()}
    before = sum(clips[part_name] for part_name in there)
    reported = -1

    def look(more: int = 0) -> None:
        nonlocal reported
        done = before + distributed.count_done(count, more)
        if done != reported:  # a process that waits sends a heartbeat only where the others make progress
            reported = done
            report(done, total)
        checkpoint.check()

    made: dict[str, str] = {}
    for part_name in missing[distributed.rank() :: distributed.world()]:
        made[part_name] = make_part(part_name, parts[part_name], make, kept).source.name
        look(clips[part_name])
    files = there | {key: file for told in distributed.to_first(made, look) for key, file in told.items()}
    if not distributed.is_first():
        return []
    return [Part(kept.named(files[part_name])) for part_name in parts]


def whole_files(kept: ResumeStore, names: Iterable[str]) -> dict[str, str]:
    """The files of the parts that are there and whole, by the parts' names."""
    paths = {name: kept.load(name, SUFFIX) for name in names}
    return {name: path.name for name, path in paths.items() if path is not None}


def named(name: str, start: int) -> str:
    """The name under which a part is kept."""
    return f"{name}-{start:06d}"


def make_part(name: str, part: slice, make: Callable[[slice], Arrays], kept: ResumeStore | None) -> Part:
    """A part made from the RNG state that its name gives, and kept where there is a place for it."""
    seed_everything(derive_seed("part", name))
    arrays = make(part)
    return Part(arrays if kept is None else kept.save(name, SUFFIX, lambda file: np.savez(file, **arrays)))


def joined(parts: Sequence[Part], key: str) -> np.ndarray:
    """One array of all parts, along the first axis: for features; clips stay in their parts (`ClipsInParts`)."""
    return np.concatenate([part[key] for part in parts])


def drop_parts(kept: ResumeStore, name: str) -> None:
    """Let go of the parts of a name: what was made from them is kept."""
    for part in kept.names(f"{name}-", SUFFIX):
        kept.delete(part, SUFFIX)


def seconds_of(parts: Sequence[Part]) -> float:
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
    clips; None for tasks from noise alone. Raises ValueError where the held-out split has no window.
    """
    if task in FROM_NOISE:
        return None
    d, p = data, protocol
    there = sum(len(window_starts(video.frames, d.frames, d.interval)) for video in catalogue.split("heldout"))
    wanted = max(1, min(there, p.n_generated))
    windows = real_windows(catalogue, "heldout", d.frames, d.interval, None, wanted, p.clip_seed)
    return Conditions(data, task, p.n_generated, tuple(windows))


GRID_CLIPS = 16


class ClipsInParts(Sequence[np.ndarray]):
    """Clips uint8 (F, H, W, 3) in parts of `size`, of which the last one that was asked for is in memory. A slice of
    them is an array (n, F, H, W, 3).
    """

    def __init__(self, parts: list[Part], size: int, total: int) -> None:
        self.parts, self.size, self.total = parts, size, total
        self.at, self.clips = -1, np.empty(0)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index):
        if isinstance(index, slice):
            return np.stack([self[number] for number in range(self.total)[index]])
        number, place = divmod(range(self.total)[index], self.size)
        if number != self.at:
            self.clips = np.empty(0)  # before the next one is read
            self.at, self.clips = number, self.parts[number]["clips"]
        return self.clips[place]

    def array(self) -> np.ndarray:
        """All of them, uint8 (N, F, H, W, 3); what is in memory is let go of meanwhile, so that this is of use once."""
        first = self[0]
        whole = np.empty((self.total, *first.shape), first.dtype)
        for number, part in enumerate(self.parts):
            whole[number * self.size : (number + 1) * self.size] = part["clips"]
            self.parts[number] = Part({})
        return whole


class Generated(NamedTuple):
    """clips uint8 (N, F, H, W, 3), their classes (None without) and seeds, and the seconds that making them took."""

    clips: ClipsInParts
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
    compiled: str | bool = False,
) -> Generated:
    """Clips of seeds seed_start .. seed_start + N - 1; each batch is kept under the name as soon as it is made.

    Of several processes with one place to keep them each makes a part, and the first has them all.

    condition, float32 (N, F, 3, H, W) in [-1, 1] or what gives it batch by batch, holds the real clip that each is
    made from, where a task wants one. compiled: as compute.compile says.
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

    with compiled_blocks(method, compiled), mixed_precision(method.networks(), sampling.precision):
        parts = in_parts(name, num_clips, sampling.batch_clips, make, report, kept, shared=kept is not None)
    if not parts:
        return Generated(ClipsInParts([], 1, 0), labels, seeds, 0.0)  # the first process has them
    return Generated(ClipsInParts(parts, sampling.batch_clips, num_clips), labels, seeds, seconds_of(parts))


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
