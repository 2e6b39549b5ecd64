"""Fills a latent cache: videos decoded in threads ahead of the codec, by one process a device, resumed where it was.

While it is filled a cache holds beside its values `filled.f8`: of each video the seconds that it took, 0 where it is
not stored yet. A video counts once its values lie on the disk, whichever process wrote them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lavita.data.ahead import usual_threads
from lavita.data.catalogue import VideoEntry
from lavita.data.clips import to_tensor
from lavita.data.latent_cache import HEADER, STORED, Encode, LatentKey, Slots, check_header, pixels_of
from lavita.data.scan import Report
from lavita.files import atomic_write_text
from lavita.lock import waiting_lock

COST, FILLED = "cost.json", "filled.f8"
SAFE_EVERY_SECONDS = 10.0  # work that a kill may cost
LOOK_SECONDS = 0.5  # between two looks at what other processes have filled
CHUNKS_AHEAD = 2  # of one video, of FRAMES_AT_ONCE frames each, that wait for the codec


@dataclass(frozen=True)
class Filling:
    """A cache that is being filled in a folder."""

    part: Path
    key: LatentKey
    videos: tuple[VideoEntry, ...]

    @property
    def slots(self) -> Slots:
        return Slots.of(self.key, self.videos)

    def seconds(self) -> np.ndarray:
        """What each video took, 0 where it is not stored: float64 (videos,)."""
        return np.fromfile(self.part / FILLED, np.float64)

    def missing(self) -> list[int]:
        """The numbers of the videos that are not stored yet."""
        return np.flatnonzero(self.seconds() == 0).tolist()

    def cost(self) -> dict[str, Any]:
        """What is stored by now, and what that took: videos, frames, seconds, and the bytes of the whole cache."""
        seconds, lengths = self.seconds(), np.diff(self.slots.starts)
        done = seconds > 0
        frames = int(lengths[done].sum())
        return {
            "videos": int(done.sum()), "frames": frames, "seconds": float(seconds.sum()),
            "bytes": self.slots.num_bytes,
        }  # fmt: skip


def fill_latents(
    cache_dir: Path,
    key: LatentKey,
    videos: Sequence[VideoEntry],
    encoders: Sequence[Callable[[], Encode]],
    say: Callable[[str], None],
    report: Report,
) -> dict[str, Any]:
    """Make the cache of a key where it is not there; returns what it cost: seconds, frames and bytes, of all attempts.

    encoders: what makes the codec's call in each of the processes that share the videos (one of them: this one); a call
    takes float32 (n, 3, H, W) in [-1, 1] and gives float32 (n, 2 C, h, w) on the CPU. The disk it needs is said first,
    and refused where it is not free. A killed call is resumed by the next, with any number of processes; of two at once
    the second waits. The folder has its name only when it is whole. Raises ValueError, UnreadableVideo; StaleLatents
    where the place holds something else.
    """
    folder = cache_dir / key.name()
    filling = Filling(cache_dir / f".{key.name()}.part", key, tuple(videos))
    if folder.is_dir():
        return cost_of(folder, filling.slots)
    cache_dir.mkdir(parents=True, exist_ok=True)
    waiting = partial(say, "latent cache: another run is filling it; waiting")
    with waiting_lock(cache_dir / f".{key.name()}.lock", waiting):
        if folder.is_dir():  # another run has filled it meanwhile
            return cost_of(folder, filling.slots)
        begin(filling, say)
        if len(encoders) == 1:
            fill_share(filling, encoders[0](), filling.missing(), 1, report)
        else:
            fill_together(filling, encoders, report)
        cost = filling.cost()
        if cost["videos"] != len(videos):
            raise RuntimeError(f"{filling.part}: {cost['videos']} of {len(videos)} videos are stored")
        atomic_write_text(filling.part / COST, json.dumps(cost) + "\n")
        atomic_write_text(
            filling.part / HEADER, json.dumps(asdict(key) | {"shape": filling.slots.shape}, indent=1) + "\n"
        )
        (filling.part / FILLED).unlink()
        filling.part.rename(folder)
    return cost


def cost_of(folder: Path, slots: Slots) -> dict[str, Any]:
    """What a finished cache took. Raises StaleLatents for something else."""
    check_header(folder, slots)
    return json.loads((folder / COST).read_text(encoding="utf-8"))


def bytes_missing(cache_dir: Path, key: LatentKey, videos: Sequence[VideoEntry]) -> int:
    """Bytes that the cache of a key still needs on the disk; 0 for one that is whole."""
    filling = Filling(cache_dir / f".{key.name()}.part", key, tuple(videos))
    if (cache_dir / key.name()).is_dir():
        return 0
    stored = filling.cost()["frames"] if (filling.part / FILLED).is_file() else 0
    return filling.slots.num_bytes - stored * filling.slots.frame_bytes


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder lies or will lie."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def begin(filling: Filling, say: Callable[[str], None]) -> None:
    """The files of a cache, at their full sizes; says what it needs. Raises ValueError where that is not free."""
    filling.part.mkdir(exist_ok=True)
    if not (filling.part / FILLED).is_file():
        np.zeros(len(filling.videos)).tofile(filling.part / FILLED)
    slots, done = filling.slots, filling.cost()["videos"]
    missing = slots.num_bytes - filling.cost()["frames"] * slots.frame_bytes
    free = free_bytes(filling.part)
    say(
        f"latent cache: {slots.shape[0]} frames{' in both directions' if slots.key.mirrored else ''}, "
        f"{slots.num_bytes / 2**30:.3g} GiB on disk, {free / 2**30:.3g} GiB free"
        + (f"; resuming after {done} of {len(filling.videos)} videos" if done else "")
    )
    if missing > free:
        raise ValueError(
            f"data.latent_cache: {filling.part.parent} has {free / 2**30:.3g} GiB free, {missing / 2**30:.3g} GiB are "
            "wanted; make room, give another --cache, or train without (data.latent_cache=false)"
        )
    with open(filling.part / filling.key.file, "ab") as file:
        file.truncate(slots.num_bytes)  # takes no room before it is written


def fill_share(
    filling: Filling, encode: Encode, share: Sequence[int], count: int, report: Report = lambda *_: None
) -> None:
    """Store the videos of these numbers, as one of `count` processes. report is told how many of all are stored."""
    slots, before = filling.slots, len(filling.videos) - len(share)
    unsafe: dict[int, float] = {}
    chosen = [filling.videos[index] for index in share]
    with (
        open(filling.part / filling.key.file, "r+b") as values,
        open(filling.part / FILLED, "r+b") as filled,
        decoded(chosen, filling.key.resolution, usual_threads(count)) as pixels,
    ):
        safe = began = time.monotonic()
        for place, (index, video) in enumerate(zip(share, chosen, strict=True), start=1):
            write_video(values, video, pixels(video), slots, int(slots.starts[index]), encode)
            now = time.monotonic()
            unsafe[index], began = max(now - began, 1e-9) / count, now
            report(before + place, len(filling.videos))
            if place == len(share) or now - safe > SAFE_EVERY_SECONDS:
                make_safe(values, filled, unsafe)
                safe, unsafe = time.monotonic(), {}


def make_safe(values: BinaryIO, filled: BinaryIO, seconds: dict[int, float]) -> None:
    """Bring what was written to the disk, then say of which videos it is."""
    values.flush()
    os.fsync(values.fileno())
    for index, spent in seconds.items():
        filled.seek(8 * index)
        filled.write(np.float64(spent).tobytes())
    filled.flush()
    os.fsync(filled.fileno())


def fill_together(filling: Filling, encoders: Sequence[Callable[[], Encode]], report: Report) -> None:
    """One process for each encoder, each with its share. Raises RuntimeError where one fails; then all are ended."""
    context, total, count = multiprocessing.get_context("spawn"), len(filling.videos), len(encoders)
    errors, left = (
        context.SimpleQueue(),
        filling.missing(),
    )  # shared out here: who begins later would see others missing
    processes = [
        context.Process(target=work, args=(filling, make, left[number::count], count, errors), daemon=True)
        for number, make in enumerate(encoders)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                break
            report(filling.cost()["videos"], total)
            processes[0].join(LOOK_SECONDS) if processes[0].is_alive() else time.sleep(LOOK_SECONDS)
        failed = [process for process in processes if process.exitcode]
        if failed:
            reason = f"it ended with exit code {failed[0].exitcode}" if errors.empty() else errors.get()
            raise RuntimeError(f"latent cache: one of {len(processes)} processes failed: {reason}")
        report(filling.cost()["videos"], total)
    finally:
        for process in processes:
            process.kill()
            process.join()


def work(filling: Filling, make: Callable[[], Encode], share: Sequence[int], count: int, errors: Any) -> None:
    """A process's share."""
    try:
        fill_share(filling, make(), share, count)
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def write_video(
    file: BinaryIO, video: VideoEntry, pixels: Iterator[np.ndarray], slots: Slots, start: int, encode: Encode
) -> None:
    """Store the moments of all frames of a video from frame `start` of the cache on, after them the mirrored ones."""
    frames = 0
    for chunk in pixels:
        for mirrored in (False, True)[: 1 + slots.key.mirrored]:
            place = start + mirrored * video.frames + frames
            if frames + len(chunk) <= video.frames:
                file.seek(place * slots.frame_bytes)
                file.write(stored(encode(to_tensor(chunk[:, :, ::-1] if mirrored else chunk)), slots.key, len(chunk)))
        frames += len(chunk)
    if frames != video.frames:
        raise ValueError(f"{video.path}: {frames} frames now, {video.frames} when it was checked; check the data anew")


