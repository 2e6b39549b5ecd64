"""The choice of real windows: different, not overlapping, evenly spread, and too few is an error that
helps.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clips import load_window, real_windows
from lavita.data.video import write_video

# With 8 frames at interval 3 (span 22): 3, 1, 2, 0 and 6 windows; 4 held out.
LENGTHS = {"train": (66, 43, 44, 21, 150), "heldout": (100,)}


@pytest.fixture
def catalogue():
    videos = [
        VideoEntry(f"{split}{i}", f"/{split}{i}", f"{split}{i}", None, None, split, frames)
        for split, counts in LENGTHS.items()
        for i, frames in enumerate(counts)
    ]
    return Catalogue("taichi", "/data", tuple(videos), (), "f")


def test_windows_are_different_and_do_not_overlap(catalogue):
    chosen = real_windows(catalogue, "train", 8, 3, None, 12, seed=0)
    used = [(video.video_id, frame) for video, start in chosen for frame in range(start, start + 22)]
    assert len(used) == len(set(used)) == 12 * 22
    assert all(start + 22 <= video.frames for video, start in chosen)


def test_windows_are_spread_evenly(catalogue):
    """One of every video that has any, then a second of every video that has two, ..."""
    ids = [video.video_id for video, _ in real_windows(catalogue, "train", 8, 3, None, 12, seed=0)]
    turns = [ids[:4], ids[4:7], ids[7:9], ids[9:]]
    assert [Counter(turn) for turn in turns] == [
        Counter(["train0", "train1", "train2", "train4"]),
        Counter(["train0", "train2", "train4"]),
        Counter(["train0", "train4"]),
        Counter({"train4": 3}),
    ]


def test_the_seed_decides_and_fewer_are_the_first_of_more(catalogue):
    everything = real_windows(catalogue, "train+heldout", 8, 3, None, 16, seed=5)
    assert real_windows(catalogue, "train+heldout", 8, 3, None, 7, seed=5) == everything[:7]
    assert len({str(real_windows(catalogue, "train", 8, 3, None, 6, seed)) for seed in range(5)}) > 1


def test_too_few_windows_say_what_to_change(catalogue):
    with pytest.raises(ValueError) as caught:
        real_windows(catalogue, "train", 8, 3, 2, 20, seed=0)
    for part in (
        "got 7",
        "20 are wanted, 13 are missing",
        "without a cap: 12",
        "train+heldout (9)",
        "at most 7",
    ):
        assert part in str(caught.value)
    assert len(real_windows(catalogue, "train", 8, 3, 2, 7, seed=0)) == 7


def test_the_window_has_the_frames_it_names(tmp_path, counting_frames):
    """Frame t is grey level 3 t: start 5, interval 2."""
    path = write_video(tmp_path / "a.mkv", counting_frames(20), 25, lossless=True)
    video = VideoEntry("a", path, "a", None, None, "train", 20)
    window = load_window(video, 5, 4, 2, 16)
    assert window.shape == (4, 16, 16, 3) and window.dtype == np.uint8
    assert [np.unique(frame).tolist() for frame in window] == [[15], [21], [27], [33]]
