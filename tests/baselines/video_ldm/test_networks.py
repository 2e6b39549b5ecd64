"""Video LDM's networks: sizes of the paper, the image network inside the video network, the temporal decoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder as PublishedDecoder
from diffusers.models.resnet import AlphaBlender
from torch import Tensor, nn

from lavita.baselines.video_ldm.decoder import VideoCodec, temporal_decoder
from lavita.baselines.video_ldm.network import ImageUNet, UNetConfig, VideoUNet, is_temporal, spatio_temporal_unet
from lavita.baselines.video_ldm.official import decoder_name, unet_name
from lavita.codecs.kl import KLCodec
from lavita.diffusion.rng import SampleRNG
from lavita.parity.cases import fill_by_formula, read_case
from lavita.parity.run import run_case

CASES = Path(__file__).parents[2] / "parity"
TINY = UNetConfig(4, 4, 32, (1, 2), (1,), 1, 16, num_labels=6)
SD = UNetConfig(4, 4, 320, (1, 2, 4, 4), (1, 2, 4), 2, 64)


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("context_width", "temporal", "image"),
    [(1024, 656_076_838, 865_910_724), (768, 649_687_078, 859_520_964)],
    ids=["text width of Stable Diffusion 2", "text width of Stable Diffusion 1.4"],
)
def test_sizes_of_the_paper(context_width, temporal, image):
    """The paper counts 656 M and 649 M temporal, 865 M and 860 M image parameters."""
    with torch.device("meta"):
        unet = spatio_temporal_unet(SD, context_width)
    named = {name: value for name, value in unet.named_parameters() if not name.startswith("add_embedding")}
    assert count(value for name, value in named.items() if is_temporal(name)) == temporal
    assert count(value for name, value in named.items() if not is_temporal(name)) == image
    assert sum(isinstance(part, AlphaBlender) for part in unet.modules()) == 38


@pytest.mark.parametrize(
    ("config", "total", "temporal"),
    [
        (UNetConfig(4, 4, 192, (1, 2, 4, 4), (1, 2, 4), 2, 64), 511.9, 218.2),
        (UNetConfig(4, 4, 192, (1, 2, 3, 4), (2, 4, 8), 2, 64), 547.4, None),
        (SD, 1421, None),
        (UNetConfig(4, 4, 96, (1, 2, 4), (1, 2, 4), 1, 32), 68.0, 32.6),
        (UNetConfig(4, 4, 32, (1, 2), (1, 2), 1, 32), 1.9, None),
    ],
    ids=["paper", "paper, other levels", "published size", "small", "demo"],
)
def test_sizes_without_cross_attention(config, total, temporal):
    """Millions of parameters, as they were counted before from the official network."""
    with torch.device("meta"):
        video = VideoUNet(config)
        image = ImageUNet(video)
    assert round(count(video.parameters()) / 1e6, 0 if total > 1000 else 1) == total
    if temporal is not None:
        assert round(count(video.temporal_parameters().values()) / 1e6, 1) == temporal
    assert all(parameter.is_meta for parameter in (*video.parameters(), *image.parameters()))
    assert count(image.parameters()) == count(video.spatial_parameters().values())


def networks(**changes) -> tuple[VideoUNet, ImageUNet]:
    torch.manual_seed(0)
    video = VideoUNet(dataclasses.replace(TINY, **changes))
    return video, ImageUNet(video)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([3, 500]), torch.tensor([1, 5])


def frame_by_frame(image: ImageUNet, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """The image network on every frame by itself, (B, F, C, h, w)."""
    return torch.stack([image(x[:, frame], t, y) for frame in range(x.shape[1])], dim=1)


@pytest.mark.parametrize("num_labels", [6, None])
def test_with_mixing_factor_one_it_is_the_image_network(num_labels):
    video, image = networks(num_labels=num_labels)
    fill_by_formula(video)
    x, t, y = inputs()
    y = y if num_labels else None
    with torch.no_grad():
        mixed = video(x, t, y)
        for part in video.modules():
            if isinstance(part, AlphaBlender):
                part.mix_factor.fill_(1e9)  # its sigmoid is 1
        assert video.mixing().tolist() == [1.0] * len(video.mixing())
        alone, wanted = video(x, t, y), frame_by_frame(image, x, t, y)
    # Another batch size sums in another order.
    assert float((alone - wanted).norm() / wanted.norm()) < 1e-5
    assert float((mixed - wanted).norm() / wanted.norm()) > 0.1


def test_every_layer_of_the_image_network_is_one_of_the_video_network():
    video, image = networks()
    assert {id(p) for p in image.parameters()} == {id(p) for p in video.spatial_parameters().values()}
    names = {name.replace("spatial_res_block.", "") for name in video.spatial_parameters()}
    hangs = {"unet.add_time_proj.weight": "unet.class_embedding.weight"}  # the one other name
    assert {hangs.get(name, name) for name in names} == set(dict(image.named_parameters()))
    video(*inputs()).mean().backward()
    assert all(parameter.grad is not None for parameter in video.parameters())


def test_both_start_at_zero_and_temporal_blocks_as_the_identity():
    video, image = networks()
    x, t, y = inputs()
    assert not video(x, t, y).any() and not image(x[:, 0], t, y).any()
    block = next(part for part in video.modules() if type(part).__name__ == "TemporalResnetBlock")
    h = torch.randn(2, 32, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(block(h, torch.randn(2, 3, 128)), h)
    assert video.mixing().tolist() == pytest.approx([1 / (1 + 2.718281828459045**-0.5)] * len(video.mixing()))


def test_norms_of_residual_blocks_have_the_official_epsilon():
    video, _ = networks()
    norms = {name: part.eps for name, part in video.named_modules() if isinstance(part, nn.GroupNorm)}
    assert {eps for name, eps in norms.items() if "res_block" in name} == {1e-5}
    assert {eps for name, eps in norms.items() if name.endswith("attentions.0.norm")} == {1e-6}


@pytest.mark.parametrize("changes", [{"width": 48}, {"head_width": 24}])
def test_a_width_that_does_not_divide_is_refused(changes):
    with pytest.raises(ValueError, match="wanted a multiple of 32"):
        dataclasses.replace(TINY, **changes)


def autoencoder(**changes) -> AutoencoderKL:
    """A small one of two levels on plain frames, with formula weights."""
    sizes = {"block_out_channels": (32, 64), "latent_channels": 3, "norm_num_groups": 32, "layers_per_block": 2}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = AutoencoderKL(**(sizes | blocks | changes))
    fill_by_formula(model)
    return model.requires_grad_(False).eval()


def codec(**changes) -> KLCodec:
    return KLCodec(autoencoder(**changes), torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0]), 3.0)


PATCHES = {
    "in_channels": 12, "out_channels": 12, "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (32,), "norm_num_groups": 4,
    "layers_per_block": 1, "mid_block_add_attention": False,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, PATCHES, {"use_post_quant_conv": False}], ids=["frames", "patches", "plain"])
def test_the_temporal_decoder_starts_as_the_codecs_own(changes):
    own = codec(**changes)
    video = VideoCodec(own, temporal_decoder(own.autoencoder))
    latent = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The 3D convolution at the end multiplies by 1 and adds zeros: exact. The frames are the same batch.
        assert torch.equal(video.decode(latent), own.decode(latent))
        pictures = video.pixels(latent)
    assert pictures.shape == (2, 3, 3, 8, 8)
    assert torch.equal(video.encode(pictures.clamp(-1, 1), SampleRNG([0, 1])), own.encode(
        pictures.clamp(-1, 1), SampleRNG([0, 1])
    ))  # fmt: skip
    assert all("autoencoder" not in name for name in dict(video.decoder.named_parameters()))


def test_a_codec_without_room_for_temporal_layers_is_refused():
    with pytest.raises(ValueError, match="a block of 24 channels"):
        temporal_decoder(autoencoder(**PATCHES | {"block_out_channels": (24,)}))


def test_frames_reach_each_other_in_the_decoder():
    own = codec()
    decoder = temporal_decoder(own.autoencoder)
    fill_by_formula(decoder)
    z = torch.randn(1, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[:, 0] += 1
    with torch.no_grad():
        changed = (decoder(z) - decoder(other)).flatten(2).norm(dim=-1)[0]
    assert (changed > 1e-6).all()


def test_it_is_the_published_decoder_where_the_codec_is_of_that_kind():
    """diffusers' TemporalDecoder, given the same weights, gives the same pixels."""
    image = autoencoder().decoder
    ours = temporal_decoder(autoencoder())
    fill_by_formula(ours)
    published = PublishedDecoder(3, 3, (32, 64), layers_per_block=2)
    case = read_case(CASES / "svd_temporal_decoder.json")
    theirs, found = dict(published.named_parameters()), (dict(image.named_parameters()), dict(ours.named_parameters()))
    names = case.get("diffusers_names")
    assert set(names.values()) == set(theirs)
    for official, name in names.items():
        is_temporal_layer, own = decoder_name(official, levels=2, depth=2)
        theirs[name].data.copy_(found[is_temporal_layer][own])
    z = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = published(z.flatten(0, 1), torch.zeros(2, 3), num_frames=3).unflatten(0, (2, 3))
        assert float((ours(z) - wanted).norm() / wanted.norm()) < 1e-5


def test_official_names_are_those_of_the_case():
    case = read_case(CASES / "svd_video_unet.json")
    depth = case.get("config", "num_res_blocks")
    assert {name: unet_name(name, depth) for name in case.get("state_dict")} == case.get("diffusers_names")
    for name in ("conv_in.weight", "input_blocks.weight"):
        with pytest.raises(ValueError, match="no name of the official video U-Net"):
            unet_name(name, depth)
    with pytest.raises(ValueError, match="no name of the official temporal decoder"):
        decoder_name("encoder.conv_in.weight", 2, 2)


@pytest.mark.parametrize("name", ["svd_video_unet", "svd_temporal_decoder"])
def test_optional_figures_of_the_cases_are_met_too(name):
    """What diffusers' classes do not reach by themselves: other mixing, a context of its own, no temporal layers."""
    case = read_case(CASES / f"{name}.json")
    optional = dataclasses.replace(case, data={**case.data, "outputs": case.get("optional_outputs")})
    assert [check.what for check in run_case(optional) if not check.passed] == []
