"""Synthetic data: read back by the same layouts as real data, the same bytes each time, written whole or not
at all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lavita.data import synthetic
from lavita.data.clips import real_windows
from lavita.data.synthetic import MARKER, PLANS, write_synthetic
from lavita.data.video import probe, read_frames

COUNTS = {
    "ucf101": (48, 16, 72),
    "skytimelapse": (48, 12, 32),
    "faceforensics": (48, 12, 72),
    "taichi": (48, 12, 72),
}


@pytest.mark.parametrize("dataset", COUNTS)
def test_each_set_reads_back_in_its_own_layout(synthetic_catalogue, dataset):
    catalogue = synthetic_catalogue(dataset)
    num_train, num_heldout, frames = COUNTS[dataset]
    assert (len(catalogue.split("train")), len(catalogue.split("heldout"))) == (num_train, num_heldout)
    assert PLANS[dataset].frames == frames
    assert {video.frames for video in catalogue.videos} == {24 if dataset in ("faceforensics", "taichi") else frames}
    assert len({video.sha256 for video in catalogue.videos}) == len(catalogue.videos)
    info = probe(catalogue.videos[0].path)
    assert (info.width, info.height) == (64, 64)
    assert len(real_windows(catalogue, "heldout", 8, 3, None, num_heldout, seed=0)) == num_heldout


def test_ucf101_has_as_many_videos_of_each_class(synthetic_catalogue):
    catalogue = synthetic_catalogue("ucf101")
    for split, wanted in (("train", 12), ("heldout", 4)):
        classes = [video.class_index for video in catalogue.split(split)]
        assert np.bincount(classes).tolist() == [wanted] * 4
    assert len(catalogue.class_names) == 4


@pytest.mark.parametrize("dataset", COUNTS)
def test_everything_moves(synthetic_catalogue, dataset):
    """In 6 frames more than 4 % of all blocks of 8 x 8 pixels change by over 8 levels on the mean: noise, of 8 levels
    at most, changes such a mean by 1.4.
    """
    for video in synthetic_catalogue(dataset).videos[::9]:
        frames = read_frames(video.path, [0, 6]).astype(float)
        first, later = frames.reshape(2, 8, 8, 8, 8, 3).mean(axis=(2, 4))
        assert (np.abs(first - later).max(-1) > 8).mean() > 0.04


@pytest.fixture
def small_plans(monkeypatch):
    """Two videos a split of 4 frames each."""
    small = {
        name: replace(
            plan,
            scenes=dict(list(plan.scenes.items())[:2]),
            groups={"train": range(1, 3), "test": range(3, 5)},
            clips_per_group=1,
            frames=4,
        )
        for name, plan in PLANS.items()
    }
    monkeypatch.setattr(synthetic, "PLANS", small)


def contents(root) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dataset", COUNTS)
def test_the_same_bytes_each_time(small_plans, tmp_path, dataset):
    first = contents(write_synthetic(dataset, tmp_path / "a"))
    assert first == contents(write_synthetic(dataset, tmp_path / "b")) and len(first) > 4


def test_a_complete_folder_is_left_alone(small_plans, tmp_path, monkeypatch):
    root = write_synthetic("taichi", tmp_path)
    monkeypatch.setattr(synthetic, "_write_all", None)
    assert write_synthetic("taichi", tmp_path) == root


def test_an_older_version_is_replaced(small_plans, tmp_path):
    root = write_synthetic("taichi", tmp_path)
    wanted = contents(root)
    (root / MARKER).write_text("0")
    (root / "left over").write_text("")
    assert contents(write_synthetic("taichi", tmp_path)) == wanted


def test_an_interrupted_writing_leaves_nothing(small_plans, tmp_path, monkeypatch):
    written = []

    def stop(*_, **__):
        written.append(1)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_video", stop)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic("ucf101", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_touched(small_plans, tmp_path):
    (tmp_path / "taichi").mkdir()
    (tmp_path / "taichi" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        write_synthetic("taichi", tmp_path)
    assert contents(tmp_path / "taichi") == {"mine.txt": b"mine"}


def test_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match="synthetic data exist for"):
        write_synthetic("kinetics", tmp_path)
