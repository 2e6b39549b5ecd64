"""The triplane autoencoder against plain modules and closed forms (its recorded case is in tests/parity)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lavita.baselines.pvdm.autoencoder import (
    AutoencoderConfig,
    Projection,
    TriplaneAutoencoder,
    frame_angles,
    image_angles,
    pointwise,
)

TINY = AutoencoderConfig(
    channels=32,
    resolution=16,
    timesteps=4,
    depth=1,
    num_heads=2,
    head_width=8,
    projection_depth=2,
    projection_hidden=16,
)


def tiny(**sizes) -> TriplaneAutoencoder:
    torch.manual_seed(0)
    return TriplaneAutoencoder(AutoencoderConfig(**{**vars(TINY), **sizes}))


def test_official_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = TriplaneAutoencoder(AutoencoderConfig())
    # Counted from the official definition at 256 pixels and 384 channels.
    assert sum(p.numel() for p in network.parameters()) == 62_064_399
    assert AutoencoderConfig().latent_length == 32 * 32 + 2 * 16 * 32


def test_projection_reads_the_first_token_of_the_full_transformer():
    torch.manual_seed(0)
    projection = Projection(TINY)
    x = torch.randn(3, 5, 32)
    full = x
    for attention, feed_forward in projection.layers:
        full = full + attention(full)
        full = full + feed_forward(full)
    # The same sums for one row instead of five: float32 rounding of values around 1.
    torch.testing.assert_close(projection(x), full[:, 0], rtol=1e-5, atol=1e-5)


def test_pixels_and_planes_equal_the_plain_convolutions():
    network = tiny()
    tokens = torch.randn(2, 4, 4, 32)
    grid = tokens.reshape(8, 2, 2, 32).permute(0, 3, 1, 2)
    wanted = network.to_pixel(grid).reshape(2, 4, 3, 16, 16)
    torch.testing.assert_close(network.paint(tokens), wanted, rtol=1e-5, atol=1e-5)
    flat = network.pre_xy(grid).permute(0, 2, 3, 1)
    torch.testing.assert_close(pointwise(network.pre_xy, grid.permute(0, 2, 3, 1)), flat, rtol=1e-5, atol=1e-5)


def test_angles_follow_their_formulas():
    c, side = 8, 3
    inverse = 10000.0 ** (-np.arange(0, c, 2) / c)
    wanted = np.arange(5)[:, None] * np.tile(inverse, 2)
    got = frame_angles(5, torch.from_numpy(inverse).float())
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6)
    scales = np.array([1.0, 5.0])  # log-spaced from 1 to max_freq / 2 = 5 with c / 4 entries
    line = np.linspace(-1, 1, side)[:, None] * scales * math.pi
    rows = np.repeat(line, side, axis=0)
    columns = np.tile(line, (side, 1))
    wanted = np.repeat(np.concatenate([rows, columns], axis=1), 2, axis=1)
    got = image_angles(side, torch.logspace(0, math.log2(5), 2, base=2))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_latent_and_clip_have_their_shapes_and_ranges():
    network = tiny()
    video = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    z = network.encode(video)
    assert z.shape == (2, 4, 2 * 2 + 2 * 4 * 2) and z.abs().max() < 1
    rebuilt = network.decode(z)
    assert rebuilt.shape == video.shape and rebuilt.abs().max() < 1


def test_a_plane_depends_on_its_own_axes_only():
    """The xt plane keeps row and time: one entry reaches one row of one frame, before attention."""
    network = tiny()
    z = torch.zeros(1, 4, 20)
    changed = z.clone()
    changed[0, :, 12 + 2] += 1.0  # after xy (4) and yt (8): frame 1, row 0 of xt
    seen = []
    network.decoder.forward = lambda tokens: seen.append(tokens) or tokens
    network.decode(z), network.decode(changed)
    difference = (seen[1] - seen[0]).abs().sum(-1)[0]  # (F, P)
    assert (difference > 0).nonzero().tolist() == [[1, 0], [1, 1]]


def test_splits_are_rebuilt_each_on_its_own():
    network = tiny(timesteps=8, splits=2)
    video = torch.rand(1, 8, 3, 16, 16) * 2 - 1
    other = video.clone()
    other[:, 4:] = 0
    torch.testing.assert_close(network(video)[:, :4], network(other)[:, :4], rtol=0, atol=1e-6)
    assert network(video).shape == video.shape


def test_reconstruction_improves_within_twenty_steps():
    network = tiny()
    ramp = torch.linspace(-0.8, 0.8, 16)
    frames = [ramp.roll(2 * f)[None, :].expand(16, 16) for f in range(4)]
    video = torch.stack(frames)[None, :, None].expand(1, 4, 3, 16, 16).contiguous()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    errors = []
    for _ in range(20):
        error = functional.mse_loss(network(video), video)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    # A constant picture leaves the ramp's variance, 0.8^2 (1 + 2/15) / 3 = 0.24; below that is structure.
    assert errors[-1] < 0.1 < errors[0]


@pytest.mark.parametrize("sizes, word", [({"resolution": 20}, "patch size"), ({"timesteps": 5, "splits": 2}, "splits")])
def test_sizes_that_do_not_divide_are_refused(sizes, word):
    with pytest.raises(ValueError, match=word):
        tiny(**sizes)


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(ValueError, match="pvdm video: axis 1"):
        tiny().encode(torch.zeros(1, 3, 3, 16, 16))
