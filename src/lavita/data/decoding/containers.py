"""What a video file is before anything of it is decoded: a whole AVI, MP4 or Matroska/WebM file, or why not."""

from __future__ import annotations

import zlib
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


CRC_32 = b"\xbf\x84"  # identifier and size of the element that is a part's first where it has a checksum
PARTS = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
)  # of a Matroska segment: SeekHead, Info, Tracks, Cluster, Cues, Attachments, Chapters, Tags, Void, CRC-32
READ_AT_ONCE = 2**20


def wrong_checksum(path: Path) -> Defect | None:
    """The first part of a Matroska file that is not what its checksum says; None for files without, or of other kinds.

    Decoders look at none of them: a changed byte in a header gives frames of another size, one in FFV1 other pixels.
    Source: RFC 8794, section 11.3.1 (CRC-32); RFC 9559, section 5.1 (the parts of a segment).
    """
    with path.open("rb") as file:
        if file.read(4) != EBML_MAGIC:
            return None
        size = _vint(file, keep_marker=False)
        if size is None:
            return None
        file.seek(size, 1)
        if file.read(4) != SEGMENT_ID:
            return None
        whole, checked = _vint(file, keep_marker=False), False
        end = path.stat().st_size if whole is None else file.tell() + whole
        while file.tell() < end:
            start = file.tell()
            kind, size = _vint(file, keep_marker=True), _vint(file, keep_marker=False)
            if kind not in PARTS or size is None or file.tell() + size > end:
                # Of a live recording, or of a writer with parts of its own; damage where others had checksums.
                return (
                    Defect("unreadable", f"what stands at byte {start} is no part of a Matroska file")
                    if checked
                    else None
                )
            if kind == 0x1F43B675 or size >= 6:
                found = _checksum_holds(file, size)
                checked |= found is not None
                if found is False:
                    return Defect("unreadable", f"the checksum of the part at byte {start} is wrong")
            file.seek(start)
            _vint(file, keep_marker=True)
            file.seek((_vint(file, keep_marker=False) or 0), 1)
    return None


def _vint(file: BinaryIO, keep_marker: bool) -> int | None:
    """An EBML number: of an identifier with its marker, of a size without; None where it is unknown or none."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big")
    if keep_marker:
        return value
    value &= (1 << 7 * width) - 1
    return None if value == (1 << 7 * width) - 1 else value


def _checksum_holds(file: BinaryIO, size: int) -> bool | None:
    """Whether the content of a part, which the file stands at, has its checksum; None where it has none."""
    head = file.read(6)
    if head[:2] != CRC_32:
        return None
    left, found = size - 6, 0
    while left > 0:
        part = file.read(min(left, READ_AT_ONCE))
        if not part:
            break
        found, left = zlib.crc32(part, found), left - len(part)
    return found == int.from_bytes(head[2:], "little")


VIDEO_SUFFIXES = (".avi", ".mp4", ".webm", ".mkv")


class UnreadableVideo(ValueError):
    """A video that cannot be decoded. One line: path and reason.

    status: what it is in a manifest: unreadable, empty or not_video.
    """

    def __init__(self, path: Path | str, reason: str = "", status: str = "unreadable") -> None:
        # One argument must do, too: pickling and the loader's workers rebuild the error from its message.
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.status = status
        self.reason = reason
