"""What is written down of each data set's addresses, and one call from there to a tree in its place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from lavita.config.schema import ConfigError
from lavita.data import download, sources
from lavita.data.archives import UnpackError
from lavita.data.catalogue import dataset_facts, dataset_names
from lavita.data.download import DownloadError, NoSpace
from lavita.data.layouts import LAYOUTS
from lavita.data.sources import fetch_dataset, read_source
from tests.data.archives import split_zip
from tests.data.web_server import WebServer

ROOT = Path(__file__).resolve().parents[2]
LISTS = {f"ucfTrainTestlist/{name}.txt": name.encode() for name in ("classInd", "trainlist01", "testlist01")}
VIDEOS = {f"UCF-101/Bend/v_Bend_g01_c{number:02d}.avi": bytes([number]) * 20_000 for number in range(40)}


def write_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of a fixed date: the same bytes in every call
    return buffer.getvalue()


def entry(name: str, data: bytes, *addresses: str, known: bool = True) -> dict:
    sha256 = hashlib.sha256(data).hexdigest() if known else None
    return {"name": name, "addresses": list(addresses), "num_bytes": len(data) if known else None, "sha256": sha256}


def part(tree: list[str], *copies: list[dict]) -> dict:
    made = [{"by": f"the {number}. source", "files": files} for number, files in enumerate(copies, start=1)]
    return {"holds": "videos", "tree": tree, "other_trees": [["other"]], "unpacked_bytes": None, "copies": made}


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with WebServer() as server:
        yield server


@pytest.fixture
def write_source(tmp_path, monkeypatch):
    """Replaces the written down parts of a data set."""
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.setattr(sources, "FOLDER", folder)
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.001)

    def write(*parts: dict, name: str = "ucf101") -> None:
        values = {
            "name": name,
            "terms": "Ask first.",
            "how_to_get": "By hand into ROOT/.download.",
            "parts": list(parts),
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))

    return write


@pytest.fixture
def ucf101(web, write_source) -> dict:
    """UCF101 in two archives on the server; returns the entries of the files."""
    videos, lists = write_zip(VIDEOS), write_zip(LISTS)
    entries = {
        "videos": entry("videos.zip", videos, web.add("videos.zip", videos)),
        "lists": entry("lists.zip", lists, web.add("gone.zip", fails=[404] * 9), web.add("lists.zip", lists)),
    }
    write_source(part(["UCF-101"], [entries["videos"]]), part(sorted(LISTS), [entries["lists"]]))
    return entries


def visible(root: Path) -> dict[str, bytes]:
    """All files of a root but those in hidden folders."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    names = {path: path.relative_to(root).as_posix() for path in paths}
    return {name: path.read_bytes() for path, name in names.items() if not name.startswith(".")}


def fetch(root: Path, dataset: str = "ucf101") -> tuple[bool, str]:
    """Whether the data set is there, and what was said."""
    lines: list[str] = []
    return fetch_dataset(dataset, root, say=lines.append), "\n".join(lines)


@pytest.mark.parametrize("name", dataset_names())
def test_what_is_written_down_is_complete_and_leads_to_a_tree_that_is_read(name, tmp_path):
    source = read_source(name)
    assert source.name == name and source.terms and "ROOT/" in source.how_to_get
    for path in (path for part in source.parts for path in part.tree):
        (tmp_path / path).mkdir(parents=True)
    assert LAYOUTS[dataset_facts(name).layout].locate(tmp_path) and fetch(tmp_path, name)[0]
    for file in (file for part in source.parts for copy in part.copies for file in copy.files):
        assert {urlsplit(address).scheme for address in file.addresses} == {"https"}
        assert all(Path(urlsplit(address).path).name == file.name for address in file.addresses)
        assert file.num_bytes > 0 and len(bytes.fromhex(file.sha256)) == 32
    comments = (sources.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in comments.splitlines()) and "https://" in comments


def test_faceforensics_is_not_fetched_and_says_how_to_ask(tmp_path, capsys):
    assert fetch_dataset("faceforensics", tmp_path / "data") is False
    said = capsys.readouterr().out
    assert "signed form" in said and "docs.google.com/forms" in said and f"{tmp_path}/data/preprocess_ffs" in said
    assert not (tmp_path / "data").exists()
    for split in ("train", "test"):
        (tmp_path / "data" / "preprocess_ffs" / split / "videos").mkdir(parents=True)
    assert fetch_dataset("faceforensics", tmp_path / "data") is True


