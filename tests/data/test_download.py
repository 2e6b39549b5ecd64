"""Downloads resume where they stopped, never glue two files together, and say in one line what was wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
import requests

import lavita.data.download as download_module
from lavita.data.download import DownloadError, NoSpace, download
from tests.data.web_server import WebServer

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
ROOT = Path(__file__).resolve().parents[2]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download_module, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with WebServer() as server:
        yield server


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "data" / "set.zip"


@pytest.fixture
def one_try(monkeypatch):
    monkeypatch.setattr(download_module, "TRIES_WITHOUT_PROGRESS", 1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(address: str, target: Path, **known) -> int:
    """A call that fails after some bytes; returns how many are kept."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DownloadError, match="the same command resumes"):
        patch.setattr(download_module, "TRIES_WITHOUT_PROGRESS", 1)
        download(address, target, **known)
    return target.with_name("set.zip.part").stat().st_size


def test_a_file_is_fetched_whole_and_leaves_nothing_beside_it(web, target):
    seen = []
    address = web.add("set.zip", DATA)
    path = download(address, target, len(DATA), sha256(DATA), lambda *done: seen.append(done))
    assert path == target and target.read_bytes() == DATA and names(target.parent) == ["set.zip"]
    assert seen == sorted(seen) and seen[-1] == (len(DATA), len(DATA))


