"""sanity.py on small trees: the floor, changes, other sets, halves that share no video."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita.data.video import write_video
from lavita.score.embedded import EmbeddedExtractor, EmbeddedNet, save_embedded
from lavita.score.sanity import halvings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(capsys):
    spec = importlib.util.spec_from_file_location("sanity_script", ROOT / "benchmarks" / "sanity.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*arguments: object) -> SimpleNamespace:
        try:
            code = script.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


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
    save_embedded(EmbeddedExtractor(EmbeddedNet(None), {}), tmp_path / "net.safetensors")
    return tmp_path


def test_a_table_with_every_row(call, trees):
    setting = ["--resolution", 16, "--frames", 8, "--extractor", trees / "net.safetensors"]
    done = call("faceforensics", trees / "one", "--other", f"taichi={trees}/other", *setting)
    assert done.code == 0, done.err
    assert "10 windows of 5 held-out videos, without sharing a frame" in done.out and "5 clips a side" in done.out
    for row in ("(the floor)", "shuffled", "still", "blurred", "swapped", "half frozen", "clips of taichi"):
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


def test_halves_are_equal_and_share_no_group():
    groups = ["a"] * 5 + ["b"] * 2 + ["c"] * 3 + ["d"] * 4 + ["e"]
    pairs = list(halvings(15, 30, np.random.default_rng(0), groups))
    sizes = {len(side) for pair in pairs for side in pair}
    assert sizes == {3}  # the smallest two groups together: b and e
    for a, b in pairs:
        assert not {groups[i] for i in a} & {groups[i] for i in b}
    plain = list(halvings(15, 5, np.random.default_rng(0)))
    assert all(len(a) == len(b) == 7 and not set(a) & set(b) for a, b in plain)
