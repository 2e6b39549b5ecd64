"""The contestants of the feature benchmark are one function; how fast they are is measured, not tested."""

import torch

from lavita.speed.score import i3d_contestants


def test_contestants_agree():
    plain, ours, difference = i3d_contestants(frames=9)
    # The limit that figures of I3D are held to is 1e-4; zero would mean that one network was compared with itself.
    assert 0 < difference < 1e-5
    wanted, found = plain(), ours()
    assert torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted) == difference
