"""A lock on a folder or file that one process holds: filelock's, with who holds it since when written into its file.

The kernel releases it when the holder ends, however that ends. A child that the holder forks or spawns neither holds
nor releases it.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
MOST_BYTES = 400  # of a lock file's line
WAITING_SECONDS = 60.0  # between two heartbeats of a process that waits


class Held(ValueError):
    """Another process holds the lock: one line with who, and what to do."""


class FolderLock:
    """`with FolderLock(folder / ".lock", what="run.py") as lock:` holds the lock of a folder.

    what: the program, for the message that others get. Raises Held where another process holds it, ValueError where the
    file system has no locks, and OSError with the file's name where it can't be written.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what, self.file = Path(path).absolute(), what, -1
        self.lock = FileLock(self.path, fallback_to_soft=False, on_acquired=self.sign)

    def __enter__(self) -> FolderLock:
        try:
            acquire(self.lock, self.path, timeout=0)
        except Timeout:
            who = holder(self.path) or "another process"
            advice = "wait until it has ended, or give another folder"
            raise Held(f"{self.path.parent}: in use by {who}; {advice}") from None
        return self

    def sign(self, file: int) -> None:
        """Write this process into the open lock file."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(file, 0)
        os.pwrite(file, f"{self.what} on {platform.node()} (pid {os.getpid()}, since {since})\n".encode(), 0)
        self.file = file

    def __exit__(self, *_: object) -> None:
        if self.lock.is_locked:  # not in a forked child
            with suppress(OSError):  # a server that is away; the next holder writes over it
                os.ftruncate(self.file, 0)
            self.lock.release()


@contextmanager
def waiting_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file as long as the block runs; waiting is called where another process has it, each minute again.

    The file's folder must outlive the wait. Raises ValueError where the file system has no locks, and OSError.
    """
    lock = FileLock(path, fallback_to_soft=False)
    timeout = 0.0
    while not lock.is_locked:
        try:
            acquire(lock, path, timeout)
        except Timeout:
            waiting()
            timeout = WAITING_SECONDS
    try:
        yield
    finally:
        lock.release()


def acquire(lock: FileLock, path: Path, timeout: float) -> None:
    """Raises Timeout where another process holds it so many seconds longer."""
    try:
        lock.acquire(timeout=timeout, poll_interval=0.2)
    except Timeout:  # an OSError, too
        raise
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise ValueError(
                f"{path.parent}: its file system has no file locks ({error.strerror}); give a folder on one that has"
            ) from None
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def holder(path: Path) -> str:
    """The line in a lock file, of printable letters; "" where there is none."""
    try:
        with open(path, "rb") as file:
            line = file.read(MOST_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
