"""Stable Video Diffusion's files as a start: official names and diffusers', what is taken and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from lavita.baselines.video_ldm.module import Method
from lavita.baselines.video_ldm.network import is_temporal
from lavita.baselines.video_ldm.official import our_names
from lavita.baselines.video_ldm.stages import Config
from lavita.codecs.kl import KLCodec
from lavita.config.schema import TrainConfig
from lavita.methods.base import MethodContext
from lavita.methods.checkpoint_files import read_published
from lavita.methods.checkpoints import CheckpointError
from lavita.parity.cases import Case, read_case, weight

CASES = Path(__file__).parents[2] / "parity"
UNET, DECODER = (read_case(CASES / f"{name}.json") for name in ("svd_video_unet", "svd_temporal_decoder"))
TRAIN = TrainConfig(2, 1e-3, 0.0, 0.9, 0.999, 0, 0.9, None, None, 0, 0.5)
# Those of the two cases.
SIZES: dict[str, Any] = {"depth": 1, "width": 32, "num_heads": 2, "multiples": (1, 2), "attention": (1,)}
OTHERS: dict[str, Any] = {
    "match_params": None, "image_share": 0.45, "decoder_share": 0.05, "freeze_spatial": True, "given_frames": (),
    "key_stride": None, "context_guidance": 1.0, "discriminator_width": 4, "discriminator_depth": 2,
    "lpips_vgg": None, "lpips_linear": None,
}  # fmt: skip


def build(num_classes: int | None = None, **changes: Any) -> Method:
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
    )
    codec = KLCodec(autoencoder, torch.zeros(4), torch.ones(4), 1.0)
    return Method(MethodContext(4, 16, num_classes, codec, TRAIN, 0), Config(**(SIZES | OTHERS | changes)))


def official(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """The weights of a case under their official names."""
    return {prefix + name: weight(name, tuple(shape)) for name, shape in case.get("state_dict").items()}


def published(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """The same under diffusers' names, as the case lists them."""
    names = case.get("diffusers_names")
    return {prefix + names[name]: value for name, value in official(case).items()}


FILES = {
    "one official file": official(UNET, "model.diffusion_model.") | official(DECODER, "first_stage_model.decoder."),
    "official U-Net": official(UNET),
    "official decoder": official(DECODER),
    "diffusers' U-Net": published(UNET),
    "diffusers' decoder": published(DECODER, "decoder."),
}


@pytest.mark.parametrize("file", ["one official file", "official U-Net", "diffusers' U-Net"])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_u_net_is_taken_by_name(file, num_classes):
    method = build(num_classes)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    start = method.start_from(FILES[file])
    wanted = {f"network.unet.{name}": value for name, value in published(UNET).items()}
    own = dict(method.named_parameters())
    names = {name for name in own if name.startswith("network.")}
    # Their input has the given frame's latent as four more channels; a label table is ours alone.
    left = {"network.unet.conv_in.weight"} | ({"network.unet.add_time_proj.weight"} if num_classes else set())
    assert {name for name in start.left if name.startswith("network.")} == left
    assert "shape (32, 8, 3, 3) there, (32, 4, 3, 3) here" in start.left["network.unet.conv_in.weight"]
    assert {name for name in start.taken if name.startswith("network.")} == names - left
    for name in names:
        value = before[name] if name in left else wanted[name]
        assert torch.equal(own[name], value), name
    unused = [name for name in start.unused if name.startswith("network.")]
    assert unused and all("attn2" in name or "norm2" in name or "add_embedding" in name for name in unused)


def test_the_temporal_layers_of_the_decoder_are_taken_and_the_autoencoder_stays():
    method = build()
    before = {name: value.clone() for name, value in method.codec.state_dict().items()}
    start = method.start_from(FILES["one official file"])
    names = DECODER.get("diffusers_names")
    own, taken = dict(method.decoder.named_parameters()), {name for name in start.taken if name.startswith("decoder.")}
    assert taken == {f"decoder.{name}" for name in own}
    temporal = {
        name: value for name, value in published(DECODER).items() if "temporal" in name or name.startswith("time_")
    } | {name: value for name, value in published(DECODER).items() if name.endswith("mix_factor")}
    # Without their blocks' names: as many values of each shape, and the sums agree.
    assert sorted(value.numel() for value in own.values()) == sorted(value.numel() for value in temporal.values())
    assert torch.equal(own["time_conv_out.weight"], weight("conv_out.time_mix_conv.weight", (3, 3, 3, 1, 1)))
    place = "mid.block_2.time_stack.in_layers.2.weight"
    assert torch.equal(own["layers.1.temporal_res_block.conv1.weight"], weight(place, (64, 64, 3, 1, 1)))
    # The finest level comes last, and is called up.0; two blocks in the middle and three of the first level before it.
    assert torch.equal(own["layers.6.time_mixer.mix_factor"], weight("up.0.block.1.mix_factor", (1,)))
    assert len(names) > len(own) and all(torch.equal(before[name], v) for name, v in method.codec.state_dict().items())


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("given_frames", [(), (0, 1, 2)])
def test_a_folder_of_diffusers_is_as_good_as_one_official_file(given_frames, sharded, tmp_path):
    """Both networks by name, also behind what sees given frames, whose projections alone stay at their zeros."""
    folder = tmp_path / "svd"
    for name, prefix, case in (("unet", "", UNET), ("vae", "decoder.", DECODER)):
        write_network(folder / name, published(case, prefix), sharded)
    one, other = (build(given_frames=given_frames) for _ in range(2))
    from_file, from_folder = one.start_from(FILES["one official file"]), other.start_from(read_published(folder))
    assert from_folder.taken == from_file.taken and from_folder.left == from_file.left
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())
    seeing = {name for name in from_folder.left if "project" in name}
    assert len(seeing) == (2 * 12 if given_frames else 0)
    assert set(from_folder.left) - seeing == {"network.unet.conv_in.weight"}
    assert all(not dict(other.named_parameters())[name].any() for name in seeing)
    temporal = [name for name in from_folder.taken if name.startswith("network.") and is_temporal(name)]
    assert len(temporal) == len([name for name in published(UNET) if is_temporal(name)]) - cross_attention_over_time()


def write_network(folder: Path, state: dict[str, Tensor], sharded: bool) -> None:
    """A network as diffusers saves it, in one file or in two with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if not sharded:
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
        return
    files = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: files[number % 2] for number, name in enumerate(state)}
    for file in files:
        save_file({name: value for name, value in state.items() if places[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def cross_attention_over_time() -> int:
    """Parameters of the official temporal layers that have no place here."""
    return len(
        [
            name
            for name in published(UNET)
            if is_temporal(name) and ("attn2" in name or "norm2." in name) and "transformer" in name
        ]
    )


def test_both_names_of_the_decoder_are_one():
    theirs, ours = our_names(FILES["diffusers' decoder"]), our_names(FILES["official decoder"])
    found = [{name: value for name, value in one.items() if name.startswith("decoder.")} for one in (theirs, ours)]
    assert found[0].keys() == found[1].keys() and len(found[0]) > 0
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_file_that_does_not_fit_changes_nothing():
    for file, changes in (("official U-Net", {"width": 64}), ("official decoder", {})):
        method = build(**changes)
        before = {name: value.clone() for name, value in method.state_dict().items()}
        state = {name: value for name, value in FILES[file].items() if file != "official U-Net" or value.ndim > 1}
        if file == "official U-Net":
            state = {name: value[:, :3] for name, value in state.items()}
        with pytest.raises(CheckpointError, match="nothing to start from"):
            method.start_from(state)
        assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
