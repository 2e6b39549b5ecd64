"""Files of weights from a path, the cache folder and a server on this machine; right, wrong and none at all."""

import hashlib
import json
import socket

import pytest
import torch

from lavita.metrics.features import weights
from lavita.metrics.features.weights import KnownFile, file_hashes, file_kind, find_weights
from tests.data.web_server import WebServer

PAGE = b"<!DOCTYPE html><html><body>Google Drive can't scan this file for viruses</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 50864128\n"


def content(tmp_path, value=1.0, name="made.pt"):
    """Bytes of a small file of weights."""
    torch.save({"weight": torch.full((4,), value)}, tmp_path / name)
    return (tmp_path / name).read_bytes()


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def never(address, path):
    raise AssertionError(f"fetched {address}")


@pytest.fixture
def server():
    with WebServer() as server:
        yield server


def test_hashes_are_those_of_sha256sum_and_git(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    found = file_hashes(tmp_path / "file")
    # `git hash-object` and `sha256sum` of a file that holds "hello" and a newline.
    assert found.git_blob == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert found.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert found.num_bytes == 6


def test_a_missing_file_is_fetched_checked_recorded_and_then_found(tmp_path, server):
    data = content(tmp_path)
    known = KnownFile("net.pt", "Net", (server.add("good", data),), git_blob(data))
    folder = tmp_path / "cache"
    path = find_weights(known, folder=folder)
    assert path == folder / "net.pt" and path.read_bytes() == data
    assert json.loads((folder / "net.pt.json").read_text()) == {
        "name": "net.pt",
        "address": server.address("good"),
        "num_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "git_blob": git_blob(data),
    }
    assert find_weights(known, folder=folder, fetch=never) == path
    assert len(server.requests) == 1 and sorted(item.name for item in folder.iterdir()) == ["net.pt", "net.pt.json"]


def test_addresses_are_tried_in_turn_until_one_gives_the_right_file(tmp_path, server):
    good = content(tmp_path)
    wrong = (server.address("gone"), server.add("page", PAGE), server.add("other", content(tmp_path, 2.0)))
    known = KnownFile(
        "net.pt", "Net", (*wrong, server.add("pointer", POINTER), server.add("good", good)), git_blob(good)
    )
    assert find_weights(known, folder=tmp_path / "cache").read_bytes() == good
    assert [path for path, _, _ in server.requests] == ["/gone", "/page", "/other", "/pointer", "/good"]


def test_when_no_address_works_every_reason_is_said_and_nothing_is_left(tmp_path, server):
    addresses = (server.address("gone"), server.add("page", PAGE), server.add("other", content(tmp_path, 2.0)))
    with pytest.raises(ValueError) as error:
        find_weights(KnownFile("net.pt", "Net", addresses, "0" * 40), folder=tmp_path / "cache")
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in ("404", "a web page", "git blob name", *addresses))
    assert "fetch it by hand" in message and not list((tmp_path / "cache").glob("*net.pt"))


def test_offline_opens_no_socket_and_says_where_it_looked(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    known = KnownFile("net.pt", "Net", ("http://127.0.0.1:9/net.pt",))
    with pytest.raises(ValueError) as error:
        find_weights(known, folder=tmp_path, offline=True)
    assert str(tmp_path / "net.pt") in str(error.value) and known.addresses[0] in str(error.value)
    with pytest.raises(AssertionError, match="socket"):
        find_weights(known, folder=tmp_path)  # the trap works
    (tmp_path / "net.pt").write_bytes(content(tmp_path))
    assert find_weights(known, folder=tmp_path, offline=True) == tmp_path / "net.pt"


def test_a_given_path_is_never_fetched(tmp_path):
    known = KnownFile("net.pt", "Net", ("http://127.0.0.1:9/net.pt",))
    with pytest.raises(ValueError, match=f"looked for {tmp_path / 'absent.pt'}: it is not there; fetch http") as error:
        find_weights(known, tmp_path / "absent.pt", folder=tmp_path / "cache", fetch=never)
    assert "\n" not in str(error.value)


def test_a_file_without_a_known_hash_must_stay_what_it_was_at_first(tmp_path):
    known = KnownFile("net.pt", "Net", ("http://127.0.0.1:9/net.pt",))
    (tmp_path / "a.pt").write_bytes(content(tmp_path))
    (tmp_path / "b.pt").write_bytes(content(tmp_path, 2.0))
    cache = tmp_path / "cache"
    assert find_weights(known, tmp_path / "a.pt", folder=cache) == tmp_path / "a.pt"
    with pytest.raises(ValueError, match="net.pt.json says .* of the file used before") as error:
        find_weights(known, tmp_path / "b.pt", folder=cache)
    assert "\n" not in str(error.value)
    (cache / "net.pt.json").unlink()
    assert find_weights(known, tmp_path / "b.pt", folder=cache) == tmp_path / "b.pt"
    (cache / "net.pt.json").write_text("{")
    with pytest.raises(ValueError, match="is no record of a file"):
        find_weights(known, tmp_path / "b.pt", folder=cache)


@pytest.mark.parametrize(
    "data, kind",
    [
        (b"", "an empty file"),
        (PAGE, "a web page"),
        (b"\n <!-- saved page --><HTML>", "a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "a web page"),
        (POINTER, "a Git LFS pointer"),
        (b"PK\x03\x04 cut", "a zip archive cut short"),
        (b"\x80\x04\x95 some other pickle", "a file of an unknown kind"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_saying_what_it_is(tmp_path, data, kind):
    (tmp_path / "net.pt").write_bytes(data)
    assert file_kind(tmp_path / "net.pt") == kind
    with pytest.raises(ValueError, match=f"is {kind}, no network; ") as error:
        find_weights(KnownFile("net.pt", "Net", ("http://127.0.0.1:9/net.pt",)), folder=tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "net.pt.json").exists()


def test_files_that_others_score_with_are_known():
    names = (weights.I3D_TORCHSCRIPT, weights.I3D_PRETRAINED, weights.C3D_UCF101, weights.VIDEOMAE_SSV2)
    blobs = {known.name: known.git_blob for known in names}
    assert blobs["i3d_torchscript.pt"] == "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
    assert blobs["i3d_pretrained_400.pt"] == "a867b87ac3a9097d200598b1d48a1b890d8ec744"
    assert blobs["c3d_ucf101.pt"] is None
    assert all(address.startswith("https://") for known in names for address in known.addresses)
