"""Corrupted clips are what their names say."""

import numpy as np
import pytest
import scipy.ndimage

from lavita.metrics import corruptions


def random_clip(frames=8, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)


def rows(clip):
    return sorted(frame.tobytes() for frame in clip)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
@pytest.mark.parametrize("frames, size", [(4, 16), (8, 32), (9, 20)])
def test_every_change_keeps_shape_and_dtype_changes_the_clip_and_repeats(name, frames, size):
    clips = np.stack([random_clip(frames, size, seed) for seed in range(3)])
    made = corruptions.corrupt_clips(name, clips, seed=5)
    assert made.shape == clips.shape and made.dtype == np.uint8
    assert all(not np.array_equal(a, b) for a, b in zip(made, clips, strict=True))
    assert np.array_equal(made, corruptions.corrupt_clips(name, clips, seed=5))
    # A clip's change does not depend on the clips before or after it in the set.
    assert np.array_equal(made[:1], corruptions.corrupt_clips(name, clips[:1], seed=5))


def test_shuffling_keeps_the_frames_and_never_gives_an_order_kept_out_of_training():
    clip = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    orders = {tuple(corruptions.shuffled(clip, np.random.default_rng(i))[:, 0, 0, 0]) for i in range(600)}
    # 24 orders less the true one, its reverse and the neighbour swap; 600 draws miss one of 21 with chance 21
    # * 4e-13.
    assert len(orders) == 21
    assert not orders & {(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)}
    assert rows(corruptions.shuffled(random_clip(), np.random.default_rng(0))) == rows(random_clip())


def test_changes_in_time_take_these_frames():
    clip, rng = random_clip(5), np.random.default_rng(0)
    for change, order in (
        (corruptions.static, [0, 0, 0, 0, 0]),
        (corruptions.slowed, [0, 0, 1, 1, 2]),
        (corruptions.swapped, [1, 0, 3, 2, 4]),
        (corruptions.half_frozen, [0, 1, 2, 2, 2]),
    ):
        assert np.array_equal(change(clip, rng), clip[order])


def test_blur_is_scipys_gaussian():
    clip = random_clip(2, 24)
    wanted = scipy.ndimage.gaussian_filter(clip.astype(float), (0, 1.3, 1.3, 0), mode="reflect", truncate=5)
    # Equal up to the rounding to whole grey levels (one half) and the tails cut at 4 or 5 sigma (255 * 1e-4).
    assert np.abs(corruptions.blur(clip, 1.3) - wanted).max() <= 0.5 + 0.05


def test_blur_scales_with_the_width():
    assert np.array_equal(corruptions.blurred(random_clip(2, 64), None), corruptions.blur(random_clip(2, 64), 1.5))
    assert np.array_equal(corruptions.blurred(random_clip(2, 32), None), corruptions.blur(random_clip(2, 32), 0.75))


def test_blocks_are_means():
    clip = random_clip(2, 10)
    made = corruptions.blocks(clip, 4)
    assert np.array_equal(
        made[1, 0:4, 4:8],
        np.rint(clip[1, 0:4, 4:8].astype(float).mean((0, 1)))[None, None].repeat(4, 0).repeat(4, 1),
    )
    assert np.array_equal(
        made[0, 8:, 8:],
        np.rint(clip[0, 8:, 8:].astype(float).mean((0, 1)))[None, None].repeat(2, 0).repeat(2, 1),
    )


def test_noise_has_the_deviation_asked_for():
    grey = np.full((8, 64, 64, 3), 128, np.uint8)
    made = corruptions.add_noise(grey, 16, np.random.default_rng(0)).astype(float)
    # 98304 values: the deviation is known to 16 / sqrt(2 * 98304) = 0.036, rounding adds 1/12 to the variance
    # (0.003).
    assert made.std() == pytest.approx(16, abs=0.2) and made.mean() == pytest.approx(128, abs=0.3)


def test_an_unknown_change_is_refused():
    with pytest.raises(ValueError, match="'melted', allowed shuffled"):
        corruptions.corrupt_clips("melted", random_clip()[None], 0)
    with pytest.raises(ValueError, match="at least 3"):
        corruptions.shuffled(random_clip(2), np.random.default_rng(0))
