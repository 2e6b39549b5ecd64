"""rar archives, by one of the unpackers that a machine may have: its list read into entries, its files on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lavita.data.archive import DEVICE, FILE, FOLDER, HARD_LINK, LINK, Entry, Report, UnpackError, safe_path

RAR_START = b"Rar!\x1a\x07"
INSTALL = "on Debian or Ubuntu apt-get install unar (or unrar, libarchive-tools), then start the same command again"


class NoUnpacker(UnpackError):
    """No program that unpacks rar is installed."""


class UnpackerFailed(UnpackError):
    """A program could not read the archive; another may. Its message names no archive."""


@dataclass(frozen=True)
class Unpacker:
    """How a program is called.

    programs: names that must be in PATH, the lister first, the unpacker last (often one and the same). list_options
    precede the archive; unpack_options make the words around archive and folder; read turns the list into entries.
    """

    programs: tuple[str, ...]
    list_options: tuple[str, ...]
    unpack_words: Callable[[str, str], list[str]]
    read: Callable[[str], Iterator[Entry]]
    sums_checked: bool = True

    @property
    def name(self) -> str:
        return self.programs[-1]


class RarArchive:
    """A rar archive as one installed program reads it. Paths are absolute, so none can be taken for an option."""

    def __init__(self, path: Path, unpacker: Unpacker) -> None:
        self.path, self.unpacker = path.resolve(), unpacker

    def entries(self) -> Iterator[Entry]:
        """What the archive holds, in its order. Raises UnpackerFailed."""
        text = self._run(self.unpacker.programs[0], [*self.unpacker.list_options, str(self.path)])
        try:
            entries = list(self.unpacker.read(text))
        except (ValueError, KeyError, TypeError, IndexError):
            entries = []
        if not entries:
            raise UnpackerFailed(f"{self.unpacker.programs[0]} gave no list of it")
        yield from entries

    def extract(self, folder: Path, report: Report) -> None:
        """Unpack below an empty folder. Raises UnpackerFailed."""
        self._run(self.unpacker.programs[-1], self.unpacker.unpack_words(str(self.path), str(folder.resolve())))
        if not self.unpacker.sums_checked:
            self._check_sums(folder)

    def _run(self, program: str, words: list[str]) -> str:
        environment = os.environ | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
        done = subprocess.run(
            [shutil.which(program) or program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            check=False,
        )
        text = done.stdout.decode("utf-8", "surrogateescape")
        if done.returncode:
            said = (done.stderr.decode("utf-8", "replace") + "\n" + text).split("\n")
            reason = next((line.strip() for line in said if re.search("[A-Za-z]{3}", line)), "no reason given")
            raise UnpackerFailed(f"{program} ended with status {done.returncode} ({reason[:200]})")
        return text

    def _check_sums(self, folder: Path) -> None:
        """Compare the CRCs in the headers of a rar archive of version 4 with the files."""
        files = [entry for entry in self.entries() if entry.kind == FILE]
        for entry, crc in zip(files, rar4_crcs(self.path), strict=False):
            if crc32(folder / safe_path(self.path, entry.name)) != crc:
                raise UnpackerFailed(f"entry {entry.name!r} is damaged (its CRC differs)")


def installed_unpackers(archive: Path) -> list[Unpacker]:
    """The known unpackers of which all programs are in PATH, best first. Raises NoUnpacker, which says what to do."""
    found = [unpacker for unpacker in UNPACKERS if all(shutil.which(name) for name in unpacker.programs)]
    if not found:
        names = ", ".join(unpacker.name for unpacker in UNPACKERS)
        raise NoUnpacker(f"{archive.name}: unpacking it needs one of {names}, none is installed; {INSTALL}")
    return found


def rar4_crcs(path: Path) -> list[int]:
    """CRC32 of each file of a rar archive of version 4, in its order; empty for version 5, which keeps them elsewhere.

    Source: technote.txt of RAR 4, "Archive file format": blocks of CRC, type, flags, size and, with flag 0x8000 and
    for files (0x74), the size of the data that follows.
    """
    crcs = []
    with open(path, "rb") as file:
        if file.read(7) != RAR_START + b"\0":
            return []
        while len(head := file.read(7)) == 7:
            _, kind, flags, size = struct.unpack("<HBHH", head)
            body = file.read(size - 7)
            data = int.from_bytes(body[:4], "little") if kind == 0x74 or flags & 0x8000 else 0
            if kind == 0x74:
                if flags & 0x100:
                    data += int.from_bytes(body[25:29], "little") << 32
                if flags & 0xE0 != 0xE0:
                    crcs.append(int.from_bytes(body[9:13], "little"))
            if kind == 0x7B:
                break
            file.seek(data, os.SEEK_CUR)
    return crcs


def crc32(path: Path) -> int:
    """CRC32 of a file's bytes."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


