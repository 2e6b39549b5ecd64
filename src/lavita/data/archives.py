"""An archive -> its folders below a target: all of them whole, or nothing.

zip (also split), tar (gzip, bzip2, xz) and rar are read entry by entry; only this file writes what is in them. All of
it goes into a hidden folder of the target first, and is moved into place when it is whole. A hidden folder without a
plan is the leftover of a dead attempt and is removed; with one it is whole and only waits to be moved.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import IO

import rarfile

from lavita.data.split_zip import open_zip
from lavita.files import atomic_write_text, require_inside

SUFFIX = ".unpacking"
PLAN = "plan.json"
RAR_START = b"Rar!\x1a\x07"
CHUNK_BYTES = 1 << 20
INSTALL = "on Debian or Ubuntu apt-get install unar, then start the same command again"
BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError
)  # fmt: skip
FILE, FOLDER, LINK, HARD_LINK, DEVICE = "file", "folder", "symbolic link", "hard link", "device or other special file"

Report = Callable[[int, int], None]


class UnpackError(ValueError):
    """An archive that is not unpacked. One line: the archive, the entry where there is one, the reason."""


class NoUnpacker(UnpackError):
    """No program that unpacks rar is installed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """name: as stored in the archive; num_bytes: unpacked; kind: one of the five above; open: its bytes to read."""

    name: str
    num_bytes: int
    kind: str
    open: Callable[[], IO[bytes]]


