"""Reading from key frames against a full decode by PyAV: every window of files that are hard to seek in."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from lavita.data import video
from lavita.data.seek import Entry, from_entry, nearest, pack, unpack
from lavita.data.video import probe, read_frames, write_video

FRAMES = 60


def moving(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Noise that slides: every frame differs from every other."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, (t, 2 * t), (0, 1)) for t in range(count)])


def encode(path, stamps, codec="libx264", gop=12, pix_fmt="yuv420p", **options):
    """Frames with given time stamps (1/1000 s), a key frame every `gop`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(gop), **options})
        stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp, frame in zip(stamps, moving(len(stamps)), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def full_decode(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


EVEN = [40 * t for t in range(FRAMES)]
UNEVEN = np.cumsum(np.random.default_rng(1).integers(5, 120, FRAMES)).tolist()
FILES = {
    "B-frames.mp4": (EVEN, {"bf": "3", "x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}),
    "open-gop.mp4": (EVEN, {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:open-gop=1:b-adapt=0"}),
    "open-gop.mkv": (EVEN, {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:open-gop=1:b-adapt=0"}),
    "odd-start.mp4": ([1234 + stamp for stamp in EVEN], {"bf": "2"}),
    "odd-start.mkv": ([777 + stamp for stamp in EVEN], {"bf": "2"}),
    "variable-rate.mkv": (UNEVEN, {"bf": "3"}),
    "variable-rate.mp4": (UNEVEN, {"bf": "3"}),
    "variable-rate.webm": (UNEVEN, {"codec": "libvpx-vp9", "cpu-used": "8", "deadline": "realtime"}),
    "b-frames.avi": (EVEN, {"codec": "mpeg4", "bf": "2"}),
    "key-frames-only.mkv": (EVEN, {"codec": "ffv1", "pix_fmt": "bgr0"}),
    "one-key-frame.mp4": (EVEN, {"gop": 1000, "bf": "3"}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_window_is_that_of_a_full_decode(tmp_path, name):
    stamps, options = FILES[name]
    path = encode(tmp_path / name, stamps, **options)
    everything, info = full_decode(path), probe(path, thorough=True)
    assert info.frames == len(everything) == FRAMES
    for start in range(0, FRAMES - 9, 4):
        indices = range(start, start + 10, 3)
        assert np.array_equal(read_frames(path, indices, info.entries), everything[list(indices)]), start


def test_files_with_key_frames_have_entries_and_others_none(tmp_path):
    """Where this failed the test above would still pass, by decoding every file from its start."""
    for name in ("B-frames.mp4", "open-gop.mkv", "odd-start.mp4", "variable-rate.mkv"):
        path = encode(tmp_path / name, FILES[name][0], **FILES[name][1])
        assert [entry.frame for entry in unpack(probe(path, thorough=True).entries)] == [12, 24, 36, 48], name
    path = encode(tmp_path / "one-key-frame.mp4", EVEN, gop=1000)
    assert probe(path, thorough=True).entries == b""


def count_decoded(monkeypatch) -> list[int]:
    """One item for every frame that a decoder puts out."""
    seen, opened = [], av.open

    class Counting:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            self.container.__enter__()
            return self

        def __exit__(self, *error):
            return self.container.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def decode(self, stream):
            for frame in self.container.decode(stream):
                seen.append(frame.pts)
                yield frame

    monkeypatch.setattr(video.av, "open", lambda *a, **k: Counting(opened(*a, **k)))
    return seen


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.avi"])
def test_a_window_near_the_end_decodes_few_frames(tmp_path, monkeypatch, name):
    """16 frames at interval 3 span 46; the key frame before is at most 11 frames away, so 57, and 58 are allowed."""
    count = 600
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = encode(tmp_path / name, [40 * t for t in range(count)], codec, bf="0" if codec == "mpeg4" else "2")
    info = probe(path, thorough=True)
    everything = full_decode(path)
    for start in range(count - 46 - 12, count - 46 + 1):
        with monkeypatch.context() as patch:
            seen = count_decoded(patch)
            found = read_frames(path, range(start, start + 46, 3), info.entries)
        assert np.array_equal(found, everything[start : start + 46 : 3])
        assert 46 <= len(seen) <= 58, start


def test_an_entry_that_is_not_there_costs_time_only(tmp_path):
    path = encode(tmp_path / "a.mp4", EVEN)
    everything = full_decode(path)
    for wrong in (Entry(12, 12345), Entry(12, 10**9), Entry(12, -5)):
        assert np.array_equal(read_frames(path, [20], pack([wrong])), everything[[20]])


def test_entries_against_a_linear_search():
    entries = [Entry(12, 480), Entry(24, 960), Entry(50, -3)]
    assert unpack(pack(entries)) == entries and unpack(pack([])) == []
    for frame in range(60):
        before = [entry for entry in entries if entry.frame <= frame]
        assert nearest(pack(entries), frame) == (before[-1] if before else None)
    assert nearest(b"", 5) is None


def test_leading_frames_are_passed_over(tmp_path):
    path = encode(tmp_path / "a.mkv", EVEN, **FILES["B-frames.mp4"][1])
    with av.open(str(path)) as container:
        frames = from_entry(container.decode(video=0), Entry(5, 200))
        assert [frame.pts for frame in frames] == EVEN[5:]


@pytest.mark.parametrize("degrees, turns", [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_rotated_files_come_upright(tmp_path, degrees, turns):
    """A phone's display matrix turns a file by degrees clockwise, which is so many quarter turns of np.rot90."""
    path = write_video(tmp_path / "a.mp4", moving(20), 25, lossless=False)
    stored = full_decode(path)
    one = 1 << 16
    matrix = {0: (one, 0, 0, one), 90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    data = bytearray(path.read_bytes())
    place = (
        data.index(b"tkhd") + 4 + 40
    )  # version 0: 4 version and flags, 20 times and ids, 8 reserved, 8 layer to volume
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + offset : place + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    info = probe(path, thorough=True)
    frames = read_frames(path, range(20), info.entries)
    assert np.array_equal(frames, np.rot90(stored, turns, axes=(1, 2)))
    assert (info.height, info.width) == frames.shape[1:3]
