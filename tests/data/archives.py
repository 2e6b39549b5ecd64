"""Archives written byte by byte (rar of versions 4 and 5, zip in volumes), and what unpacking them must leave."""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path

import pytest

from lavita.data.archives import UnpackError, unpack

FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


def rar4(entries: list[tuple[str, int, bytes]], packed: bytes | None = None, flags: int = 0) -> bytes:
    """A rar archive of stored files: name (its parts joined by back-slashes), mode, bytes (of a link: its target).

    packed: stands in the place of each file's bytes and is said to be compressed.
    flags: of the archive; 8: solid, 0x80: encrypted.
    Source: technote.txt of RAR 4, "Archive file format".
    """

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    out = b"Rar!\x1a\x07\x00" + block(0x73, flags, bytes(6))
    for name, mode, data in entries:
        raw, unix, method, date = name.encode(), 3, 0x30 if packed is None else 0x33, 0x5A8F6000
        inside = data if packed is None or not stat.S_ISREG(mode) else packed
        sizes = struct.pack("<IIBII", len(inside), len(data), unix, zlib.crc32(data), date)
        body = sizes + struct.pack("<BBHI", 29, method, len(raw), mode) + raw
        out += block(0x74, 0x80E0 if stat.S_ISDIR(mode) else 0x8000, body) + inside
    return out + block(0x7B, 0x4000, b"")


def rar5(entries: list[tuple[str, int, bytes]], redirect: int = 0) -> bytes:
    """A rar archive of version 5 with stored files: name, mode, bytes.

    redirect: 1 makes every file a symbolic link to its bytes, 4 a hard link, 5 a copy.
    Source: RAR 5.0 archive format, https://www.rarlab.com/technote.htm.
    """

    def number(value: int) -> bytes:
        """7 bits a byte, the lowest first; the high bit says that more follow."""
        more, rest = value & 0x7F, value >> 7
        return bytes([more | 0x80]) + number(rest) if rest else bytes([more])

    def block(body: bytes) -> bytes:
        head = number(len(body)) + body
        return struct.pack("<L", zlib.crc32(head)) + head

    out = b"Rar!\x1a\x07\x01\x00" + block(bytes([1, 0, 0]))
    for name, mode, data in entries:
        raw, unix = name.encode(), 1
        target = number(5) + number(redirect) + number(0) + number(len(data)) + data
        extra = number(len(target)) + target if redirect else b""
        packed = b"" if redirect else data
        kind = number(2) + (number(3) + number(len(extra)) if redirect else number(2)) + number(len(packed))
        folder = 1 if stat.S_ISDIR(mode) else 0
        about = number(folder | 4) + number(len(packed)) + number(mode) + struct.pack("<L", zlib.crc32(packed))
        out += block(kind + about + number(0) + number(unix) + number(len(raw)) + raw + extra) + packed
    return out + block(bytes([5, 0, 0]))


def split_zip(files: dict[str, bytes], volume_bytes: int, in_64_bits: bool = False) -> list[bytes]:
    """The volumes of a zip archive with stored files; headers are not split, their data is.

    in_64_bits: volume numbers, places and sizes all stand in the fields for large archives.
    Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3, 8.5.
    """
    volumes, table = [b"PK\7\x08"], b""

    def add(data: bytes, whole: bool) -> tuple[int, int]:
        """Append to the volumes; returns volume and place of the first byte."""
        if whole and len(volumes[-1]) + len(data) > volume_bytes:
            volumes.append(b"")
        start = (len(volumes) - 1, len(volumes[-1]))
        while data:
            room = volume_bytes - len(volumes[-1])
            volumes[-1] += data[:room]
            data = data[room:]
            if data:
                volumes.append(b"")
        return start

    for name, data in files.items():
        raw, crc = name.encode(), zlib.crc32(data)
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0x21, crc, len(data), len(data), len(raw), 0)
        volume, place = add(head + raw, whole=True)
        add(data, whole=False)
        extra, sizes = b"", (len(data), len(data))
        at = (volume, place)
        if in_64_bits:
            extra = struct.pack("<2H3QL", 1, 28, *sizes, place, volume)
            sizes, at = (0xFFFFFFFF,) * 2, (0xFFFF, 0xFFFFFFFF)
        lengths = (len(raw), len(extra), 3)
        table += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0x21, crc, *sizes, *lengths, at[0], 0, 0, at[1])
        table += raw + extra + b"???"
    volume, place = add(table, whole=False)
    end = struct.pack("<4s4H2LH", b"PK\5\6", len(volumes) - 1, volume, 0, len(files), len(table), place, 0)
    if in_64_bits:
        last = len(volumes) - 1
        end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, last, volume, 0, len(files), len(table), place)
        at = add(end_64, whole=True)
        locator = struct.pack("<4sLQL", b"PK\6\7", at[0], at[1], 0)
        end = locator + struct.pack("<4s4H2LH", b"PK\5\6", *(0xFFFF,) * 4, *(0xFFFFFFFF,) * 2, 0)
    if len(volumes[-1]) + len(end) > volume_bytes:
        volumes.append(b"")
    if in_64_bits:
        end = locator[:-4] + struct.pack("<L", len(volumes)) + end[20:]
    else:
        end = end[:4] + struct.pack("<H", len(volumes) - 1) + end[6:]
    volumes[-1] += end
    return volumes


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too; nothing else may be there but folders."""
    paths = sorted(folder.rglob("*"))
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in paths)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def refused(match: str, archive: Path, target: Path, error: type = UnpackError, **options) -> str:
    """Unpacking raises one line that names the archive and matches, and changes nothing beside it or in the target."""

    def state() -> list[Path]:
        return sorted(path for path in archive.parent.rglob("*") if path.name != "calls" and path != target)

    before = state()
    with pytest.raises(error, match=match) as caught:
        unpack(archive, target, **options)
    assert "\n" not in str(caught.value) and archive.name in str(caught.value)
    assert state() == before
    return str(caught.value)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
