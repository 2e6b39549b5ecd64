"""A video file or a folder of pictures -> frames. The only decoder of the project."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from lavita.data.seek import CHECKED, Entry, LostEntry, Timeline, from_entry, nearest, pack

MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
EBML_MAGIC, SEGMENT_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class Defect:
    """What is wrong with a file: its status in a manifest (empty, not_video or unreadable) and the reason."""

    status: str
    reason: str


def defect(path: Path) -> Defect | None:
    """Return why the file at path is not a whole AVI, MP4 or Matroska/WebM file, or None where it is whole.

    A file whose container does not state its length (a live recording) counts as whole.
    Source: Microsoft AVI RIFF reference; ISO/IEC 14496-12 section 4.2; RFC 8794 section 6 (EBML element
    sizes).
    """
    size = path.stat().st_size
    if size == 0:
        return Defect("empty", "the file is empty (0 bytes)")
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            stated = _riff_length(file, size)
        elif head[4:8] in MP4_FIRST_BOXES:
            stated = _box_length(file, size)
        elif head[:4] == EBML_MAGIC:
            stated = _ebml_length(file, size)
        else:
            return Defect("not_video", "not a video: the file does not begin as AVI, MP4 or Matroska/WebM")
    if stated > size:
        return Defect("unreadable", f"truncated: {size} bytes of {stated}")
    return None


def _riff_length(file: BinaryIO, size: int) -> int:
    """Bytes that an AVI file says it has; files over 1 GiB are several RIFF chunks in a row."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        end += 8 + length
    return end


