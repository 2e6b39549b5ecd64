"""The lock on a folder, with real processes: one holds it, the dead lose it, and nobody else does."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lavita import lock
from lavita.lock import FolderLock, Held

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the start time of a process is read from /proc"
)
SOURCE = Path(__file__).resolve().parents[1] / "src"
# Takes the lock, says so with the note, and holds it until its input ends; "held" and the line where it can't.
HOLDER = """
import sys
from lavita.lock import FolderLock, Held
try:
    with FolderLock(sys.argv[1], what="run.py") as lock:
        print("got", lock.taken_from, flush=True)
        sys.stdin.read()
except Held as error:
    print("held", error, flush=True)
"""


def owner(path):
    """Who holds a lock: host, pid, what, since and the rest; None where nobody does or the owner is dead.

    An owner elsewhere is believed, since only watching its counter would tell. Raises OSError.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = lock.read(file)
        return found if found and lock.why_stale(found, 1) is None else None
    finally:
        os.close(file)


def holder(path: Path, code: str = HOLDER) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )


def end(process: subprocess.Popen) -> str:
    return process.communicate("")[0]


def elsewhere(beat: int = 1, **changes) -> dict:
    """The content of an owner on another host that beats every 0.05 s."""
    return lock.content_of("run.py", 0.05) | {"host": "elsewhere", "token": "theirs", "beat": beat} | changes


