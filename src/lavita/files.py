"""Files that appear whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

VISIBLE_SECONDS = 120.0  # until which a network file system may hide a file that another machine has written
LOOK_SECONDS = 0.5


def atomic_write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a temporary file in the same folder, store it, and put it in place in one step.

    Raises OSError naming the file, also where fill hides it behind an error of its own, as torch does on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with naming_file(path, part):
        try:
            fill(part)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            raise
        except Exception:
            raise_disk_error(part)
            raise
        finally:
            part.unlink(missing_ok=True)


class HashingFile(io.RawIOBase):
    """A file that is written once from its beginning to its end, hashed meanwhile."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.file.write(view)
        return len(view)

    def flush(self) -> None:
        self.file.flush()


def atomic_write_hashed(folder: Path, start: str, suffix: str, digits: int, fill: Callable[[IO[bytes]], Any]) -> Path:
    """Let `fill` write into an open file, which is stored and gets the name <start>.<hash><suffix> in one step.

    hash: the first digits of its sha256, taken of what is written: nothing is read again. fill can only append.
    Raises OSError naming the file, as `atomic_write` does.
    """
    part = folder / f".{start}{suffix}.{os.getpid()}.part"
    with naming_file(folder / f"{start}{suffix}", part):
        try:
            with open(part, "wb") as file:
                hashing = HashingFile(file)
                fill(hashing)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            path = folder / f"{start}.{hashing.sha256.hexdigest()[:digits]}{suffix}"
            os.replace(part, path)
        except OSError:
            raise
        except Exception:
            raise_disk_error(part)
            raise
        finally:
            part.unlink(missing_ok=True)
    return path


def when_visible(path: Path, seconds: float = VISIBLE_SECONDS) -> Path:
    """The path of a file that another process says it has written, once it can be opened here.

    A network file system may list a new file late, but asks its server for a name that is opened. Raises
    FileNotFoundError where it is not there within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            open(path, "rb").close()
            return path
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_SECONDS)


def raise_disk_error(part: Path) -> None:
    """Raise the OSError that writing to a file gives, where the disk is the cause; the file is of no more use."""
    with open(part, "ab") as file:
        file.write(bytes(2**16))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def naming_file(path: Path, part: Path | None = None) -> Iterator[None]:
    """Let an OSError of the block name the file that it is about, which writing to an open one does not; part: a name
    that says nothing to a reader."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed have left of files which they were writing, in a folder and below it; no
    process may be at work there."""
    for pattern in (".*.part", ".*.part.*"):  # a writer of pictures or videos goes by the last suffix
        for path in folder.rglob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8 with LF line ends, so that a reader sees the old one or the new one, never a part."""
    # Names of files may hold bytes that are no UTF-8; they are written as the bytes that they are.
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n"))


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SHOWN = 80  # letters of a wrong name in a message


def require_inside(folder: Path, name: object, where: str) -> Path:
    """The path of a file directly in folder, there or not. where: the file that names it and the entry, for messages.

    Raises ValueError, one line, for an absolute path, one that leads into another folder, for anything that is no
    name, and for a link, since what it points to lies elsewhere.
    """
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not plain:
        raise ValueError(f"{where} is {repr(name)[:SHOWN]}, wanted the name of a file beside it")
    path = folder / str(name)
    if path.is_symlink():
        raise ValueError(f"{where} is {repr(name)[:SHOWN]}, which is a link there; wanted the file itself")
    return path


def check_text(path: Path, where: str) -> None:
    """Raise ValueError for a path that is no UTF-8: records, logs and other programs could not name it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {os.fsencode(path)!r} is no UTF-8; give a folder with another name") from None


def check_writable_folder(folder: Path, where: str) -> None:
    """Raise ValueError, in one line, where nothing can be written into a folder; it is made where it is not there."""
    check_text(folder.absolute(), where)
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{where}: {folder} can't be written ({error.strerror}); give another folder") from None


def check_new_folder(folder: Path, where: str) -> None:
    """As `check_writable_folder`, and for a folder that holds anything: nothing is written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{where}: {folder} is there and not an empty folder; give another one")
    check_writable_folder(folder, where)
