"""LVDM's networks: published sizes, and what no recorded case tells (strides, borders, clamped distances)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lavita.baselines.lvdm.autoencoder import AutoencoderConfig, SameConv, VideoAutoencoder, VideoCodec, replicated
from lavita.baselines.lvdm.losses import FrameDiscriminator
from lavita.baselines.lvdm.unet import RelativePositions, SpaceTimeAttention, UNetConfig, VideoUNet
from lavita.codecs import base
from lavita.diffusion.rng import SampleRNG
from lavita.parity.cases import fill_by_formula

UNET = {
    "out_channels": 4, "width": 256, "multiples": (1, 2, 3, 4), "attention": (2, 4, 8), "depth": 3, "num_heads": 4,
}  # fmt: skip
SMALL = AutoencoderConfig(width=4, reductions=(2, 4, 4), latent_channels=3, norm_groups=4)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"in_channels": 4, "temporal_length": 4}, 548_904_580),
        ({"in_channels": 5, "temporal_length": 4, "num_labels": 251}, 549_163_908),
        ({"in_channels": 5, "temporal_length": 5, "num_labels": 251}, 549_181_060),
    ],
)
def test_published_sizes_of_the_u_nets(changes, parameters):
    with torch.device("meta"):
        assert count(VideoUNet(UNetConfig(**UNET, **changes))) == parameters


def test_published_sizes_of_the_first_stage():
    with torch.device("meta"):
        network = VideoAutoencoder(AutoencoderConfig())
        assert count(network.encoder) == 7_458_952 and count(network.decoder) == 11_987_715
        assert count(network.quant_conv) + count(network.post_quant_conv) == 92
        assert count(FrameDiscriminator()) == 2_765_633
        video = torch.zeros(2, 16, 3, 256, 256)
        assert network.moments(video)[0].shape == (2, 4, 4, 32, 32) == (2, *network.latent_shape(16, 256))
        assert network.decode(torch.zeros(2, 4, 4, 32, 32)).shape == video.shape


def test_strides_halve_an_axis_as_long_as_it_is_to_be_halved():
    strides = [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert AutoencoderConfig(reductions=(4, 8, 8)).strides == strides
    assert AutoencoderConfig(reductions=(4, 8, 8)).widths() == [64, 128, 256]
    with torch.device("meta"):
        network = VideoAutoencoder(AutoencoderConfig(reductions=(4, 8, 8)))
    assert [block["down"].conv.stride for block in network.encoder.conv_blocks] == strides
    # In the encoder's order, where a mirror image would begin with (1, 2, 2).
    assert [block["up"].convt.stride for block in network.decoder.conv_blocks] == strides
    assert [block["up"].convt.out_channels for block in network.decoder.conv_blocks] == [256, 128, 64]


@pytest.mark.parametrize("kernel, stride, left, right", [(3, 1, 1, 1), (4, 2, 1, 1), (4, 1, 2, 1), (1, 1, 0, 0)])
def test_borders_are_replicated_the_odd_value_in_front(kernel, stride, left, right):
    x = torch.randn(1, 1, 2, 3, 4)
    for axis in (2, 3, 4):
        sizes = [tuple(size if axis == a else 1 for a in (2, 3, 4)) for size in (kernel, stride)]
        found = replicated(x, *sizes)
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        assert torch.equal(found, torch.cat([first] * left + [x] + [last] * right, dim=axis))


def test_a_constant_clip_stays_constant_up_to_the_border():
    """Zeros around it would show there."""
    x = torch.full((1, 2, 4, 8, 8), 0.7)
    out = SameConv(2, 3, 4, (2, 1, 2))(x)
    assert out.shape == (1, 3, 2, 8, 4) and torch.allclose(out, out[:, :, :1, :1, :1].expand_as(out), atol=1e-6)


def test_reductions_that_do_not_go():
    for reductions in ((3, 4, 4), (1, 1, 1), (0, 2, 2)):
        with pytest.raises(ValueError, match="model.reductions: got"):
            AutoencoderConfig(reductions=reductions)
    with pytest.raises(ValueError, match="8 frames of 30 pixels"):
        VideoAutoencoder(SMALL).latent_shape(8, 30)
    with pytest.raises(ValueError, match="model.norm_groups: got 32, wanted a divisor of 8"):
        AutoencoderConfig(width=4)


def test_the_codec_is_a_view_and_takes_a_few_clips_at_a_time(monkeypatch):
    """Of five clips, two at most: the same latents and clips; all at once where a gradient is wanted."""
    torch.manual_seed(0)
    autoencoder = VideoAutoencoder(SMALL)
    codec, video = VideoCodec(autoencoder), torch.rand(5, 4, 3, 16, 16) * 2 - 1
    assert codec.latent_channels == 3 and codec.downsample == 4
    with torch.no_grad():
        latent = codec.encode(video, SampleRNG(range(5)))
        assert latent.shape == (5, 3, 2, 4, 4)
        whole, sizes, forward = (latent, codec.decode(latent)), [], autoencoder.encoder.forward
        monkeypatch.setattr(base, "PIXELS_AT_ONCE", 2 * 4 * 16 * 16)
        monkeypatch.setattr(autoencoder.encoder, "forward", lambda x: (sizes.append(len(x)), forward(x))[1])
        again = codec.encode(video, SampleRNG(range(5))), codec.decode(latent)
        for one, other in zip(whole, again, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5)  # convolutions of other sizes
    autoencoder.moments(video)[0].sum().backward()
    assert sizes == [1, 2, 2, 5]
    assert float(codec.decode(latent).detach().abs().max()) <= 1


def test_the_log_variance_is_held_in_its_range():
    autoencoder = VideoAutoencoder(SMALL)
    with torch.no_grad():
        autoencoder.quant_conv.conv.weight.zero_()
        autoencoder.quant_conv.conv.bias.copy_(torch.tensor([0.0, 0, 0, -99, 99, 1]))
        _, log_variance = autoencoder.moments(torch.zeros(1, 4, 3, 16, 16))
    assert log_variance[0, :, 0, 0, 0].tolist() == [-30, 20, 1]


def test_distances_beyond_the_length_count_as_the_length():
    table = RelativePositions(2, 1)
    with torch.no_grad():
        table.embeddings_table.copy_(torch.arange(5.0)[:, None])
    # Entry (i, j) is row clamp(j - i, -2, 2) + 2.
    wanted = [[2, 3, 4, 4, 4], [1, 2, 3, 4, 4], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
    assert table(5)[..., 0].tolist() == wanted


def test_attention_over_time_by_hand():
    """The key term of query i and key j is q_j . K[j, i] (transposed), the value term sum_j w_ij V[i, j]."""
    torch.manual_seed(0)
    block = SpaceTimeAttention(64, 2, temporal_length=2)
    q, k, v = torch.randn(3, 1, 1, 4, 32).double().unbind(0)
    q, k, v = q[None, 0], k[None, 0], v[None, 0]
    tables = [
        layer.embeddings_table.detach().double() for layer in (block.relative_position_k, block.relative_position_v)
    ]
    root, wanted = 32**0.25, torch.zeros(4, 32, dtype=torch.float64)
    for i in range(4):
        logits = torch.stack(
            [
                (q[0, 0, i] / root) @ (k[0, 0, j] / root) + (q[0, 0, j] / root) @ tables[0][max(-2, min(2, i - j)) + 2]
                for j in range(4)
            ]
        )
        weights = logits.softmax(0)
        wanted[i] = sum(weights[j] * (v[0, 0, j] + tables[1][max(-2, min(2, j - i)) + 2]) for j in range(4))
    found = block.double().over_time(q, k, v)[0, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # the softmax is in float32


def small_unet(**changes) -> VideoUNet:
    sizes = {
        "in_channels": 4, "out_channels": 4, "width": 32, "multiples": (1, 2), "attention": (2,), "depth": 1,
        "num_heads": 2, "temporal_length": 3,
    }  # fmt: skip
    network = VideoUNet(UNetConfig(**sizes | changes))
    fill_by_formula(network)
    return network.eval()


def test_time_is_mixed_in_attention_alone(monkeypatch):
    network, x, t = small_unet(), torch.randn(1, 4, 3, 8, 8), torch.tensor([5])
    other = x.clone()
    other[:, :, 2] += 1
    with torch.no_grad():
        assert not torch.equal(network(x, t)[:, :, 0], network(other, t)[:, :, 0])
        monkeypatch.setattr(SpaceTimeAttention, "forward", lambda self, h: h)
        # Group norm is over all frames of a clip; without it and without attention frames know nothing of each other.
        monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, h: h)
        monkeypatch.setattr("lavita.nn.precision.GroupNorm.forward", lambda self, h: h)
        assert torch.equal(network(x, t)[:, :, :2], network(other, t)[:, :, :2])


def test_a_network_starts_at_zero_and_as_the_identity_of_its_branches():
    torch.manual_seed(0)
    network = VideoUNet(small_unet().config)
    assert not network(torch.randn(1, 4, 3, 8, 8), torch.tensor([5])).any()
    block = network.middle_block[1]
    h = torch.randn(1, 64, 3, 4, 4)
    torch.testing.assert_close(block(h), h, rtol=0, atol=0)


def test_labels_are_added_to_the_time_embedding():
    network, x, t = small_unet(num_labels=3), torch.randn(2, 4, 3, 8, 8), torch.tensor([5, 600])
    with torch.no_grad():
        one, two = network(x, t, torch.tensor([0, 1])), network(x, t, torch.tensor([0, 2]))
        assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
        network.label_emb.weight.zero_()
        torch.testing.assert_close(network(x, t), network(x, t, torch.tensor([0, 1])), rtol=0, atol=0)


def test_widths_that_do_not_go():
    with pytest.raises(ValueError, match="model.width: a level has 48 channels"):
        small_unet(width=48)


def test_the_up_path_repeats_pixels():
    network = small_unet()
    up = next(layer for layers in network.output_blocks for layer in layers if hasattr(layer, "conv"))
    h = torch.randn(1, 64, 2, 2, 2)
    wanted = functional.conv3d(
        h.repeat_interleave(2, 3).repeat_interleave(2, 4), up.conv.weight, up.conv.bias, padding=(0, 1, 1)
    )
    torch.testing.assert_close(up(h), wanted, rtol=0, atol=1e-5)
