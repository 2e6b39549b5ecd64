"""Hashes against hashlib by hand; what the cache remembers and what it must not; what is wrong with a file."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from lavita.data.scan import Content, fingerprint, scan
from lavita.data.video import probe as video_probe
from lavita.data.video import write_video


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
    assert found == [Content(6, file_hash, 25.0, 48, 32), Content(3, digest.hexdigest(), None, 48, 32)]


def test_fingerprint_by_hand_in_any_order():
    lines = [("b", "2" * 64, "train"), ("a", "1" * 64, "heldout")]
    text = f"a {'1' * 64} heldout\nb {'2' * 64} train\n"
    assert fingerprint(lines) == fingerprint(lines[::-1]) == hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def probed(monkeypatch) -> list[str]:
    """Names of the videos that were decoded."""
    names, probe = [], video_probe
    monkeypatch.setattr(
        "lavita.data.scan.probe", lambda path, thorough: (names.append(path.name), probe(path, thorough))[1]
    )
    return names


def test_cache_is_used_and_renewed(folder, tmp_path, counting_frames, probed):
    cache, paths = tmp_path / "cache" / "scan.jsonl", [folder / "a.mkv", folder / "b"]
    first = scan(paths, folder, cache)
    assert scan(paths, folder, cache) == first and sorted(probed) == ["a.mkv", "b"]
    write_video(folder / "a.mkv", counting_frames(7), 25, lossless=True)
    Image.fromarray(counting_frames(1)[0]).save(folder / "b" / "3.png")
    second = scan(paths, folder, cache)
    assert [content.frames for content in second] == [7, 4] and len(probed) == 4
    assert second == scan(paths, folder) == scan(paths, folder, cache)
    assert [path.name for path in cache.parent.iterdir()] == ["scan.jsonl"]
    assert scan(paths, folder, cache, believe_cache=False) == second and len(probed) == 8


def test_entries_survive_the_cache(tmp_path):
    """A video of key frames every 12 has entries at 12 and 24, in the cache as in a fresh scan."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    frames = np.stack([np.roll(noise, t, 0) for t in range(30)])
    path = write_video(tmp_path / "data" / "a.avi", frames, 25, lossless=False)
    fresh = scan([path], tmp_path, tmp_path / "scan.jsonl")
    assert scan([path], tmp_path, tmp_path / "scan.jsonl") == fresh
    assert np.frombuffer(fresh[0].entries, "<i8")[::2].tolist() == [12, 24]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe\n", json.dumps([-1, "a.mkv", [1, 1, 1], [9, "", None, 1, 1], []]).encode(), b"[2]\n"],
)
def test_a_damaged_or_foreign_cache_is_not_believed(folder, tmp_path, damage):
    cache = tmp_path / "scan.jsonl"
    cache.write_bytes(damage)
    assert scan([folder / "a.mkv"], folder, cache)[0].frames == 6
    assert scan([folder / "a.mkv"], folder, cache)[0].frames == 6


def test_a_killed_scan_resumes(folder, tmp_path, counting_frames, probed):
    """What was written before the kill is not decoded again, a line cut in the middle is."""
    for name in ("c.mkv", "d.mkv"):
        write_video(folder / name, counting_frames(4), 25, lossless=True)
    paths, cache = [folder / name for name in ("a.mkv", "c.mkv", "d.mkv")], tmp_path / "scan.jsonl"
    whole = scan(paths, folder, cache, workers=1)
    lines = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(lines)[: -len(lines[-1]) // 2])
    del probed[:]
    assert scan(paths, folder, cache) == whole and probed == ["d.mkv"]
    assert scan(paths, folder, cache) == whole and probed == ["d.mkv"]


def test_what_is_wrong_is_said_and_not_remembered(folder, tmp_path, counting_frames):
    whole = (folder / "a.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[:-9])
    (folder / "zero.avi").write_bytes(b"")
    (folder / "text.avi").write_text("no video at all\n")
    (folder / "nothing").mkdir()
    (folder / "broken").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        folder / "broken/1.png"
    )
    picture = bytearray((folder / "broken" / "1.png").read_bytes())
    picture[len(picture) // 2] ^= 255  # header and end mark stay whole: only decoding tells
    (folder / "broken" / "1.png").write_bytes(picture)
    names = ["a.mkv", "cut.mkv", "zero.avi", "text.avi", "nothing", "broken", "gone.avi"]
    found = scan([folder / name for name in names], folder, tmp_path / "scan.jsonl")
    assert [content.status for content in found] == [
        "ok", "unreadable", "empty", "not_video", "empty", "unreadable", "unreadable",
    ]  # fmt: skip
    assert found[1].reason == f"truncated: {len(whole) - 9} bytes of {len(whole)}"
    assert found[1].sha256 == hashlib.sha256(whole[:-9]).hexdigest() and found[6].sha256 == ""
    lines = [json.loads(line) for line in (tmp_path / "scan.jsonl").read_text().split("\n") if line]
    assert [line[1] for line in lines] == ["a.mkv"]


def test_progress_counts_every_video(folder):
    seen = []
    scan([folder / "a.mkv", folder / "b"], folder, report=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_names_of_any_bytes(folder, tmp_path):
    """Names that are not ASCII, and bytes that are no UTF-8 at all (a copy from an old file system)."""
    names = [os.fsencode("Bewegung_zurück.mkv"), b"caf\xe9.mkv"]
    for name in names:
        os.rename(os.fsencode(folder / "a.mkv"), os.path.join(os.fsencode(folder), name))
        path = os.fsdecode(os.path.join(os.fsencode(folder), name))
        assert scan([path], folder, tmp_path / "scan.jsonl") == scan([path], folder, tmp_path / "scan.jsonl")
        os.rename(os.path.join(os.fsencode(folder), name), os.fsencode(folder / "a.mkv"))
