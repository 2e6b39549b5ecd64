"""Resampling against numpy's convolution of a signal with zeros inserted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.nn.resampling import LINEAR, downsample, normalised_taps, resample, upsample

ODD = (0.1, -0.4, 0.9, 0.3, 0.05)  # not symmetric


def by_numpy(x: np.ndarray, taps: np.ndarray, up: int, down: int, pads: tuple[int, int], correlate: bool) -> np.ndarray:
    """One axis, in float64."""
    stretched = np.zeros(len(x) * up)
    stretched[::up] = x
    padded = np.concatenate([np.zeros(max(pads[0], 0)), stretched, np.zeros(max(pads[1], 0))])
    padded = padded[max(-pads[0], 0) : len(padded) - max(-pads[1], 0)]
    return np.convolve(padded, taps[::-1] if correlate else taps, mode="valid")[::down]


@pytest.mark.parametrize(
    "shape, axis", [((2, 3, 11), 2), ((2, 3, 11, 4), 2), ((2, 3, 4, 11), 3), ((1, 2, 3, 11, 2), 3)]
)
@pytest.mark.parametrize(
    "up, down, pads", [(1, 1, (2, 2)), (1, 2, (1, 1)), (2, 1, (2, 1)), (3, 2, (4, -2)), (1, 1, (-1, 3))]
)
@pytest.mark.parametrize("correlate", [False, True])
def test_one_axis(shape, axis, up, down, pads, correlate):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taps = torch.tensor(ODD, dtype=torch.float64)
    ours = resample(x, taps, (axis,), up, down, pads, gain=1.5, correlate=correlate)
    wanted = np.apply_along_axis(by_numpy, axis, x.numpy(), 1.5 * np.array(ODD), up, down, pads, correlate)
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=0, atol=1e-14)


def test_two_axes_are_an_outer_product():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    taps = normalised_taps(LINEAR)
    assert torch.equal(resample(x, taps, pads=(1, 2), gain=4)[0, 0, :4, :4], 4 * torch.outer(taps, taps))


def test_a_constant_keeps_its_level_away_from_the_border():
    x = torch.ones(1, 2, 8, 8)
    taps = normalised_taps(LINEAR)
    assert torch.equal(upsample(x, taps)[..., 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    assert torch.equal(downsample(x, taps)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert upsample(x, taps).shape == (1, 2, 16, 16)


def test_batch_and_channels_are_no_axes():
    with pytest.raises(ValueError, match="axis 1"):
        resample(torch.zeros(1, 1, 4), torch.ones(1), axes=(1,))
