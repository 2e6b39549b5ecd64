"""Frames -> clip: which frames, crop, resize, range, and which clip training draws. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.video import each_frame, read_frames
from lavita.shapes import check

# The purposes of the counter-based generator, so that no two of its numbers are shared.
EPOCH_ORDER, CLIP_DRAW, IMAGE_DRAW = 1, 2, 3


def span(frames: int, interval: int) -> int:
    """Number of video frames from the first to the last of a clip: (frames - 1) * interval + 1."""
    if frames < 1 or interval < 1:
        raise ValueError(f"got frames={frames}, interval={interval}, allowed: whole numbers from 1 on")
    return (frames - 1) * interval + 1


def frame_indices(start: int, frames: int, interval: int) -> list[int]:
    """The frame numbers of a clip: exactly every interval-th from start on."""
    return list(range(start, start + span(frames, interval), interval))


def clip_starts(video_frames: int, frames: int, interval: int, choice: str = "exact") -> int:
    """How many start frames a training clip may have in a video of video_frames; 0 or less: the video is too short.

    exact: wherever the clip fits. linspace: the published rule, which draws from 0 .. max(0, V - F k - 1), and so takes
    a video shorter than F k frames whole, down to F frames.
    Source: https://github.com/Vchitect/Latte/blob/b27c24a17487e3c33ae4e92364521303d0f14845/datasets/video_transforms.py
    (TemporalRandomCrop of F k frames).
    """
    if choice == "exact":
        return video_frames - span(frames, interval) + 1
    return max(0, video_frames - frames * interval - 1) + 1 if video_frames >= frames else 0


def clip_indices(start: int, video_frames: int, frames: int, interval: int, choice: str = "exact") -> list[int]:
    """The frame numbers of a training clip that starts at `start`: every interval-th, or as the published rule has it.

    linspace: F numbers spread evenly from start to the last of F k frames (or of the video), cut down to whole
    numbers, so that some steps are longer by one. The suite's own rule is exact.
    Source: datasets/ucf101_datasets.py of the repository named at `clip_starts`.
    """
    if choice == "exact":
        return frame_indices(start, frames, interval)
    last = min(start + frames * interval, video_frames) - 1
    return np.linspace(start, last, frames, dtype=int).tolist()


def window_starts(video_frames: int, frames: int, interval: int) -> list[int]:
    """Start frames of the clips that cover a video of video_frames without sharing a frame; [] if it is too
    short.
    """
    length = span(frames, interval)
    return list(range(0, video_frames - length + 1, length))


def centre_crop_resize(frames: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 (F, H, W, 3) -> uint8 (F, resolution, resolution, 3), both 0..255.

    Centre crop to the short side (the odd pixel is dropped at the bottom or right), then Pillow's BICUBIC,
    which widens its filter by the reduction and so is antialiased. Frames of the wanted size come back
    unchanged.
    """
    sizes = check(frames, "F H W 3", "frames", dtype=np.uint8)
    side = min(sizes["H"], sizes["W"])
    top, left = (sizes["H"] - side) // 2, (sizes["W"] - side) // 2
    square = frames[:, top : top + side, left : left + side]  # (F, side, side, 3)
    if side == resolution:
        return np.ascontiguousarray(square)
    small = (Image.fromarray(frame).resize((resolution, resolution), Image.Resampling.BICUBIC) for frame in square)
    return np.stack([np.asarray(frame) for frame in small])  # (F, resolution, resolution, 3)


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 (F, H, W, 3) -> uint8 (F, 3, H, W), 0..255: a quarter of the bytes of `to_tensor`."""
    check(frames, "F H W 3", "frames", dtype=np.uint8)
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()  # (F, 3, H, W)


def normalised(pixels: Tensor) -> Tensor:
    """uint8 of any shape, 0..255 -> float32 of the same shape, -1..1, as x / 127.5 - 1; the same bits on any device."""
    # A divisor on the device: by a number of the host CUDA would multiply with the reciprocal, which rounds otherwise.
    half = torch.full((), 127.5, dtype=torch.float32, device=pixels.device)
    return pixels.float().div_(half).sub_(1)  # in place: new memory would cost more than the arithmetic


def to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 (F, H, W, 3), 0..255 -> float32 (F, 3, H, W), -1..1, as x / 127.5 - 1."""
    return normalised(to_pixels(frames))


