"""A data set -> its tree below a root, fetched from the addresses in configs/sources and configs/small_sets.

Only this opens a connection.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import CONFIGS
from lavita.config.schema import ConfigError, read
from lavita.data.archives import NoUnpacker, check_rar_program, fill_hidden, find_tree, finish, unpack
from lavita.data.catalogue import dataset_facts
from lavita.data.download import DownloadError, NoSpace, PartialFile, download, file_sha256
from lavita.data.small_sets.cutting import write_small_set
from lavita.data.small_sets.recorded import SmallSet, read_small_set
from lavita.files import atomic_write_text

FOLDER = CONFIGS / "sources"
DOWNLOADS = ".download"  # below the root; layouts leave hidden names out

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]
Make = Callable[["Part", "Copy", Path, Say, Progress], None]


@dataclass(frozen=True)
class RemoteFile:
    """One file: all addresses give the same bytes. num_bytes and sha256 null where no source gives them."""

    name: str
    addresses: tuple[str, ...]
    num_bytes: int | None
    sha256: str | None

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.addresses:
            raise ConfigError(f"{self.name}: wanted a plain file name and at least one address")


@dataclass(frozen=True)
class Copy:
    """The files of a part: an archive, in one file or in volumes of which the last is the one to open, or files that a
    part is made from. by: whose.
    """

    by: str
    files: tuple[RemoteFile, ...]

    def record(self, folder: Path) -> Path:
        """The file that keeps what was fetched."""
        return folder / f"{self.files[-1].name}.json"


@dataclass(frozen=True)
class Part:
    """What comes in one archive, or is made from the files of one publication.

    holds: a word on it; tree: its paths below the root; other_trees: how it stands where the root is another folder of
    the published tree; unpacked_bytes: null where no source says; copies: to be tried in turn, none: not fetched.
    """

    holds: str
    tree: tuple[str, ...]
    other_trees: tuple[tuple[str, ...], ...]
    unpacked_bytes: int | None
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Source:
    """The keys of configs/sources/<name>.yaml. how_to_get: what a person does where no address helps."""

    name: str
    terms: str
    how_to_get: str
    parts: tuple[Part, ...]


def read_source(dataset: str) -> Source:
    """Read configs/sources/<dataset>.yaml. Raises ValueError for an unknown set, ConfigError for a wrong key."""
    dataset_facts(dataset)
    path = FOLDER / f"{dataset}.yaml"
    return _read_part_list(Source, read_yaml(path), path.name)


def _read_part_list(cls: type, values: dict[str, Any], where: str) -> Any:
    """config.read, down through the lists of the keys below."""
    inner = {"parts": Part, "copies": Copy, "files": RemoteFile}
    built = {
        key: [_read_part_list(inner[key], item, f"{where}.{key}[{number}]") for number, item in enumerate(values[key])]
        for key in inner.keys() & values.keys()
    }
    return read(cls, values | built, where)


def fetch_dataset(dataset: str, root: Path | str, say: Say = print, progress: Progress | None = None) -> bool:
    """fetch_source for a data set of configs/datasets, whose parts are archives.

    Raises ValueError for an unknown data set, and what fetch_source raises.
    """
    return fetch_source(read_source(dataset), root, say, progress)


def fetch_small_set(name: str, root: Path | str, say: Say = print, progress: Progress | None = None) -> bool:
    """fetch_source for a small set of configs/small_sets, whose one part is cut from published files.

    Raises ValueError for an unknown set, NotAsRecorded where a frame that was cut is not the recorded one (nothing is
    put in place then), and what fetch_source raises.
    """
    small = read_small_set(name)
    return fetch_source(source_of(small), root, say, progress, partial(_cut, small))


def source_of(small: SmallSet) -> Source:
    """A small set as fetch_source takes it: one part, made from all of the published files."""
    files = {
        video.source: RemoteFile(
            Path(video.source).name, (small.address + video.source,), video.source_bytes, video.source_sha256
        )
        for video in small.videos()
    }
    part = Part(small.holds, small.tree, (), small.unpacked_bytes, (Copy(small.by, tuple(files.values())),))
    return Source(small.name, small.terms, small.how_to_get, (part,))


def fetch_source(
    source: Source, root: Path | str, say: Say = print, progress: Progress | None = None, make: Make | None = None
) -> bool:
    """Put what is missing of a source's tree below root; True if all is there now, False if it must be asked for.

    A part that stands below root, or in a folder of it, is left alone; for False, say gets the text on how to ask.
    Terms and space are said first. Files are collected in ROOT/.download, where one put by hand is used too, and
    removed once their tree is in place; ROOT/.download/<file>.json keeps their size and sha256. A call that was
    killed or failed is resumed by the next.
    say: takes a line of text; progress: a file's name, bytes done and in all (None if unknown); make: puts the tree of
    a part below root from the files of a copy of it, None where they are an archive to be unpacked.
    Raises DownloadError (NoSpace), UnpackError (NoUnpacker), each one line, and what make raises.
    """
    root, make = Path(root).expanduser().resolve(), make or _unpack
    missing = _missing(source, root)
    if not all(part.copies for part in missing):
        say(source.how_to_get.replace("ROOT", str(root)))
        return False
    try:
        if missing or _used_archives(source, root):
            with _alone(root / DOWNLOADS):
                _fetch_missing(source, root, say, progress or (lambda name, done, total: None), make)
    except OSError as error:
        reason = f"{error.filename or root}: {error.strerror or error}"
        raise DownloadError(f"{reason}; mend that, then the same command resumes") from None
    say(f"{source.name}: all its folders are in {root}")
    return True


def _fetch_missing(source: Source, root: Path, say: Say, progress: Progress, make: Make) -> None:
    finish(root)
    missing = _missing(source, root)
    if missing:
        _announce(source, missing, root, say)
    for part in missing:
        _fetch_part(source, part, root, say, progress, make)
    for path in _used_archives(source, root):
        path.unlink()


def _missing(source: Source, root: Path) -> list[Part]:
    if not root.is_dir():
        return list(source.parts)
    return [
        part
        for part in source.parts
        if find_tree(root, part.tree, depth=1) is None and not any(find_tree(root, tree) for tree in part.other_trees)
    ]


def _used_archives(source: Source, root: Path) -> list[Path]:
    """Archives, whole or not, of parts that were fetched: one of their archives has its record."""
    folder, found = root / DOWNLOADS, []
    for part in source.parts:
        if any(copy.record(folder).exists() for copy in part.copies):
            for target in (folder / file.name for copy in part.copies for file in copy.files):
                found += [target, *PartialFile(target).paths()]
    return [path for path in found if path.exists()]


def _announce(source: Source, missing: list[Part], root: Path, say: Say) -> None:
    """Say terms and space, and refuse what can't end well before the first byte. Raises DownloadError, NoSpace."""
    for part in missing:
        for name in sorted({path.split("/")[0] for path in part.tree}):
            if os.path.lexists(root / name):
                raise DownloadError(
                    f"{root / name}: is there, but of {', '.join(part.tree)} something is missing; complete it or "
                    "move it away, then start the same command again"
                )
    say(source.terms)
    to_come = unpacked = 0
    for part in missing:
        kept, copy = max(((_kept(root / DOWNLOADS, copy), copy) for copy in part.copies), key=lambda pair: pair[0])
        size = sum(file.num_bytes or 0 for file in copy.files)
        to_come += max(0, size - kept)
        unpacked += part.unpacked_bytes or size  # videos and pictures do not shrink in an archive
    free = shutil.disk_usage(root).free
    need = f"{source.name}: {_size(to_come)} to download and at least {_size(unpacked)} unpacked"
    need = f"{need}, {_size(free)} free in {root}"
    if to_come + unpacked > free:
        raise NoSpace(f"{need}: free some space or choose another folder, then start the same command again")
    say(need)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _kept(folder: Path, copy: Copy) -> int:
    """Bytes of a copy's files that are on disk."""
    targets = [folder / file.name for file in copy.files]
    return sum(target.stat().st_size if target.exists() else PartialFile(target).num_bytes() for target in targets)


