"""Names of Stable Video Diffusion's released networks, whose temporal layers are Video LDM's, in those of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Of both networks: inside a 3D residual block.
TIME_STACK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
              "out_layers.0": "norm2", "out_layers.3": "conv2"}  # fmt: skip
# Of the U-Net: inside a residual block, and inside a transformer.
RESIDUAL = {f"time_stack.{name}": f"temporal_res_block.{ours}" for name, ours in TIME_STACK.items()} | {
    name: f"spatial_res_block.{ours}" for name, ours in TIME_STACK.items()
} | {"skip_connection": "spatial_res_block.conv_shortcut"}  # fmt: skip
TRANSFORMER = {"time_stack": "temporal_transformer_blocks", "time_pos_embed.0": "time_pos_embed.linear_1",
               "time_pos_embed.2": "time_pos_embed.linear_2"}  # fmt: skip
OUTSIDE = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
           "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
           "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}  # fmt: skip


def unet_name(name: str, depth: int) -> str:
    """The name in diffusers' UNetSpatioTemporalConditionModel of a parameter of the official video U-Net.

    depth: residual blocks of a level. Raises ValueError for a name that the official network does not have.
    Source: Stability-AI/generative-models at 0ad7de9, sgm/modules/diffusionmodules/video_model.py.
    """
    outside = renamed(name, OUTSIDE)
    if outside != name:
        return outside
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"{name}: no name of the official video U-Net")
    part, number, rest = match[1], int(match[2]), match[3]
    if part == "middle_block":  # residual block, transformer, residual block
        return inside(rest, "mid_block", number // 2, number == 1)
    place, _, rest = rest.partition(".")
    if part == "input_blocks":
        # After the first convolution, depth blocks a level, then what halves the sides.
        level, index = divmod(number - 1, depth + 1)
        if index == depth:
            return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        return inside(rest, f"down_blocks.{level}", index, place == "1")
    level, index = divmod(number, depth + 1)
    if rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return inside(rest, f"up_blocks.{level}", index, place == "1")


def inside(rest: str, block: str, index: int, in_transformer: bool) -> str:
    """The name of a parameter of the index-th residual block, or transformer, of a block of levels."""
    if in_transformer:
        return f"{block}.attentions.{index}.{renamed(rest, TRANSFORMER)}"
    return f"{block}.resnets.{index}.{renamed(rest, RESIDUAL)}"


def renamed(name: str, names: dict[str, str]) -> str:
    """A name whose first parts are another's, with that one's counterpart in their place."""
    for theirs, ours in names.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name


DECODER_BLOCK = {"nin_shortcut": "conv_shortcut"}
DECODER_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def decoder_name(name: str, levels: int, depth: int) -> tuple[bool, str]:
    """(whether it is temporal, name) of a parameter of the official temporal decoder: in a `TemporalDecoder` where it
    is, else in diffusers' image `Decoder`.

    levels: of the decoder; depth: residual blocks of a level, less one. Raises ValueError for a name that the official
    network does not have.
    Source: Stability-AI/generative-models at 0ad7de9, sgm/modules/autoencoding/temporal_ae.py.
    """
    if name.startswith("conv_out.time_mix_conv."):
        return True, f"time_conv_out.{name.removeprefix('conv_out.time_mix_conv.')}"
    if name.startswith(("conv_in.", "conv_out.")):
        return False, name
    if name.startswith("norm_out."):
        return False, f"conv_{name}"
    if match := re.fullmatch(r"mid\.attn_1\.(.+)", name):
        return False, f"mid_block.attentions.0.{renamed(match[1], DECODER_ATTENTION)}"
    if match := re.fullmatch(r"up\.(\d+)\.upsample\.(.+)", name):
        return False, f"up_blocks.{levels - 1 - int(match[1])}.upsamplers.0.{match[2]}"
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", name):
        index = int(match[1]) - 1
        return of_block(match[2], index, f"mid_block.resnets.{index}")
    if match := re.fullmatch(r"up\.(\d+)\.block\.(\d+)\.(.+)", name):
        level, index = levels - 1 - int(match[1]), int(match[2])
        # Two blocks lie in the middle, in front of all others; levels are counted from the coarsest on.
        return of_block(match[3], 2 + level * (depth + 1) + index, f"up_blocks.{level}.resnets.{index}")
    raise ValueError(f"{name}: no name of the official temporal decoder")


def of_block(rest: str, number: int, block: str) -> tuple[bool, str]:
    """The name of a parameter of the decoder's residual block of this number and name."""
    if rest == "mix_factor":
        return True, f"layers.{number}.time_mixer.mix_factor"
    if rest.startswith("time_stack."):
        inner = renamed(rest.removeprefix("time_stack."), TIME_STACK)
        return True, f"layers.{number}.temporal_res_block.{inner}"
    return False, f"{block}.{renamed(rest, DECODER_BLOCK)}"


