"""A lock on a folder, held by one process: a file in it says whose it is, and a dead owner's lock is taken over.

Three ideas. (1) On the same running system a process id with its start time says whether the owner lives. (2) Anywhere
else (another host, a container, the same host before a reboot) ids mean nothing: there the owner raises a counter, and
who wants the lock watches it by its own monotonic clock, so that no two clocks are ever compared. (3) The file is never
removed, only emptied: two processes can't come to hold different files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a file as long as the block runs; waiting is called once where another process has it."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


BEAT_SECONDS = 3.0
PATIENCE_BEATS = 10
EXAMINE_SECONDS = 20.0  # an examination takes milliseconds; longer, and whoever makes it hangs
SETTLE_SECONDS = 0.5  # where the file system has no flock: after this the last writer is known
LONGEST_BEAT_SECONDS = 60.0
MOST_BYTES = 4096
# A counter that keeps its number of digits keeps the file's length: a beat overwrites in place, never tears.
FIRST_BEAT = 10**9
NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
TEXTS, PLACE = ("token", "host", "boot", "namespace", "what", "since"), ("host", "boot", "namespace")


class Held(ValueError):
    """Another process holds the lock: one line with who, and what to do."""


class FolderLock:
    """`with FolderLock(folder / ".lock", what="run.py") as lock:` holds the lock of a folder.

    taken_from: whose dead lock it was, in words, or "". lost: why the lock is no longer ours, or ""; only an owner that
    gave no sign for patience_beats, seen from another host, can lose it.
    Raises Held where another process has it, and OSError with the file's name where it can't be written. Where an owner
    is on another host, entering takes until its next beat, or patience_beats where there is none.
    A child that this process forks does not hold the lock and does not release it.
    """

    def __init__(
        self, path: Path, what: str, beat_seconds: float = BEAT_SECONDS, patience_beats: int = PATIENCE_BEATS
    ) -> None:
        self.path, self.what = Path(path).absolute(), what  # a beat must find it after a chdir
        self.beat_seconds, self.patience_beats = beat_seconds, patience_beats
        self.taken_from = self.lost = ""
        self.content: dict[str, Any] = {}
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()

    def __enter__(self) -> FolderLock:
        self.taken_from = self.lost = ""
        self.ended.clear()
        self.content = content_of(self.what, self.beat_seconds)
        watched: tuple[str, int] | None = None  # the owner elsewhere that was found first
        silent_since = 0.0
        while True:
            with examined(self.path) as (file, alone):
                owner = read(file)
                why = why_stale(owner, os.fstat(file).st_size)
                sign = (owner["token"], owner["beat"]) if owner and why is None and not is_here(owner) else None
                if sign and sign == watched:
                    patience = self.patience_beats * owner["every"]
                    if time.monotonic() - silent_since >= patience:
                        why = f"{described(owner)}; no sign of it for {patience:g} s"
                if why is not None:
                    self.take(file, alone, why)
                    return self
            if owner and (sign is None or (watched is not None and sign != watched)):
                raise Held(held_line(self.path, owner))
            if watched is None:
                watched, silent_since = sign, time.monotonic()
            time.sleep(owner["every"] / 4)

    def take(self, file: int, alone: bool, why: str) -> None:
        """Write ourselves into the open file and start the beat."""
        try:
            write(file, self.content)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, 0)
            raise
        if not alone:
            time.sleep(SETTLE_SECONDS)
            owner = read(file)
            if owner and owner["token"] != self.content["token"]:
                raise Held(held_line(self.path, owner))
        self.taken_from = why
        self.thread = threading.Thread(target=self.live, name="lock", daemon=True)
        self.thread.start()

    def live(self) -> None:
        """Raise the counter until the lock is released or lost."""
        while not self.ended.wait(self.beat_seconds) and not self.lost:
            with suppress(OSError, Held):  # a full disk or a server that is away: the next beat may go
                self.beat()

    def beat(self) -> None:
        with examined(self.path) as (file, _):
            owner = read(file)
            if owner and owner["token"] != self.content["token"]:
                self.lost = f"taken over by {described(owner)}"
                return
            self.content["beat"] += 1
            write(file, self.content)

    def __exit__(self, *_: object) -> None:
        if self.content["pid"] != os.getpid():
            return  # a forked child leaves the block too; the lock is its parent's
        self.ended.set()
        if self.thread is not None:
            self.thread.join(EXAMINE_SECONDS)
        # What can't be emptied is the lock of a process that is gone: the next one takes it over.
        with suppress(OSError, Held):
            if not self.path.exists():
                return
            with examined(self.path) as (file, _):
                owner = read(file)
                if owner and owner["token"] == self.content["token"]:
                    os.ftruncate(file, 0)


def content_of(what: str, beat_seconds: float) -> dict[str, Any]:
    """What this process writes; since is information for people and decides nothing."""
    pid = os.getpid()
    return here() | {
        "pid": pid,
        "started": started(pid),
        "what": what[:200],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": secrets.token_hex(8),
        "every": beat_seconds,
        "beat": FIRST_BEAT,
    }


def here() -> dict[str, str]:
    """The running system in which process ids have their meaning; what can't be known is "" everywhere alike."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {"host": platform.node(), "boot": boot, "namespace": namespace}


