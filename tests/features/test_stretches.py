"""What the in-domain extractor learns from: all videos while they fit, else a bounded sample, in their order."""

from pathlib import Path

import numpy as np
import pytest

from lavita.data.catalogue import VideoEntry
from lavita.data.clips import centre_crop_resize, load_start
from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.video import read_frames, write_video
from lavita.metrics.features import stretches
from lavita.metrics.features.stretches import read_stretches, sample


def entry(number: int, frames: int, path: Path = Path("none")) -> VideoEntry:
    return VideoEntry(f"v{number}", str(path), f"g{number}", "walk", number % 3, "train", frames)


def test_small_sets_are_taken_whole_and_large_ones_within_the_bound():
    videos = [entry(number, 184) for number in range(9537)]
    chosen = sample(videos, 184, 64)
    frame = 3 * 64 * 64
    assert 2 * 2**30 - 184 * frame < len(chosen) * 184 * frame <= 2 * 2**30
    assert chosen == sample(videos, 184, 64) and len({v.video_id for v in chosen}) == len(chosen)
    numbers = [int(v.video_id[1:]) for v in chosen]
    assert numbers == sorted(numbers) and numbers[-1] > 9000 and numbers[0] < 500  # not the first ones
    assert sample(videos[:72], 184, 64) == videos[:72]
    assert len(sample(videos, 184, 4096)) == 1  # never none


def test_long_videos_count_as_their_beginnings(monkeypatch):
    monkeypatch.setattr(stretches, "MOST_BYTES", 10 * 3 * 16**2)
    assert len(sample([entry(number, 10**6) for number in range(9)], 2, 16)) == 5


def test_stretches_are_the_resized_beginnings(tmp_path):
    rng, videos, wanted = np.random.default_rng(0), [], []
    for number, frames in enumerate((30, 9)):
        made = rng.integers(0, 256, (frames, 24, 40, 3), dtype=np.uint8)
        path = write_video(tmp_path / f"{number}.mkv", made, 8, lossless=True)
        videos.append(entry(number, frames, path))
        wanted.append(centre_crop_resize(read_frames(path, range(min(frames, 4 * 5))), 16))
    told = []
    found = read_stretches(videos, 3, 2, 16, lambda *counts: told.append(counts))
    assert all(np.array_equal(one, other) for one, other in zip(found.frames, wanted, strict=True))
    assert told == [(1, 2), (2, 2)] and found.labels() == [0, 1]
    assert found.text() == "the first 20 frames at most of 2 of 2 training videos, 0 MiB"
    with pytest.raises(UnreadableVideo, match="9 frames now, 12 when it was checked"):
        load_start(entry(0, 12, Path(videos[1].path)), 12, 16)


def test_a_sample_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(stretches, "MOST_BYTES", 4 * 3 * 16**2)
    monkeypatch.setattr(stretches, "load_start", lambda video, count, side: np.zeros((count, side, side, 3), np.uint8))
    found = read_stretches([entry(number, 2) for number in range(5)], 3, 2, 16, lambda *_: None)
    assert "2 of 5 training videos, drawn at random" in found.text()
