"""sanity.py on small trees: the real-vs-real baseline, corruptions, other sets, halves that share no video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.data.catalogue import VideoEntry
from lavita.data.video import write_video
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain
from lavita.metrics.sanity import halved_by, halvings


@pytest.fixture
def call(script):
    return script("sanity")


@pytest.fixture
def trees(tmp_path):
    """Five held-out videos of 20 frames in one tree, three in another; an extractor that was never trained."""
    rng = np.random.default_rng(0)
    for folder, count in (("one", 5), ("other", 3)):
        for split, videos in (("train", 2), ("test", count)):
            for number in range(videos):
                frames = rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
                write_video(tmp_path / folder / split / f"{split}{number}.mkv", frames, 25, lossless=True)
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(None), {}), tmp_path / "net.safetensors")
    return tmp_path


def test_a_table_with_every_row(call, trees):
    setting = ["--resolution", 16, "--frames", 8, "--extractor", trees / "net.safetensors"]
    done = call("faceforensics", trees / "one", "--other", f"taichi={trees}/other", *setting)
    assert done.code == 0, done.err
    assert "10 windows of 5 held-out videos, without sharing a frame" in done.out and "5 clips a side" in done.out
    for row in ("(real vs real)", "shuffled", "static", "blurred", "swapped", "half frozen", "clips of taichi"):
        assert row in done.out
    by_video = call("faceforensics", trees / "one", *setting, "--by-video", "--hop", 4)
    # 20 frames hold 4 windows of 8 at a hop of 4; two of five videos are 8 windows a half.
    assert by_video.code == 0 and "20 windows of 5" in by_video.out and "8 clips a side" in by_video.out


def test_wrong_arguments_are_one_line(call, trees):
    for arguments, words in (
        (["sky", trees], "DATASET: got 'sky'"),
        (["faceforensics", trees / "one", "--other", "taichi"], "wanted DATASET=ROOT"),
        (["faceforensics", trees / "one", "--frames", 0], "--frames: got 0"),
        (["faceforensics", trees / "gone"], "no such folder"),
    ):
        done = call(*arguments)
        assert done.code == 2 and words in done.err and "Traceback" not in done.err


def test_mirrored_copies_of_a_video_stay_in_one_half():
    def windows(groups):
        return [(VideoEntry(f"v{number}", "", group, None, None, "heldout"), 0) for number, group in enumerate(groups)]

    words, groups = halved_by(windows(["anna", "anna", "ben", "eva", "eva", "ida"]))
    assert "no group" in words and groups == ["anna", "anna", "ben", "eva", "eva", "ida"]
    # Three groups can't fill two halves of two.
    words, groups = halved_by(windows(["anna", "ben", "eva", "eva"]))
    assert "no video" in words and groups == ["v0", "v1", "v2", "v3"]


def test_halves_are_equal_and_share_no_group():
    groups = ["a"] * 5 + ["b"] * 2 + ["c"] * 3 + ["d"] * 4 + ["e"]
    pairs = list(halvings(15, 30, np.random.default_rng(0), groups))
    sizes = {len(side) for pair in pairs for side in pair}
    assert sizes == {3}  # the smallest two groups together: b and e
    for a, b in pairs:
        assert not {groups[i] for i in a} & {groups[i] for i in b}
    plain = list(halvings(15, 5, np.random.default_rng(0)))
    assert all(len(a) == len(b) == 7 and not set(a) & set(b) for a, b in plain)
