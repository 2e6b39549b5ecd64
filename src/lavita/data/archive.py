"""zip and tar archives: what they hold, whether all of it may be unpacked, and their files on disk."""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lavita.data.split_zip import open_zip

Report = Callable[[int, int], None]

FILE, FOLDER, LINK, HARD_LINK, DEVICE = "file", "folder", "symbolic link", "hard link", "device or other special file"


class UnpackError(ValueError):
    """An archive that is not unpacked. One line: the archive, the entry where there is one, the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """name: as stored in the archive; num_bytes: unpacked; kind: one of the five above."""

    name: str
    num_bytes: int
    kind: str


def checked_paths(archive: Path, entries: Iterable[Entry], free_bytes: int) -> dict[str, int | None]:
    """Relative path -> unpacked bytes of each file, None for a folder; folders on the way are among them.

    Raises UnpackError for an entry that would leave the folder or overwrite another, is neither file nor folder, and
    as soon as the sum of sizes exceeds free_bytes.
    """
    paths: dict[str, int | None] = {}
    total = 0
    for entry in entries:
        path = safe_path(archive, entry.name)
        if entry.kind not in (FILE, FOLDER):
            raise UnpackError(f"{archive}: entry {entry.name!r} is a {entry.kind}; nothing was unpacked")
        if entry.num_bytes < 0:
            raise UnpackError(f"{archive}: entry {entry.name!r} has a size below zero; nothing was unpacked")
        total += entry.num_bytes if entry.kind == FILE else 0
        if total > free_bytes:
            raise UnpackError(
                f"{archive}: unpacks to more than {total} bytes, {free_bytes} bytes are free; nothing was unpacked"
            )
        parts = path.split("/")
        for length in range(1, len(parts)):
            if paths.setdefault("/".join(parts[:length]), None) is not None:
                raise _twice(archive, entry)
        if not path and entry.kind == FILE:
            raise UnpackError(f"{archive}: entry {entry.name!r} is a file without a name; nothing was unpacked")
        if (path in paths and entry.kind == FILE) or paths.get(path) is not None:
            raise _twice(archive, entry)
        if path:
            paths[path] = entry.num_bytes if entry.kind == FILE else None
    if not paths:
        raise UnpackError(f"{archive}: it holds nothing")
    return paths


def safe_path(archive: Path, name: str) -> str:
    """The path of an entry below the folder it is unpacked to, without leading './'; '' for that folder itself."""
    reason = None
    if "\0" in name:
        reason = "its name has a zero byte"
    elif "\\" in name:
        reason = "its name has a back-slash"
    elif name.startswith("/") or re.match("[A-Za-z]:", name):
        reason = "its name is absolute"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if reason is None and ".." in parts:
        reason = "its name leads out of the folder"
    if reason is None and not parts and not name.startswith("."):
        reason = "it has no name"
    if reason:
        raise UnpackError(f"{archive}: entry {name!r} is refused: {reason}; nothing was unpacked")
    return "/".join(parts)


def _twice(archive: Path, entry: Entry) -> UnpackError:
    return UnpackError(f"{archive}: entry {entry.name!r} would overwrite another one; nothing was unpacked")


class ZipArchive:
    """A zip archive, in one file or split by `zip -s`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """What the archive holds, in its order. Raises UnpackError for an encrypted one."""
        with open_zip(self.path) as archive:
            for info in archive.infolist():
                if info.flag_bits & 1:
                    raise UnpackError(f"{self.path}: entry {info.orig_filename!r} is encrypted; nothing was unpacked")
                yield Entry(info.orig_filename, info.file_size, _zip_kind(info))

    def extract(self, folder: Path, report: Report) -> None:
        """Write all files below an empty folder; sizes and CRCs are checked."""
        with open_zip(self.path) as archive:
            infos = archive.infolist()
            done, total = 0, sum(info.file_size for info in infos)
            for info in infos:
                path = folder / safe_path(self.path, info.orig_filename)
                if _zip_kind(info) == FOLDER:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                with archive.open(info) as source:
                    _write_new(source, path)
                done += info.file_size
                report(done, total)


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode == stat.S_IFDIR or (mode == 0 and info.is_dir()):
        return FOLDER
    if mode in (0, stat.S_IFREG):
        return FOLDER if info.is_dir() else FILE
    return LINK if mode == stat.S_IFLNK else DEVICE


class TarArchive:
    """A tar archive, plain or compressed by gzip, bzip2 or xz."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """What the archive holds, in its order; each entry is given before its bytes are passed over."""
        with tarfile.open(self.path) as archive:
            for member in archive:
                yield Entry(member.name, member.size, _tar_kind(member))

    def extract(self, folder: Path, report: Report) -> None:
        """Write all files below an empty folder. Modes, owners and times are not taken over."""
        with tarfile.open(self.path) as archive:
            members = archive.getmembers()
            done, total = 0, sum(member.size for member in members)
            for member in members:
                path = folder / safe_path(self.path, member.name)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                source = archive.extractfile(member)
                if source is None:
                    raise UnpackError(f"{self.path}: entry {member.name!r} is a {_tar_kind(member)}")
                with source:
                    _write_new(source, path)
                done += member.size
                report(done, total)
            while archive.fileobj.read(1 << 20):
                pass  # the checksum of a compressed archive comes after all of it


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isreg():
        return FILE
    if member.isdir():
        return FOLDER
    return LINK if member.issym() else HARD_LINK if member.islnk() else DEVICE


def _write_new(source: IO[bytes], path: Path) -> None:
    """Write a file that must not exist yet, also where a file system takes two names for one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
