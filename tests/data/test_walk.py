"""Which files and folders are clips: links, rubbish, other containers, and names that are no text."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lavita.data.layouts import list_dataset, read_layout
from lavita.data.trees import RUBBISH, find_videos
from lavita.data.video import write_video
from lavita.metrics.clips import clip_items
from tests.fuzzing import fuzzed


def video(path: Path, level: int) -> Path:
    return write_video(path, np.full((5, 16, 16, 3), level, np.uint8), 8, lossless=False)


def split_tree(root: Path, *splits: str) -> Path:
    for number, split in enumerate(splits):
        for clip in range(2):
            video(root / split / f"v{number}{clip}.mp4", 40 * (2 * number + clip))
    return root


TREES = {
    "skytimelapse": ("sky_train", "sky_test"),
    "taichi": ("frames/train", "frames/test"),
    "faceforensics": ("train/videos", "test/videos"),
}


@pytest.mark.parametrize("dataset", TREES)
@pytest.mark.parametrize("linked", ["split", "above", "file", "root"])
def test_a_linked_tree_is_the_same_data_set(tmp_path, dataset, linked):
    """Case symlinked-splits: paths below the root and the fingerprint are those of a tree without links."""
    root = split_tree(tmp_path / "plain", *TREES[dataset])
    plain = read_layout(dataset, root)
    elsewhere = tmp_path / "elsewhere"
    name = {"split": TREES[dataset][0], "above": TREES[dataset][0].split("/")[0], "root": "", "file": ""}[linked]
    place = root / name if linked != "file" else root / TREES[dataset][0] / "v00.mp4"
    shutil.move(place, elsewhere)
    place.symlink_to(elsewhere)
    again = read_layout(dataset, root)
    assert again.fingerprint == plain.fingerprint
    assert [one.video_id for one in again.videos] == [one.video_id for one in plain.videos]
    assert all(Path(one.path).is_relative_to(again.root) for one in again.videos)


def test_linked_videos_and_lists_of_ucf101(ucf101_tree, tmp_path):
    """Case symlinked-splits, as it was met: UCF-101 is a link."""
    plain = read_layout("ucf101", ucf101_tree)
    for name in ("UCF-101", "ucfTrainTestlist"):
        shutil.move(ucf101_tree / name, tmp_path / f"elsewhere-{name}")
        (ucf101_tree / name).symlink_to(tmp_path / f"elsewhere-{name}")
    again = read_layout("ucf101", ucf101_tree)
    assert again.fingerprint == plain.fingerprint
    assert [Path(one.path).relative_to(again.root) for one in again.videos] == [
        Path(one.path).relative_to(plain.root) for one in plain.videos
    ]


def test_a_link_back_is_passed_over(tmp_path):
    video(tmp_path / "a" / "b" / "v.mp4", 1)
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "top").symlink_to(tmp_path)
    assert find_videos(tmp_path).videos == [str(tmp_path / "a" / "b" / "v.mp4")]


@pytest.mark.parametrize("rubbish", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "#recycle"])
def test_rubbish_is_no_clip_and_no_part_of_a_data_set(tmp_path, rubbish):
    """Case foreign-folders: in scoring, in prepare's count, and in the fingerprint."""
    root = split_tree(tmp_path, *TREES["skytimelapse"])
    plain = read_layout("skytimelapse", root).fingerprint
    (root / "sky_train" / rubbish / "v00.mp4").mkdir(parents=True)
    (root / "sky_train" / rubbish / "._v00.mp4").touch()
    Image.new("RGB", (8, 8)).save(root / "sky_train" / rubbish / "v00.mp4" / "SYNOPHOTO_THUMB.jpg")
    (root / "sky_train" / "Thumbs.db").touch()
    listing = list_dataset("skytimelapse", root)
    assert len(listing.items) == 4 and listing.passed_over == ""
    assert read_layout("skytimelapse", root).fingerprint == plain
    said: list[str] = []
    assert [one.name for one in clip_items(root / "sky_train", said.append)] == ["v00", "v01"] and not said


def test_what_is_no_clip_is_counted_and_named_once(tmp_path):
    """Case foreign-folders: a folder of texts, another container, pictures beside the clips."""
    for number in range(2):
        video(tmp_path / f"g{number}.mp4", number)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "g0.txt").touch()
    for name in ("g2.mov", "g3.MOV", "notes", "grid.png"):
        (tmp_path / name).touch()
    said: list[str] = []
    assert [one.name for one in clip_items(tmp_path, said.append)] == ["g0", "g1"]
    (line,) = said
    for part in (
        "5 files",
        ".mov 2",
        ".txt 1",
        ".png 1",
        "no suffix 1",
        "1 folder without pictures or videos",
        "captions",
    ):
        assert part in line
    with pytest.raises(ValueError, match="no clips; wanted .*, found 1 file"):
        clip_items(tmp_path / "captions")


def test_the_top_folder_of_a_data_set_is_scored_without_its_lists(ucf101_tree):
    said: list[str] = []
    assert len(clip_items(ucf101_tree, said.append)) == 4
    assert len(said) == 1 and "ucfTrainTestlist" in said[0]


def test_an_empty_folder_of_a_data_set_is_named(tmp_path):
    """So that a copy gone wrong does not look like a smaller data set."""
    root = split_tree(tmp_path, *TREES["skytimelapse"])
    (root / "sky_train" / "lost").mkdir()
    (root / "sky_train" / "a.mov").touch()
    listing = list_dataset("skytimelapse", root)
    assert [one.video_id for one in listing.items if one.path.endswith("lost")] == ["lost"]
    assert listing.passed_over == "1 file (.mov 1; such as sky_train/a.mov)"


NAMES = st.sampled_from(
    ["a.mp4", "b.MP4", "1.png", "2.jpg", "x.txt", "y", ".hidden.mp4", "__MACOSX", "@eaDir", "Thumbs.db", "sub", "deep"]
)


@fuzzed(60)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12))
def test_every_file_is_a_video_a_frame_or_named(tmp_path_factory, paths):
    """Nothing vanishes: each visible file is taken, a frame of what was taken, or among the others."""
    root = tmp_path_factory.mktemp("tree")
    for parts in paths:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            continue  # a file of that name is a folder there, or the other way round
    found = find_videos(root)
    videos, others = set(found.videos), set(found.others)
    for folder, folders, files in os.walk(root):
        folders[:] = [one for one in folders if not one.startswith(".") and one.lower() not in RUBBISH]
        for name in files:
            path = os.path.join(folder, name)
            if name.startswith(".") or name.lower() in RUBBISH:
                assert path not in videos | others
            elif name.lower().endswith((".png", ".jpg")) and folder != str(root):
                assert folder in videos
            else:
                assert (path in videos) != (path in others)
    assert not videos & set(found.empty) and found.passed_over(root).count("\n") == 0
