"""An archive -> its folders below a target: all of them whole, or nothing.

Everything is unpacked into a hidden folder of the target, checked there, and only then moved into place. A hidden
folder without a plan is the leftover of a dead attempt and is removed; with one it is whole and only waits to be moved.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from lavita.data.archive import Report, TarArchive, UnpackError, ZipArchive, checked_paths
from lavita.data.rar import INSTALL, RAR_START, RarArchive, UnpackerFailed, installed_unpackers
from lavita.files import atomic_write_text, require_inside

SUFFIX = ".unpacking"
PLAN = "plan.json"
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


def unpack(archive: Path | str, target: Path | str, tree: Sequence[str] = (), report: Report | None = None) -> None:
    """Unpack a zip (also split), tar (gzip, bzip2, xz) or rar archive, so that all paths of tree are below target.

    tree: paths that the archive must hold, at its top or below at most two folders; the first folders of these paths
    are what is put into target, the rest is left out. Empty: everything at the top of the archive.
    report is called with bytes done and in all (zip and tar). One call at a time for a target.
    Nothing is unpacked of an archive with an entry that leaves the target or overwrites another, or is a link or a
    device, or that needs more space than is free; modes, owners and times are not taken over.
    Raises UnpackError, one line; NoUnpacker where a rar archive has no program to read it.
    """
    archive, target = Path(archive), Path(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if archive.name in finish(target) or (tree and find_tree(target, tree) == target):
            return
        _unpack_by_one(_readers(archive), archive, target, tree, report or (lambda done, total: None))
        finish(target)
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


def _unpack_by_one(readers: Sequence, archive: Path, target: Path, tree: Sequence[str], report: Report) -> None:
    """Unpack by the first reader that can."""
    reasons = []
    for reader in readers:
        try:
            return _unpack_hidden(reader, target, tree, report)
        except UnpackerFailed as error:
            reasons.append(str(error))
    raise UnpackerFailed(f"{archive}: {'; '.join(reasons)}; nothing was unpacked; if it is whole, {INSTALL}")


def _readers(path: Path) -> list[ZipArchive | TarArchive | RarArchive]:
    """The readers for an archive, by its first bytes."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(RAR_START):
        return [RarArchive(path, unpacker) for unpacker in installed_unpackers(path)]
    if start.startswith(b"PK") or path.suffix == ".zip":  # the last volume of a split one begins anyhow
        return [ZipArchive(path)]
    if tarfile.is_tarfile(path):
        return [TarArchive(path)]
    raise UnpackError(f"{path}: neither a zip nor a tar nor a rar archive (it begins with {start[:16]!r})")


def _unpack_hidden(reader, target: Path, tree: Sequence[str], report: Report) -> None:
    """Unpack into a hidden folder of target, check what is there, and write the plan that makes it count."""
    expected = checked_paths(reader.path, reader.entries(), shutil.disk_usage(target).free)
    names = sorted({path.split("/")[0] for path in tree or expected})
    for name in names:
        if os.path.lexists(target / name):
            raise UnpackError(f"{target / name}: is already there, so {reader.path.name} is not unpacked; move it away")
    hidden = Path(tempfile.mkdtemp(prefix=f".{reader.path.name}.", suffix=SUFFIX, dir=target))
    try:
        content = hidden / "content"
        content.mkdir()
        reader.extract(content, report)
        _check_on_disk(reader.path, content, expected)
        base = find_tree(content, tree, depth=2)
        if base is None:
            tops = sorted({path.split("/")[0] for path in expected})
            raise UnpackError(f"{reader.path}: holds {', '.join(tops[:5])}, expected {', '.join(tree)}")
        plan = {"archive": reader.path.name, "base": base.relative_to(hidden).as_posix(), "names": names}
        atomic_write_text(hidden / PLAN, json.dumps(plan))
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _check_on_disk(archive: Path, folder: Path, expected: dict[str, int | None]) -> None:
    """Only the expected files and folders are there, of the expected sizes; they get the modes of new files."""
    folder_mode = stat.S_IMODE(folder.stat().st_mode)
    found, waiting = set(), [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path).relative_to(folder).as_posix()
                state = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(state.st_mode)
                if not is_folder and (not stat.S_ISREG(state.st_mode) or state.st_nlink != 1):
                    raise UnpackError(f"{archive}: entry {path!r} became a link or a special file; all was removed")
                if path not in expected or expected[path] != (None if is_folder else state.st_size):
                    wanted = f"{expected[path]} bytes" if path in expected else "no such entry"
                    raise UnpackError(
                        f"{archive}: entry {path!r} has {state.st_size} bytes on disk, the list says {wanted}; "
                        "all was removed"
                    )
                mode = folder_mode if is_folder else folder_mode & 0o666
                if stat.S_IMODE(state.st_mode) != mode:
                    os.chmod(entry.path, mode)
                if is_folder:
                    waiting.append(Path(entry.path))
                found.add(path)
    absent = sorted(expected.keys() - found)
    if absent:
        raise UnpackError(f"{archive}: {len(absent)} entries were not unpacked, such as {absent[0]!r}; all was removed")


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
