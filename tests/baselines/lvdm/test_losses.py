"""Losses of LVDM's autoencoder by hand, and who gets a gradient of which."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lavita.baselines.lvdm import losses
from lavita.baselines.lvdm.losses import FrameDiscriminator
from lavita.methods import discriminators


def clips(count: int = 2, frames: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def constant_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """0.5 for the first frame of each pair of frames, else 0."""
    return torch.tensor([0.5, 0.0]).repeat(len(x) // 2)


def test_a_frame_pays_for_every_value_and_its_distance_for_each_once_more():
    video = torch.zeros(1, 2, 3, 4, 4)
    rebuilt = video.clone()
    rebuilt[0, 1] = 0.25
    parts = losses.frame_loss(video, rebuilt, constant_distance)
    # Frame 0: 48 x 0.5. Frame 1: 48 x 0.25. Their mean.
    assert float(parts["reconstruction"]) == (48 * 0.5 + 48 * 0.25) / 2
    assert float(parts["perceptual"]) == 48 * 0.5 / 2


def test_kl_is_zero_for_a_standard_normal_and_that_of_torch_otherwise():
    mean, log_variance = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).unbind(0)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    wanted = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(losses.kl_by_value(mean, log_variance), wanted)
    assert not losses.kl_by_value(torch.zeros(3), torch.zeros(3)).any()


def test_discriminator_has_official_names_and_shapes():
    network = FrameDiscriminator(width=8)
    state = network.state_dict()
    assert [tuple(state[f"main.{i}.weight"].shape) for i in (0, 2, 5, 8, 11)] == [
        (8, 3, 4, 4), (16, 8, 4, 4), (32, 16, 4, 4), (64, 32, 4, 4), (1, 64, 4, 4),
    ]  # fmt: skip
    # No bias in front of a norm; strides 2, 2, 2, 1, 1 with padding 1: 32, 16, 8, 4, 3, 2.
    assert {"main.0.bias", "main.11.bias", "main.3.running_mean"} <= set(state) and "main.2.bias" not in state
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 2, 2)
    assert FrameDiscriminator(64, 5).main[14].out_channels == 512  # at most eight times the first width


def test_each_side_gives_gradients_to_itself_only():
    discriminator, video = FrameDiscriminator(width=8, depth=2), clips()
    rebuilt = (0.5 * video).requires_grad_()
    losses.adversarial_loss(discriminator, rebuilt).sum().backward()
    assert rebuilt.grad is not None and rebuilt.grad.any()
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    rebuilt.grad = None
    losses.discriminator_loss(discriminator, video, rebuilt).sum().backward()
    assert rebuilt.grad is None and all(p.grad is not None for p in discriminator.parameters())


def test_the_adaptive_weight_is_half_the_ratio_of_gradients():
    last = nn.Parameter(torch.tensor([3.0, 4.0]))
    reconstruction, adversarial = (2 * last).sum(), (last * torch.tensor([0.0, 0.5])).sum()
    weight = discriminators.adaptive_weight(reconstruction, adversarial, last)
    assert float(weight) == pytest.approx(0.5 * 8**0.5 / (0.5 + 1e-4), rel=1e-6)
    assert not weight.requires_grad
    # Held below 1e4 times a half, where the adversarial term has no gradient.
    assert float(discriminators.adaptive_weight(1e3 * reconstruction, 0 * adversarial, last)) == 0.5 * 1e4
    with torch.no_grad():
        assert float(discriminators.adaptive_weight(reconstruction, adversarial, last)) == 0
