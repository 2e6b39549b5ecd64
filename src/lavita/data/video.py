"""A video file or a folder of pictures -> frames. The only decoder of the project."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lavita.data.decoding.containers import UnreadableVideo, defect, wrong_checksum
from lavita.data.decoding.pictures import picture_paths, picture_size, read_picture
from lavita.data.decoding.rgb import ToRGB, check_shown, has_alpha
from lavita.data.seek import CHECKED, Entry, LostEntry, Timeline, from_entry, nearest, pack

# Without it a decoder paints over what it can't read, and every frame seems to be there.
STRICT = {"err_detect": "crccheck+explode"}


@dataclass(frozen=True)
class VideoInfo:
    """frames: how many can be decoded; fps: frames per second (None for a frame folder); width, height: pixels, shown;
    entries: where decoding may begin, packed by `entries.pack` (empty unless they were asked for).
    """

    frames: int
    fps: float | None
    width: int
    height: int
    entries: bytes = b""


def probe(path: Path | str, thorough: bool = False) -> VideoInfo:
    """Return frame count, rate and size of a video file or frame folder.

    A video file is decoded once, without conversion to RGB: the counts in headers and packets are wrong for
    files with dropped or broken frames. Of a frame folder each picture's header and end mark are read.
    thorough: also decode every picture, look at the pixels of formats with alpha, and find a file's key frames from
    which reading may begin, each tried against the decode of the whole file: what passes can be read by a run.
    Raises UnreadableVideo.
    """
    path = Path(path)
    if path.is_dir():
        pictures = picture_paths(path)
        sizes = {picture_size(picture, thorough) for picture in pictures}
        if len(sizes) > 1:
            raise UnreadableVideo(path, f"pictures of different sizes: {sorted(sizes)[:3]}")
        width, height = sizes.pop()
        return VideoInfo(len(pictures), None, width, height)
    wrong = wrong_checksum(path) if path.is_file() else None
    if wrong:
        raise UnreadableVideo(path, wrong.reason, wrong.status)
    seen, frame, fps, to_rgb = Timeline(), None, None, ToRGB(path)
    for fps, frame in decode(path):  # noqa: B007
        seen.add(frame)
        if thorough and has_alpha(frame.format.name):
            to_rgb(frame)
    if frame is None:
        raise UnreadableVideo(path, "no frame can be decoded")
    width, height = check_shown(path, frame)
    tried = [entry for entry in seen.candidates() if _leads_to(path, entry, seen)] if thorough else []
    return VideoInfo(seen.num_frames, fps, width, height, pack(tried))


def _leads_to(path: Path, entry: Entry, seen: Timeline) -> bool:
    """Whether seeking to an entry gives the same frames there as the decode of the whole file did."""
    try:
        frames = decode(path, entry)
        numbers = range(entry.frame, min(entry.frame + CHECKED, seen.num_frames))
        return all(seen.agrees(number, frame) for number, (_, frame) in zip(numbers, frames, strict=False))
    except (LostEntry, UnreadableVideo):
        return False


def read_frames(path: Path | str, indices: Sequence[int], entries: bytes = b"") -> np.ndarray:
    """Return frames by number: uint8 (len(indices), H, W, 3), 0..255, RGB, in the order of indices, turned upright.

    Frame 0 is the first that the decoder puts out. A file is decoded from its start, or from the last of `entries`
    (VideoInfo.entries of this very file) that is not beyond the first index, to the largest index; never by time,
    since that is wrong in files with one key frame or odd time stamps. Only the frames asked for become RGB.
    Raises UnreadableVideo; ValueError where an index is negative or beyond the last frame.
    """
    path, indices = Path(path), [int(index) for index in indices]
    if not indices or min(indices) < 0:
        raise ValueError(f"{path}: got frame indices {indices}, allowed: one or more numbers from 0 on")
    wanted = set(indices)
    if path.is_dir():
        pictures = picture_paths(path)
        count = len(pictures)
        found = {index: read_picture(pictures[index]) for index in wanted if index < count}
    else:
        try:
            found, count = _read_from(path, wanted, nearest(entries, min(wanted)))
        except LostEntry:
            found, count = _read_from(path, wanted, None)
    if max(wanted) >= count:
        raise ValueError(f"{path}: got frame index {max(wanted)}, the video has {count} frames (0 to {count - 1})")
    if len({frame.shape for frame in found.values()}) > 1:  # of a frame folder; `decode` looks itself
        raise UnreadableVideo(path, "pictures of different sizes")
    return np.stack([found[index] for index in indices])


def each_frame(path: Path | str) -> Iterator[np.ndarray]:
    """Every frame from the first on, one at a time: uint8 (H, W, 3), 0..255, RGB, turned upright.

    Raises UnreadableVideo.
    """
    path = Path(path)
    if path.is_dir():
        yield from map(read_picture, picture_paths(path))
        return
    to_rgb = ToRGB(path)
    for _, frame in decode(path):
        yield to_rgb(frame)


def _read_from(path: Path, wanted: set[int], entry: Entry | None) -> tuple[dict[int, np.ndarray], int]:
    """The wanted frames by number, and the number after the last one that was decoded."""
    found: dict[int, np.ndarray] = {}
    number, last = entry.frame if entry else 0, max(wanted)
    to_rgb = ToRGB(path)
    for _, frame in decode(path, entry):
        if number in wanted:
            found[number] = to_rgb(frame)
        number += 1
        if number > last:
            break
    return found, number


def write_video(path: Path | str, frames: np.ndarray, fps: float, lossless: bool) -> Path:
    """Write frames, uint8 (F, H, W, 3) RGB, and return path; the file appears whole or not at all.

    lossless: FFV1 in .mkv with RGB pixels, read back bit for bit. Otherwise for looking: H.264 in .mp4
    (MPEG-4 part 2 where FFmpeg has no x264), MPEG-4 part 2 in .avi; odd sizes gain one repeated row or
    column.
    Raises ValueError for another shape, dtype or suffix.
    """
    path = Path(path)
    allowed = (".mkv",) if lossless else (".mp4", ".avi")
    if path.suffix.lower() not in allowed:
        raise ValueError(f"{path}: got suffix '{path.suffix}', allowed for lossless={lossless}: {', '.join(allowed)}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"{path}: got {frames.dtype} {frames.shape}, wanted uint8 (F, H, W, 3)")
    codec, pixels, options = _encoder(path.suffix.lower(), lossless)
    if not lossless:
        odd_rows, odd_columns = frames.shape[1] % 2, frames.shape[2] % 2
        frames = np.pad(frames, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        # bitexact: without it Matroska draws a random identifier and equal frames would give unequal files.
        with av.open(str(part), "w", options={"fflags": "+bitexact"}) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
            stream.codec_context.thread_count = 1
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _encoder(suffix: str, lossless: bool) -> tuple[str, str, dict[str, str]]:
    """Codec, pixel format and codec options for a kind of file."""
    if lossless:
        return "ffv1", "bgr0", {"level": "3"}
    if suffix == ".mp4" and "libx264" in av.codecs_available:
        # Macroblock-tree rate control reads memory it never wrote where a frame is few blocks wide: with it,
        # equal 64x64 videos came out as up to eight different files.
        return "libx264", "yuv420p", {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
    return "mpeg4", "yuv420p", {"qmin": "2", "qmax": "4", "flags": "+bitexact"}


def decode(path: Path, entry: Entry | None = None) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Frames per second of the file and each frame, in the decoder's order, from the first or from an entry on.

    The decoder's own checks are on: what it would hide by painting over is an error. Raises UnreadableVideo for
    whatever is wrong with the file, also where the frame size changes, LostEntry where seeking does not lead to the
    entry.
    """
    if not path.is_file():
        raise UnreadableVideo(path, "no such file or folder")
    wrong = defect(path)
    if wrong:
        raise UnreadableVideo(path, wrong.reason, wrong.status)
    count, size = entry.frame if entry else 0, (0, 0)
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UnreadableVideo(path, "the file holds no video stream", "not_video")
            stream = container.streams.video[0]
            # One thread a video: loaders already work on several videos at a time.
            stream.codec_context.thread_count = 1
            if entry is None:
                # From an entry on the decoder may miss what frames before it lean on; the whole file was tried before.
                stream.codec_context.options = STRICT
            fps = float(stream.average_rate) if stream.average_rate else None
            frames = container.decode(stream)
            if entry is not None:
                container.seek(entry.pts, stream=stream)
                frames = from_entry(frames, entry)
            for frame in frames:
                shown = check_shown(path, frame)
                if entry is None and frame.is_corrupt:
                    raise UnreadableVideo(path, f"frame {count} is damaged")
                if size not in ((0, 0), shown):
                    raise UnreadableVideo(
                        path,
                        f"the frame size changes at frame {count}, from {size[0]}x{size[1]} to {shown[0]}x{shown[1]}",
                    )
                size = shown
                yield fps, frame
                count += 1
    except av.FFmpegError as error:
        raise UnreadableVideo(path, f"{error.strerror} (after {count} frames)") from error
