"""DiT on video: independent frames, joint attention, official sizes, and the method around it."""

from __future__ import annotations

import pytest
import torch

from lavita.baselines.dit.model import SIZES, DiT, DiTConfig
from lavita.parity.cases import fill_by_formula, z


def build(**options) -> DiT:
    """A small DiT with formula weights on 4 channels of 4 x 4."""
    network = DiT(DiTConfig(2, 16, 4, 2, 4, 4, **options))
    fill_by_formula(network)
    return network.eval()


def clip(frames: int = 3) -> torch.Tensor:
    """Latents (2, F, 4, 4, 4)."""
    return torch.from_numpy(z("dit-test/x", (2, frames, 4, 4, 4)))


T, Y = torch.tensor([3, 700]), torch.tensor([0, 5])


@pytest.mark.parametrize(
    ("size", "patch_size", "count"),
    [("S", 2, 32_865_056), ("B", 4, 130_426_496), ("L", 8, 458_578_432), ("XL", 2, 674_834_720)],
)
def test_official_parameter_counts(size, patch_size, count):
    with torch.device("meta"):
        network = DiT(DiTConfig(*SIZES[size], patch_size, 4, 32, 1000))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


@torch.no_grad()
def test_frames_are_independent_in_frame_mode():
    network, x = build(num_classes=5), clip()
    base, other = network(x, T, Y), x.clone()
    other[:, 1] += 1
    changed = network(other, T, Y)
    # Exact: no operation takes entries of two frames.
    assert torch.equal(base[:, [0, 2]], changed[:, [0, 2]]) and not torch.allclose(base[:, 1], changed[:, 1])
    shuffled = network(x[:, [2, 0, 1]], T, Y)
    # Another place in the batch may be summed in another order: float32 sums of 64 products below 1.
    assert torch.allclose(shuffled, base[:, [2, 0, 1]], atol=1e-5, rtol=0)
    for frame in range(3):
        assert torch.allclose(network(x[:, frame : frame + 1], T, Y)[:, 0], base[:, frame], atol=1e-5, rtol=0)


def test_every_token_meets_every_token_in_joint_mode():
    network = build(mode="joint", num_frames=3).double()
    x = clip().double().requires_grad_()
    target = (network(x, T)[0, 1, :, 2:, :2] * torch.from_numpy(z("dit-test/out", (8, 2, 2)))).sum()
    (gradient,) = torch.autograd.grad(target, x)
    assert (gradient[0].abs() > 0).all() and not gradient[1].any()


@torch.no_grad()
def test_joint_mode_knows_the_order_of_frames_and_takes_image_weights():
    frame, joint = build(), build(mode="joint", num_frames=3)
    assert frame.state_dict().keys() == joint.state_dict().keys()
    out = joint(clip(), T)
    assert not torch.allclose(joint(clip().flip(1), T).flip(1), out, atol=1e-3)
    with pytest.raises(ValueError, match="axis 1"):
        joint(clip(2), T)


@torch.no_grad()
def test_class_and_null_class_are_different_rows():
    network = build(num_classes=5)
    outputs = [network(clip(), T, torch.full((2,), label)) for label in (0, 4, 5)]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])
    with pytest.raises(ValueError, match="y is needed"):
        network(clip(), T)


def test_starts_at_zero():
    assert not DiT(DiTConfig(2, 16, 4, 2, 4, 4))(clip(), T).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "'both', allowed frame, joint"),
        ({"mode": "joint"}, "number of frames"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
