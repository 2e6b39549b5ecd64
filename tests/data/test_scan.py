"""Hashes against hashlib by hand; what the cache remembers and what it must not."""

from __future__ import annotations

import hashlib
import json

import pytest
from PIL import Image

from lavita.data import scan as scan_file
from lavita.data.scan import Content, fingerprint, scan
from lavita.data.video import UnreadableVideo, write_video


@pytest.fixture
def folder(tmp_path, counting_frames):
    """A video of 6 frames and a folder of 3 pictures."""
    root = tmp_path / "data"
    write_video(root / "a.mkv", counting_frames(6), 25, lossless=True)
    (root / "b").mkdir()
    for number, frame in enumerate(counting_frames(3)):
        Image.fromarray(frame).save(root / "b" / f"{number}.png")
    return root


def test_content_by_hand(folder):
    digest = hashlib.sha256()
    for name in ("0.png", "1.png", "2.png"):
        data = (folder / "b" / name).read_bytes()
        digest.update(name.encode() + b"\0" + len(data).to_bytes(8, "big") + data)
    file_hash = hashlib.sha256((folder / "a.mkv").read_bytes()).hexdigest()
    found = scan([folder / "a.mkv", folder / "b"], folder)
    assert found == [Content(6, file_hash), Content(3, digest.hexdigest())]


def test_fingerprint_by_hand_in_any_order():
    lines = [("b", "2" * 64, "train"), ("a", "1" * 64, "heldout")]
    text = f"a {'1' * 64} heldout\nb {'2' * 64} train\n"
    assert fingerprint(lines) == fingerprint(lines[::-1]) == hashlib.sha256(text.encode()).hexdigest()


def test_cache_is_used_and_renewed(folder, tmp_path, counting_frames, monkeypatch):
    cache, paths, probed = tmp_path / "cache" / "scan.json", [folder / "a.mkv", folder / "b"], []
    probe = scan_file.probe
    monkeypatch.setattr(scan_file, "probe", lambda path: (probed.append(path.name), probe(path))[1])
    first = scan(paths, folder, cache)
    assert scan(paths, folder, cache) == first and sorted(probed) == ["a.mkv", "b"]
    write_video(folder / "a.mkv", counting_frames(7), 25, lossless=True)
    Image.fromarray(counting_frames(1)[0]).save(folder / "b" / "3.png")
    second = scan(paths, folder, cache)
    assert [content.frames for content in second] == [7, 4] and len(probed) == 4
    assert second == scan(paths, folder)
    assert [path.name for path in cache.parent.iterdir()] == ["scan.json"]


@pytest.mark.parametrize("damage", ["", "{", json.dumps({"version": -1, "videos": {"a.mkv": {"frames": 9}}})])
def test_a_damaged_or_foreign_cache_is_not_believed(folder, tmp_path, damage):
    cache = tmp_path / "scan.json"
    cache.write_text(damage)
    assert scan([folder / "a.mkv"], folder, cache)[0].frames == 6


def test_unreadable_videos_are_counted_and_not_remembered(folder, tmp_path):
    for name in ("c.avi", "d.avi"):
        (folder / name).write_bytes(b"")
    paths = [folder / name for name in ("a.mkv", "c.avi", "d.avi")]
    with pytest.raises(UnreadableVideo, match=r"c\.avi: the file is empty .* 1 more unreadable of 3 videos"):
        scan(paths, folder, tmp_path / "scan.json")
    assert list(json.loads((tmp_path / "scan.json").read_text())["videos"]) == ["a.mkv"]
