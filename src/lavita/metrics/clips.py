"""Clips as a protocol sees them: which of the items, which of their frames, at which size, through which codec."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from lavita.config.protocol import JPEG, LOSSLESS, MP4_THEN_JPEG, Protocol
from lavita.data.clips import centre_crop_resize, frame_indices, span, window_starts
from lavita.data.decoding.lossless import stored_as
from lavita.data.trees import find_videos
from lavita.data.video import probe, read_frames
from lavita.shapes import check

JPEG_QUALITY = 75  # Pillow's own, and what is left where "q=95" is given in a way that it ignores
MP4_CRF, MP4_FPS = 5, 8


def jpeg(clip: np.ndarray) -> np.ndarray:
    """Every frame saved and read as JPEG by Pillow with its default settings: uint8 (F, H, W, 3) -> the same shape."""
    frames = []
    for frame in clip:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
        frames.append(np.asarray(Image.open(buffer).convert("RGB")))
    return np.stack(frames)


def mp4(clip: np.ndarray) -> np.ndarray:
    """The clip saved and read as H.264, yuv420p, CRF 5: uint8 (F, H, W, 3), even H and W -> the same shape.

    The bytes are those of the x264 at hand, so the last grey levels can differ from one version to another.
    Raises ValueError for odd sizes, and where FFmpeg has no x264.
    Source: imageio's quality 9, int(0.1 * 51), as in https://github.com/imageio/imageio-ffmpeg/blob/
    ae47d8028c237ca5507ceef1b843ee427b442887/imageio_ffmpeg/_io.py
    """
    sizes = check(clip, "F H W 3", "clip", dtype=np.uint8)
    if sizes["H"] % 2 or sizes["W"] % 2:
        raise ValueError(f"codec mp4: got frames of {sizes['W']}x{sizes['H']}, H.264 in 4:2:0 wants even sides")
    if "libx264" not in av.codecs_available:
        raise ValueError("codec mp4: this build of FFmpeg has no x264, so the protocol can't be followed here")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=MP4_FPS, options={"crf": str(MP4_CRF)})
        stream.height, stream.width, stream.pix_fmt = sizes["H"], sizes["W"], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


# What is still to be done to frames that lie on disk in one way, so that they have been through a codec once.
STEPS: dict[tuple[str, str], tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
    (JPEG, "lossless"): (jpeg,),
    (JPEG, "video"): (jpeg,),
    (MP4_THEN_JPEG, "lossless"): (mp4, jpeg),
    (MP4_THEN_JPEG, "video"): (jpeg,),
}


def through(codec: str, stored: str, clip: np.ndarray) -> np.ndarray:
    """A clip, uint8 (F, H, W, 3), after a protocol's codec; stored: lossless, video or jpeg, as it lies on disk."""
    for step in STEPS.get((codec, stored), ()):
        clip = step(clip)
    return clip


ARRAYS = (".npz", ".npy")
KEY = "clips"


@dataclass(frozen=True)
class ClipItem:
    """One clip or video: its name, and calls that give frames by number, uint8 (n, H, W, 3), 0..255, how many there
    are, and how they lie on disk (lossless, video or jpeg). A video is never in memory whole.
    """

    name: str
    read: Callable[[Sequence[int]], np.ndarray]
    count: Callable[[], int]
    stored: Callable[[], str]


def clip_items(path: Path | str, say: Callable[[str], None] | None = None) -> list[ClipItem]:
    """The clips of a folder (a video file or frame folder each, at any depth, sorted by name), or of an .npz with key
    `clips` or an .npy, uint8 (N, F, H, W, 3).

    What in a folder is no clip is left out, and said in one line. Nothing is decoded yet. Raises ValueError for a path
    that is no such thing.
    """
    path = Path(path)
    if path.is_dir():
        found = find_videos(path)
        if not found.videos:
            there = f", found {found.passed_over(path)}" if found.passed_over(path) else ""
            raise ValueError(
                f"{path}: no clips; wanted a video file or a folder of pictures a clip, .npz or .npy{there}"
            )
        if say and found.passed_over(path):
            say(f"{path}: passed over {found.passed_over(path)}")
        return [_item(Path(file), path) for file in sorted(found.videos, key=lambda file: _name(Path(file), path))]
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; wanted a folder of clips, .npz (key {KEY}) or .npy")
    if path.suffix not in ARRAYS:
        raise ValueError(f"{path}: got a file that is neither {' nor '.join(ARRAYS)}; give the folder of the clips")
    return array_items(read_array(path))


def array_items(array: np.ndarray) -> list[ClipItem]:
    """The clips of an array, uint8 (N, F, H, W, 3), named by their numbers. Raises ValueError for another array."""
    check_array(array, "clips")
    width = max(6, len(str(len(array))))
    return [
        ClipItem(
            f"{number:0{width}d}",
            lambda indices, n=number: np.array(array[n, list(indices)]),
            lambda: array.shape[1],
            lambda: "lossless",
        )
        for number in range(len(array))
    ]


def read_array(path: Path) -> np.ndarray:
    """uint8 (N, F, H, W, 3) of an .npz or .npy, mapped, not read: thousands of clips would fill the memory. Pickled
    objects are refused. Raises ValueError for another file.
    """
    try:
        array = mapped_member(path) if path.suffix == ".npz" else np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not an array that can be read ({error})") from None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(reason if str(path) in reason else f"{path}: {reason}") from None
    check_array(array, str(path))
    return array