def _fetch_part(source: Source, part: Part, root: Path, say: Say, progress: Progress, make: Make) -> None:
    """Try the copies in turn; one of which some bytes have come is stayed with. Raises what the last one raised."""
    for number, copy in enumerate(part.copies, start=1):
        try:
            return _fetch_copy(part, copy, root, say, progress, make)
        except (DownloadError, NoUnpacker) as error:
            if isinstance(error, NoSpace):
                raise
            if _kept(root / DOWNLOADS, copy) or number == len(part.copies):
                say(source.how_to_get.replace("ROOT", str(root)))
                raise
            say(f"{error}; taking the copy by {part.copies[number].by}")


def _fetch_copy(part: Part, copy: Copy, root: Path, say: Say, progress: Progress, make: Make) -> None:
    folder = root / DOWNLOADS
    archive = folder / copy.files[-1].name
    if archive.suffix == ".rar":
        check_rar_program(archive)  # raises before the gigabytes come, not after
    what = archive.name if len(copy.files) == 1 else f"{len(copy.files)} files up to {archive.name}"
    say(f"{what}, by {copy.by} ({part.holds}): downloading")
    for file in copy.files:
        report = partial(progress, file.name)
        download(file.addresses, folder / file.name, file.num_bytes, file.sha256, report)
    atomic_write_text(copy.record(folder), json.dumps(_known(part, copy, folder), indent=1) + "\n")
    make(part, copy, root, say, progress)


def _unpack(part: Part, copy: Copy, root: Path, say: Say, progress: Progress) -> None:
    archive = root / DOWNLOADS / copy.files[-1].name
    say(f"{archive.name}: unpacking")
    unpack(archive, root, part.tree, partial(progress, f"{archive.name}, unpacked"))


def _cut(small: SmallSet, part: Part, copy: Copy, root: Path, say: Say, progress: Progress) -> None:
    say(f"{small.name}: cutting {len(small.videos())} videos")

    def fill(content: Path) -> Path:
        write_small_set(small, root / DOWNLOADS, content)
        return content

    fill_hidden(small.name, root, {path.split("/")[0] for path in part.tree}, fill)
    finish(root)


def _known(part: Part, copy: Copy, folder: Path) -> dict[str, Any]:
    """What a tree came from."""
    files = [
        {
            "name": file.name,
            "num_bytes": (folder / file.name).stat().st_size,
            "sha256": file.sha256 or file_sha256(folder / file.name),
            "addresses": list(file.addresses),
        }
        for file in copy.files
    ]
    return {"tree": list(part.tree), "by": copy.by, "files": files}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against a second call on the same root. Raises DownloadError for the second one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "wb")
    except OSError as error:
        raise DownloadError(f"{folder}: {error.strerror}; choose a folder that can be written to") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{folder}: another call is fetching into it; wait for its end") from None
        except (ImportError, OSError):
            pass  # no locks on this system, or on this kind of file system
        yield
