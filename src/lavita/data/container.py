"""Is a video file whole? Every accepted container states its own length, so a cut file is found without
decoding.

Decoders play a truncated AVI or Matroska file without complaint up to the cut; only the container tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
