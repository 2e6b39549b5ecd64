"""Perceptual distances, discriminators and the two sides of the adversarial loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lavita.baselines.pvdm.losses import (
    LPIPS,
    Adversary,
    GradientPyramid,
    PatchDiscriminator,
    feature_distance,
    hinge_loss,
    peak_signal_to_noise,
    perceptual_distance,
    pick_frames,
    reconstruction_loss,
)


def clips(count: int = 2, frames: int = 4, side: int = 16) -> torch.Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_hinge_and_features_by_hand():
    real = torch.tensor([[2.0, 0.0], [0.5, -1.0]])[:, None]
    fake = torch.tensor([[-2.0, 0.0], [1.0, -0.5]])[:, None]
    # Means over patches of max(0, 1 - real), max(0, 1 + fake), halved: (0.5 + 0.5) / 2, (1.25 + 1.25) / 2.
    assert hinge_loss(real, fake).tolist() == [0.5, 1.25]
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


def test_gradient_pyramid_by_hand():
    distance = GradientPyramid(num_scales=2)
    x = torch.zeros(1, 3, 8, 8)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    # One step along x everywhere at full size, two after halving; nothing along y.
    assert float(distance(ramp, x)) == pytest.approx(1 + 2)
    assert float(distance(x + 0.7, x)) == pytest.approx(0, abs=1e-6)
    assert float(distance(ramp, ramp)) == 0


def test_lpips_equals_a_plain_chain_of_layers():
    torch.manual_seed(0)
    model = LPIPS()
    with torch.no_grad():
        for k in range(5):
            model.get_submodule(f"lin{k}")["model"][1].weight.abs_()
    state = model.state_dict()
    x, y = clips(2, 2, 32)[:, 0], clips(2, 2, 32)[:, 1]
    layers, kept = [], []
    for k, name in enumerate(model.net):
        layers += [nn.MaxPool2d(2)] if k else []
        for convolution in model.net[name].values():
            layers += [convolution, nn.ReLU()]
        kept.append(len(layers) - 1)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total, a, b = 0, (x - shift) / scale, (y - shift) / scale
    for index, layer in enumerate(layers):
        a, b = layer(a), layer(b)
        if index in kept:
            difference = (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)) ** 2
            weights = state[f"lin{kept.index(index)}.model.1.weight"]
            total = total + (difference * weights).sum(1).mean((1, 2))
    torch.testing.assert_close(model(x, y), total, rtol=1e-4, atol=1e-6)
    assert torch.equal(model(x, x), torch.zeros(2))
    assert not any(p.requires_grad for p in model.parameters())


def lpips_files(folder) -> tuple[str, str, LPIPS]:
    """Paths of VGG16's and LPIPS's weight files with the keys of the released ones, and the model they came from."""
    model = LPIPS()
    vgg, linear = {"classifier.0.weight": torch.zeros(1)}, {}
    for key, value in model.state_dict().items():
        if key.startswith("net."):
            vgg["features." + key.split(".", 2)[2]] = value
        else:
            linear[key] = value
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return str(folder / "vgg16.pth"), str(folder / "vgg.pth"), model


def test_lpips_loads_the_released_files(tmp_path):
    vgg, linear, model = lpips_files(tmp_path)
    loaded = perceptual_distance(vgg, linear)
    assert loaded.name == "lpips-vgg16"
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="hold no net.slice1.0.weight"):
        perceptual_distance(linear, linear)


def test_without_weights_the_stand_in_says_its_name():
    assert perceptual_distance(None, None).name == "gradient-pyramid"
    with pytest.raises(ValueError, match="give both files, or neither"):
        perceptual_distance("vgg16.pth", None)
    with pytest.raises(ValueError, match="no such file"):
        perceptual_distance("absent.pth", "absent.pth")


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