def unpack(archive: Path | str, target: Path | str, tree: Sequence[str] = (), report: Report | None = None) -> None:
    """Unpack a zip (also split), tar (gzip, bzip2, xz) or rar archive, so that all paths of tree are below target.

    tree: paths that the archive must hold, at its top or below at most two folders; the first folders of these paths
    are what is put into target, the rest is left out. Empty: everything at the top of the archive.
    report is called with bytes done and in all. One call at a time for a target.
    Nothing is unpacked of an archive with an entry that leaves the target or overwrites another, or is a link or a
    device, or that needs more space than is free; modes, owners and times are not taken over.
    Raises UnpackError, one line; NoUnpacker where a rar archive has no program to read it.
    """
    archive, target = Path(archive), Path(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if archive.name in finish(target) or (tree and find_tree(target, tree) == target):
            return
        _unpack_hidden(archive, target, tree, report or (lambda done, total: None))
        finish(target)
    except rarfile.Error as error:  # 7z without its rar module, for one, finds fault with whole archives
        reason = f"damaged, or not read by the program that unpacks rar ({_line(error)})"
        raise UnpackError(f"{archive}: {reason}; nothing was unpacked; if it is whole, {INSTALL}") from None
    except BROKEN as error:
        raise UnpackError(f"{archive}: damaged or not all there ({_line(error)}); nothing was unpacked") from None
    except (NotImplementedError, RuntimeError, UnicodeError) as error:
        raise UnpackError(f"{archive}: can't be read ({_line(error)}); nothing was unpacked") from None
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise UnpackError(f"{archive}: {error.strerror or _line(error)}{where}; nothing was unpacked") from None


def finish(target: Path) -> list[str]:
    """Move what an earlier call had unpacked whole into place, and remove the leftovers of dead ones.

    Returns the names of the archives of which something was moved.
    """
    finished = []
    for hidden in sorted(target.glob(f".*{escape(SUFFIX)}")):
        if (hidden / PLAN).is_file():
            finished.append(_put_in_place(hidden, target))
        shutil.rmtree(hidden)
    return finished


def find_tree(folder: Path, tree: Sequence[str], depth: int = 0) -> Path | None:
    """The folder that holds all paths of tree: this one, or one at most depth levels below it, hidden ones left out."""
    level = [folder]
    for further in range(depth, -1, -1):
        for candidate in level:
            if all((candidate / path).exists() for path in tree):
                return candidate
        level = [path for parent in level for path in _subfolders(parent)] if further else []
    return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []  # what can't be read holds no tree


def _unpack_hidden(archive: Path, target: Path, tree: Sequence[str], report: Report) -> None:
    """Check the list, and unpack into a hidden folder of target."""
    read = _reader(archive)
    with closing(read(archive)) as entries:
        expected = checked_paths(archive, entries, shutil.disk_usage(target).free)

    def fill(content: Path) -> Path:
        with closing(read(archive)) as entries:
            _write(archive, entries, expected, content, report)
        base = find_tree(content, tree, depth=2)
        if base is None:
            tops = sorted({path.split("/")[0] for path in expected})
            raise UnpackError(f"{archive}: holds {', '.join(tops[:5])}, expected {', '.join(tree)}")
        return base

    fill_hidden(archive.name, target, {path.split("/")[0] for path in tree or expected}, fill)


def fill_hidden(label: str, target: Path, names: Iterable[str], fill: Callable[[Path], Path]) -> None:
    """Have a hidden folder of target filled, and write the plan that makes it count; finish moves it into place.

    label: what it is made from; names: the files and folders to be put into target; fill: given an empty folder, puts
    these names into it or below and returns the folder that holds them.
    Raises UnpackError where one of the names is in target already. Nothing is left where anything is raised.
    """
    names = sorted(names)
    for name in names:
        if os.path.lexists(target / name):
            raise UnpackError(f"{target / name}: is already there, so {label} is not unpacked; move it away")
    hidden = Path(tempfile.mkdtemp(prefix=f".{label}.", suffix=SUFFIX, dir=target))
    try:
        content = hidden / "content"
        content.mkdir()
        base = fill(content)
        plan = {"archive": label, "base": base.relative_to(hidden).as_posix(), "names": names}
        atomic_write_text(hidden / PLAN, json.dumps(plan))
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


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


def _write(archive: Path, entries: Iterable[Entry], expected: dict[str, int | None], folder: Path, report: Report):
    """Write all entries below an empty folder: exactly the expected ones, of the expected sizes."""
    done, total, files = 0, sum(size or 0 for size in expected.values()), 0
    for entry in entries:
        path = safe_path(archive, entry.name)
        place = folder / path
        if path and (path not in expected or (entry.kind == FILE) != (expected[path] is not None)):
            raise UnpackError(f"{archive}: entry {entry.name!r} was not in its list; all was removed")
        if entry.kind != FILE:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        # x: the file must not exist yet, also where a file system takes two names for one.
        with entry.open() as source, open(place, "xb") as file:
            while size <= expected[path] and (chunk := source.read(CHUNK_BYTES)):
                size += file.write(chunk)
        if size != expected[path]:
            raise UnpackError(
                f"{archive}: entry {entry.name!r} has {size} bytes or more, the list says {expected[path]}; "
                "all was removed"
            )
        done, files = done + size, files + 1
        report(done, total)
    if files != sum(size is not None for size in expected.values()):
        raise UnpackError(f"{archive}: {files} files were unpacked, its list has more; all was removed")


def _reader(path: Path) -> Callable[[Path], Iterator[Entry]]:
    """What reads an archive, by its first bytes."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(RAR_START):
        return _rar_entries
    if start.startswith(b"PK") or path.suffix == ".zip":  # the last volume of a split one begins anyhow
        return _zip_entries
    if tarfile.is_tarfile(path):
        return _tar_entries
    raise UnpackError(f"{path}: neither a zip nor a tar nor a rar archive (it begins with {start[:16]!r})")


def _zip_entries(path: Path) -> Iterator[Entry]:
    """Entries of a zip archive, in one file or split by `zip -s`; sizes and CRCs are checked as the bytes are read."""
    with open_zip(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UnpackError(f"{path}: entry {info.orig_filename!r} is encrypted; nothing was unpacked")
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = FOLDER if mode in (0, stat.S_IFREG) and info.is_dir() else _KINDS.get(mode, DEVICE)
            yield Entry(info.orig_filename, info.file_size, kind, lambda info=info: archive.open(info))


_KINDS = {0: FILE, stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}


def _tar_entries(path: Path) -> Iterator[Entry]:
    """Entries of a tar archive, plain or compressed; each is yielded before its bytes are skipped."""
    with tarfile.open(path) as archive:
        for member in archive:
            kind = FILE if member.isreg() else FOLDER if member.isdir() else DEVICE
            if member.issym() or member.islnk():
                kind = LINK if member.issym() else HARD_LINK
            yield Entry(member.name, member.size, kind, lambda member=member: archive.extractfile(member))
        while archive.fileobj.read(CHUNK_BYTES):
            pass  # the checksum of a compressed archive comes after all of it


def _rar_entries(path: Path) -> Iterator[Entry]:
    """Entries of a rar archive of version 3 to 5. Its headers are read by rarfile; files that are more than stored are
    decompressed by an installed program, one at a time and to its standard output. CRCs are checked.
    """
    with rarfile.RarFile(path.resolve(), errors="strict") as archive:
        infos = archive.infolist()
        if archive.needs_password():
            raise UnpackError(f"{path}: it is encrypted; nothing was unpacked")
        if archive.is_solid():
            raise UnpackError(f"{path}: a solid archive, of which no single file can be read; unpack it by hand")
        if any(info.is_file() and info.compress_type != rarfile.RAR_M0 for info in infos):
            check_rar_program(path)
        for info in infos:
            mode = stat.S_IFMT(info.mode) if info.host_os == rarfile.RAR_OS_UNIX else 0
            kind = FOLDER if info.is_dir() else LINK if info.is_symlink() else _KINDS.get(mode, DEVICE)
            if info.file_redir and kind != LINK:
                kind = HARD_LINK
            size = info.file_size if kind == FILE else 0
            yield Entry(info.filename, size, kind, lambda info=info: archive.open(info))


def check_rar_program(path: Path) -> None:
    """Raise NoUnpacker, which says what to install, if there is no program to decompress a rar archive."""
    try:
        # Not bsdtar: rarfile 4.5 calls it by wrong words, and libarchive 3.6 misreads some archives of version 4.
        rarfile.tool_setup(bsdtar=False, force=True)
    except rarfile.RarCannotExec:
        raise NoUnpacker(
            f"{path.name}: unpacking it needs one of unrar, unar, 7z, 7zz, none is installed; {INSTALL}"
        ) from None


def _put_in_place(hidden: Path, target: Path) -> str:
    """Move each name of the plan; those that an earlier call had moved are no longer in the hidden folder."""
    plan = json.loads((hidden / PLAN).read_text(encoding="utf-8"))
    base = hidden / plan["base"]
    # A copy of a data set that somebody handed over may hold such a folder, too.
    if not base.resolve().is_relative_to(hidden.resolve()):
        raise UnpackError(f"{hidden / PLAN}: base is {plan['base']!r}, which is not in its folder; remove {hidden}")
    for name in plan["names"]:
        require_inside(target, name, f"{hidden / PLAN}: a name in names")
        source, place = base / name, target / name
        if not os.path.lexists(source):
            continue
        if os.path.lexists(place):
            raise UnpackError(f"{place}: is already there, so that of {hidden.name} can't be; move one of them away")
        os.rename(source, place)
    return plan["archive"]


def _line(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__
