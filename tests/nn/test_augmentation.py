"""Augmentations where the result is known: the identity, flips, turns, whole-pixel shifts, colours, and their draws."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from lavita.diffusion.rng import SampleRNG
from lavita.nn.augmentation import BGC, PIPES, SYM6, AugmentConfig, Transforms, augment, draw_transforms

ONES = {"scale", "stretch", "contrast", "saturation"}
PAIRS = {"shift", "fraction", "cutout"}


def identity(batch: int) -> Transforms:
    """Transforms that leave clips as they are."""
    return Transforms(**{
        field.name: torch.full((batch, 2) if field.name in PAIRS else (batch,), float(field.name in ONES))
        for field in fields(Transforms)
    })  # fmt: skip


def smooth_clip(size: int = 24) -> torch.Tensor:
    """A clip (1, 2, 3, size, size) without detail, so that the wavelet filter keeps it."""
    grid = torch.linspace(-1, 1, size)
    waves = [torch.sin(2 * grid[:, None] + k) + torch.cos(1.5 * grid[None, :] - k) for k in range(6)]
    return torch.stack(waves).view(1, 2, 3, size, size)


# The wavelet is not quite symmetric: a picture of amplitude 2 differs by its skew for each axis that is mirrored.
SKEW = 0.02


@pytest.mark.parametrize("change, wanted, mirrored", [
    ({}, lambda x: x, 0),
    ({"flip": 1.0}, lambda x: x.flip(-1), 1),
    ({"turns": 1.0}, lambda x: x.rot90(1, (-2, -1)), 1),
    ({"turns": 2.0}, lambda x: x.flip(-1, -2), 2),
])  # fmt: skip
def test_flips_and_turns(change, wanted, mirrored):
    x = smooth_clip()
    transforms = replace(identity(1), **{name: torch.tensor([value]) for name, value in change.items()})
    error = (augment(x, BGC, transforms) - wanted(x))[..., 3:-3, 3:-3].abs().max()
    assert float(error) < mirrored * SKEW + 1e-5


def test_a_shift_moves_by_whole_pixels():
    x = smooth_clip()
    moved = augment(x, BGC, replace(identity(1), shift=torch.tensor([[0.125, -0.0625]])))  # 3 to the right, 1.5 -> 2 up
    expected = x.roll((-2, 3), (-2, -1))
    assert float((moved - expected)[..., 5:-5, 6:-6].abs().max()) < SKEW


def test_colours_by_hand():
    colours = AugmentConfig(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
    pixel = torch.tensor([0.2, -0.4, 0.5]).view(1, 1, 3, 1, 1)

    def after(**change: float) -> list[float]:
        transforms = replace(identity(1), **{name: torch.tensor([value]) for name, value in change.items()})
        return augment(pixel, colours, transforms).flatten().tolist()

    close = lambda values: pytest.approx(values, abs=1e-6)  # noqa: E731
    assert after() == close([0.2, -0.4, 0.5])
    assert after(brightness=0.3) == close([0.5, -0.1, 0.8])
    assert after(brightness=0.3, contrast=2.0) == close([1.0, -0.2, 1.6])
    assert after(saturation=0.0) == close([0.1, 0.1, 0.1])
    assert after(lumaflip=1.0) == close([0.0, -0.6, 0.3])  # minus twice the mean
    assert after(hue=2 * math.pi / 3) == close([0.5, 0.2, -0.4])  # a third of a turn: channels change places


def test_frames_of_a_clip_share_their_transforms_and_clips_do_not():
    x = smooth_clip()[:, :1].expand(3, 4, -1, -1, -1)
    transforms = draw_transforms(BGC, 1.0, SampleRNG([1, 2, 3]))
    y = augment(x, BGC, transforms)
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-6)
    assert not torch.allclose(y[0], y[1], atol=1e-2)
    alone = augment(x[1:2], BGC, draw_transforms(BGC, 1.0, SampleRNG([2])))
    assert torch.allclose(alone, y[1:2], atol=1e-5)


def test_nothing_happens_at_probability_zero_and_everything_may_at_one():
    # Rotations happen with 1 - sqrt(1 - p) each, so that either is met with p.
    seeds, count = range(1000), 1000
    none = draw_transforms(PIPES["easy"], 0.0, SampleRNG(seeds[:8]))
    expected = identity(8)
    for field in fields(Transforms):
        if field.name != "cutout":
            assert torch.equal(getattr(none, field.name), getattr(expected, field.name)), field.name
    half = draw_transforms(BGC, 0.5, SampleRNG(seeds))
    chance = 1 - 0.5**0.5
    met = float((half.rotate_before != 0).float().mean())
    assert abs(met - chance) < 4 * (chance * (1 - chance) / count) ** 0.5
    flipped = float(half.flip.mean())  # met, then one of two
    assert abs(flipped - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    assert float(half.turns.max()) == 3
    assert float(half.shift.abs().max()) <= 0.125


def test_gradients_pass_and_cut_out_squares_are_zero():
    x = smooth_clip().requires_grad_()
    transforms = replace(identity(1), cut=torch.ones(1), cutout=torch.tensor([[0.5, 0.25]]))
    y = augment(x, replace(PIPES["easy"], noise=0.0), transforms)
    # Of 24 pixels those whose centres are less than 3 from 12 and from 6.
    assert torch.equal(y[..., 3:9, 9:15], torch.zeros(1, 2, 3, 6, 6))
    assert float(y[..., 9, 9:15].detach().abs().min()) > 0
    y.sum().backward()
    assert float(x.grad[..., 20, 20].abs().min()) > 0.5


def test_noise_has_its_deviation():
    x = torch.zeros(2, 1, 3, 4, 4)
    noise = torch.ones_like(x)
    transforms = replace(identity(2), noise=torch.tensor([0.0, 0.3]))
    y = augment(x, AugmentConfig(noise=1.0), transforms, noise)
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[1], 0.3 * noise[1])


def test_the_wavelet_is_orthogonal_to_its_even_shifts():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    for shift in range(0, 12, 2):
        product = float((taps[shift:] * taps[: 12 - shift]).sum())
        assert product == pytest.approx(float(shift == 0), abs=1e-9)