def mapped_member(path: Path) -> np.ndarray:
    """The array KEY of an .npz, unpacked into a file without a name, which is gone when nobody uses the array."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as file:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if KEY not in names:
            raise ValueError(f"{path}: got keys {', '.join(names) or 'none'}, wanted {KEY}")
        with archive.open(f"{KEY}.npy") as member:
            shutil.copyfileobj(member, file)
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{path}: {KEY} holds Python objects, wanted uint8")
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def check_array(array: np.ndarray, where: str) -> None:
    """Raise ValueError, which begins with where, unless an array is clips."""
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"{where}: got {array.dtype} {array.shape}, wanted uint8 (N, F, H, W, 3)")


def _item(path: Path, folder: Path) -> ClipItem:
    return ClipItem(
        _name(path, folder),
        partial(read_frames, path),
        cache(lambda: probe(path).frames),  # a video file is decoded to count
        cache(lambda: stored_as(path)),
    )


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder)
    return (relative if path.is_dir() else relative.with_suffix("")).as_posix()


def names_are_unique(items: Sequence[ClipItem], path: Path) -> None:
    """Raise ValueError where two clips have one name (a.mp4 beside a.avi): none may be scored twice."""
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ValueError(f"{path}: two clips are named {item.name}; every clip counts once")
        seen.add(item.name)


class Pick(NamedTuple):
    """A clip to score: the item's position, and its first frame there (None: to be drawn when its length is known)."""

    item: int
    start: int | None


def picks(items: Sequence[ClipItem], protocol: Protocol, real: bool) -> list[Pick]:
    """The clips that are scored, in the order of the items: as many as the protocol says, each once.

    Generated: the first by name, from their first frame. Real: by the protocol's selection and seed. Raises TooFew,
    which says how many are missing.
    """
    n = protocol.n_real if real else protocol.n_generated
    every = [Pick(position, None if real else 0) for position in range(len(items))]
    cap = protocol.windows_per_video
    if real and protocol.clip_selection in ("windows", "every-window"):
        every = [pick for position, item in enumerate(items) for pick in _windows(position, item, protocol, cap)]
    if len(every) < n:
        kind = "real" if real else "generated"
        raise TooFew(
            f"protocol {protocol.name} scores {n} {kind} clips, there are {len(every)}: {n - len(every)} are missing; "
            f"give more, or score fewer under a name of its own (--clips {len(every)})"
        )
    if not real or protocol.clip_selection == "sorted-random-start":
        return every[:n]
    if protocol.clip_selection == "evenly-spaced":
        return [every[number * len(every) // n] for number in range(n)]
    rng = np.random.default_rng([protocol.clip_seed, len(every)])
    if protocol.clip_selection == "windows":
        drawn = _round_by_round(every, rng.permutation(len(every)))[:n]
    else:
        drawn = rng.permutation(len(every))[:n]
    return [every[position] for position in sorted(drawn)]


def spread_picks(items: Sequence[ClipItem], protocol: Protocol, most: int) -> list[Pick]:
    """Windows of all items, spread evenly over them, at most `most`: what is known of a whole split."""
    every = [pick for position, item in enumerate(items) for pick in _windows(position, item, protocol, None)]
    rng = np.random.default_rng([protocol.clip_seed, len(every)])
    return [every[position] for position in sorted(_round_by_round(every, rng.permutation(len(every)))[:most])]


class TooFew(ValueError):
    """Fewer clips than the protocol scores: an error, never a smaller number quietly."""


def _round_by_round(every: Sequence[Pick], order: Sequence[int]) -> list[int]:
    """A drawn order with the first window of each item before the second of any: n are spread as evenly as can be."""
    seen: Counter[int] = Counter()
    rounds = []
    for position in order:
        rounds.append((seen[every[position].item], len(rounds), int(position)))
        seen[every[position].item] += 1
    return [position for _, _, position in sorted(rounds)]


def _windows(position: int, item: ClipItem, protocol: Protocol, cap: int | None) -> list[Pick]:
    """The non-overlapping windows of an item, `cap` at most, or the item itself where it is cut to F frames already."""
    frames = item.count()
    if frames == protocol.frames:
        return [Pick(position, 0)]
    starts = window_starts(frames, protocol.frames, protocol.real_interval)
    return [Pick(position, start) for start in starts[:cap]]


def picked_frames(item: ClipItem, protocol: Protocol, real: bool, pick: Pick) -> list[int]:
    """The frames of an item that make a clip which is scored.

    An item of exactly F frames is a clip that was cut before. A longer one is cut here at the protocol's interval, real
    ones where no start is given from one drawn by the protocol's seed. Raises ValueError for an item too short.
    """
    f, there = protocol.frames, item.count()
    if there == f:
        return list(range(f))
    interval = protocol.real_interval if real else protocol.generated_interval
    length = span(f, interval)
    if there < length:
        raise ValueError(
            f"clip {item.name}: {there} frames; protocol {protocol.name} takes {f} at interval {interval}, "
            f"which span {length} (or clips cut to exactly {f})"
        )
    start = pick.start
    if start is None:
        start = int(np.random.default_rng([protocol.clip_seed, 1, pick.item]).integers(there - length + 1))
    return frame_indices(start, f, interval)


def view(item: ClipItem, frames: np.ndarray, protocol: Protocol, real: bool) -> np.ndarray:
    """The frames of a clip, uint8 (F, H, W, 3), as they are scored: uint8 (F, side, side, 3), 0..255."""
    if protocol.crop == "none" and frames.shape[1] != frames.shape[2]:
        raise ValueError(f"clip {item.name}: {frames.shape[2]}x{frames.shape[1]} pixels, crop none wants square frames")
    if protocol.resize_where == "loader":
        frames = centre_crop_resize(frames, protocol.resolution)
    codec = protocol.real_codec if real else protocol.generated_codec
    return frames if codec == LOSSLESS else through(codec, item.stored(), frames)
