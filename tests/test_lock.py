"""The lock on a folder, with real processes: one holds it, others get a line, the dead and children hold nothing."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lavita import lock
from lavita.lock import FolderLock, Held, waiting_lock

SOURCE = Path(__file__).resolve().parents[1] / "src"
# Holds the lock until its input ends; the line and exit status 2 where it can't.
HOLDER = """
import sys
from lavita.lock import FolderLock, Held
try:
    with FolderLock(sys.argv[1], what="run.py"):
        print("got", flush=True)
        sys.stdin.read()
except Held as error:
    sys.exit(f"held {error}")
"""
# The same with two children that outlive it: one forked, one spawned.
PARENT = HOLDER.replace(
    'print("got", flush=True)',
    """
        import os, signal, subprocess, time
        spawned = subprocess.Popen(["sleep", "60"])
        forked = os.fork()
        if not forked:  # told by the child itself: until it has run after its fork, it has the lock's file open
            print("got", spawned.pid, os.getpid(), flush=True)
            signal.pause()""",
)


def holder(path: Path, code: str = HOLDER) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code, str(path)], text=True, env=environment, **pipes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def test_a_second_process_gets_one_line_and_the_next_gets_the_lock(path):
    before = datetime.now(UTC).replace(microsecond=0)
    first = holder(path)
    assert first.stdout.readline() == "got\n"
    error = holder(path).communicate("")[1]
    who = rf"run\.py on {re.escape(socket.gethostname())} \(pid {first.pid}, since (\S+)\)"
    said = re.fullmatch(
        rf"held {re.escape(str(path.parent))}: in use by {who}; wait until it has ended, or give another folder\n",
        error,
    )
    assert said, error
    assert before <= datetime.fromisoformat(said[1]) <= datetime.now(UTC)
    with pytest.raises(Held, match=f"pid {first.pid}"):  # being refused changed nothing
        FolderLock(path, what="test").__enter__()
    first.communicate("")
    assert path.read_bytes() == b""
    assert holder(path).communicate("")[0] == "got\n"


def test_this_process_does_not_get_it_twice_and_an_error_releases_it(path):
    with pytest.raises(RuntimeError, match="of the block"), FolderLock(path, what="one"):
        with pytest.raises(Held, match=f"one on .*pid {os.getpid()}"):
            FolderLock(path, what="two").__enter__()
        raise RuntimeError("of the block")
    with FolderLock(path, what="two"):
        pass


def test_a_killed_holder_releases_it_at_once(path):
    first = holder(path)
    first.stdout.readline()
    first.kill()
    # Dead but not waited for by its parent, a process is still in the table, as a zombie.
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with FolderLock(path, what="next"):
        assert f"next on {socket.gethostname()} (pid {os.getpid()}, since " in path.read_text()
    first.communicate()


def test_children_that_outlive_a_killed_holder_do_not_hold_it(path):
    parent = holder(path, PARENT)
    children = [int(word) for word in parent.stdout.readline().split()[1:]]
    try:
        parent.kill()
        parent.wait()
        for child in children:
            os.kill(child, 0)  # they live
        with FolderLock(path, what="next"):
            pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        parent.communicate()


def test_a_forked_child_that_leaves_the_block_does_not_release_it(path):
    with FolderLock(path, what="parent"):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            assert f"parent on {socket.gethostname()} (pid {os.getpid()}, since " in path.read_text()
            assert "held" in holder(path).communicate("")[1]
    if pid == 0:
        os._exit(0)


def test_what_a_stranger_wrote_stays_in_one_line(path):
    path.write_bytes(b"a\nb\x1b[2J\xff" + b"x" * 10**6)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Held) as error:
            FolderLock(path, what="test").__enter__()
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    path.write_bytes(b"")
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Held, match="in use by another process; wait"):
            FolderLock(path, what="test").__enter__()


def test_a_folder_that_vanishes_ends_quietly(tmp_path):
    folder = tmp_path / "run"
    with FolderLock(folder / ".lock", what="test"):
        (folder / ".lock").unlink()
        folder.rmdir()
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line(path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    wanted = re.escape(f"{path.parent}: its file system has no file locks ({os.strerror(number)}); give a folder on")
    with pytest.raises(ValueError, match=wanted):
        FolderLock(path, what="test").__enter__()
    with pytest.raises(ValueError, match=wanted), waiting_lock(path, lambda: None):
        pass


def test_a_full_disk_goes_up_with_the_files_name_and_releases_it(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left") as caught:
            FolderLock(path, what="test").__enter__()
    assert caught.value.filename == str(path)
    with FolderLock(path, what="test"):
        pass


def test_a_folder_that_can_not_be_written(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir(mode=0o500)
    if os.getuid() == 0:  # whom a mode does not stop
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "none", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        with pytest.raises(OSError) as caught:
            FolderLock(folder / ".lock", what="test").__enter__()
        assert caught.value.errno in (errno.EROFS, errno.EACCES) and caught.value.filename == str(folder / ".lock")
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(folder)], check=True)


def test_who_waits_is_told_once_and_gets_it_when_the_other_ends(path):
    first = holder(path)
    first.stdout.readline()
    told, times = [], []

    def wait() -> None:
        with waiting_lock(path, lambda: told.append("waiting")):
            times.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(1)
    assert told == ["waiting"] and not times
    ended = time.monotonic()
    first.kill()
    waiter.join(10)
    assert told == ["waiting"] and ended < times[0] < ended + 5
    first.communicate()
    with waiting_lock(path, lambda: told.append("again")):
        pass
    assert told == ["waiting"]


def test_who_waits_long_shows_a_sign_of_life_again_and_again(path, monkeypatch):
    monkeypatch.setattr(lock, "WAITING_SECONDS", 0.3)
    first, told = holder(path), []
    first.stdout.readline()

    def waiting() -> None:
        told.append("waiting")
        if len(told) == 3:
            first.kill()

    with waiting_lock(path, waiting):
        assert len(told) == 3
    first.communicate()
