"""Frame choice, resize, range and the training draw, against brute force, a numpy resize and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lavita.data.clips import (
    centre_crop_resize,
    clip_indices,
    clip_starts,
    frame_indices,
    span,
    to_tensor,
    to_uint8,
    training_draw,
    window_starts,
)

RNG = np.random.default_rng(0)


def test_every_third_frame():
    assert frame_indices(5, 4, 3) == [5, 8, 11, 14] and span(4, 3) == 10
    assert frame_indices(0, 1, 3) == [0] and span(16, 3) == 46
    with pytest.raises(ValueError, match="got frames=0"):
        span(0, 3)


def published_clip(total: int, begin: int, frames: int, interval: int) -> list[int]:
    """The released rule step by step: TemporalRandomCrop of F k frames, then numbers spread evenly, cut to integers."""
    end = min(begin + frames * interval, total)
    return [int(begin + i * (end - 1 - begin) / (frames - 1)) for i in range(frames)]


def test_exact_and_published_frame_choice():
    assert clip_indices(5, 100, 4, 3) == [5, 8, 11, 14] and clip_starts(100, 4, 3) == 91
    assert [clip_starts(n, 16, 3) for n in (45, 46, 47)] == [0, 1, 2]
    # 16 frames at interval 3: 47 steps over 15 gaps, so two gaps of 4 and thirteen of 3.
    steps = np.diff(clip_indices(10, 200, 16, 3, "linspace"))
    assert sorted(steps) == [3] * 13 + [4] * 2
    for total in range(16, 120):
        starts = clip_starts(total, 16, 3, "linspace")
        assert starts == max(0, total - 48 - 1) + 1
        for begin in range(starts):
            chosen = clip_indices(begin, total, 16, 3, "linspace")
            assert chosen == published_clip(total, begin, 16, 3) and chosen[-1] < total
    assert clip_starts(15, 16, 3, "linspace") == 0
    # A video of exactly as many frames as a clip gives each of them once.
    assert clip_indices(0, 16, 16, 3, "linspace") == list(range(16))


@pytest.mark.parametrize("frames, interval", [(8, 3), (16, 1), (1, 4), (2, 7)])
def test_windows_share_no_frame_and_no_more_fit(frames, interval):
    length = span(frames, interval)
    for video_frames in range(0, 100):
        starts = window_starts(video_frames, frames, interval)
        used = [frame for start in starts for frame in range(start, start + length)]
        assert len(used) == len(set(used)) and all(frame < video_frames for frame in used)
        assert len(starts) == video_frames // length


def bicubic(row_count: int, size: int) -> np.ndarray:
    """Keys' cubic (a = -1/2), widened by the reduction, as a matrix (size, row_count) in float64."""
    scale = row_count / size
    width = max(scale, 1.0)
    weights = np.zeros((size, row_count))
    for i in range(size):
        for j in range(row_count):
            x = abs((j + 0.5 - (i + 0.5) * scale) / width)
            weights[i, j] = (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2
            weights[i, j] *= x < 2
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("height, width, resolution", [(48, 70, 32), (61, 40, 16), (20, 20, 32)])
def test_crop_and_resize_against_numpy(height, width, resolution):
    """Pillow keeps 8 bits between its two passes: half a level from the first pass, which the second can
    widen

    by the sum of its absolute weights (at most 1.3 for this cubic), half a level of its own, and one level at
    most for weights held as whole numbers: below 2.2.
    """
    frames = RNG.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[:, top : top + side, left : left + side].astype(float)
    matrix = bicubic(side, resolution)
    across = np.clip(np.einsum("iw,fhwc->fhic", matrix, square), 0, 255)
    wanted = np.clip(np.einsum("ih,fhwc->fiwc", matrix, across), 0, 255)
    got = centre_crop_resize(frames, resolution)
    assert got.dtype == np.uint8 and np.abs(got - wanted).max() < 2.2


def test_fine_patterns_become_grey():
    """A checkerboard of single pixels has no content below its own frequency: without antialiasing it would
    stay.
    """
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    small = centre_crop_resize(np.repeat(board[None, :, :, None], 3, 3), 32)
    assert np.abs(small[:, 4:-4, 4:-4].astype(int) - 127.5).max() < 3


def test_a_frame_of_the_right_size_is_unchanged():
    frames = RNG.integers(0, 256, (2, 32, 50, 3), dtype=np.uint8)
    assert np.array_equal(centre_crop_resize(frames, 32), frames[:, :, 9:41])
    with pytest.raises(ValueError, match="frames"):
        centre_crop_resize(frames.astype(np.float32), 32)


def test_all_levels_survive_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    video = to_tensor(levels)
    assert video.dtype == torch.float32 and video.shape == (1, 3, 16, 16)
    assert np.array_equal(to_uint8(video), levels)
    # x / 127.5 - 1 in float64, to one rounding of float32 at 2 (the quotient) and one at 1 (the difference).
    wanted = levels[..., 0].astype(float) / 127.5 - 1
    assert np.abs(video[:, 0].numpy() - wanted).max() <= 2**-23 + 2**-24
    assert (video.min(), video.max()) == (-1, 1)


def test_values_outside_are_clamped_and_rounded_to_the_nearest_level():
    video = torch.tensor([-9.0, -1.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, 9.0]).reshape(1, 1, 1, 6)
    assert to_uint8(video.expand(1, 3, 1, 6))[0, 0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((1, 3, 2, 2), math.nan))


STARTS = [1, 5, 30, 7, 2, 11]
RECORDED = [(4, 1, True), (2, 23, True), (0, 0, True), (5, 1, False)]  # clips 0, 1, 6 and 1000 of seed 0


def test_every_epoch_visits_every_video_once_in_its_own_order():
    orders = [[training_draw(3, e * 6 + i, STARTS, True)[0] for i in range(6)] for e in range(50)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 40  # of 720 orders; 50 draws repeat about 1.7 times


def test_draws_are_a_function_of_their_arguments():
    forwards = [training_draw(0, i, STARTS, True) for i in range(60)]
    backwards = [training_draw(0, i, STARTS, True) for i in reversed(range(60))][::-1]
    assert forwards == backwards
    assert forwards != [training_draw(1, i, STARTS, True) for i in range(60)]
    unmirrored = [training_draw(0, i, STARTS, False) for i in range(60)]
    assert unmirrored == [(position, start, False) for position, start, _ in forwards]


def test_recorded_draws():
    """A changed draw would silently change every training run; numpy fixes the bits of Philox for good."""
    assert [training_draw(0, i, STARTS, True) for i in (0, 1, 6, 1000)] == RECORDED


def test_starts_and_mirroring_are_uniform():
    """6000 draws, 1000 of each video: every count within 5 standard deviations of a fair one."""
    draws = [training_draw(7, i, STARTS, True) for i in range(6000)]
    for position, num_starts in enumerate(STARTS):
        counts = np.bincount([s for p, s, _ in draws if p == position], minlength=num_starts)
        share = 1 / num_starts
        assert len(counts) == num_starts
        assert np.abs(counts - 1000 * share).max() <= 5 * math.sqrt(1000 * share * (1 - share))
    assert abs(sum(mirrored for *_, mirrored in draws) - 3000) <= 5 * math.sqrt(6000 / 4)
    # Start and mirroring are independent: the same bound among the upper half of the starts of video 2.
    upper = [mirrored for p, s, mirrored in draws if p == 2 and s >= 15]
    assert abs(sum(upper) - len(upper) / 2) <= 5 * math.sqrt(len(upper) / 4)