def test_wrong_keys_are_named(write_source, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ucf101'"):
        fetch_dataset("ucf11", tmp_path)
    write_source(part(["a"], [{"name": "a.zip", "addresses": ["https://a"], "num_bytes": 1, "sha": "b"}]))
    with pytest.raises(ConfigError, match=r"parts\[0\]\.copies\[0\]\.files\[0\]\.sha: did you mean 'sha256'"):
        fetch_dataset("ucf101", tmp_path)
    write_source(part(["a"], [entry("../a.zip", b"", "https://a")]))
    with pytest.raises(ConfigError, match="plain file name"):
        fetch_dataset("ucf101", tmp_path)


def test_a_data_set_is_fetched_once_and_its_archives_are_remembered_not_kept(web, ucf101, tmp_path):
    root, done = tmp_path / "data", []
    lines: list[str] = []
    assert fetch_dataset("ucf101", root, lines.append, lambda *progress: done.append(progress)) is True
    assert visible(root) == VIDEOS | LISTS
    assert lines[0] == "Ask first." and "0.8 MB to download and at least 0.8 MB unpacked" in lines[1]
    size = ucf101["videos"]["num_bytes"]
    assert ("videos.zip", size, size) in done and ("videos.zip, unpacked", 800_000, 800_000) in done
    assert sorted(path.name for path in (root / ".download").iterdir()) == ["lists.zip.json", "lock", "videos.zip.json"]
    kept = json.loads((root / ".download" / "videos.zip.json").read_text())
    assert kept == {"tree": ["UCF-101"], "by": "the 1. source", "files": [ucf101["videos"]]}
    asked = len(web.requests)
    assert fetch(root) == (True, f"ucf101: all its folders are in {root}") and len(web.requests) == asked


def test_only_what_is_missing_is_fetched(web, ucf101, tmp_path):
    root = tmp_path / "data"
    (root / "UCF-101" / "mine").mkdir(parents=True)
    assert fetch(root)[0]
    assert visible(root) == LISTS and {path for path, *_ in web.requests} == {"/gone.zip", "/lists.zip"}


def test_data_that_are_there_need_no_network_and_no_writing(web, ucf101, tmp_path):
    root = tmp_path / "data"
    (root / "inner" / "UCF-101").mkdir(parents=True)
    (root / "ucfTrainTestlist").mkdir()
    for name in LISTS:
        (root / name).write_bytes(b"")
    before = sorted(root.rglob("*"))
    assert fetch(root)[0] and not web.requests and sorted(root.rglob("*")) == before


TREES = {
    "ucf101": ("UCF-101/ApplyEyeMakeup", "UCF-101/YoYo", *LISTS),
    "skytimelapse": ("sky_timelapse/sky_train", "sky_timelapse/sky_test"),
    "taichi": ("taichi-256/frames/train", "taichi-256/frames/test"),
    "faceforensics": ("preprocess_ffs/train/videos", "preprocess_ffs/test/videos"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_root_within_the_published_tree_is_known(name, tmp_path):
    for path in TREES[name]:
        (tmp_path / path).mkdir(parents=True)
    inner = tmp_path / TREES[name][0].split("/")[0]
    assert fetch(tmp_path, name)[0] and fetch(inner, name)[0] and LAYOUTS[name].locate(inner)


def test_half_a_tree_is_neither_completed_nor_overwritten(web, ucf101, tmp_path):
    root = tmp_path / "data"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    with pytest.raises(DownloadError, match="ucfTrainTestlist: is there, but of .* something is missing"):
        fetch(root)
    assert not web.requests


def test_space_is_said_and_must_be_there_first(web, ucf101, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    need = 2 * (ucf101["videos"]["num_bytes"] + ucf101["lists"]["num_bytes"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, need - 1))
    with pytest.raises(NoSpace, match=r"0\.8 MB to download and at least 0\.8 MB unpacked, 1\.6 MB free"):
        fetch(tmp_path / "data")
    assert not web.requests
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, need))
    assert fetch(tmp_path / "data")[0]


def test_an_archive_put_there_by_hand_is_checked_and_used(web, ucf101, tmp_path):
    root = tmp_path / "data"
    (root / ".download").mkdir(parents=True)
    by_hand = root / ".download" / "videos.zip"
    by_hand.write_bytes(b"other")
    with pytest.raises(DownloadError, match="got 5 bytes, expected .* move the file away"):
        fetch(root)
    by_hand.write_bytes(write_zip(VIDEOS))
    assert fetch(root)[0] and visible(root) == VIDEOS | LISTS
    assert "/videos.zip" not in {path for path, *_ in web.requests}


def test_without_an_unpacker_the_next_copy_is_taken_and_that_is_said(web, write_source, tmp_path, monkeypatch):
    data = write_zip(VIDEOS)
    rar = entry("set.rar", b"Rar!", web.add("set.rar", b"Rar!"))
    write_source(part(["UCF-101"], [rar], [entry("set.zip", data, web.add("set.zip", data))]))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    there, said = fetch(tmp_path / "data")
    assert there and visible(tmp_path / "data") == VIDEOS and [path for path, *_ in web.requests] == ["/set.zip"]
    assert "one of unrar, unar, 7z, 7zz, none is installed" in said and "taking the copy by the 2." in said
    write_source(part(["UCF-101"], [rar]))
    with pytest.raises(UnpackError, match="apt-get install unar"):
        fetch(tmp_path / "other")
    assert len(web.requests) == 1


def test_a_copy_that_has_begun_is_stayed_with(web, write_source, tmp_path):
    data = write_zip(VIDEOS)
    first = entry("first.zip", data, web.add("first.zip", data, drops=[5_000, 0, 0, 0, 0, 0]))
    second = entry("second.zip", data, web.add("second.zip", data))
    write_source(part(["UCF-101"], [first], [second]))
    with pytest.raises(DownloadError, match="5000 bytes are kept"):
        fetch(tmp_path / "data")
    assert fetch(tmp_path / "data")[0]
    assert {path for path, *_ in web.requests} == {"/first.zip"}
    web.pages["/first.zip"].fails = [404]
    there, said = fetch(tmp_path / "other")
    assert there and "404" in said and web.requests[-1][0] == "/second.zip"


def test_a_dead_address_ends_in_one_line_after_the_text_on_how_to_get_it(web, write_source, tmp_path):
    write_source(part(["UCF-101"], [entry("a.zip", b"a", web.address("gone.zip"))]))
    lines: list[str] = []
    with pytest.raises(DownloadError, match="HTTP 404") as caught:
        fetch_dataset("ucf101", tmp_path, lines.append)
    assert "\n" not in str(caught.value) and lines[-1] == f"By hand into {tmp_path}/.download."


def test_a_split_archive_of_unknown_size_is_fetched_in_all_its_volumes(web, write_source, tmp_path):
    frames = {f"taichi-256/frames/{split}/v/{n}.jpg": bytes(3_000) for split in ("train", "test") for n in range(5)}
    volumes = split_zip(frames, 10_000, in_64_bits=True)
    names = [f"t.z{number:02d}" for number in range(1, len(volumes))] + ["t.zip"]
    files = [entry(n, data, web.add(n, data), known=False) for n, data in zip(names, volumes, strict=True)]
    write_source(part(["taichi-256/frames/train", "taichi-256/frames/test"], files), name="taichi")
    root = tmp_path / "data"
    assert fetch(root, "taichi")[0] and visible(root) == frames
    kept = json.loads((root / ".download" / "t.zip.json").read_text())["files"]
    assert [file["sha256"] for file in kept] == [hashlib.sha256(data).hexdigest() for data in volumes]


def test_a_crafted_archive_is_refused_and_nothing_is_put_in_place(web, write_source, tmp_path):
    data = write_zip(VIDEOS | {"../evil": b"evil"})
    write_source(part(["UCF-101"], [entry("set.zip", data, web.add("set.zip", data))]))
    with pytest.raises(UnpackError, match=r"set\.zip: entry '\.\./evil' is refused"):
        fetch(tmp_path / "data")
    assert visible(tmp_path / "data") == {} and not list(tmp_path.rglob("evil"))


def test_two_calls_on_one_root_do_not_meet(web, ucf101, tmp_path):
    root = tmp_path / "data"
    with sources._alone(root / ".download"), pytest.raises(DownloadError, match="another call is fetching"):
        fetch(root)
    assert fetch(root)[0]


def test_a_root_that_cannot_be_written_to_is_one_line(web, ucf101, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DownloadError, match="choose a folder that can be written to"):
        fetch(tmp_path / "data")


CODE = """
import sys, time
from pathlib import Path
from lavita.data import sources
from lavita.data.archives import UnpackError
sources.FOLDER = Path(sys.argv[1])
slow = lambda name, done, total: time.sleep(0.02 if name.endswith(sys.argv[3]) else 0)
sources.fetch_dataset("ucf101", sys.argv[2], progress=slow)
"""


BEGUN = {
    "videos.zip": lambda root: any(path.stat().st_size for path in root.glob(".download/videos.zip.part")),
    "unpacked": lambda root: len(list(root.glob(".*.unpacking/content/*/*/*"))) > 2,
}


@pytest.mark.parametrize("when, num_requests", [("videos.zip", 4), ("unpacked", 3)])
def test_a_killed_call_is_finished_by_the_same_call(web, ucf101, tmp_path, when, num_requests):
    root = tmp_path / "data"
    web.pages["/videos.zip"].piece_bytes = 20_000
    web.pages["/videos.zip"].pause_seconds = 0.01 if when == "videos.zip" else 0
    command = [sys.executable, "-c", CODE, str(sources.FOLDER), str(root), when]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not BEGUN[when](root):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert visible(root) == {}
    assert fetch(root)[0] and visible(root) == VIDEOS | LISTS
    assert sorted(path.name for path in root.iterdir()) == [".download", "UCF-101", "ucfTrainTestlist"]
    assert sorted(path.name for path in (root / ".download").iterdir()) == ["lists.zip.json", "lock", "videos.zip.json"]
    assert len(web.requests) == num_requests