def to_uint8(video: Tensor) -> np.ndarray:
    """float32 (F, 3, H, W), -1..1 -> uint8 (F, H, W, 3), 0..255: the nearest level, clamped; undoes
    to_tensor.

    Raises ValueError for a value that is not finite.
    """
    check(video, "F 3 H W", "video")
    if not torch.isfinite(video).all():
        raise ValueError("video: got NaN or infinity, wanted finite values; the network that made it diverged")
    levels = ((video.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (F, 3, H, W)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (F, H, W, 3)


def training_draw(seed: int, clip_index: int, num_starts: Sequence[int], flip: bool) -> tuple[int, int, bool]:
    """Return (video position, start frame, mirrored) of training clip clip_index: a pure function of its
    arguments.

    num_starts: for each video, how many start frames leave room for a clip (at least 1). Epoch clip_index
    // len(num_starts) visits every video once, in an order drawn from (seed, epoch); start and mirroring
    are drawn from (seed, clip_index), so workers, batch size and resuming change nothing. mirrored is False
    throughout where flip is False.
    Source of the generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox
    4x64-10).
    """
    if clip_index < 0 or seed < 0:
        raise ValueError(f"got seed={seed}, clip_index={clip_index}, allowed: whole numbers from 0 on")
    epoch, place = divmod(clip_index, len(num_starts))
    position = int(_epoch_order(seed, epoch, len(num_starts))[place])
    start_bits, flip_bits = (int(bits) for bits in _philox(seed, clip_index, CLIP_DRAW, 2))
    start = start_bits * int(num_starts[position]) >> 64  # a 64-bit number scaled to 0 .. num_starts - 1
    return position, start, flip and flip_bits >= 1 << 63


def image_draws(seed: int, clip_index: int, images: int, ends: np.ndarray, flip: bool) -> list[tuple[int, int, bool]]:
    """Return (video position, frame, mirrored) of the single frames that come with training clip clip_index.

    ends: cumulative sum of the videos' frames. Every frame of the split is equally likely, so long videos give more
    images; a pure function of its arguments.
    """
    bits = [int(value) for value in _philox(seed, clip_index, IMAGE_DRAW, 2 * images)]
    draws = []
    for place_bits, flip_bits in zip(bits[::2], bits[1::2], strict=True):
        place = place_bits * int(ends[-1]) >> 64  # a 64-bit number scaled to 0 .. all frames - 1
        position = int(np.searchsorted(ends, place, side="right"))
        first = int(ends[position - 1]) if position else 0
        draws.append((position, place - first, flip and flip_bits >= 1 << 63))
    return draws


@lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """A permutation of 0 .. num_videos - 1 from (seed, epoch): the order of as many 64-bit draws."""
    return np.argsort(_philox(seed, epoch, EPOCH_ORDER, num_videos), kind="stable")


def _philox(seed: int, index: int, purpose: int, count: int) -> np.ndarray:
    """count raw 64-bit numbers keyed by (seed, index); unlike numpy's distributions they are fixed for all
    versions.
    """
    return np.random.Philox(key=[seed, index], counter=[0, 0, 0, purpose]).random_raw(count)


def real_windows(
    catalogue: Catalogue,
    split: str,
    frames: int,
    interval: int,
    windows_per_video: int | None,
    n: int,
    seed: int,
) -> list[tuple[VideoEntry, int]]:
    """Return n different non-overlapping windows as (video, start frame).

    Round by round every video gives one more window (at most windows_per_video, None: all it has), videos
    and windows in an order drawn from seed: so n windows are spread over the videos as evenly as possible,
    and the first m of them are what m windows would have been. ValueError if there are fewer than n.
    """
    videos = catalogue.split(split)
    rng = np.random.default_rng(seed)
    starts_of = []
    for video in videos:
        starts = window_starts(video.frames, frames, interval)
        starts_of.append([starts[i] for i in rng.permutation(len(starts))][:windows_per_video])
    chosen: list[tuple[VideoEntry, int]] = []
    for turn in range(max((len(starts) for starts in starts_of), default=0)):
        for position in rng.permutation(len(videos)):
            if turn < len(starts_of[position]):
                chosen.append((videos[position], starts_of[position][turn]))
    if len(chosen) < n:
        raise ValueError(_too_few(catalogue, split, frames, interval, windows_per_video, n, len(chosen)))
    return chosen[:n]


def spread_windows(
    catalogue: Catalogue, split: str, frames: int, interval: int, most: int, seed: int
) -> list[tuple[VideoEntry, int]]:
    """As `real_windows`, but all that exist, up to `most`; [] where no video holds one."""
    videos = catalogue.split(split)
    found = sum(len(window_starts(video.frames, frames, interval)) for video in videos)
    return real_windows(catalogue, split, frames, interval, None, min(found, most), seed)


def load_window(video: VideoEntry, start: int, frames: int, interval: int, resolution: int) -> np.ndarray:
    """The pixels of one window: uint8 (F, resolution, resolution, 3), 0..255. Raises UnreadableVideo."""
    indices = frame_indices(start, frames, interval)
    return centre_crop_resize(read_frames(video.path, indices, video.entries), resolution)


def load_start(video: VideoEntry, count: int, resolution: int) -> np.ndarray:
    """The first `count` frames of a video, resized as they are read: uint8 (count, resolution, resolution, 3), 0..255.

    Of those of the file's own size only one at a time is in memory. Raises UnreadableVideo.
    """
    found, read, sizes = np.empty((count, resolution, resolution, 3), np.uint8), 0, set()
    for frame in islice(each_frame(video.path), count):
        found[read] = centre_crop_resize(frame[None], resolution)[0]
        read += 1
        sizes.add(frame.shape)
    if len(sizes) > 1:
        raise UnreadableVideo(video.path, "the frame size changes within the video")
    if read < count:
        raise UnreadableVideo(video.path, f"{read} frames now, {video.frames} when it was checked")
    return found


def _too_few(
    catalogue: Catalogue,
    split: str,
    frames: int,
    interval: int,
    windows_per_video: int | None,
    n: int,
    found: int,
) -> str:
    """The message says how many are missing and what would give more."""

    def count(name: str, cap: int | None) -> int:
        starts = (window_starts(video.frames, frames, interval) for video in catalogue.split(name))
        return sum(len(each[:cap]) for each in starts)

    change = [f"ask for at most {found}"]
    if count(split, None) > found:
        change.append(f"raise windows_per_video (without a cap: {count(split, None)})")
    if count("train+heldout", windows_per_video) > found:
        change.append(f"use split train+heldout ({count('train+heldout', windows_per_video)})")
    change.append(f"take a smaller interval or fewer frames than {frames} at interval {interval}, or give more videos")
    cap = "" if windows_per_video is None else f", at most {windows_per_video} a video"
    return (
        f"{catalogue.dataset}, split {split}: got {found} non-overlapping windows of {frames} frames at "
        f"interval {interval}{cap}, from {len(catalogue.split(split))} videos; {n} are wanted, "
        f"{n - found} are missing; {'; or '.join(change)}"
    )


class ClipShare:
    """Clip indices start .. stop - 1 that a process reads: of each pass of `batch` clips the rank-th of `world` equal
    parts, in order. Alone these are all.

    So a pass is the same clips whatever the number of processes, and with it every batch: all its indices lie between
    a batch's first and the next one's. Raises ValueError where world does not divide batch.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        if batch % world:
            raise ValueError(f"a pass of {batch} clips does not go into {world} processes")
        self.firsts = range(start + rank * (batch // world), stop, batch)
        self.part = batch // world

    def __iter__(self) -> Iterator[int]:
        for first in self.firsts:
            yield from range(first, first + self.part)

    def __len__(self) -> int:
        return len(self.firsts) * self.part
