"""Symmetries, sizes and errors of the plane U-Net (its recorded cases are in tests/parity)."""

from __future__ import annotations

import pytest
import torch

from lavita.baselines.pvdm.unet import PlaneUNet, UNetConfig
from lavita.parity.cases import fill_by_formula

TINY = dict(image_size=4, frames=8, model_channels=32, attention_resolutions=(2, 1), num_res_blocks=1, num_heads=2)


def tiny(**sizes) -> PlaneUNet:
    network = PlaneUNet(UNetConfig(**{**TINY, "channel_mult": (1, 2), **sizes}))
    fill_by_formula(network)  # from its own zero start the output would be zero whatever the blocks do
    return network.eval()


@pytest.fixture(scope="module")
def network() -> PlaneUNet:
    return tiny()


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(count, 4, 80), torch.tensor([5, 801])[:count]


@torch.no_grad()
def test_swapping_the_temporal_planes_swaps_their_outputs(network):
    """Weights are shared and attention across planes has no positions: the network cannot tell yt from xt."""
    x, t = inputs()
    xy, yt, xt = x.split([16, 32, 32], dim=-1)
    y = network(x, t).split([16, 32, 32], dim=-1)
    swapped = network(torch.cat([xy, xt, yt], dim=-1), t).split([16, 32, 32], dim=-1)
    for got, wanted in zip(swapped, (y[0], y[2], y[1]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)  # sums in another order, ten layers
    assert (y[1] - y[2]).abs().max() > 1e-2


@torch.no_grad()
def test_planes_meet_in_the_attention_across_them(network):
    x, t = inputs(1)
    changed = x.clone()
    changed[..., :16] += 1.0
    moved = (network(changed, t) - network(x, t))[..., 16:].abs().max()
    assert moved > 1e-3
    unmixed = tiny()
    for block in [*unmixed.input_attns[1:], unmixed.mid_attn, *unmixed.output_attns]:
        for parameter in block.proj_out.parameters():
            parameter.zero_()
    assert torch.equal(unmixed(changed, t)[..., 16:], unmixed(x, t)[..., 16:])


@torch.no_grad()
def test_time_and_class_reach_the_output(network):
    x, t = inputs()
    assert not torch.allclose(network(x, t), network(x, t.flip(0)), atol=1e-4)
    with_classes = tiny(num_classes=3)
    a, b = (with_classes(x, t, labels=torch.full((2,), y)) for y in (0, 3))
    assert not torch.allclose(a, b, atol=1e-4)


@torch.no_grad()
def test_no_previous_clip_means_zeros():
    network = tiny(cond_model=True)
    x, t = inputs()
    torch.testing.assert_close(network(x, t), network(x, t, torch.zeros_like(x)), rtol=0, atol=0)
    assert not torch.allclose(network(x, t), network(x, t, torch.ones_like(x)), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("updown, film", [(False, True), (True, False)])
def test_other_blocks_keep_shapes_and_official_names(updown, film):
    network = tiny(resblock_updown=updown, use_scale_shift_norm=film, num_res_blocks=2)
    x, t = inputs()
    assert network(x, t).shape == x.shape
    names = set(network.state_dict())
    assert ("input_blocks.3.0.op.weight" in names) is not updown
    assert ("output_blocks.2.2.conv.weight" in names) is not updown
    assert network.state_dict()["input_blocks.1.0.emb_layers.1.weight"].shape[0] == (64 if film else 32)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_neighbours(network):
    x, t = inputs()
    torch.testing.assert_close(network(x, t)[:1], network(x[:1], t[:1]), rtol=1e-4, atol=1e-5)


def test_wrong_sizes_and_inputs_are_refused(network):
    x, t = inputs()
    with pytest.raises(ValueError, match="multiples of 4"):
        UNetConfig(image_size=6, frames=8, channel_mult=(1, 2, 4))
    with pytest.raises(ValueError, match="multiple of 32"):
        UNetConfig(model_channels=48)
    with pytest.raises(ValueError, match="cond_model=false"):
        network(x, t, cond=x)
    with pytest.raises(ValueError, match="labels are needed"):
        network(x, t, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="pvdm latent: axis 2"):
        network(x[..., :79], t)
