"""RAR archives: names, links and sizes are judged by their headers, bytes may come from a program."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import rarfile

from lavita.data.archives import NoUnpacker, UnpackError, unpack
from tests.data.archives import FILE, FOLDER, LINK, contents, damaged, rar4, rar5, refused

RAR = [
    ("UCF-101", FOLDER, b""),
    ("UCF-101\\A B", FOLDER, b""),
    ("UCF-101\\A B\\v_1.avi", FILE, b"one" * 1000),
    ("UCF-101\\A B\\-x.avi", stat.S_IFREG | 0o4755, b"two"),
]
RAR_FILES = {"UCF-101/A B/v_1.avi": b"one" * 1000, "UCF-101/A B/-x.avi": b"two"}
TOOLS = ("unrar", "unar", "sevenzip", "sevenzip2")  # rarfile's names


def slashes(entries: list[tuple]) -> list[tuple]:
    """Names as version 5 writes them."""
    return [(name.replace("\\", "/"), *rest) for name, *rest in entries]


VERSIONS = {"4": rar4(RAR), "5": rar5(slashes(RAR))}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """PATH holds unrar only, if it was added: it runs code, or there is none."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)

    def add(code: str) -> None:
        program = tmp_path / "bin" / "unrar"
        program.write_text(
            f"#!{sys.executable} -S\n"
            "import os, sys\n"
            "if sys.argv[-1] == '-?':\n"
            "    sys.exit()\n"
            f"open({str(tmp_path / 'calls')!r}, 'a').write(repr(sys.argv[1:]) + chr(10))\n"
            f"{code}\n"
        )
        program.chmod(0o755)

    return add


@pytest.fixture(params=TOOLS)
def real_program(request, monkeypatch):
    """rarfile has one real program, which it uses for stored files, too; skipped where that is not installed."""
    monkeypatch.setattr(rarfile, "FORCE_TOOL", True)
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    real = rarfile.tool_setup
    only = dict.fromkeys([*TOOLS, "bsdtar"], False) | {request.param: True}
    monkeypatch.setattr(rarfile, "tool_setup", lambda **_: real(**only))
    try:
        rarfile.tool_setup()
    except rarfile.RarCannotExec:
        pytest.skip(f"the program that rarfile calls {request.param} is not installed")
    return request.param


def unpacked_rar(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "-set.rar"  # would be an option if its path were not absolute
    path.write_bytes(data)
    unpack(path, tmp_path / "data", ["UCF-101"])
    assert contents(tmp_path / "data") == RAR_FILES
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*.avi")}
    (tmp_path / "mine").write_text("")
    assert modes == {stat.S_IMODE((tmp_path / "mine").stat().st_mode)}


@pytest.mark.parametrize("data", VERSIONS.values(), ids=VERSIONS.keys())
def test_a_rar_archive_of_stored_files_needs_no_program(fake, tmp_path, data):
    unpacked_rar(tmp_path, data)


@pytest.mark.parametrize("data", VERSIONS.values(), ids=VERSIONS.keys())
def test_a_rar_archive_is_unpacked_by_a_real_program(real_program, tmp_path, data):
    try:
        unpacked_rar(tmp_path, data)
    except UnpackError as error:
        if not real_program.startswith("sevenzip"):
            raise
        pytest.skip(f"this 7z reads no rar archives: {error}")


@pytest.mark.parametrize("data", VERSIONS.values(), ids=VERSIONS.keys())
def test_a_damaged_rar_archive_is_refused(tmp_path, data):
    path = tmp_path / "set.rar"
    start = data.index(b"one" * 1000)
    for wrong in (damaged(data, start + 1_500), damaged(data, start - 20), data[:-1_000], data[:start], data[:30]):
        path.write_bytes(wrong)
        refused("nothing was unpacked|holds nothing", path, tmp_path / "data")


RAR_REFUSED = {
    "up": (("..\\evil", FILE, b"evil"), "leads out"),
    "up in the middle": (("set\\..\\..\\evil", FILE, b"evil"), "leads out"),
    "absolute": (("/tmp/evil", FILE, b"evil"), "absolute"),
    "drive": (("C:evil", FILE, b"evil"), "absolute"),
    "link": (("l", LINK, b"/etc/passwd"), "symbolic link"),
    "device": (("l", stat.S_IFCHR | 0o666, b""), "device"),
    "pipe": (("l", stat.S_IFIFO | 0o666, b""), "device"),
    "twice": (("a", FILE, b"y"), "would overwrite another"),
}


@pytest.mark.parametrize("write", [rar4, rar5])
@pytest.mark.parametrize("entry, reason", RAR_REFUSED.values(), ids=RAR_REFUSED.keys())
def test_a_crafted_rar_archive_is_refused(tmp_path, write, entry, reason):
    path, entries = tmp_path / "set.rar", [("a", FILE, b"x"), entry]
    path.write_bytes(write(slashes(entries) if write is rar5 else entries))
    refused(reason, path, tmp_path / "data")


@pytest.mark.parametrize("redirect, word", [(1, "symbolic link"), (2, "symbolic"), (4, "hard link"), (5, "hard link")])
def test_a_rar_archive_of_version_5_gives_no_links(tmp_path, redirect, word):
    (tmp_path / "set.rar").write_bytes(rar5([("evil", FILE, b"/etc/passwd")], redirect))
    refused(f"'evil' is a {word}", tmp_path / "set.rar", tmp_path / "data")


def test_a_back_slash_in_a_name_of_version_5_is_refused(tmp_path):
    (tmp_path / "set.rar").write_bytes(rar5([("..\\evil", FILE, b"evil")]))
    refused("nothing was unpacked", tmp_path / "set.rar", tmp_path / "data")


@pytest.mark.parametrize("flags, reason", [(8, "a solid archive"), (0x80, "it is encrypted")])
def test_a_solid_or_encrypted_rar_archive_is_refused(tmp_path, flags, reason):
    (tmp_path / "set.rar").write_bytes(rar4(RAR, flags=flags))
    refused(reason, tmp_path / "set.rar", tmp_path / "data")


PACKED = rar4([("set\\a", FILE, b"abc")], packed=b"12345678")


def test_compressed_files_come_from_a_program_that_writes_nothing(fake, tmp_path):
    (tmp_path / "set.rar").write_bytes(PACKED)
    fake("os.write(1, b'abc')")
    unpack(tmp_path / "set.rar", tmp_path / "data")
    assert contents(tmp_path / "data") == {"set/a": b"abc"}
    (words,) = map(eval, (tmp_path / "calls").read_text().splitlines())
    assert words[0] == "p" and words[-2] == "--" and not any(str(tmp_path / "data") in word for word in words)


LIES = {
    "other bytes": "os.write(1, b'abd')",
    "fewer bytes": "os.write(1, b'ab')",
    "nothing": "pass",
    "a failure": "sys.exit(3)",
    "a text on the failure": "os.write(2, b'no such format'); sys.exit(2)",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_a_program_gives_is_checked_against_the_headers(fake, tmp_path, lie):
    (tmp_path / "set.rar").write_bytes(PACKED)
    fake(lie)
    assert "apt-get install unar" in refused("nothing was unpacked", tmp_path / "set.rar", tmp_path / "data")


def test_a_missing_program_is_named_with_the_way_to_get_it(fake, tmp_path):
    (tmp_path / "set.rar").write_bytes(PACKED)
    line = refused("set.rar", tmp_path / "set.rar", tmp_path / "data", error=NoUnpacker)
    assert "one of unrar, unar, 7z, 7zz, none" in line and "apt-get install unar" in line
