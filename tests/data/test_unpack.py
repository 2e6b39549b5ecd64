"""Archives are unpacked whole or not at all, and nothing in them can reach outside of the folder."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from lavita.data.archives import find_tree, unpack
from tests.data.archives import FILE, FOLDER, LINK, contents, damaged, refused, split_zip

ROOT = Path(__file__).resolve().parents[2]
FILES = {"set/train/a b.avi": b"one" * 100, "set/train/-x.avi": b"", "set/test/ü.avi": b"three", "readme": b"four"}


def write_zip(path: Path, entries: list[tuple], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """entries: name, bytes and, where given, mode."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data, *mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method  # the constructor would clean the name
            info.create_system, info.external_attr = 3, (mode[0] if mode else FILE) << 16
            archive.writestr(info, data)
    return path


def write_tar(path: Path, entries: list[tuple], mode: str = "w") -> Path:
    """entries: name, bytes and, where given, type and link target."""
    with tarfile.open(path, mode) as archive:
        for name, data, *rest in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(data), 0o4755, 12345
            if rest:
                info.type, info.linkname = rest[0], rest[1] if len(rest) > 1 else ""
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_all_of_an_archive_is_put_in_place(tmp_path, kind):
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        write_zip(path, list(FILES.items()) + [("set/empty/", b"", FOLDER)])
    else:
        folder = ("./set/empty", b"", tarfile.DIRTYPE)
        write_tar(path, [*FILES.items(), folder], "w:" + kind[4:])
    seen = []
    unpack(path, tmp_path / "data", report=lambda *done: seen.append(done))
    assert contents(tmp_path / "data") == FILES and (tmp_path / "data/set/empty").is_dir()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["readme", "set"]
    assert seen[-1] == (sum(map(len, FILES.values())),) * 2


def test_modes_and_owners_are_not_taken_over(tmp_path):
    unpack(write_tar(tmp_path / "a.tar", [("tar", b"x")]), tmp_path / "data")
    unpack(write_zip(tmp_path / "a.zip", [("zip", b"x", stat.S_IFREG | 0o6777)]), tmp_path / "data")
    (tmp_path / "mine").write_text("")
    mine = (tmp_path / "mine").stat()
    for name in ("tar", "zip"):
        state = (tmp_path / "data" / name).stat()
        assert (state.st_mode, state.st_uid, state.st_gid) == (mine.st_mode, mine.st_uid, mine.st_gid)


NAMES = {
    "up": "../evil",
    "up in the middle": "set/../../evil",
    "up to a sibling": "set/../../data2/evil",
    "absolute": "/tmp/evil",
    "drive": "C:evil",
    "back-slash": "..\\evil",
    "zero byte": "set/evil\0.avi",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_name_leaves_the_folder(tmp_path, kind, name):
    path, entries = tmp_path / f"set.{kind}", [("set/good.avi", b"good"), (name, b"evil")]
    if kind == "zip":
        write_zip(path, entries)
    else:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for entry, data in entries:
                info = tarfile.TarInfo("short")
                info.size, info.pax_headers = len(data), {"path": entry}
                archive.addfile(info, io.BytesIO(data))
    line = refused("nothing was unpacked", path, tmp_path / "data")
    assert repr(name) in line


TAR_KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "/etc/passwd"),
    "symbolic link within": (tarfile.SYMTYPE, "good.avi"),
    "hard link": (tarfile.LNKTYPE, "set/good.avi"),
    "character device": (tarfile.CHRTYPE,),
    "block device": (tarfile.BLKTYPE,),
    "pipe": (tarfile.FIFOTYPE,),
}


@pytest.mark.parametrize("kind", TAR_KINDS.values(), ids=TAR_KINDS.keys())
def test_a_tar_archive_gives_no_links_and_no_devices(tmp_path, kind):
    path = write_tar(tmp_path / "set.tar", [("set/good.avi", b"good"), ("set/evil", b"", *kind)])
    refused("'set/evil' is a (symbolic link|hard link|device)", path, tmp_path / "data")


def test_a_size_below_zero_ends_the_list(tmp_path):
    path = write_tar(tmp_path / "set.tar", [("set/good.avi", b"good"), ("set/evil", b"")])
    data = bytearray(path.read_bytes())
    start = 1024  # of the second header; its size stands at 124, a negative one as a number of base 256
    data[start + 124 : start + 136] = (-1024).to_bytes(12, "big", signed=True)
    fields = bytes(data[start : start + 148]) + b" " * 8 + bytes(data[start + 156 : start + 512])
    data[start + 148 : start + 156] = b"%06o\0 " % sum(fields)
    path.write_bytes(data)
    refused("size below zero", path, tmp_path / "data")


