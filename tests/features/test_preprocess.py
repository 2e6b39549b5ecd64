"""How clips are brought to a network, against bilinear interpolation written here in float64."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lavita.metrics.features import base
from lavita.metrics.features.base import I3D_TRANSFORMS, TRANSFORMS, transform

# Positions, weights and products are float32 in torch: a few roundings of values up to 1.
TOLERANCE = 1e-5


def clips(height, width, count=2, frames=2):
    return np.random.default_rng(0).integers(0, 256, (count, frames, height, width, 3), dtype=np.uint8)


def bilinear_matrix(size, wanted):
    """(wanted, size): row i mixes the two samples around (i + 1/2) size / wanted - 1/2, edges repeated."""
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        place = max((row + 0.5) * size / wanted - 0.5, 0)
        below = min(int(place), size - 1)
        matrix[row, below] += 1 - (place - below)
        matrix[row, min(below + 1, size - 1)] += place - below
    return matrix


def resized(values, height, width):
    """float64 (B, F, H, W, 3) -> (B, 3, F, height, width)."""
    down, across = bilinear_matrix(values.shape[2], height), bilinear_matrix(values.shape[3], width)
    return down @ values.transpose(0, 4, 1, 2, 3) @ across.T


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (24, 24)])
def test_straight_and_unit_resize_whatever_the_shape(size):
    values = clips(*size)
    wanted = resized(values.astype(np.float64) / 255, 16, 16)
    np.testing.assert_allclose(base.unit(torch.from_numpy(values), 16).numpy(), wanted, atol=TOLERANCE)
    straight = base.straight(torch.from_numpy(values), 16)
    assert straight.shape == (2, 3, 2, 16, 16) and straight.dtype == torch.float32 and straight.is_contiguous()
    np.testing.assert_allclose(straight.numpy(), 2 * wanted - 1, atol=2 * TOLERANCE)


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (13, 31)])
def test_short_side_keeps_the_shape_and_cuts_the_centre(size):
    values = clips(*size)
    scale = 16 / min(size)
    height, width = (math.ceil(side * scale) if side > min(size) else 16 for side in size)
    wanted = 2 * resized(values.astype(np.float64) / 255, height, width) - 1
    top, left = (height - 16) // 2, (width - 16) // 2
    found = base.short_side(torch.from_numpy(values), 16)
    np.testing.assert_allclose(found.numpy(), wanted[..., top : top + 16, left : left + 16], atol=2 * TOLERANCE)


def test_short_side_of_some_squares_has_a_row_too_many():
    # 100 * (224 / 100) is 224.00000000000003 in float64, and the official code rounds up.
    assert math.ceil(100 * (224 / 100)) == 225
    values = clips(100, 100, 1, 1)
    wanted = 2 * resized(values.astype(np.float64) / 255, 225, 224)[..., :224, :] - 1
    found = base.short_side(torch.from_numpy(values), 224).numpy()
    np.testing.assert_allclose(found, wanted, atol=2 * TOLERANCE)
    plain = base.straight(torch.from_numpy(values), 224).numpy()
    assert np.abs(found - plain).max() > 0.01


def test_frames_that_have_the_size_are_scaled_only():
    values = clips(16, 16)
    video = values.transpose(0, 4, 1, 2, 3).astype(np.float64)
    for name, wanted in (("straight", video / 127.5 - 1), ("short-side", video / 127.5 - 1), ("unit", video / 255)):
        np.testing.assert_allclose(TRANSFORMS[name](torch.from_numpy(values), 16).numpy(), wanted, atol=1e-6)


def test_truncation_takes_one_off_the_levels_1_to_63():
    levels = np.arange(256, dtype=np.uint8)
    # LVDM's two steps in numpy, float32: to -1..1, then back with the fraction cut off.
    scaled = (levels.astype(np.float32) / np.float32(255) - np.float32(0.5)) * np.float32(2)
    cut = ((scaled + np.float32(1)) * np.float32(255) / np.float32(2)).astype(np.int32)
    assert [int(level) for level in levels if cut[level] != level] == list(range(1, 64))
    values = np.repeat(levels.reshape(1, 1, 16, 16, 1), 3, axis=-1)
    found = base.straight_truncated(torch.from_numpy(values), 16)[0, 0, 0].numpy()
    np.testing.assert_allclose((found.astype(np.float64) + 1) * 127.5, cut.reshape(16, 16), atol=1e-4)


def test_operations_are_in_the_order_of_the_official_code():
    """Bit for bit: PVDM divides first and doubles last, LVDM and the content-debiased code scale after resizing."""
    values = torch.from_numpy(clips(20, 28))
    frames = values.flatten(0, 1).permute(0, 3, 1, 2).float().contiguous()
    resize = dict(mode="bilinear", align_corners=False)
    late = (2.0 * functional.interpolate(frames, size=(224, 224), **resize) / 255.0 - 1).view(2, 2, 3, 224, 224)
    assert torch.equal(base.straight(values, 224), late.transpose(1, 2))
    width = math.ceil(28 * 224 / 20)
    early = functional.interpolate(frames / 255.0, size=(224, width), **resize)[..., (width - 224) // 2 :][..., :224]
    assert torch.equal(base.short_side(values, 224), (early - 0.5).view(2, 2, 3, 224, 224).transpose(1, 2) * 2)


def test_names_and_doors():
    assert set(I3D_TRANSFORMS) < set(TRANSFORMS)
    with pytest.raises(ValueError, match="preprocess: got 'squash', allowed straight, straight-truncated, short-side"):
        transform("squash", I3D_TRANSFORMS)
    for name in TRANSFORMS:
        with pytest.raises(ValueError, match="dtype"):
            TRANSFORMS[name](torch.zeros(1, 2, 8, 8, 3), 16)
