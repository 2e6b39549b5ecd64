"""Catalogues of small hand-made trees, their messages, and the synthetic and real sets."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.layouts import list_dataset, read_layout
from lavita.data.trees import LayoutError
from lavita.data.video import write_video


def write_pictures(folder, seed, count=4):
    folder.mkdir(parents=True)
    for number, frame in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg")


def test_ucf101_catalogue(ucf101_tree):
    catalogue = read_layout("ucf101", ucf101_tree)
    seen = [(v.video_id, v.group, v.class_name, v.class_index, v.split, v.frames) for v in catalogue.videos]
    assert seen == [
        ("v_Bend_g01_c01", "Bend/g01", "Bend", 0, "train", 5),
        ("v_Wave_g01_c01", "Wave/g01", "Wave", 1, "train", 6),
        ("v_Bend_g02_c01", "Bend/g02", "Bend", 0, "heldout", 7),
        ("v_Wave_g02_c01", "Wave/g02", "Wave", 1, "heldout", 8),
    ]
    assert catalogue.class_names == ("Bend", "Wave")
    assert [len(catalogue.split(name)) for name in ("train", "heldout", "train+heldout")] == [2, 2, 4]
    lines = sorted(
        f"{v.video_id} {hashlib.sha256(Path(v.path).read_bytes()).hexdigest()} {v.split}\n" for v in catalogue.videos
    )
    assert catalogue.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
    with pytest.raises(ValueError, match="allowed: train, heldout"):
        catalogue.split("test")


def test_top_folder_and_other_formats_are_accepted(ucf101_tree):
    whole = read_layout("ucf101", ucf101_tree)
    assert read_layout("ucf101", ucf101_tree / "UCF-101").fingerprint == whole.fingerprint
    clip = ucf101_tree / "UCF-101" / "Bend" / "v_Bend_g01_c01.avi"
    clip.unlink()
    write_pictures(clip.with_suffix(""), 0)
    assert read_layout("ucf101", ucf101_tree).videos[0].frames == 4


@pytest.mark.parametrize("top", ["", "sky_timelapse/"])
def test_skytimelapse_groups_are_the_videos(tmp_path, top):
    for number, clip in enumerate(("sky_train/a/a_1", "sky_train/a/a_2", "sky_train/b/b_1", "sky_test/c/c_1")):
        write_pictures(tmp_path / top / clip, number)
    videos = read_layout("skytimelapse", tmp_path).videos
    assert [(v.video_id, v.group, v.split, v.class_index) for v in videos] == [
        ("a/a_1", "a", "train", None),
        ("a/a_2", "a", "train", None),
        ("b/b_1", "b", "train", None),
        ("c/c_1", "c", "heldout", None),
    ]


VARIANTS = {
    "skytimelapse": {
        "sky_timelapse/sky_{}/yt1/yt1_2": "yt1",
        "sky_{}/yt1_2": "yt1",
        "{}/yt1/yt1_2": "yt1",
    },
    "taichi": {
        "taichi-256/frames/{}/abc#1#2": "abc",
        "taichi-256/{}/abc#1#2.mp4": "abc",
        "{}/abc#1#2": "abc",
    },
    "faceforensics": {
        "preprocess_ffs/{}/videos/face.mp4": "face",
        "preprocess_ffs/{}/face": "face",
        "{}/face.webm": "face",
        "{}/videos/face": "face",
    },
}


@pytest.mark.parametrize("dataset, path", [(name, path) for name, paths in VARIANTS.items() for path in paths])
@pytest.mark.parametrize("picture", [".jpg", ".png"])
def test_usual_variants(tmp_path, dataset, path, picture):
    """Nested and flat trees, files and folders of pictures, a folder that is named like a file."""
    for number, split in enumerate(("train", "test")):
        place = tmp_path / path.format(split).replace("yt1", f"yt{number + 1}").replace("abc", "abc" + "x" * number)
        place = place.with_name(place.name.replace("face", f"face{number}"))
        if place.suffix and "#" not in place.name:
            place.parent.mkdir(parents=True)
            place.write_bytes(b"never opened")
        else:
            place.mkdir(parents=True)
            (place / f"0000001{picture}").write_bytes(b"never opened")
    found = list_dataset(dataset, tmp_path).items
    assert [item.split for item in found] == ["train", "heldout"]
    assert found[0].group == VARIANTS[dataset][path].replace("face", "face0")


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_folds_of_ucf101(ucf101_tree, fold):
    """Fold 2 swaps the two performers, fold 3 has one video of each class in each split."""
    lists = ucf101_tree / "ucfTrainTestlist"
    first, second = (lists / f"{kind}list01.txt" for kind in ("train", "test"))
    (lists / "trainlist02.txt").write_text(second.read_text())
    (lists / "testlist02.txt").write_text(first.read_text())
    rows = (first.read_text() + second.read_text()).splitlines()
    (lists / "trainlist03.txt").write_text("\n".join(rows[::3]))
    (lists / "testlist03.txt").write_text("\n".join([rows[1], rows[2]]))
    catalogue = read_layout("ucf101", ucf101_tree, fold=fold)
    train = [video.video_id for video in catalogue.split("train")]
    wanted = {1: ["v_Bend_g01_c01", "v_Wave_g01_c01"], 2: ["v_Bend_g02_c01", "v_Wave_g02_c01"]}
    assert train == wanted.get(fold, ["v_Bend_g01_c01", "v_Wave_g02_c01"])


def test_folds_that_are_not_there(ucf101_tree, tmp_path):
    with pytest.raises(ValueError, match="data.fold: got 4 for ucf101, allowed 1 to 3"):
        read_layout("ucf101", ucf101_tree, fold=4)
    with pytest.raises(LayoutError, match="trainlist02.txt: no such file"):
        read_layout("ucf101", ucf101_tree, fold=2)
    with pytest.raises(ValueError, match="got 1 for taichi, allowed none"):
        read_layout("taichi", tmp_path, fold=1)


def test_the_nearest_known_layout_is_named(tmp_path):
    """One folder too high, one too low, a tree that is begun, and another data set's."""
    (tmp_path / "sets" / "mine" / "sky_train").mkdir(parents=True)
    for root, words in (
        (tmp_path / "sets" / "mine", "nearest known layout: skytimelapse (sky_train is there, sky_test is missing)"),
        (tmp_path / "sets", "found mine/\n"),
    ):
        with pytest.raises(LayoutError) as caught:
            list_dataset("skytimelapse", root)
        assert words in str(caught.value), str(caught.value)
    (tmp_path / "sets" / "mine" / "sky_test").mkdir()
    for root in (tmp_path / "sets", tmp_path / "sets" / "mine" / "sky_train"):
        with pytest.raises(LayoutError, match=rf"its tree begins at {tmp_path}/sets/mine: give that as the root"):
            list_dataset("skytimelapse", root)
    with pytest.raises(LayoutError, match="this looks like skytimelapse"):
        list_dataset("taichi", tmp_path / "sets" / "mine")


