"""The lossless folder of clips and the pictures to look at."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from lavita.data.clip_folder import iterate_clips, read_clips, read_manifest, write_clips, write_grid
from lavita.data.video import probe, read_frames, write_video


def clips(count=3, frames=5, height=18, width=14, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, height, width, 3), dtype=np.uint8)


def test_every_pixel_comes_back(tmp_path):
    write_clips(tmp_path / "c", (clip for clip in clips()), sidecar={"seeds": [7, 8, 9], "classes": None, "steps": 25})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "000000.mkv", "000001.mkv", "000002.mkv", "clips.json",
    ]  # fmt: skip
    assert np.array_equal(read_clips(tmp_path / "c"), clips())
    manifest = read_manifest(tmp_path / "c")
    assert manifest["num_clips"] == 3 and manifest["sidecar"] == {"steps": 25}
    assert [(entry["seed"], entry["class"]) for entry in manifest["clips"]] == [
        (7, None),
        (8, None),
        (9, None),
    ]
    content = (tmp_path / "c" / "000001.mkv").read_bytes()
    assert manifest["clips"][1]["sha256"] == hashlib.sha256(content).hexdigest()


def test_clips_are_read_in_the_order_of_their_names(tmp_path):
    write_clips(tmp_path, clips(), ["b", "c", "a"])
    assert np.array_equal(np.stack(list(iterate_clips(tmp_path))), clips()[[2, 0, 1]])


def test_a_folder_cut_short_is_not_taken_for_a_result_and_can_be_written_again(tmp_path):
    def breaks():
        yield clips()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(tmp_path, breaks())
    with pytest.raises(ValueError, match="no clips.json, so this is no finished folder"):
        read_clips(tmp_path)
    write_clips(tmp_path, clips())
    assert np.array_equal(read_clips(tmp_path), clips())
    with pytest.raises(ValueError, match="holds finished clips"):
        write_clips(tmp_path, clips())


def test_holes_strays_and_changed_files_are_found(tmp_path):
    write_clips(tmp_path, clips())
    moved = (tmp_path / "000001.mkv").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match="1 of 3 clips are missing, first 000001.mkv"):
        read_clips(tmp_path)
    moved.rename(tmp_path / "000001.mkv")
    write_video(tmp_path / "000009.mkv", clips()[0], 8, lossless=True)
    with pytest.raises(ValueError, match="000009.mkv and 0 more are not of this set"):
        read_clips(tmp_path)
    (tmp_path / "000009.mkv").unlink()
    write_video(tmp_path / "000002.mkv", clips()[0], 8, lossless=True)
    with pytest.raises(ValueError, match="000002.mkv: is not the file that was written"):
        read_clips(tmp_path)


def test_a_manifest_that_states_another_size_is_found(tmp_path):
    write_clips(tmp_path, clips())
    manifest = json.loads((tmp_path / "clips.json").read_text())
    (tmp_path / "clips.json").write_text(json.dumps(manifest | {"shape": [5, 18, 16, 3]}))
    with pytest.raises(ValueError, match=r"got shape \(5, 18, 14, 3\)"):
        read_clips(tmp_path)


def test_threads_write_the_bytes_that_one_alone_does(tmp_path):
    made = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 24, 3), dtype=np.uint8)
    folder = write_clips(tmp_path / "together", iter(made))
    for entry, clip in zip(read_manifest(folder)["clips"], made, strict=True):
        alone = write_video(tmp_path / entry["file"], clip, 8.0, lossless=True)
        assert (folder / entry["file"]).read_bytes() == alone.read_bytes()
        assert entry["sha256"] == hashlib.sha256(alone.read_bytes()).hexdigest()


def test_sets_that_do_not_fit_are_refused_before_they_count_as_finished(tmp_path):
    mixed = [clips()[0], clips(width=16)[0]]
    for made, names, sidecar, message in (
        (mixed, None, None, "clip 1: got shape"),
        (clips(), ["a", "b"], None, "names: got 2, there are more clips"),
        (clips(), ["a", "b", "c", "d"], None, "names: got 4 for 3 clips"),
        (clips(), ["a", "b", "a"], None, "two clips have one name"),
        (clips(), ["a", "b", "../c"], None, "names: got '../c'"),
        (clips(), None, {"seeds": [1]}, "seeds: got 1 for 3 clips"),
        (clips().astype(np.float32), None, None, "dtype"),
        ([], None, None, "no clips"),
    ):
        with pytest.raises(ValueError, match=message):
            write_clips(tmp_path / message[:9].replace(" ", ""), made, names, sidecar)
    assert not list(tmp_path.rglob("clips.json"))


def test_the_still_sheet_has_a_row_a_clip_and_a_column_a_frame(tmp_path):
    made = clips(2, 3, 64, 64)
    sheet = np.asarray(Image.open(write_grid(tmp_path / "sheet.png", made)))
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert np.array_equal(sheet[68:132, 134:198], made[1, 2])
    assert (sheet[:2] == 255).all() and (sheet[:, 66:68] == 255).all()


def test_small_clips_are_magnified_by_a_whole_factor(tmp_path):
    made = clips(1, 4, 32, 32)
    sheet = np.asarray(Image.open(write_grid(tmp_path / "sheet.png", made)))
    assert np.array_equal(sheet[2:66:2, 2:66:2], made[0, 0]) and np.array_equal(sheet[3:66:2, 3:66:2], made[0, 0])


def test_moving_grids_have_the_clips_frames(tmp_path):
    made = clips(5, 6, 64, 64)
    gif = Image.open(write_grid(tmp_path / "grid.gif", made, columns=2, fps=8))
    assert (gif.n_frames, gif.size) == (6, (2 * 66 + 2, 3 * 66 + 2))
    path = write_grid(tmp_path / "grid.mp4", made, columns=2)
    assert probe(path).frames == 6 and read_frames(path, [5]).shape == (1, 200, 134, 3)
    with pytest.raises(ValueError, match="allowed: .gif, .mp4, .png"):
        write_grid(tmp_path / "grid.webp", made)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["grid.gif", "grid.mp4"]