UNET, DECODER = "model.diffusion_model.", "first_stage_model.decoder."  # in one official file
FOLDER_UNET, FOLDER_VAE = "unet.", "vae."  # in diffusers' folder
HALVING = re.compile(r"input_blocks\.(\d+)\.0\.op\.weight")
LEVEL = re.compile(r"up\.(\d+)\.block\.(\d+)\.")
PUBLISHED_BLOCK = re.compile(r"decoder\.(mid_block|up_blocks\.(\d+))\.resnets\.(\d+)\.((?:temporal|time_).+)")


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of a method's parts, `network.unet.` and `decoder.`.

    The state is one of: an official file, with U-Net and decoder; an official U-Net or decoder alone; diffusers' U-Net
    or `AutoencoderKLTemporalDecoder`; both of these, as a folder with `unet` and `vae` has them. What has no place in
    the method keeps its name: the image part of the decoder, which is the suite's autoencoder here, among it.
    """

    def has(start: str) -> bool:
        return any(name.startswith(start) for name in state)

    def parts(*starts: str) -> list[dict[str, Tensor]]:
        """The entries of each network without what their names begin with, and all others."""
        found = [{n.removeprefix(one): v for n, v in state.items() if n.startswith(one)} for one in starts]
        return [*found, {n: v for n, v in state.items() if not n.startswith(starts)}]

    if has(UNET) or has(DECODER):
        unet, decoder, others = parts(UNET, DECODER)
        return of_unet(unet) | of_decoder(decoder) | others
    if has(FOLDER_UNET) or has(FOLDER_VAE):
        unet, vae, others = parts(FOLDER_UNET, FOLDER_VAE)
        return {f"network.unet.{name}": value for name, value in unet.items()} | of_published_decoder(vae) | others
    if has("input_blocks."):
        return of_unet(state)
    if has("mid."):
        return of_decoder(state)
    if has("decoder."):
        return of_published_decoder(state)
    return {f"network.unet.{name}": value for name, value in state.items()}


def of_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official U-Net's state under our names."""
    # After the first convolution: depth blocks, then what halves the sides, where there is more than one level.
    halvings = [int(match[1]) for match in map(HALVING.fullmatch, state) if match]
    depth = min(halvings) - 1 if halvings else sum(".0.in_layers.0.weight" in name for name in state if "input" in name)
    return {f"network.unet.{unet_name(name, depth)}": value for name, value in state.items()}


def of_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official decoder's state under our names; its image part under diffusers'."""
    places = [(int(match[1]), int(match[2])) for match in map(LEVEL.match, state) if match]
    levels, depth = (max((one[axis] for one in places), default=0) for axis in (0, 1))
    named = ((*decoder_name(name, levels + 1, depth), value) for name, value in state.items())
    return {f"{'decoder' if is_temporal else 'image decoder'}.{own}": value for is_temporal, own, value in named}


def of_published_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of diffusers' `AutoencoderKLTemporalDecoder` under our names."""
    blocks = {name: match for name, match in ((name, PUBLISHED_BLOCK.fullmatch(name)) for name in state) if match}
    per_level = max((int(match[3]) + 1 for match in blocks.values() if match[2]), default=0)
    found = {}
    for name, value in state.items():
        match = blocks.get(name)
        if match is None:
            found[name if name.startswith("decoder.time_conv_out.") else f"image {name}"] = value
            continue
        before = 0 if match[2] is None else 2 + int(match[2]) * per_level  # two blocks lie in the middle
        found[f"decoder.layers.{before + int(match[3])}.{match[4]}"] = value
    return found