def test_copies_within_a_split_are_left_out_and_named(tmp_path):
    for number, name in enumerate(("train/a", "train/b", "test/c")):
        write_pictures(tmp_path / name, number)
    shutil.copytree(tmp_path / "train" / "b", tmp_path / "train" / "copy")
    catalogue = read_layout("faceforensics", tmp_path)
    assert [video.video_id for video in catalogue.videos] == ["a", "b", "c"]
    assert catalogue.left_out == "1 duplicate left out"
    assert catalogue.notes == ("train/copy: same content as train/b",)


def test_taichi_groups_are_the_source_videos(tmp_path):
    for number, clip in enumerate(("train/abc#10#90", "train/abc#95#200", "test/xyz#0#80")):
        write_pictures(tmp_path / "taichi-256" / "frames" / clip, number)
    for root in (tmp_path, tmp_path / "taichi-256"):
        videos = read_layout("taichi", root).videos
        assert [(v.group, v.split) for v in videos] == [
            ("abc", "train"),
            ("abc", "train"),
            ("xyz", "heldout"),
        ]


def test_a_source_video_in_both_splits_is_refused(tmp_path):
    for number, clip in enumerate(("train/abc#10#90", "test/abc#95#200")):
        write_pictures(tmp_path / "frames" / clip, number)
    with pytest.raises(LayoutError, match="same group 'abc'"):
        read_layout("taichi", tmp_path)


def test_a_copy_in_both_splits_is_refused(ucf101_tree):
    clips = ucf101_tree / "UCF-101" / "Bend"
    shutil.copy(clips / "v_Bend_g01_c01.avi", clips / "v_Bend_g02_c01.avi")
    with pytest.raises(LayoutError, match="same content"):
        read_layout("ucf101", ucf101_tree)


def test_one_id_twice_is_refused(tmp_path):
    for split in ("train", "test"):
        frames = np.full((4, 16, 16, 3), 90 * len(split) - 300, np.uint8)
        write_video(tmp_path / f"preprocess_ffs/{split}/videos/face.mp4", frames, 25, lossless=False)
    with pytest.raises(LayoutError, match="same video id 'face'"):
        read_layout("faceforensics", tmp_path)


