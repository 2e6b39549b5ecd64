"""Videos -> posterior moments of their frames, stored once, so that training need neither decode nor encode.

Every frame of the training split is stored, mirrored too where the data set is mirrored, so a training clip is the one
that it would have been, and each step still draws its latent. A cache is a folder: moments.f32 (or .f16), which is
mapped into memory and never read whole, and header.json, which says everything that decides its content.
`latent_filling.py` fills it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavita.data.catalogue import VideoEntry
from lavita.data.clips import centre_crop_resize, to_tensor
from lavita.data.video import each_frame

HEADER = "header.json"
FRAMES_AT_ONCE = 64  # frames per call of the autoencoder
# Of a stored frame to one encoded now, of the largest moment: float32 of another machine or of another number of frames
# a call (2.4e-6 was seen), far from another autoencoder's values, and from TF32's (2e-3).
TOLERANCE = 1e-4
STORED = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
FLOAT32 = "float32 without TF32"  # what a frame is encoded in, however it is stored
Encode = Callable[[Tensor], Tensor]


class StaleLatents(ValueError):
    """A latent cache that was not made from this autoencoder, data and setting, or is not whole."""


@dataclass(frozen=True)
class LatentKey:
    """Everything that decides what a cache holds.

    codec: hash of its weights; data: fingerprint of the data set; videos: hash of which of its videos and frames;
    mirrored: whether both directions are stored; channels, side: 2 C and h of a frame's moments; dtype: of the stored
    values; arithmetic: that they were computed in.
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
    dtype: str = "float32"
    arithmetic: str = FLOAT32
    version: int = 2  # raise it when the meaning of a stored value changes

    @property
    def file(self) -> str:
        """The name of the file of the values."""
        return f"moments.f{8 * STORED[self.dtype].itemsize}"

    @property
    def tolerance(self) -> float:
        """How far a stored moment may be from one computed now, of the largest: half a step of float16 where that is
        stored, beside what float32 allows."""
        return TOLERANCE + (2.0**-11 if self.dtype == "float16" else 0.0)

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
        return self.frame_bytes * self.shape[0]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in one direction."""
        return STORED[self.key.dtype].itemsize * int(np.prod(self.shape[1:]))


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
            key = self.slots.key
            self._values = np.memmap(self.folder / key.file, STORED[key.dtype], "r", shape=self.slots.shape)
            self._values._mmap.madvise(mmap.MADV_RANDOM)  # clips lie anywhere: what follows one is not wanted
        start = self.slots.starts[self.position[video.video_id]] + mirrored * video.frames
        # Fancy indexing copies what is wanted.
        return torch.from_numpy(self._values[start + np.asarray(indices)].astype(np.float32, copy=False))

    def check_frame(self, video: VideoEntry, encode: Encode) -> None:
        """Raise StaleLatents unless the first frame of a video, encoded now, has the moments that are stored."""
        pixels = next(pixels_of(video, self.slots.key.resolution))[:1]
        for mirrored in (False, True)[: 1 + self.slots.key.mirrored]:
            now = encode(to_tensor(pixels[:, :, ::-1] if mirrored else pixels))
            stored = self.clip(video, [0], mirrored)
            largest = now.abs().max().clamp(min=torch.finfo(now.dtype).tiny)  # moments may all be 0
            difference = float((now - stored).abs().max() / largest)
            if not difference <= self.slots.key.tolerance:
                raise StaleLatents(
                    f"{self.folder}: the stored moments of {video.video_id} differ from what the autoencoder gives now "
                    f"by {difference:.1e} of the largest, allowed {self.slots.key.tolerance:.0e}; delete the folder to "
                    "fill it anew"
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
    values = folder / slots.key.file
    size = values.stat().st_size if values.is_file() else 0
    if size != slots.num_bytes:
        wrong.append(f"{values.name} of {size} bytes, wanted {slots.num_bytes}")
    if wrong:
        raise StaleLatents(f"{folder}: a latent cache of something else: {'; '.join(wrong)}; delete it to fill it anew")


def pixels_of(video: VideoEntry, resolution: int) -> Iterator[np.ndarray]:
    """The frames of a video, a few at a time: uint8 (n, resolution, resolution, 3), 0..255."""
    waiting = []
    for frame in each_frame(video.path):
        waiting.append(frame)
        if len(waiting) == FRAMES_AT_ONCE:
            yield centre_crop_resize(np.stack(waiting), resolution)
            waiting = []
    if waiting:
        yield centre_crop_resize(np.stack(waiting), resolution)
