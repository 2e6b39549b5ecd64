"""overview.webp: clips come back from the kept pictures as they were, and stand in the lines where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from lavita.data.clip_folder import write_sprite
from lavita.report.overview import CLIPS, clips_of, drawn
from lavita.report.page.clips import read_sprite


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("clips", [1, 3, 8, 10])
def test_clips_come_back_from_a_kept_picture(tmp_path, clips):
    wanted = noise(clips, 3, 16, 16, 3)
    write_sprite(tmp_path, "samples", wanted)
    sprite = read_sprite(tmp_path, "samples")
    assert sprite.lossless
    np.testing.assert_array_equal(clips_of(sprite), wanted)


def test_each_line_shows_its_clips_and_the_shorter_one_stays_on_its_last_frame():
    real, made = noise(CLIPS, 4, 32, 32, 3), noise(CLIPS, 2, 32, 32, 3)
    frames = drawn([("real", real), ("dit-joint, a long name", made)])
    room = frames.shape[2] - CLIPS * 66 - 2  # of the names
    assert frames.shape[:2] == (4, 2 * (2 + 64 + 2)) and room > 22 * 5
    for frame in range(4):
        for line, clips in enumerate((real, made)):
            for number in range(CLIPS):
                top, left = line * 68 + 2, room + 2 + number * 66
                shown = frames[frame, top : top + 64 : 2, left : left + 64 : 2]
                np.testing.assert_array_equal(shown, clips[number, min(frame, clips.shape[1] - 1)])
    for line in (frames[:, :68, :room], frames[:, 68:, :room]):
        dark = (line < 128).any(axis=(0, 1, 3))
        assert dark.any() and not dark[-4:].any()  # a name, which is not cut off
