"""A zip archive that was split into volumes (name.z01, name.z02, ..., name.zip) -> an ordinary zip archive to read.

Python reads no split archives. Their volumes, one after the other, are a zip archive but for the table at the end:
it says where a file lies by the number of a volume and a place in it. So the volumes are shown as one file that ends
in a table of our own, with places in the whole. Nothing is copied.
Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.12 (table), 4.3.14 to 4.3.16 (its end), 4.5.3 (sizes of 64 bits), 8.
"""

from __future__ import annotations

import io
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO

END = struct.Struct("<4s4H2LH")  # the end of the table: signature, 2 volume numbers, 2 counts, size, place, comment
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
HEADER = struct.Struct("<4s6H3L5H2L")  # of a file in the table
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # stand for: see the field of 64 (volume: 32) bits
SIZES_64 = 1  # number of the extra field that holds these


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading; path is its last volume where it is split. Raises zipfile.BadZipFile."""
    with ExitStack() as stack:
        last = stack.enter_context(open(path, "rb"))
        num_volumes = _num_volumes(last)
        if num_volumes == 1:
            yield stack.enter_context(zipfile.ZipFile(last))
            return
        names = [path.with_suffix(f".z{number:02d}") for number in range(1, num_volumes)]
        for name in names:
            if not name.is_file():
                raise zipfile.BadZipFile(f"it is split, and volume {name.name} is not there")
        files = [stack.enter_context(open(name, "rb")) for name in names] + [last]
        starts = [0, *accumulate(_num_bytes(file) for file in files)]
        table = io.BytesIO(_own_table(files, starts))
        yield stack.enter_context(zipfile.ZipFile(Joined([*files, table])))


class Joined(io.RawIOBase):
    """Several files as one that can be read and sought."""

    def __init__(self, files: list[IO[bytes]]) -> None:
        self._files = files
        self._starts = [0, *accumulate(_num_bytes(file) for file in files)]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        self._place = origin + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:
        view, count = memoryview(buffer), 0
        while count < len(view) and self._place < self._starts[-1]:
            index = bisect_right(self._starts, self._place) - 1
            self._files[index].seek(self._place - self._starts[index])
            read = self._files[index].readinto(view[count : count + self._starts[index + 1] - self._place])
            if not read:
                break
            count, self._place = count + read, self._place + read
        return count


def _num_bytes(file: IO[bytes]) -> int:
    return file.seek(0, io.SEEK_END)


def _end(last: IO[bytes]) -> tuple[int, tuple]:
    """Place and fields of the end of the table."""
    size = _num_bytes(last)
    start = max(0, size - END.size - FULL_16)
    last.seek(start)
    tail = last.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END.size:
        raise zipfile.BadZipFile("it has no table of contents: not a zip archive, or not all of it")
    return start + at, END.unpack_from(tail, at)


def _end_64(last: IO[bytes], end_place: int) -> tuple | None:
    """Fields of the locator of the 64 bit end, None where there is none."""
    if end_place < LOCATOR_64.size:
        return None
    last.seek(end_place - LOCATOR_64.size)
    fields = LOCATOR_64.unpack(last.read(LOCATOR_64.size))
    return fields if fields[0] == b"PK\6\7" else None


def _num_volumes(last: IO[bytes]) -> int:
    end_place, end = _end(last)
    locator = _end_64(last, end_place)
    return max(locator[3], 1) if locator and end[1] in (FULL_16, locator[3] - 1) else end[1] + 1


def _own_table(files: list[IO[bytes]], starts: list[int]) -> bytes:
    """The table of contents and its end, for all volumes as one file."""
    whole = Joined(files)
    end_place, (_, _, volume, _, count, size, place, _) = _end(files[-1])
    locator = _end_64(files[-1], end_place)
    if locator:
        whole.seek(starts[locator[1]] + locator[2])
        fields = END_64.unpack(whole.read(END_64.size))
        if fields[0] != b"PK\6\6":
            raise zipfile.BadZipFile("its table of contents has no end")
        _, _, _, _, _, volume, _, count, size, place = fields
    whole.seek(starts[volume] + place)
    table = whole.read(size)
    own = b"".join(_own_headers(table, starts))
    total = starts[-1]
    end_64 = END_64.pack(b"PK\6\6", END_64.size - 12, 45, 45, 0, 0, count, count, len(own), total)
    locator_64 = LOCATOR_64.pack(b"PK\6\7", 0, total + len(own), 1)
    return own + end_64 + locator_64 + END.pack(b"PK\5\6", 0, 0, FULL_16, FULL_16, FULL_32, FULL_32, 0)


def _own_headers(table: bytes, starts: list[int]) -> Iterator[bytes]:
    """Each header of the table with the place in the whole, always in 64 bits."""
    at = 0
    while at < len(table):
        fields = list(HEADER.unpack_from(table, at))
        if fields[0] != b"PK\1\2":
            raise zipfile.BadZipFile("its table of contents is damaged")
        packed, unpacked, volume, place = fields[8], fields[9], fields[13], fields[16]
        name_end = at + HEADER.size + fields[10]
        extra_end = name_end + fields[11]
        next_at = extra_end + fields[12]
        extra, sizes = _split_extra(table[name_end:extra_end])
        values = io.BytesIO(sizes)
        unpacked = _number(values, 8) if unpacked == FULL_32 else unpacked
        packed = _number(values, 8) if packed == FULL_32 else packed
        place = _number(values, 8) if place == FULL_32 else place
        volume = _number(values, 4) if volume == FULL_16 else volume
        if volume >= len(starts) - 1:
            raise zipfile.BadZipFile(f"its table of contents names volume {volume + 1} of {len(starts) - 1}")
        extra = struct.pack("<2H3Q", SIZES_64, 24, unpacked, packed, starts[volume] + place) + extra
        fields[8], fields[9], fields[13], fields[16] = FULL_32, FULL_32, 0, FULL_32
        fields[11], fields[12] = len(extra), 0
        yield HEADER.pack(*fields) + table[at + HEADER.size : name_end] + extra
        at = next_at


def _split_extra(extra: bytes) -> tuple[bytes, bytes]:
    """Extra fields other than the sizes, and the sizes."""
    others, sizes, at = b"", b"", 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == SIZES_64:
            sizes = extra[at + 4 : at + 4 + length]
        else:
            others += extra[at : at + 4 + length]
        at += 4 + length
    return others, sizes


def _number(values: io.BytesIO, num_bytes: int) -> int:
    data = values.read(num_bytes)
    if len(data) < num_bytes:
        raise zipfile.BadZipFile("its table of contents lacks a size")
    return int.from_bytes(data, "little")
