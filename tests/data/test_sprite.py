"""Sprites: every frame lies where the description says, small clips lose nothing, large and long ones fit."""

import json

import numpy as np
import pytest
from PIL import Image

from lavita.data import clip_folder
from lavita.data.clip_folder import GAP, LONGEST_SIDE, MOST_BYTES, frames_in_one, write_sprite


def written(folder, clips, **options):
    write_sprite(folder, "made", clips, **options)
    facts = json.loads((folder / "made.sprite.json").read_text())
    return np.asarray(Image.open(folder / facts["picture"]).convert("RGB")), facts


def frame_of(picture, facts, number):
    """Frame `number` of the grid, cut out as the description says."""
    left, top = number // facts["down"] * facts["width"], number % facts["down"] * facts["height"]
    return picture[top : top + facts["height"], left : left + facts["width"]]


def test_a_small_grid_is_kept_without_loss(tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8, 3), dtype=np.uint8)
    picture, facts = written(tmp_path, clips, columns=2)
    assert facts["lossless"] and (facts["clips"], facts["frames"], facts["clip_size"]) == (5, 3, [6, 8])
    for frame in range(3):
        grid = frame_of(picture, facts, frame)
        for clip in range(5):
            top, left = GAP + clip // 2 * (6 + GAP), GAP + clip % 2 * (8 + GAP)
            np.testing.assert_array_equal(grid[top : top + 6, left : left + 8], clips[clip, frame])


def test_the_same_clips_give_the_same_bytes(tmp_path):
    clips = np.random.default_rng(1).integers(0, 256, (2, 2, 8, 8, 3), dtype=np.uint8)
    for name in ("a", "b"):
        write_sprite(tmp_path / name, "made", clips)
    assert (tmp_path / "a/made.sprite.webp").read_bytes() == (tmp_path / "b/made.sprite.webp").read_bytes()


def test_large_clips_are_scaled_down_and_stay_within_the_size(tmp_path):
    clips = np.random.default_rng(2).integers(0, 256, (16, 8, 160, 80, 3), dtype=np.uint8)  # noise: the worst case
    picture, facts = written(tmp_path, clips)
    assert not facts["lossless"] and facts["clip_size"] == [160, 80]
    assert (tmp_path / "made.sprite.webp").stat().st_size <= MOST_BYTES
    assert facts["height"] <= 4 * (128 + GAP) + GAP and picture.shape[0] == facts["height"] * facts["down"]


def test_scaling_keeps_the_picture(tmp_path):
    clips = np.zeros((1, 2, 200, 200, 3), np.uint8)
    clips[0, 0, :, 100:] = 250  # the right half is bright in the first frame only
    picture, facts = written(tmp_path, clips)
    first, second = (frame_of(picture, facts, number)[64].astype(int) for number in (0, 1))
    assert first[20].max() < 10 and first[110].min() > 240 and second[110].max() < 10


@pytest.mark.parametrize(("count", "across"), [(31, 1), (32, 2), (128, 5)])
def test_long_clips_go_into_several_columns(count, across):
    """Grids of 522 pixels, as 4 x 4 clips of 128 make: 31 of them fit below each other."""
    frames = np.zeros((count, 522, 2, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    picture, facts = frames_in_one(frames)
    assert facts["across"] == across and picture.shape[0] <= LONGEST_SIDE
    assert [frame_of(picture, facts, n)[0, 0, 0] for n in range(count)] == list(range(count))
    assert frame_of(picture, facts, facts["across"] * facts["down"] - 1)[0, 0, 0] == count - 1  # the last one is held


def test_no_clips_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="0 clips"):
        write_sprite(tmp_path, "made", np.zeros((0, 2, 8, 8, 3), np.uint8))
    assert not list(tmp_path.iterdir()) and clip_folder.FPS == 8