def is_here(owner: dict[str, Any]) -> bool:
    return {key: owner[key] for key in PLACE} == here()


def stat_of(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third on; None where there is none."""
    try:
        # The second field is the program's name, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def started(pid: int) -> int | None:
    """When a process was started, in ticks since the system's start; None where the system does not say."""
    fields = stat_of(pid)
    return int(fields[19]) if fields else None


def runs(pid: int, start: int | None) -> bool:
    """Whether the process with this id and start time runs here; in doubt, yes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    fields = stat_of(pid)
    if fields is None:
        return True
    return fields[0] not in "ZX" and (start is None or int(fields[19]) == start)


def why_stale(owner: dict[str, Any] | None, size: int) -> str | None:
    """Whose lock this was, in words, where it may be taken at once ("": nobody's); None where it may not."""
    if owner is None:
        return "a lock file that can't be read" if size else ""
    if is_here(owner) and not runs(owner["pid"], owner["started"]):
        return f"{described(owner)}; it has ended without giving the folder back"
    return None


def described(owner: dict[str, Any]) -> str:
    return f"{owner['what']} on {owner['host']} (pid {owner['pid']}, since {owner['since']})"


def held_line(path: Path, owner: dict[str, Any]) -> str:
    return f"{path.parent}: in use by {described(owner)}; wait until it has ended, or give another folder"


@contextmanager
def examined(path: Path) -> Iterator[tuple[int, bool]]:
    """The lock file, open, while no other process examines it; with it, whether the file system could promise that.

    Raises OSError with the file's name, and Held where another process does not let go of it.
    """
    deadline = time.monotonic() + EXAMINE_SECONDS
    file = -1
    try:
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            alone = flocked(file, path, deadline)
            if is_file_of(file, path):
                break
            # Somebody removed or replaced the file meanwhile: what is held is no longer the one others see.
            closing, file = file, -1
            os.close(closing)
        yield file, alone
        if alone:
            fcntl.flock(file, fcntl.LOCK_UN)  # said, not left to close: a forked child may have the file open too
        closing, file = file, -1
        os.close(closing)  # a network file system may say only here that the disk is full
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if file >= 0:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
            with suppress(OSError):
                os.close(file)


def flocked(file: int, path: Path, deadline: float) -> bool:
    """Take the system's lock on an open file; False where the file system has none."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Held(f"{path.parent}: another process keeps {path.name} open; try again") from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return False


def is_file_of(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def read(file: int) -> dict[str, Any] | None:
    """The owner in a lock file; None for what this module did not write whole."""
    try:
        found = json.loads(os.pread(file, MOST_BYTES, 0))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in TEXTS):
        return None
    if any(type(found.get(key)) is not int for key in ("pid", "beat")) or not 0 < found["pid"] < 2**31:
        return None
    if type(found.get("started")) not in (int, type(None)):
        return None
    if type(found.get("every")) not in (int, float) or not 0 < found["every"] < math.inf:
        return None
    # Texts go into one line of a terminal.
    texts = {key: "".join(c if c.isprintable() else "?" for c in found[key]) for key in TEXTS}
    return found | texts | {"every": min(found["every"], LONGEST_BEAT_SECONDS)}


def write(file: int, content: dict[str, Any]) -> None:
    """Put the content in place of what is there."""
    data = json.dumps(content, sort_keys=True).encode()
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], done)  # a full disk may take a part first and refuse the rest
    os.ftruncate(file, len(data))