def test_a_dropped_connection_is_taken_up_where_it_broke(web, target):
    address = web.add("set.zip", DATA, drops=[100_000, 50_000, 0, 0])
    download(address, target)
    assert target.read_bytes() == DATA
    starts = [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150000-"]
    assert web.requests == [("/set.zip", start, start and '"one"') for start in starts]


def test_a_connection_that_breaks_often_is_not_given_up_while_bytes_come(web, target):
    download(web.add("set.zip", DATA, drops=[20_000] * 14), target)
    assert target.read_bytes() == DATA and len(web.requests) == 15


def test_a_second_call_resumes_where_the_first_stopped(web, target):
    address = web.add("set.zip", DATA, drops=[120_000])
    assert interrupted(address, target) == 120_000
    assert not target.exists()
    download(address, target)
    assert target.read_bytes() == DATA and web.ranges() == [None, "bytes=120000-"]


def test_last_modified_stands_in_for_a_weak_etag(web, target):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    address = web.add("set.zip", DATA, etag='W/"one"', last_modified=date, drops=[7])
    download(address, target)
    assert target.read_bytes() == DATA and web.requests[1] == ("/set.zip", "bytes=7-", date)


def test_a_server_that_ignores_ranges_is_started_anew(web, target):
    address = web.add("set.zip", DATA, ranges=False, drops=[120_000])
    download(address, target)
    assert target.read_bytes() == DATA and web.ranges() == [None, "bytes=120000-"]


@pytest.mark.parametrize("if_range", [True, False], ids=["honest", "ignores If-Range"])
def test_a_changed_file_is_not_glued_to_the_old_one(web, target, if_range):
    address = web.add("set.zip", DATA, drops=[120_000])
    interrupted(address, target)
    web.add("set.zip", OTHER, etag='"two"', if_range=if_range)
    download(address, target)
    assert target.read_bytes() == OTHER


def test_without_a_validator_bytes_are_added_to_only_where_a_sha256_proves_the_sum(web, target):
    address = web.add("set.zip", DATA, etag=None, drops=[120_000, 120_000])
    interrupted(address, target)
    interrupted(address, target)
    download(address, target, sha256=sha256(DATA))
    assert target.read_bytes() == DATA and web.requests[1:] == [
        ("/set.zip", None, None),
        ("/set.zip", "bytes=120000-", None),
    ]


def test_a_sum_of_two_files_is_found_by_its_sha256_and_fetched_anew(web, target):
    address = web.add("set.zip", DATA, etag=None, drops=[120_000])
    interrupted(address, target, sha256=sha256(DATA))
    web.add("set.zip", OTHER, etag=None)
    download(address, target, sha256=sha256(OTHER))
    assert target.read_bytes() == OTHER and web.ranges() == [None, "bytes=120000-", None]


def test_bytes_of_another_address_are_added_to_only_with_a_sha256(web, target):
    first = web.add("first.zip", DATA, drops=[120_000])
    interrupted(first, target)
    second = web.add("second.zip", DATA)
    download(second, target, sha256=sha256(DATA))
    assert target.read_bytes() == DATA and web.requests[-1] == ("/second.zip", "bytes=120000-", None)


def test_the_address_that_gave_the_kept_bytes_is_asked_first(web, target):
    addresses = [web.add("first.zip", DATA, fails=[404]), web.add("second.zip", DATA, drops=[120_000])]
    interrupted(addresses, target)
    download(addresses, target)
    assert target.read_bytes() == DATA and web.requests[-1][:2] == ("/second.zip", "bytes=120000-")


def keep(target: Path, data: bytes, address: str, num_bytes: int | None) -> None:
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(data)
    memory = {"address": address, "validator": '"one"', "num_bytes": num_bytes}
    target.with_name("set.zip.part.json").write_text(json.dumps(memory))


def test_all_bytes_are_there_before_the_rename(web, target):
    address = web.add("set.zip", DATA)
    keep(target, DATA, address, len(DATA))
    download(address, target)
    assert target.read_bytes() == DATA and not web.requests and names(target.parent) == ["set.zip"]


def test_416_says_that_all_bytes_are_there_or_that_the_file_is_another(web, target):
    address = web.add("set.zip", DATA)
    keep(target, DATA, address, None)
    download(address, target)
    assert target.read_bytes() == DATA and web.ranges() == ["bytes=300000-"]
    target.rename(target.with_name("old"))
    web.add("set.zip", OTHER[:1000])
    target.parent.joinpath("set.zip.part").write_bytes(DATA)
    memory = {"address": address, "validator": '"one"', "num_bytes": None}
    target.parent.joinpath("set.zip.part.json").write_text(json.dumps(memory))
    download(address, target)
    assert target.read_bytes() == OTHER[:1000]


@pytest.mark.parametrize("memory", ["", "{", '{"address": 1}', "[]"])
def test_bytes_of_unknown_origin_are_not_added_to(web, target, memory):
    address = web.add("set.zip", DATA)
    keep(target, OTHER[:1000], address, None)
    target.with_name("set.zip.part.json").write_text(memory)
    download(address, target)
    assert target.read_bytes() == DATA and web.ranges() == [None]


def fails(match: str, *arguments, error: type = DownloadError, **named) -> str:
    """The call raises one line that matches; returns the line."""
    with pytest.raises(error, match=match) as caught:
        download(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_size_other_than_the_recorded_one_is_refused_before_a_byte_is_kept(web, target):
    address = web.add("set.zip", DATA)
    fails("got a file of 300000 bytes, expected 299999 bytes", address, target, 299_999)
    assert names(target.parent) == []


def test_a_connection_that_always_ends_early_is_given_up_and_its_bytes_kept(web, target):
    address = web.add("set.zip", DATA, claimed_bytes=400_000, ranges=False)
    fails(r"ended at 300000 of 400000 bytes \(tried 5 times\).*300000 bytes are kept", address, target)
    assert len(web.requests) == 5 and not target.exists()


def test_a_server_that_names_no_length_is_checked_by_the_recorded_size(web, target, one_try):
    address = web.add("set.zip", DATA[:1000], says_length=False)
    fails("ended at 1000 of 300000 bytes", address, target, len(DATA))
    download(web.add("other.zip", DATA[:1000], says_length=False), target)
    assert target.read_bytes() == DATA[:1000]


def test_a_wrong_sha256_keeps_nothing(web, target):
    address = web.add("set.zip", OTHER)
    fails(f"got sha256 {sha256(OTHER)}, expected {sha256(DATA)}", address, target, len(DATA), sha256(DATA))
    assert names(target.parent) == []


@pytest.mark.parametrize(
    "page, kind", [(b"sign in", "text/html; charset=utf-8"), (b"\n <!DOCTYPE HTML><p>", "application/zip")]
)
def test_a_web_page_is_no_archive_and_costs_no_kept_bytes(web, target, page, kind):
    address = web.add("set.zip", DATA, drops=[120_000])
    interrupted(address, target)
    web.add("set.zip", page, etag='"two"', content_type=kind)
    fails("got a web page", address, target)
    assert target.with_name("set.zip.part").read_bytes() == DATA[:120_000]


def test_addresses_are_tried_in_turn_and_all_reasons_told(web, target):
    gone, closed = web.add("a.zip", fails=[404] * 9), web.add("b.zip", fails=[403] * 9)
    line = fails("HTTP 404 Not Found", [gone, closed], target)
    assert "HTTP 403 Forbidden" in line and line.index(gone) < line.index(closed)
    download([gone, closed, web.add("c.zip", DATA)], target)
    assert target.read_bytes() == DATA


def test_a_busy_server_is_asked_again(web, target):
    download(web.add("set.zip", DATA, fails=[503, 429]), target)
    assert target.read_bytes() == DATA and len(web.requests) == 3
    fails(r"HTTP 503.*tried 5 times", web.add("busy.zip", fails=[503] * 9), target.with_name("busy.zip"))


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_only_http_is_spoken_also_after_a_redirect(web, target, tmp_path, scheme):
    (tmp_path / "secret").write_bytes(b"secret")
    place = {"file": f"file://{tmp_path}/secret", "ftp": "ftp://127.0.0.1/secret", "data": "data:,secret"}[scheme]
    fails("http", web.add("set.zip", redirect=place), target)
    fails("only addresses that begin with http", place, target)
    assert names(target.parent) == [] and len(web.requests) == 1


def test_a_redirect_to_http_is_followed_with_the_range(web, target):
    web.add("set.zip", DATA, drops=[120_000])
    download(web.add("link", redirect=web.address("set.zip")), target)
    assert target.read_bytes() == DATA
    assert web.requests[-1] == ("/set.zip", "bytes=120000-", '"one"')


def test_space_is_looked_at_before_the_first_byte(web, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 299_999))
    address = web.add("set.zip", DATA)
    fails("300000 bytes are to come, 299999 bytes are free", [address, address], target, error=NoSpace)
    assert names(target.parent) == [] and len(web.requests) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 300_000))
    download(address, target)