def _box_length(file: BinaryIO, size: int) -> int:
    """Bytes that an MP4 file says it has: its top-level boxes end to end."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length = int.from_bytes(file.read(4), "big")
        kind = file.read(4)
        if not kind.isalnum() and not kind.strip().isalnum():
            break  # bytes after the last box that are no box, such as padding
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length == 0:
            return size  # the box runs to the end of the file, whatever that is
        if length < 8:
            break
        end += length
    return end


def _ebml_length(file: BinaryIO, size: int) -> int:
    """Bytes that a Matroska or WebM file says it has: the EBML header and the segment."""
    end = 0
    for wanted in (EBML_MAGIC, SEGMENT_ID):
        file.seek(end)
        first = file.read(5)
        if first[:4] != wanted or len(first) < 5:
            return size + 1 if end + 5 > size else end
        width = 9 - first[4].bit_length()  # the leading zero bits of a size give the number of bytes it takes
        if width > 8:
            return end
        value = int.from_bytes(first[4:] + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return end  # all ones: length unknown
        end += 4 + width + value
    return end


VIDEO_SUFFIXES = (".avi", ".mp4", ".webm", ".mkv")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


class UnreadableVideo(ValueError):
    """A video that cannot be decoded. One line: path and reason.

    status: what it is in a manifest: unreadable, empty or not_video.
    """

    def __init__(self, path: Path | str, reason: str = "", status: str = "unreadable") -> None:
        # One argument must do, too: pickling and the loader's workers rebuild the error from its message.
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.status = status
        self.reason = reason


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
    thorough: also decode every picture, and find a file's key frames from which reading may begin, each tried against
    the decode of the whole file.
    Raises UnreadableVideo.
    """
    path = Path(path)
    if path.is_dir():
        pictures = picture_paths(path)
        sizes = {_picture_size(picture, thorough) for picture in pictures}
        if len(sizes) > 1:
            raise UnreadableVideo(path, f"pictures of different sizes: {sorted(sizes)[:3]}")
        width, height = sizes.pop()
        return VideoInfo(len(pictures), None, width, height)
    seen, frame, fps = Timeline(), None, None
    for fps, frame in decode(path):  # noqa: B007
        seen.add(frame)
    if frame is None:
        raise UnreadableVideo(path, "no frame can be decoded")
    width, height = (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
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
        found = {index: _read_picture(pictures[index]) for index in wanted if index < count}
    else:
        try:
            found, count = _read_from(path, wanted, nearest(entries, min(wanted)))
        except LostEntry:
            found, count = _read_from(path, wanted, None)
    if max(wanted) >= count:
        raise ValueError(f"{path}: got frame index {max(wanted)}, the video has {count} frames (0 to {count - 1})")
    if len({frame.shape for frame in found.values()}) > 1:
        raise UnreadableVideo(path, "the frame size changes within the video")
    return np.stack([found[index] for index in indices])


def each_frame(path: Path | str) -> Iterator[np.ndarray]:
    """Every frame from the first on, one at a time: uint8 (H, W, 3), 0..255, RGB, turned upright.

    Raises UnreadableVideo.
    """
    path = Path(path)
    if path.is_dir():
        yield from map(_read_picture, picture_paths(path))
        return
    converter = VideoReformatter()
    for _, frame in decode(path):
        yield _upright(converter, frame)


def _upright(converter: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    """uint8 (H, W, 3), RGB, of a decoded frame, turned as its file says."""
    rgb = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.rot90(rgb, _quarter_turns(frame))


def _read_from(path: Path, wanted: set[int], entry: Entry | None) -> tuple[dict[int, np.ndarray], int]:
    """The wanted frames by number, and the number after the last one that was decoded."""
    found: dict[int, np.ndarray] = {}
    number, last = entry.frame if entry else 0, max(wanted)
    # One converter for all frames, in one thread: a new one each costs 20 times as much on small frames.
    converter = VideoReformatter()
    for _, frame in decode(path, entry):
        if number in wanted:
            found[number] = _upright(converter, frame)
        number += 1
        if number > last:
            break
    return found, number


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring a frame upright, as its file's display matrix says; 0 to 3."""
    return round(frame.rotation / 90) % 4


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

    Raises UnreadableVideo for whatever is wrong with the file, LostEntry where seeking does not lead to the entry.
    """
    if not path.is_file():
        raise UnreadableVideo(path, "no such file or folder")
    wrong = defect(path)
    if wrong:
        raise UnreadableVideo(path, wrong.reason, wrong.status)
    count = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UnreadableVideo(path, "the file holds no video stream", "not_video")
            stream = container.streams.video[0]
            # One thread a video: loaders already work on several videos at a time.
            stream.codec_context.thread_count = 1
            fps = float(stream.average_rate) if stream.average_rate else None
            frames = container.decode(stream)
            if entry is not None:
                container.seek(entry.pts, stream=stream)
                frames = from_entry(frames, entry)
            for frame in frames:
                yield fps, frame
                count += 1
    except av.FFmpegError as error:
        raise UnreadableVideo(path, f"{error.strerror} (after {count} frames)") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def picture_paths(folder: Path) -> list[Path]:
    """The pictures of a frame folder in the order of their numbers."""
    pictures = [
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(PICTURE_SUFFIXES) and not entry.name.startswith(".")
    ]
    if not pictures:
        raise UnreadableVideo(folder, f"the folder holds no picture ({', '.join(PICTURE_SUFFIXES)})", "empty")
    return sorted(pictures, key=_natural)


def _picture_size(picture: Path, decode: bool) -> tuple[int, int]:
    """Width and height from the header; a picture without its end mark is truncated."""
    end_mark = b"IEND" if picture.suffix.lower() == ".png" else b"\xff\xd9"
    try:
        with picture.open("rb") as file, Image.open(file) as image:
            size = image.size
            if decode:
                image.load()
            file.seek(max(0, file.seek(0, os.SEEK_END) - 256))
            tail = file.read()
    except (OSError, SyntaxError) as error:
        raise UnreadableVideo(picture, "not a picture that can be read") from error
    if end_mark not in tail:
        raise UnreadableVideo(picture, "truncated picture (no end mark)")
    return size


def _read_picture(picture: Path) -> np.ndarray:
    """uint8 (H, W, 3), RGB."""
    try:
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UnreadableVideo(picture, "not a picture that can be read, or truncated") from error
