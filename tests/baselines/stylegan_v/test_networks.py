"""Sizes of the published networks, and what the motion of a clip must be like."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lavita.baselines.stylegan_v.discriminator import Discriminator, DiscriminatorConfig
from lavita.baselines.stylegan_v.generator import Generator, GeneratorConfig
from lavita.baselines.stylegan_v.motion import MotionConfig, MotionEncoder
from lavita.baselines.stylegan_v.styles import StylesConfig

MOTION = MotionConfig(
    noise_dim=6, width=8, distance=4, kernel=3, frequencies=5, min_period=4, max_period=16, max_frames=16
)
SMALL = GeneratorConfig(resolution=32, z_dim=6, w_dim=8, channel_base=128, channel_max=8, motion=MOTION)
STYLES = StylesConfig(count=2, dim=4, sides=(8, 16))


def count(network: torch.nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        assert count(Generator(GeneratorConfig(256))) == 32_105_941
        assert count(Discriminator(DiscriminatorConfig(256))) == 25_333_568
        mostgan = Generator(GeneratorConfig(256, styles=StylesConfig()))
        assert count(mostgan) == 40_915_413
        assert count(mostgan.synthesis.multimotionmap) == 8_393_728
        assert count(mostgan.synthesis.motion_encoder) == 6_292_480
        assert count(Discriminator(DiscriminatorConfig(256, hidden=128, differences=True))) == 25_923_008


def seeded(*shape: int) -> torch.Tensor:
    """Normal values that do not change."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_motion_is_continuous_where_its_waves_change():
    torch.manual_seed(0)
    encoder = MotionEncoder(MOTION)
    noise = seeded(1, MOTION.trajectory(), 6)
    t = torch.tensor([[3.9999, 4.0, 4.0001, 6.0]])
    with torch.no_grad():
        code = encoder(t, noise, None)  # (4, 10)
        left, _ = encoder.neighbours(t[:, 1:2], noise, None)
        at_code = encoder.time_encoder.aligners_predictor(left[:, 0])
    assert torch.allclose(code[1], at_code[0], atol=1e-6)  # nothing but the code itself at its own time
    steps = (code[1:3] - code[0:2]).abs().max()
    assert float(steps) < 0.01 * float((code[3] - code[1]).abs().max())


def test_motion_needs_no_more_than_its_part_of_the_noise():
    torch.manual_seed(0)
    encoder = MotionEncoder(MOTION)
    t, noise = torch.tensor([[0.5, 14.25]]), seeded(1, MOTION.trajectory() + 5, 6)
    with torch.no_grad():
        assert torch.allclose(encoder(t, noise, None), encoder(t, noise[:, :-5], None), atol=1e-6)
        later = torch.tensor([[0.5, 33.0]])
        assert encoder(later, seeded(1, MOTION.trajectory(33.0), 6), None).shape == (2, 10)


@pytest.mark.parametrize("styles", [None, STYLES])
def test_a_clip_does_not_depend_on_its_neighbours(styles):
    torch.manual_seed(0)
    network = Generator(replace(SMALL, styles=styles)).eval()
    z, noise = seeded(3, 6), seeded(3, MOTION.trajectory(), 6)
    t = torch.tensor([[0.0, 1.0], [2.5, 9.0], [7.0, 7.25]])
    with torch.no_grad():
        for fused in (False, True):
            all_three = network(z, t, noise, fused=fused, mixed=2)[0]
            alone = network(z[1:2], t[1:2], noise[1:2], fused=fused, mixed=2)[0]
            assert all_three.shape == (3, 2, 3, 32, 32)
            assert torch.allclose(all_three[1:2], alone, atol=1e-5)
            # The same time gives the same frame, whatever is asked for beside it.
            other = network(z[1:2], torch.tensor([[9.0, 1.0]]), noise[1:2], fused=fused, mixed=2)[0]
            assert torch.allclose(other[:, 0], alone[:, 1], atol=1e-5)


def test_the_three_paths_of_motion_styles_differ():
    torch.manual_seed(0)
    network = Generator(replace(SMALL, styles=STYLES)).eval()
    z, noise, t = seeded(1, 6), seeded(1, MOTION.trajectory(), 6), torch.tensor([[0.0, 8.0]])
    with torch.no_grad():
        fused, plain, mixed = (
            network(z, t, noise, fused=fused, mixed=mixed)[0] for fused, mixed in ((True, 0), (False, 0), (False, 4))
        )
        without = Generator(SMALL).eval()
        without.load_state_dict(network.state_dict(), strict=False)
        same = [without(z, t, noise, mixed=mixed)[0] for mixed in (0, 4)]
    for one, other in ((fused, plain), (plain, mixed), (fused, mixed)):
        assert float((one - other).abs().max()) > 1e-3 * float(one.abs().max())
    assert torch.equal(*same)  # StyleGAN-V has one path


def test_the_discriminator_sees_the_order_and_the_distances_of_frames():
    torch.manual_seed(0)
    config = DiscriminatorConfig(32, channel_base=128, channel_max=8, max_frames=16)
    for differences in (False, True):
        network = Discriminator(replace(config, differences=differences)).eval()
        frames, t = seeded(2, 3, 3, 32, 32), torch.tensor([[0.0, 2.0, 4.0], [1.0, 2.0, 5.0]])
        with torch.no_grad():
            logits = network(frames, t)[0]
            assert logits.shape == (2,)
            assert torch.allclose(network(frames, t + 3.5)[0], logits, atol=1e-6)  # not when they were
            assert not torch.allclose(network(frames, t * 2)[0], logits, atol=1e-5)
            assert not torch.allclose(network(frames.flip(1), t)[0], logits, atol=1e-5)


@pytest.mark.parametrize("change, message", [({"resolution": 16}, "above 16"), ({"frames": 1}, "at least 2")])
def test_sizes_that_the_discriminator_lacks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**{"resolution": 32, **change})
