"""Videos -> posterior moments of their frames, stored once, so that training need neither decode nor encode.

Every frame of the training split is stored, mirrored too where the data set is mirrored, so a training clip is the one
that it would have been, and each step still draws its latent. A cache is a folder: moments.f32, which is mapped into
memory and never read whole, and header.json, which says everything that decides its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavita.data.catalogue import VideoEntry
from lavita.data.clips import centre_crop_resize, to_tensor
from lavita.data.scan import Report
from lavita.data.video import each_frame
from lavita.files import atomic_write_text
from lavita.lock import waiting_lock

VALUES, HEADER, PROGRESS = "moments.f32", "header.json", "progress.json"
FRAMES_AT_ONCE = 16  # frames per call of the autoencoder
SAFE_EVERY_SECONDS = 10.0  # work that a kill may cost
TOLERANCE = 1e-4  # of a stored frame to one encoded now: float32 differs by machine, but far less than by autoencoder
Encode = Callable[[Tensor], Tensor]


class StaleLatents(ValueError):
    """A latent cache that was not made from this autoencoder, data and setting, or is not whole."""


@dataclass(frozen=True)
class LatentKey:
    """Everything that decides what a cache holds.

    codec: hash of its weights; data: fingerprint of the data set; videos: hash of which of its videos and frames;
    mirrored: whether both directions are stored; channels, side: 2 C and h of a frame's moments.
    """

    codec: str
    data: str
    videos: str
    resolution: int
    crop: str
    interval: int
    mirrored: bool
    channels: int
    side: int
    version: int = 1  # raise it when the meaning of a stored value changes

    def name(self) -> str:
        """The folder's name: equal keys, equal names."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"latents-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def videos_hash(videos: Sequence[VideoEntry]) -> str:
    """What `LatentKey.videos` is for these videos, in their order."""
    digest = hashlib.sha256()
    for video in videos:
        digest.update(f"{video.video_id} {video.frames}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Slots:
    """Where the frames of each video lie: those of video k from starts[k] on, then the mirrored ones."""

    key: LatentKey
    starts: np.ndarray

    @classmethod
    def of(cls, key: LatentKey, videos: Sequence[VideoEntry]) -> Slots:
        directions = 2 if key.mirrored else 1
        lengths = np.fromiter((video.frames * directions for video in videos), np.int64, len(videos))
        return cls(key, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames in all, 2 C, h, w)."""
        return int(self.starts[-1]), self.key.channels, self.key.side, self.key.side

    @property
    def num_bytes(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))


class LatentCache:
    """A finished cache, ready to give the moments of any frames of its videos."""

    item_key, images_key = "moments", "image_moments"

    def __init__(self, folder: Path, key: LatentKey, videos: Sequence[VideoEntry]) -> None:
        """Raises StaleLatents for a folder that holds something else, naming what differs."""
        self.folder, self.slots = folder, Slots.of(key, videos)
        self.position = {video.video_id: number for number, video in enumerate(videos)}
        check_header(folder, self.slots)
        self._values: np.ndarray | None = None

    def clip(self, video: VideoEntry, indices: Sequence[int], mirrored: bool) -> Tensor:
        """Moments of frames of one video: float32 (F, 2 C, h, w), mean and log-variance of the posterior."""
        if self._values is None:  # mapped by each process for itself
            self._values = np.memmap(self.folder / VALUES, np.float32, "r", shape=self.slots.shape)
        start = self.slots.starts[self.position[video.video_id]] + mirrored * video.frames
        return torch.from_numpy(self._values[start + np.asarray(indices)])  # fancy indexing copies what is wanted

    def check_frame(self, video: VideoEntry, encode: Encode) -> None:
        """Raise StaleLatents unless the first frame of a video, encoded now, has the moments that are stored."""
        pixels = next(_pixels(video, self.slots.key.resolution))[:1]
        for mirrored in (False, True)[: 1 + self.slots.key.mirrored]:
            now = encode(to_tensor(pixels[:, :, ::-1] if mirrored else pixels))
            stored = self.clip(video, [0], mirrored)
            largest = now.abs().max().clamp(min=torch.finfo(now.dtype).tiny)  # moments may all be 0
            difference = float((now - stored).abs().max() / largest)
            if not difference <= TOLERANCE:
                raise StaleLatents(
                    f"{self.folder}: the stored moments of {video.video_id} differ from what the autoencoder gives now "
                    f"by {difference:.1e} of the largest, allowed {TOLERANCE:.0e}; delete the folder to fill it anew"
                )


def check_header(folder: Path, slots: Slots) -> None:
    """Raise StaleLatents unless a folder is a whole cache of exactly this key."""
    path = folder / HEADER
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StaleLatents(f"{path}: no header of a latent cache; delete {folder} to fill it anew") from None
    wanted = asdict(slots.key) | {"shape": list(slots.shape)}
    known = found if isinstance(found, dict) else {}
    wrong = [
        f"{name} {known.get(name)!r}, wanted {value!r}" for name, value in wanted.items() if known.get(name) != value
    ]
    size = (folder / VALUES).stat().st_size if (folder / VALUES).is_file() else 0
    if size != slots.num_bytes:
        wrong.append(f"{VALUES} of {size} bytes, wanted {slots.num_bytes}")
    if wrong:
        raise StaleLatents(f"{folder}: a latent cache of something else: {'; '.join(wrong)}; delete it to fill it anew")


def fill_latents(
    cache_dir: Path,
    key: LatentKey,
    videos: Sequence[VideoEntry],
    encode: Encode,
    say: Callable[[str], None],
    report: Report,
) -> dict[str, Any]:
    """Make the cache of a key where it is not there; returns what it cost: seconds, frames and bytes, of all attempts.

    encode: float32 (n, 3, H, W) in [-1, 1] -> float32 (n, 2 C, h, w). The disk it needs is said first, and refused
    where it is not free. A killed call is resumed by the next; of two at once the second waits. The folder has its
    name only when it is whole. Raises ValueError, UnreadableVideo; StaleLatents where the place holds something else.
    """
    folder, slots = cache_dir / key.name(), Slots.of(key, videos)
    if folder.is_dir():
        check_header(folder, slots)
        return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    part = cache_dir / f".{key.name()}.part"
    cache_dir.mkdir(parents=True, exist_ok=True)
    waiting = partial(say, "latent cache: another run is filling it; waiting")
    with waiting_lock(cache_dir / f".{key.name()}.lock", waiting):
        if folder.is_dir():  # another run has filled it meanwhile
            check_header(folder, slots)
            return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        part.mkdir(exist_ok=True)
        cost = _fill(part, slots, videos, encode, say, report)
        atomic_write_text(part / HEADER, json.dumps(asdict(key) | {"shape": slots.shape}, indent=1) + "\n")
        part.rename(folder)
    return cost


def _fill(
    part: Path, slots: Slots, videos: Sequence[VideoEntry], encode: Encode, say: Callable[[str], None], report: Report
) -> dict[str, Any]:
    """Write the moments video by video, from where the last attempt was safe."""
    done = {"videos": 0, "frames": 0, "seconds": 0.0, "bytes": slots.num_bytes}
    if (part / PROGRESS).is_file():
        done |= json.loads((part / PROGRESS).read_text(encoding="utf-8"))
    missing = slots.num_bytes - 4 * int(slots.starts[done["videos"]]) * int(np.prod(slots.shape[1:]))
    free = shutil.disk_usage(part).free
    say(
        f"latent cache: {slots.shape[0]} frames{' in both directions' if slots.key.mirrored else ''}, "
        f"{slots.num_bytes / 2**30:.3g} GiB on disk, {free / 2**30:.3g} GiB free"
        + (f"; resuming after {done['videos']} of {len(videos)} videos" if done["videos"] else "")
    )
    if missing > free:
        raise ValueError(
            f"data.latent_cache: {part.parent} has {free / 2**30:.3g} GiB free, {missing / 2**30:.3g} GiB are wanted; "
            "make room, give another --cache, or train without (data.latent_cache=false)"
        )
    with open(part / VALUES, "r+b" if (part / VALUES).exists() else "w+b") as file:
        file.truncate(4 * int(slots.starts[done["videos"]]) * int(np.prod(slots.shape[1:])))
        file.seek(0, os.SEEK_END)
        began = safe = time.monotonic()
        before = done["seconds"]
        for number in range(done["videos"], len(videos)):
            _write_video(file, videos[number], slots.key, encode)
            report(number + 1, len(videos))
            last = number + 1 == len(videos)
            if last or time.monotonic() - safe > SAFE_EVERY_SECONDS:
                file.flush()
                os.fsync(file.fileno())
                safe = time.monotonic()
                done |= {
                    "videos": number + 1,
                    "frames": int(slots.starts[number + 1]),
                    "seconds": before + safe - began,
                }
                atomic_write_text(part / PROGRESS, json.dumps(done) + "\n")
    return done


def _write_video(file: Any, video: VideoEntry, key: LatentKey, encode: Encode) -> None:
    """Append the moments of all frames of a video, then those of the mirrored frames."""
    mirrored, frames = [], 0
    for pixels in _pixels(video, key.resolution):
        frames += len(pixels)
        file.write(_bytes(encode(to_tensor(pixels)), key, len(pixels)))
        if key.mirrored:
            mirrored.append(_bytes(encode(to_tensor(pixels[:, :, ::-1])), key, len(pixels)))
    if frames != video.frames:
        raise ValueError(f"{video.path}: {frames} frames now, {video.frames} when it was checked; check the data anew")
    for part in mirrored:
        file.write(part)


def _pixels(video: VideoEntry, resolution: int) -> Iterator[np.ndarray]:
    """The frames of a video, a few at a time: uint8 (n, resolution, resolution, 3), 0..255."""
    waiting = []
    for frame in each_frame(video.path):
        waiting.append(frame)
        if len(waiting) == FRAMES_AT_ONCE:
            yield centre_crop_resize(np.stack(waiting), resolution)
            waiting = []
    if waiting:
        yield centre_crop_resize(np.stack(waiting), resolution)


def _bytes(moments: Tensor, key: LatentKey, frames: int) -> bytes:
    """Moments (n, 2 C, h, w) as they lie on disk. Raises ValueError for another shape and for values not finite."""
    wanted = (frames, key.channels, key.side, key.side)
    if tuple(moments.shape) != wanted or not torch.isfinite(moments).all():
        raise ValueError(f"latent cache: the autoencoder gave {tuple(moments.shape)}, wanted finite values {wanted}")
    return moments.detach().float().cpu().numpy().astype("<f4").tobytes()