def read_unrar(text: str) -> Iterator[Entry]:
    """Entries from `unrar lt`: blocks of 'Name: ...', 'Type: ...', 'Size: ...'."""
    kinds = {"File": FILE, "Directory": FOLDER, "Hard link": HARD_LINK}
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^ *(Name|Type|Size): (.*)$", block, re.MULTILINE))
        if "Name" in fields:
            kind = LINK if "symbolic" in fields["Type"] else kinds.get(fields["Type"], DEVICE)
            yield Entry(fields["Name"], int(fields["Size"]) if kind == FILE else 0, kind)


def read_lsar(text: str) -> Iterator[Entry]:
    """Entries from `lsar -j`, which is JSON."""
    for item in json.loads(text)["lsarContents"]:
        kind = FOLDER if item.get("XADIsDirectory") else FILE
        if item.get("XADIsLink") or item.get("XADIsHardLink"):
            kind = LINK if item.get("XADIsLink") else HARD_LINK
        elif any(item.get(key) for key in ("XADIsCharacterDevice", "XADIsBlockDevice", "XADIsFIFO")):
            kind = DEVICE
        yield Entry(str(item["XADFileName"]), int(item["XADFileSize"]) if kind == FILE else 0, kind)


def read_bsdtar(text: str) -> Iterator[Entry]:
    """Entries from `bsdtar -tvf`: mode, links, user, group, size, date (3 words), name."""
    kinds = {"-": FILE, "d": FOLDER, "l": LINK, "h": HARD_LINK}
    for line in text.splitlines():
        words = line.split(None, 8)
        kind = kinds.get(words[0][0], DEVICE)
        yield Entry(words[8], int(words[4]) if kind == FILE else 0, kind)


def read_7z(text: str) -> Iterator[Entry]:
    """Entries from `7z l -slt`: blocks of 'Path = ...', 'Folder = +', 'Size = ...', 'Attributes = ...'."""
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w ]+) = (.*)$", block, re.MULTILINE))
        if "Path" not in fields:
            continue
        mode = re.search(r"(.)[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]", fields.get("Attributes", ""))
        kind = FOLDER if fields.get("Folder") == "+" else FILE
        if fields.get("Hard Link") or fields.get("Copy Link"):
            kind = HARD_LINK
        elif fields.get("Symbolic Link") or (mode and mode[1] == "l"):
            kind = LINK
        elif mode and mode[1] not in "-d ":
            kind = DEVICE
        yield Entry(fields["Path"], int(fields["Size"]) if kind == FILE else 0, kind)


def _unpack_7z(archive: str, folder: str) -> list[str]:
    return ["x", "-y", "-bd", "-bso0", "-p", f"-o{folder}", "--", archive]


LIST_7Z = ("l", "-slt", "-ba", "-sccUTF-8", "-p", "--")
UNPACKERS = (
    Unpacker(
        ("unrar",),
        ("lt", "-cfg-", "-c-", "-p-", "--"),
        lambda archive, folder: ["x", "-cfg-", "-idq", "-o-", "-p-", "--", archive, folder + "/"],
        read_unrar,
    ),
    Unpacker(
        ("lsar", "unar"),
        ("-j",),
        lambda archive, folder: ["-q", "-D", "-s", "-k", "skip", "-o", folder, archive],
        read_lsar,
    ),
    Unpacker(
        ("bsdtar",),
        ("-tvf",),
        lambda archive, folder: ["-xf", archive, "-C", folder, "--no-same-owner", "--no-same-permissions"],
        read_bsdtar,
        sums_checked=False,  # libarchive 3.6 unpacks a stored file of rar version 4 without a look at its CRC
    ),
    Unpacker(("7zz",), LIST_7Z, _unpack_7z, read_7z),
    Unpacker(("7z",), LIST_7Z, _unpack_7z, read_7z),
)