@pytest.mark.parametrize("mode, word", [(LINK, "symbolic link"), (stat.S_IFCHR | 0o666, "device")])
def test_a_zip_archive_gives_no_links_and_no_devices(tmp_path, mode, word):
    path = write_zip(tmp_path / "set.zip", [("set/good.avi", b"good"), ("set/evil", b"/etc/passwd", mode)])
    refused(f"'set/evil' is a {word}", path, tmp_path / "data")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a/b", "a//b"), ("a", "a/b"), ("a/b", "a")])
def test_no_entry_overwrites_another(tmp_path, names):
    path = write_zip(tmp_path / "set.zip", [(name, b"one") for name in names])
    refused(f"{names[1]!r} would overwrite another", path, tmp_path / "data")
    path = write_tar(tmp_path / "set.tar", [(name, b"one") for name in names])
    refused("would overwrite another", path, tmp_path / "data")


def test_names_that_differ_by_case_are_two_files(tmp_path):
    unpack(write_zip(tmp_path / "set.zip", [("set/aB", b"1"), ("set/Ab", b"2")]), tmp_path / "data")
    assert contents(tmp_path / "data") == {"set/aB": b"1", "set/Ab": b"2"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_more_than_the_free_space_is_refused_by_its_list(tmp_path, monkeypatch, kind):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10_000))
    entries = [("set/a", bytes(9_000)), ("set/b", bytes(2_000))]
    path = tmp_path / f"set.{kind}"
    write_zip(path, entries) if kind == "zip" else write_tar(path, entries, "w:gz")
    assert path.stat().st_size < 1_000
    refused("more than 11000 bytes, 10000 bytes are free", path, tmp_path / "data")


def test_damaged_cut_and_foreign_archives_are_refused(tmp_path):
    noise = [("set/a", random.Random(0).randbytes(5_000))]
    good = write_zip(tmp_path / "good.zip", noise, zipfile.ZIP_STORED).read_bytes()
    gzip = write_tar(tmp_path / "good.tar.gz", noise, "w:gz").read_bytes()
    cut, foreign = "no table of contents", "neither a zip nor a tar nor a rar archive"
    for name, data, reason in [
        ("crc.zip", damaged(good, 2_000), "Bad CRC-32 for file 'set/a'.*nothing was unpacked"),
        ("cut.zip", good[:-100], f"{cut}.*nothing was unpacked"),
        ("cut.tar.gz", gzip[:3_000], "ended before.*nothing was unpacked"),
        ("crc.tar.gz", damaged(gzip, len(gzip) - 5), "CRC check failed.*nothing was unpacked"),
        ("page.zip", b"<html>sign in</html>", cut),
        ("page.tar", b"<html>sign in</html>", f"{foreign}.*<html>"),
        ("empty.zip", b"", cut),
        ("empty.rar", b"", foreign),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        refused(reason, path, tmp_path / "data")
    refused("No such file", tmp_path / "none.zip", tmp_path / "data")


def test_an_encrypted_zip_archive_is_refused(tmp_path):
    data = bytearray(write_zip(tmp_path / "set.zip", [("a", b"x")]).read_bytes())
    data[6] |= 1  # flag of the file's own header, and of that in the table
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "set.zip").write_bytes(data)
    refused("'a' is encrypted", tmp_path / "set.zip", tmp_path / "data")


def test_only_the_tree_is_put_in_place_from_wherever_it_is_in_the_archive(tmp_path):
    entries = [("top/read me", b""), ("top/sky_train/a/1.jpg", b"1"), ("top/sky_test/b/1.jpg", b"2")]
    path = write_zip(tmp_path / "sky.zip", entries)
    for _ in range(2):  # the second call finds the tree and does nothing
        unpack(path, tmp_path / "data", ["sky_train", "sky_test"])
        assert contents(tmp_path / "data") == {"sky_train/a/1.jpg": b"1", "sky_test/b/1.jpg": b"2"}
    refused("holds top, expected sky_valid", path, tmp_path / "data", tree=["sky_valid"])