def test_messages_for_what_is_not_there(tmp_path, ucf101_tree):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for dataset, root, words in (
        ("taichi", tmp_path / "nowhere", ["no such folder", "taichi-256/", "homepage"]),
        ("faceforensics", tmp_path / "empty", ["is empty", "preprocess_ffs/"]),
        ("skytimelapse", tmp_path / "file", ["not a folder", "sky_train/"]),
        (
            "skytimelapse",
            ucf101_tree,
            ["found UCF-101/, ucfTrainTestlist/", "this looks like ucf101", "sky_test/"],
        ),
    ):
        with pytest.raises(LayoutError) as caught:
            read_layout(dataset, root)
        message = str(caught.value).replace("https://github.com", "homepage")
        assert str(root) in message and all(word in message for word in words), message


def test_lists_and_files_must_agree(ucf101_tree):
    lists = ucf101_tree / "ucfTrainTestlist"
    full = (lists / "testlist01.txt").read_text()
    for text, words in (
        (full + "Bend/v_Bend_g03_c01.avi\n", "1 videos of trainlist01.txt and testlist01.txt have no file"),
        (full.splitlines()[0], "1 videos stand in neither"),
        (full + "Jump/v_Jump_g03_c01.avi\n", "Jump of v_Jump_g03_c01 does not stand in classInd.txt"),
        (full + "what is this\n", "line 3 is 'what is this'"),
        ("", "no heldout video|stand in neither"),
    ):
        (lists / "testlist01.txt").write_text(text)
        with pytest.raises(LayoutError, match=words):
            read_layout("ucf101", ucf101_tree)
    (lists / "testlist01.txt").unlink()
    with pytest.raises(LayoutError, match="no such file"):
        read_layout("ucf101", ucf101_tree)


def test_an_unreadable_video_stops_reading(ucf101_tree):
    path = ucf101_tree / "UCF-101" / "Wave" / "v_Wave_g01_c01.avi"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LayoutError, match=r"(?s)1 of 4 videos can't be read, 25.00%.*v_Wave_g01_c01.avi: truncated"):
        read_layout("ucf101", ucf101_tree)
    with pytest.raises(LayoutError, match="allows 24.00%"):
        read_layout("ucf101", ucf101_tree, max_unreadable=0.24)
    kept = read_layout("ucf101", ucf101_tree, max_unreadable=0.25)
    assert (len(kept.videos), kept.num_unreadable, kept.left_out) == (3, 1, "1 unreadable left out")
    assert kept.notes == (
        f"UCF-101/Wave/{path.name}: truncated: {path.stat().st_size} bytes of {path.stat().st_size + 100}",
    )


def catalogue_of(lengths: dict[str, tuple[int, ...]]) -> Catalogue:
    videos = [
        VideoEntry(f"{split}{i}", f"/data/{split}{i}", f"{split}{i}", None, None, split, frames)
        for split, counts in lengths.items()
        for i, frames in enumerate(counts)
    ]
    return Catalogue("taichi", "/data", tuple(videos), (), "f")


def test_short_videos_are_an_error_that_says_what_would_work():
    """32 frames hold 16 frames at interval 2 (span 31) and 11 at interval 3 (span 31), not more."""
    with pytest.raises(ValueError) as caught:
        catalogue_of({"train": (100, 32, 40), "heldout": (46,)}).long_enough(16, 3)
    for part in (
        "2 of 4",
        "46 frames",
        "/data/train1 with 32",
        "interval 2 with 16",
        "11 frames at interval 3",
    ):
        assert part in str(caught.value)


def test_short_videos_are_skipped_and_counted():
    catalogue = catalogue_of({"train": (100, 45, 46), "heldout": (46,)})
    kept = catalogue.long_enough(16, 3, "skip")
    assert [video.frames for video in kept.videos] == [100, 46, 46] and kept.num_skipped == 1
    assert kept.long_enough(16, 3) is kept and kept.fingerprint == catalogue.fingerprint
    with pytest.raises(ValueError, match="skipping leaves no heldout video"):
        catalogue.long_enough(17, 3, "skip")
    with pytest.raises(ValueError, match="allowed: error, skip"):
        catalogue.long_enough(16, 3, "ignore")


@pytest.mark.parametrize(
    "dataset, folder, counts, shortest, longest",
    [
        ("ucf101", "weizmann", (56, 16), 51, 146),
        ("ucf101", "ucf101", (1, 1), 79, 164),
        ("skytimelapse", "sky_timelapse", (40, 8), 32, 32),
        ("faceforensics", "faceforensics", (8, 2), 78, 160),
        ("taichi", "taichi", (15, 3), 64, 64),
    ],
)
def test_real_data_sets(shared, dataset, folder, counts, shortest, longest):
    catalogue = read_layout(dataset, shared(folder))
    assert (len(catalogue.split("train")), len(catalogue.split("heldout"))) == counts
    lengths = [video.frames for video in catalogue.videos]
    assert (min(lengths), max(lengths)) == (shortest, longest)


def test_listing_needs_no_torch():
    code = "import sys, lavita.data.layouts, lavita.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
