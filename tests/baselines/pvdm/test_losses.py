"""Discriminators and the two sides of the adversarial loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.baselines.pvdm.losses import (
    Adversary,
    PatchDiscriminator,
    feature_distance,
    peak_signal_to_noise,
    pick_frames,
    reconstruction_loss,
)
from lavita.methods.perceptual import GradientPyramid


def clips(count: int = 2, frames: int = 4, side: int = 16) -> torch.Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_by_hand():
    a, b = [torch.ones(2, 3), torch.zeros(2, 4)], [torch.zeros(2, 3), torch.full((2, 4), 2.0)]
    assert feature_distance(a, b).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dims", [2, 3])
def test_discriminator_has_official_names_and_size(dims):
    network = PatchDiscriminator(dims, width=8)
    k = 4**dims
    convolutions = [(3, 8), (8, 16), (16, 32), (32, 64), (64, 1)]
    wanted = sum(i * o * k + o for i, o in convolutions) + 2 * (16 + 32 + 64)
    assert sum(p.numel() for p in network.parameters()) == wanted
    state = network.state_dict()
    assert {"model0.0.weight", "model1.1.running_mean", "model3.1.weight", "model4.0.bias"} <= set(state)
    assert float(state["model3.0.weight"].std()) == pytest.approx(0.02, rel=0.05)
    size = (16,) * dims
    logits, features = network(torch.zeros(2, 3, *size))
    # k 4, padding 2: n -> n // 2 + 1 with stride 2, n -> n + 1 with stride 1: 16, 9, 5, 3, 4, 5.
    assert logits.shape == (2, 1, *(5,) * dims) and len(features) == 4


def test_reconstruction_loss_reads_one_frame_of_each_clip():
    video = clips()
    rebuilt = video.clone()
    rebuilt[0, 1] = 0
    rebuilt[1] += 0.1
    index = torch.tensor([2, 0])
    parts = reconstruction_loss(video, rebuilt, index, GradientPyramid())
    assert float(parts["perceptual"][0]) == 0  # frame 2 of clip 0 is untouched
    assert float(parts["pixel"][1]) == pytest.approx(4 * 0.1, rel=1e-5)
    torch.testing.assert_close(parts["loss"], parts["pixel"] + parts["perceptual"])
    assert torch.equal(pick_frames(video, index), torch.stack([video[0, 2], video[1, 0]]))


def test_psnr_by_hand():
    video = torch.zeros(1, 2, 3, 4, 4)
    # An error of 0.2 on a range of 2 is a tenth: 20 dB.
    assert float(peak_signal_to_noise(video, video + 0.2)) == pytest.approx(20, abs=1e-4)


def test_each_side_gives_gradients_to_itself_only():
    adversary = Adversary(width=8)
    video = clips()
    rebuilt = (video * 0.5).requires_grad_()
    index = torch.tensor([0, 3])
    parts = adversary.autoencoder_loss(video, rebuilt, index)
    sum(value.sum() for value in parts.values()).backward()
    assert rebuilt.grad is not None and rebuilt.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.parameters())
    rebuilt.grad = None
    adversary.discriminator_loss(video, rebuilt, index).sum().backward()
    assert rebuilt.grad is None and all(p.grad is not None for p in adversary.parameters())


def test_discriminators_learn_to_tell_noise_from_a_ramp():
    torch.manual_seed(0)
    adversary = Adversary(width=8, depth=2)
    real = torch.linspace(-1, 1, 16).expand(2, 4, 3, 16, 16)
    fake = clips()
    optimiser = torch.optim.Adam(adversary.parameters(), lr=2e-3, betas=(0.5, 0.9))
    index = torch.tensor([0, 1])
    losses = []
    for _ in range(12):
        loss = adversary.discriminator_loss(real, fake, index).mean()
        optimiser.zero_grad()
        loss.backward()
        adversary.clip_gradients()
        norms = [p.grad.norm() for p in adversary.discriminator_2d.parameters()]
        assert float(torch.stack(norms).norm()) <= 1 + 1e-4
        optimiser.step()
        losses.append(loss.item())
    # Both discriminators undecided give 1 each in the mean of the two hinges.
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]