def test_what_stands_at_its_place_is_left_alone(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    path = write_zip(tmp_path / "set.zip", list(FILES.items()))
    refused("set: is already there, so set.zip is not unpacked", path, tmp_path / "data")
    refused("is already there", path, tmp_path / "data", tree=["set/train"])


def test_find_tree_looks_as_deep_as_it_is_told_and_not_into_hidden_folders(tmp_path):
    (tmp_path / "one/two/tree").mkdir(parents=True)
    (tmp_path / ".zero/tree").mkdir(parents=True)
    assert find_tree(tmp_path, ["tree"], 1) is None
    assert find_tree(tmp_path, ["tree"], 2) == tmp_path / "one/two"
    assert find_tree(tmp_path, ["tree", "other"], 2) is None


def start_slowly(archive: Path, target: Path) -> subprocess.Popen:
    """Unpack in another process, a while for each file."""
    code = (
        "import sys, time; from lavita.data.archives import unpack; "
        "unpack(sys.argv[1], sys.argv[2], report=lambda done, total: time.sleep(0.02))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([sys.executable, "-c", code, str(archive), str(target)], env=environment)


def test_a_killed_unpacking_leaves_nothing_in_place_and_the_same_call_finishes(tmp_path):
    files = {f"set/{number:03d}.jpg": bytes([number]) * 1000 for number in range(200)}
    path, target = write_zip(tmp_path / "set.zip", list(files.items())), tmp_path / "data"
    process = start_slowly(path, target)
    deadline = time.monotonic() + 30
    while not (target.exists() and len(list(target.rglob("*.jpg"))) > 5):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in target.iterdir() if not path.name.startswith(".")] == []
    assert 5 < len(contents(target)) < 200
    unpack(path, target)
    assert contents(target) == files


def test_a_call_that_died_while_it_moved_the_folders_is_finished(tmp_path, monkeypatch):
    path, target, real = write_zip(tmp_path / "set.zip", list(FILES.items())), tmp_path / "data", os.rename
    moved = []

    def rename_once(source, place):
        if moved:
            raise KeyboardInterrupt
        moved.append(place)
        real(source, place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", rename_once)
        unpack(path, target)
    assert [path.name for path in target.iterdir() if not path.name.startswith(".")] == ["readme"]
    unpack(path, target)
    assert contents(target) == FILES


@pytest.mark.parametrize("in_64_bits", [False, True])
@pytest.mark.parametrize("volume_bytes", [150, 400, 1000])
def test_a_split_zip_archive_is_read_from_its_volumes(tmp_path, volume_bytes, in_64_bits):
    files = {f"set/{number}.jpg": random.Random(number).randbytes(number * 40) for number in range(9)}
    volumes = split_zip(files, volume_bytes, in_64_bits)
    assert len(volumes) > 2
    for number, data in enumerate(volumes[:-1], start=1):
        (tmp_path / f"set.z{number:02d}").write_bytes(data)
    (tmp_path / "set.zip").write_bytes(volumes[-1])
    unpack(tmp_path / "set.zip", tmp_path / "data")
    assert contents(tmp_path / "data") == files
    (tmp_path / "set.z02").rename(tmp_path / "away")
    refused("set.z02 is not there", tmp_path / "set.zip", tmp_path / "data2")


def test_the_volumes_of_the_zip_program_are_read(tmp_path):
    if not shutil.which("zip"):
        pytest.skip("the program zip is not installed")
    files = {f"{number}.jpg": random.Random(number).randbytes(9_000) for number in range(30)}
    (tmp_path / "set").mkdir()
    for name, data in files.items():
        (tmp_path / "set" / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-r", "-s", "64k", "set.zip", "set"], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("set.z*"))) == 5
    unpack(tmp_path / "set.zip", tmp_path / "data")
    assert contents(tmp_path / "data/set") == files


def test_an_entry_of_another_size_than_listed_is_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "set.zip", [("set/a", bytes(1_000))])
    for size in (999, 1_001, 10**9):
        monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, size=size: Endless(size))
        line = refused("bytes or more, the list says 1000; all was removed", path, tmp_path / "data")
        assert size < 1_000 or "10000" not in line  # no more was taken than shows that it is too much


@pytest.mark.parametrize("first, then, reason", [(1, 2, "'set/b' was not in its list"), (2, 1, "its list has more")])
def test_an_archive_that_is_another_one_when_it_is_unpacked_is_refused(tmp_path, monkeypatch, first, then, reason):
    path, counts = write_zip(tmp_path / "set.zip", [("set/a", b"a"), ("set/b", b"b")]), [first, then]
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda self: self.filelist[: counts.pop(0)])
    refused(f"{reason}; all was removed", path, tmp_path / "data")


class Endless(io.RawIOBase):
    """Zeros, a number of them."""

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = min(len(buffer), self.left)
        buffer[:count] = bytes(count)
        self.left -= count
        return count