def test_a_full_disk_is_one_line_and_keeps_what_there_is(web, target, monkeypatch):
    def full(path, start, chunks, total, report):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module, "_write", full)
    fails("the disk is full", web.add("set.zip", DATA), target, error=NoSpace)


def test_silence_is_given_up(web, target, monkeypatch, one_try):
    monkeypatch.setattr(download_module, "TIMEOUT_SECONDS", 0.1)
    address = web.add("set.zip", DATA, pause_seconds=0.4, piece_bytes=150_000)
    fails(r"nothing came for 0.1 seconds.*150000 bytes are kept", address, target)


def test_no_server_and_no_name_are_one_line(web, target, monkeypatch, one_try):
    fails("connection broke", "http://127.0.0.1:1/set.zip", target)

    def no_name(*words):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    fails("can't be resolved", "http://no-such-host.invalid/set.zip", target)


def test_a_certificate_that_cannot_be_verified_is_passed_over_only_for_a_known_sha256(web, target, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("the program openssl, which makes a certificate, is not installed")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "own.pem", "-subj", "/CN=x"]
    subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    web.encrypt(tmp_path / "own.pem", tmp_path / "key.pem")
    address = web.add("set.zip", DATA)
    fails(f"can't be verified.*self.signed.*with a browser and put it at {target}", address, target, len(DATA))
    assert not web.requests
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        download(address, target, len(DATA), sha256(DATA))
    assert target.read_bytes() == DATA and len(web.requests) == 1


def test_no_redirect_from_https_to_http_is_followed(target):
    answer = requests.Response()
    answer.status_code, answer.url, answer.headers["location"] = 302, "https://a.example/set.zip", "http://a.example/"
    with pytest.raises(download_module.Refused, match="redirects to http://a.example/, which is not followed"):
        download_module._refuse_redirect(answer)
    answer.headers["location"] = "/other.zip"
    download_module._refuse_redirect(answer)


def test_a_busy_server_is_given_the_pause_that_it_asks_for(web, target, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    address = web.add("set.zip", DATA, fails=[503, 429], retry_after=7)
    download(address, target)
    assert target.read_bytes() == DATA and pauses[:2] == [7, 7]
    web.add("set.zip", DATA, fails=[503], retry_after=10**6)
    download(address, target.with_name("again.zip"))
    assert max(pauses) == download_module.LONGEST_PAUSE_SECONDS


def test_bytes_are_kept_as_they_are_sent_whatever_their_encoding(web, target):
    download(web.add("set.zip", gzip.compress(DATA), encoding="gzip"), target)
    assert gzip.decompress(target.read_bytes()) == DATA


def test_a_file_that_stands_there_is_checked_and_not_fetched(web, target):
    target.parent.mkdir()
    target.write_bytes(DATA)
    address = web.add("set.zip", OTHER)
    assert download(address, target, len(DATA), sha256(DATA)) == target and not web.requests
    fails("got 300000 bytes, expected 5 bytes; move the file away", address, target, 5)
    fails("got sha256", address, target, None, sha256(OTHER))
    assert target.read_bytes() == DATA


def test_a_folder_that_cannot_be_written_to_is_one_line(web, tmp_path):
    (tmp_path / "file").write_text("")
    fails("file.*", web.add("set.zip", DATA), tmp_path / "file" / "set.zip")


def test_a_killed_download_is_finished_by_the_same_call(web, target):
    address = web.add("set.zip", DATA, pause_seconds=0.02, piece_bytes=10_000)
    code = "import sys; from lavita.data.download import download; download(sys.argv[1], sys.argv[2])"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, "-c", code, address, str(target)], env=environment)
    part = target.with_name("set.zip.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(DATA) and not target.exists()
    web.pages["/set.zip"].pause_seconds = 0
    download(address, target, len(DATA), sha256(DATA))
    assert target.read_bytes() == DATA and web.ranges() == [None, f"bytes={kept}-"]
    assert names(target.parent) == ["set.zip"]


def test_commands_that_download_nothing_do_not_wait_for_requests():
    code = "import sys, lavita.data.sources; sys.exit(any(name in sys.modules for name in ('requests', 'urllib3')))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