def quick(path: Path) -> FolderLock:
    return FolderLock(path, what="test", beat_seconds=0.05, patience_beats=6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def test_two_at_once(path):
    first = holder(path)
    assert first.stdout.readline() == "got \n"
    said = end(holder(path))
    start, line = said.split(" ", 1)
    assert start == "held" and line.count("\n") == 1
    for part in (str(path.parent), "run.py", socket.gethostname(), f"pid {first.pid}", "since 20", "another folder"):
        assert part in line
    found = owner(path)
    assert (found["pid"], found["what"]) == (first.pid, "run.py")
    end(first)
    assert owner(path) is None and path.read_bytes() == b""
    assert end(holder(path)) == "got \n"


def test_this_process_does_not_get_it_twice_and_an_error_gives_it_back(path):
    with pytest.raises(RuntimeError, match="of the block"), FolderLock(path, what="one"):
        with pytest.raises(Held, match=f"one on .*pid {os.getpid()}"):
            FolderLock(path, what="two").__enter__()
        assert owner(path)["what"] == "one"
        raise RuntimeError("of the block")
    assert owner(path) is None


@pytest.mark.parametrize("reaped", [False, True])
def test_a_killed_owner_loses_it_at_once(path, reaped):
    first = holder(path)
    first.stdout.readline()
    first.kill()
    # Dead but not waited for by its parent, a process is still in the table, as a zombie.
    os.waitid(os.P_PID, first.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    assert owner(path) is None
    began = time.monotonic()
    with FolderLock(path, what="next") as next_one:
        assert time.monotonic() - began < 1
        assert f"run.py on {socket.gethostname()} (pid {first.pid}" in next_one.taken_from
        assert "has ended without" in next_one.taken_from
    first.returncode = -signal.SIGKILL
    first.stdin.close()
    first.stdout.close()


@needs_proc
def test_another_process_with_the_owners_id_is_not_the_owner(path):
    content = lock.content_of("run.py", 1.0)
    path.write_text(json.dumps(content))
    assert owner(path)["pid"] == os.getpid()
    path.write_text(json.dumps(content | {"started": content["started"] - 1}))
    assert owner(path) is None
    with quick(path) as taken:
        assert f"pid {os.getpid()}" in taken.taken_from


@needs_proc
def test_start_time_is_the_systems():
    """By another way: seconds since this process began, from ps, agree with the ticks to within its rounding."""
    age = float(Path("/proc/uptime").read_text().split()[0]) - lock.started(os.getpid()) / os.sysconf("SC_CLK_TCK")
    said = subprocess.run(["ps", "-o", "etimes=", "-p", str(os.getpid())], capture_output=True, text=True)
    assert abs(age - float(said.stdout)) < 2


@pytest.mark.parametrize("changes", [{}, {"host": socket.gethostname(), "boot": "another"}])
def test_an_owner_elsewhere_that_beats_keeps_it(path, changes):
    """Elsewhere is also this host's name on another boot: it may be another machine of that name."""
    code = HOLDER.replace('what="run.py"', 'what="run.py", beat_seconds=0.05').replace(
        "try:",
        "import lavita.lock as module\n"
        f"place = module.here() | {changes or {'host': 'elsewhere'}!r}\nmodule.here = lambda: place\ntry:",
        1,
    )
    first = holder(path, code)
    first.stdout.readline()
    began = time.monotonic()
    with pytest.raises(Held, match=f"pid {first.pid}"):
        quick(path).__enter__()
    assert time.monotonic() - began < 1
    first.kill()
    first.wait()
    began = time.monotonic()
    with quick(path) as taken:
        assert time.monotonic() - began >= 6 * 0.05
        assert "no sign of it for 0.3 s" in taken.taken_from
    end(first)


def test_two_wait_for_a_dead_owner_elsewhere_and_one_gets_it(path):
    path.write_text(json.dumps(elsewhere(every=0.2)))
    code = HOLDER.replace('what="run.py"', 'what="run.py", beat_seconds=0.05')
    waiting = [holder(path, code) for _ in range(2)]
    said = sorted(process.stdout.readline().split(" ", 1)[0] for process in waiting)
    assert said == ["got", "held"]
    for process in waiting:
        end(process)


def test_the_clock_of_the_day_decides_nothing(path, monkeypatch):
    """A clock that runs backwards, and an owner whose clock is years away: the counter alone is looked at."""
    backwards = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    path.write_text(json.dumps(elsewhere(since="2093-01-01T00:00:00+00:00")))
    began = time.monotonic()
    with quick(path) as taken:
        assert 6 * 0.05 <= time.monotonic() - began < 3
        assert "2093" in taken.taken_from
        time.sleep(0.2)
        assert owner(path)["beat"] > lock.FIRST_BEAT and not taken.lost


def test_who_was_taken_for_dead_says_so_and_leaves_the_lock_alone(path):
    with quick(path) as ours:
        theirs = json.dumps(elsewhere())
        path.write_text(theirs)
        ours.thread.join(5)
        assert "taken over by run.py on elsewhere" in ours.lost
    assert path.read_text() == theirs


GARBAGE = {
    "empty": b"",
    "torn": json.dumps(elsewhere()).encode()[:-20],
    "two in one": json.dumps(elsewhere()).encode() + b'since": 1}',
    "binary": bytes(range(256)),
    "nested": b"[" * 4000,
    "a list": b"[1, 2]",
    "foreign": b"12345\n",
    "other keys": b'{"pid": 1}',
    "no process": json.dumps(elsewhere(pid=-1)).encode(),
    "a huge id": json.dumps(elsewhere(pid=10**30)).encode(),
    "never": json.dumps(elsewhere(every=float("nan"))).encode(),
    "huge": b" " * 10_000 + json.dumps(elsewhere()).encode(),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_lock_of_ours_is_stale(path, name):
    path.write_bytes(GARBAGE[name])
    assert owner(path) is None
    with quick(path) as taken:
        assert taken.taken_from == ("" if name == "empty" else "a lock file that can't be read")
        assert owner(path)["pid"] == os.getpid()


def test_texts_of_a_stranger_stay_in_one_line(path):
    path.write_text(json.dumps(elsewhere(what="a\nb\x1b[2J", beat=1)))
    assert "\n" not in lock.held_line(path, owner(path)) and "\x1b" not in lock.held_line(path, owner(path))


@pytest.mark.parametrize("attempt", range(20))
def test_of_eight_one_takes_a_stale_lock(path, attempt):
    """The eight are up and wait for one file to appear, so that they come in the same milliseconds."""
    content = lock.content_of("run.py", 1.0)
    path.write_text(json.dumps(content | {"started": 1}))
    code = HOLDER.replace(
        "try:",
        'import os, time\nprint("up", flush=True)\n'
        'while not os.path.exists(sys.argv[1] + ".go"): time.sleep(0.0005)\ntry:',
        1,
    )
    racing = [holder(path, code) for _ in range(8)]
    for process in racing:
        assert process.stdout.readline() == "up\n"
    Path(f"{path}.go").touch()
    said = [process.stdout.readline() for process in racing]
    got = [process.pid for process, line in zip(racing, said, strict=True) if line.startswith("got")]
    assert len(got) == 1 and sum(line.startswith("held") for line in said) == 7
    assert all(f"pid {got[0]}" in line for line in said if line.startswith("held"))
    for process in racing:
        end(process)
    assert owner(path) is None


def test_a_forked_child_does_not_give_it_back(path):
    held = quick(path)
    pid = 0
    with held:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            assert owner(path)["pid"] == os.getpid() and not held.lost
    if pid == 0:
        os._exit(0)
    assert owner(path) is None


def test_the_file_is_the_same_after_release_and_a_removed_one_comes_back(path):
    with quick(path):
        inode = path.stat().st_ino
    with quick(path):
        assert path.stat().st_ino == inode
        path.unlink()
        for _ in range(100):
            if path.exists() and owner(path):
                break
            time.sleep(0.05)
        with pytest.raises(Held):
            quick(path).__enter__()


def test_who_waits_on_a_file_that_is_replaced_looks_at_the_new_one(path):
    said = []

    def enter() -> None:
        try:
            quick(path).__enter__()
        except Held as error:
            said.append(str(error))

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiter = threading.Thread(target=enter)
        waiter.start()
        time.sleep(0.2)
        path.unlink()
        path.write_text(json.dumps(lock.content_of("the new one", 1.0)))
    waiter.join(10)
    assert len(said) == 1 and "the new one" in said[0]


def test_a_folder_that_vanishes_ends_quietly(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with quick(folder / ".lock"):
        (folder / ".lock").unlink()
        folder.rmdir()
        time.sleep(0.2)
    assert not folder.exists()


@pytest.mark.parametrize("number", sorted(lock.NO_FLOCK))
def test_without_flock_it_goes_on(path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)
    with quick(path):
        with pytest.raises(Held):
            quick(path).__enter__()
    assert owner(path) is None


def test_without_flock_the_last_writer_has_it(path, monkeypatch):
    """Two that both found it free: who is overwritten while it waits for things to settle gives way."""
    monkeypatch.setattr(lock, "flocked", lambda *_: False)
    monkeypatch.setattr(lock.time, "sleep", lambda _: path.write_text(json.dumps(elsewhere())))
    with pytest.raises(Held, match="elsewhere"):
        quick(path).__enter__()


def test_who_hangs_in_an_examination_does_not_hang_the_others(path, monkeypatch):
    monkeypatch.setattr(lock, "EXAMINE_SECONDS", 0.1)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Held, match="keeps .lock open"):
            quick(path).__enter__()


def test_a_full_disk_goes_up_with_the_files_name(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left") as caught:
        quick(path).__enter__()
    assert caught.value.filename == str(path) and owner(path) is None


def test_a_really_full_disk(tmp_path):
    small = mounted(tmp_path, "size=8k")
    (small / "filler").touch()
    try:
        with pytest.raises(OSError) as caught, open(small / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left") as caught:
            quick(small / ".lock").__enter__()
        assert caught.value.filename == str(small / ".lock")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_can_not_be_written(tmp_path):
    small = mounted(tmp_path, "size=64k,ro") if os.getuid() == 0 else tmp_path / "closed"
    if os.getuid():
        small.mkdir(mode=0o500)
    try:
        with pytest.raises(OSError) as caught:
            quick(small / ".lock").__enter__()
        assert caught.value.errno in (errno.EROFS, errno.EACCES) and caught.value.filename == str(small / ".lock")
        assert owner(small / ".lock") is None
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(small)], check=True)


def mounted(tmp_path: Path, options: str) -> Path:
    """A tmpfs below tmp_path; skips where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    return folder