def stored(moments: Tensor, key: LatentKey, frames: int) -> bytes:
    """Moments (n, 2 C, h, w) as they lie on disk. Raises ValueError for another shape and for values that are not
    finite, or not as they are stored."""
    wanted = (frames, key.channels, key.side, key.side)
    values = moments.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):
        values = values.astype(STORED[key.dtype])
    if values.shape != wanted or not np.isfinite(values).all():
        raise ValueError(
            f"latent cache: the autoencoder gave {values.shape}, wanted {wanted}, finite in {key.dtype} "
            "(data.latent_dtype)"
        )
    return values.tobytes()


@contextmanager
def decoded(
    videos: Sequence[VideoEntry], resolution: int, threads: int
) -> Iterator[Callable[[VideoEntry], Iterator[np.ndarray]]]:
    """Gives the frames of one video after the other, as `pixels_of` does, decoded in threads ahead of their use: of at
    most `threads` videos some chunks of frames wait in memory. An error is raised where its frames are wanted."""
    chunks = {id(video): queue.Queue(CHUNKS_AHEAD) for video in videos}
    ended = threading.Event()

    def put(place: queue.Queue, item: Any) -> None:
        while not ended.is_set():
            try:
                return place.put(item, timeout=0.1)
            except queue.Full:
                continue

    def decode(video: VideoEntry) -> None:
        place = chunks[id(video)]
        try:
            for chunk in pixels_of(video, resolution):
                put(place, chunk)
                if ended.is_set():
                    return
            put(place, None)
        except Exception as error:  # raised where the frames are wanted
            put(place, error)

    def pixels(video: VideoEntry) -> Iterator[np.ndarray]:
        while (item := chunks[id(video)].get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    with ThreadPoolExecutor(threads) as pool:
        for video in videos:
            pool.submit(decode, video)
        try:
            yield pixels
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def precision_lost(moments: Tensor, dtype: str) -> dict[str, float]:
    """What storing moments (n, 2 C, h, w) in a dtype changes: of means, root of the mean square and largest, in the
    spread (standard deviation) of all of them, which is the latents' unit; of a posterior's standard deviation, the
    largest, relative."""
    kept = torch.from_numpy(moments.numpy().astype(STORED[dtype]).astype(np.float32))
    (mean, log_variance), (mean_kept, log_variance_kept) = moments.chunk(2, dim=1), kept.chunk(2, dim=1)
    shift = (mean_kept - mean) / mean.std()
    spread = torch.expm1(0.5 * (log_variance_kept - log_variance)).abs()
    return {
        "mean": float(shift.square().mean().sqrt()), "mean_largest": float(shift.abs().max()),
        "std": float(spread.max()),
    }  # fmt: skip
