"""Changes that the low-resolution discriminator sees, by hand and against torch's interpolation."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from lavita.baselines.long_video_gan.augmentation import (
    Changes,
    at_speed,
    augmented,
    coloured,
    cut_out,
    draw_changes,
    shifted,
)
from lavita.baselines.long_video_gan.averaging import average_decay
from lavita.diffusion.rng import SampleRNG

NOTHING = Changes(
    *(torch.full((2,), 0.5) for _ in range(3)), *(torch.zeros(2, dtype=torch.long) for _ in range(4)),
    octaves=torch.zeros(2), first=torch.zeros(2),
)  # fmt: skip


def clips(frames: int = 6) -> torch.Tensor:
    return torch.randn(2, frames, 3, 5, 8, generator=torch.Generator().manual_seed(0))


def changes(**values) -> Changes:
    return dataclasses.replace(NOTHING, **{key: torch.tensor(value) for key, value in values.items()})


def test_the_middle_of_every_draw_changes_nothing():
    # A pixel less its mean, plus it: one rounding each.
    assert torch.allclose(coloured(clips(), NOTHING), clips(), atol=1e-6)
    assert torch.equal(shifted(clips(), NOTHING), clips())
    assert torch.equal(at_speed(clips(), NOTHING), clips())


def test_colours_by_hand():
    x = torch.zeros(2, 1, 3, 1, 2)
    x[0, 0, :, 0, 0] = torch.tensor([1.0, 0.0, -1.0])
    y = coloured(x, changes(brightness=[1.0, 0.0], saturation=[1.0, 0.5], contrast=[0.0, 1.0]))
    # Brighter by a half, twice as far from grey, half as far from the clip's mean of a half.
    assert y[0, 0, :, 0].tolist() == [[1.5, 0.5], [0.5, 0.5], [-0.5, 0.5]]
    assert (y[1] == -0.5).all()


def test_a_shift_moves_pictures_and_leaves_black():
    x = clips()
    y = shifted(x, changes(rows=[1, -2], columns=[0, 3]))
    assert torch.equal(y[0, :, :, :-1], x[0, :, :, 1:]) and not y[0, :, :, -1].any()
    assert torch.equal(y[1, :, :, 2:, :-3], x[1, :, :, :-2, 3:])
    assert not y[1, :, :, :2].any() and not y[1, :, :, :, -3:].any()


def test_cut_out_is_half_of_each_side():
    x = torch.ones(2, 1, 1, 5, 8)
    y = cut_out(x, changes(cut_rows=[2, 0], cut_columns=[4, 0]))
    # 3 of 5 rows about the second, 4 of 8 columns from two before the fourth; at the edge what lies in the picture.
    assert (y[0, 0, 0] == 0).nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3, 4, 5)]
    assert (y[1, 0, 0] == 0).nonzero().tolist() == [[r, c] for r in (0, 1) for c in (0, 1)]


@pytest.mark.parametrize(("octaves", "first"), [(0.7, 2), (-0.6, -1), (-1.0, -3), (1.0, 0)])
def test_another_speed_is_torchs_interpolation(octaves, first):
    x = clips(8)
    y = at_speed(x, changes(octaves=[octaves] * 2, first=[float(first)] * 2))
    flat = x.permute(0, 2, 3, 4, 1).flatten(0, 3)[:, None]  # (B C H W, 1, F)
    scaled = functional.interpolate(flat, scale_factor=2**octaves, mode="linear", align_corners=False)
    scaled = scaled[:, 0].unflatten(0, (2, 3, 5, 8)).permute(0, 4, 1, 2, 3)
    expected = torch.zeros_like(x)
    for frame in range(8):
        if 0 <= frame + first < scaled.shape[1]:
            expected[:, frame] = scaled[:, frame + first]
    assert torch.allclose(y, expected, atol=1e-5)


def test_draws_are_in_their_ranges():
    drawn = draw_changes(SampleRNG(range(2000)), frames=8, height=5, width=8)
    assert set(drawn.rows.tolist()) == set(drawn.columns.tolist()) == set(range(-2, 3))
    assert set(drawn.cut_rows.tolist()) == set(range(5))  # 3 rows, an odd number
    assert set(drawn.cut_columns.tolist()) == set(range(9))  # 4 columns, an even one
    assert -1 <= drawn.octaves.min() < -0.95 and 0.95 < drawn.octaves.max() <= 1
    missing = 8 - (8 * 2**drawn.octaves).floor()
    assert (drawn.first * missing <= 0).all() and (drawn.first.abs() <= missing.abs()).all()
    whole = drawn.octaves < math.log2(5 / 8)  # 3 or 4 frames of 8: 4 or 5 places
    assert set(drawn.first[whole & (missing == 4)].tolist()) == {0.0, -1.0, -2.0, -3.0, -4.0}


def test_a_clip_is_changed_alone_as_beside_others_and_differentiably():
    x = clips().requires_grad_()
    drawn = draw_changes(SampleRNG([5, 6]), 6, 5, 8)
    y = augmented(x, drawn)
    alone = augmented(x[1:], Changes(*(value[1:] for value in vars(drawn).values())))
    assert torch.equal(alone[0], y[1])
    y.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_the_averages_half_life_grows_to_that_of_its_decay():
    assert average_decay(0) == pytest.approx(0.5 ** (25001 / 4620.6), rel=1e-4)
    assert average_decay(25000) == pytest.approx(0.99985, abs=1e-9)
    assert average_decay(100_000) == 0.99985
