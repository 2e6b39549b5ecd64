"""Cases of Video LDM's networks, recorded from the same authors' later code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import AlphaBlender, SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn import functional

from lavita.parity.adapters import tensor
from lavita.parity.cases import Adapter, Case, CaseError

from .decoder import TemporalDecoder
from .network import UNetConfig, spatio_temporal_unet
from .official import decoder_name, unet_name

# What the released networks leave as it is; a case with another value is of another network.
FIXED_UNET = {
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}
FIXED_DECODER = {"attn_resolutions": [], "dropout": 0.0, "video_kernel_size": [3, 1, 1], "merge_strategy": "learned"}


def require_fixed(case: Case, fixed: dict[str, Any]) -> dict[str, Any]:
    """The case's configuration. Raises CaseError where it is of a network that was not released."""
    config = case.get("config")
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise CaseError(f"{case.path}: config.{key} is {config[key]!r}, covered is {value!r}")
    return config


class Renamed(nn.Module):
    """Parameters of some networks under other names; `networks` are used, never called through this."""

    def __init__(self, parameters: dict[str, nn.Parameter], *networks: nn.Module) -> None:
        super().__init__()
        self.networks = networks
        for name, parameter in parameters.items():
            *path, last = name.split(".")
            place: nn.Module = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place._modules[part]
            place.register_parameter(last, parameter)


def build_unet(case: Case) -> Renamed:
    """The network at the case's sizes, under its official names; the added vector is given as it is."""
    c = require_fixed(case, FIXED_UNET)
    config = UNetConfig(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        width=c["model_channels"],
        multiples=tuple(c["channel_mult"]),
        attention=tuple(c["attention_resolutions"]),
        depth=c["num_res_blocks"],
        head_width=c["num_head_channels"],
    )
    unet = spatio_temporal_unet(config, c["context_dim"], c["transformer_depth"], c["adm_in_channels"])
    unet.add_time_proj = nn.Identity()
    ours = dict(unet.named_parameters())
    return Renamed({name: ours[unet_name(name, config.depth)] for name in case.get("state_dict")}, unet)


@contextmanager
def given(unet: nn.Module, kinds: tuple[type, ...], option: str, value: Callable[[tuple], Tensor]) -> Iterator[None]:
    """Inside, modules of these kinds get value(inputs) for an option, which diffusers' forward fills otherwise."""

    def put(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return inputs, options | {option: value(inputs)}

    parts = [part for part in unet.modules() if isinstance(part, kinds)]
    handles = [part.register_forward_pre_hook(put, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def images_flagged(unet: nn.Module, flags: Tensor) -> AbstractContextManager[None]:
    """Inside, the frames (B, F) flagged 1 are single images."""
    kinds = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)
    return given(unet, kinds, "image_only_indicator", lambda inputs: flags)


def time_context(unet: nn.Module, context: Tensor) -> AbstractContextManager[None]:
    """Inside, cross-attention over time reads these tokens (B, n, width), not those of cross-attention over space."""

    def at_every_position(inputs: tuple) -> Tensor:
        return context.repeat_interleave(inputs[0].shape[1], dim=0)  # (B h w, n, width)

    return given(unet, (TemporalBasicTransformerBlock,), "encoder_hidden_states", at_every_position)


@contextmanager
def mixed_by(unet: nn.Module, strategy: str, factor: float | None = None) -> Iterator[None]:
    """Inside, mixing follows another strategy of diffusers' `AlphaBlender`, with this factor where one is given."""
    mixers = [part for part in unet.modules() if isinstance(part, AlphaBlender)]
    before = [(part.merge_strategy, part.mix_factor.data) for part in mixers]
    for part in mixers:
        part.merge_strategy = strategy
        if factor is not None:
            part.mix_factor.data = torch.full_like(part.mix_factor.data, factor)
    try:
        yield
    finally:
        for part, (name, data) in zip(mixers, before, strict=True):
            part.merge_strategy, part.mix_factor.data = name, data


def run_unet(case: Case, network: Renamed) -> dict[str, Tensor]:
    """Output as video, with some frames and with all flagged as images, with the other ways of mixing, with tokens of
    their own for time; the mean square of the first with its gradients.
    """
    (unet,) = network.networks
    x, frames = tensor(case, "x"), case.get("inputs", "num_video_frames")

    def call() -> Tensor:
        clips = x.unflatten(0, (-1, frames))  # (B, F, C, h, w)
        output = unet(clips, tensor(case, "t"), tensor(case, "context"), tensor(case, "y"), return_dict=False)[0]
        return output.flatten(0, 1)  # (B F, C, h, w)

    flags = tensor(case, "image_only_indicator")
    with torch.no_grad():
        with images_flagged(unet, flags):
            some = call()
        with images_flagged(unet, torch.ones_like(flags)):
            images = call()
        with mixed_by(unet, "learned"):
            learned = call()
        with mixed_by(unet, "fixed", case.get("config", "merge_factor")):
            fixed = call()
        with time_context(unet, tensor(case, "time_context")):
            other_context = call()
    y = call()
    mean_square = y.square().mean()
    mean_square.backward()
    return {
        "y": y,
        "mean_square": mean_square,
        "y_some_images": some,
        "y_images": images,
        "y_learned": learned,
        "y_fixed": fixed,
        "y_time_context": other_context,
    }


class Pointwise(nn.Linear):
    """A linear layer whose weight is that of a 1x1 convolution, as official attention has it."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight[..., 0, 0], self.bias)


def build_decoder(case: Case) -> Renamed:
    """The image decoder with temporal layers at the case's sizes, under its official names."""
    c = require_fixed(case, FIXED_DECODER)
    levels, depth = len(c["ch_mult"]), c["num_res_blocks"]
    image = Decoder(
        in_channels=c["z_channels"],
        out_channels=c["out_ch"],
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(c["ch"] * multiple for multiple in c["ch_mult"]),
        layers_per_block=depth,
    )
    decoder = TemporalDecoder(image, patch=1, groups=32)
    networks = (image, decoder)
    found = [dict(network.named_parameters()) for network in networks]
    parameters = {}
    for name, shape in case.get("state_dict").items():
        is_temporal, own = decoder_name(name, levels, depth)
        owner, _, kind = own.rpartition(".")
        if len(shape) == 4 and found[is_temporal][own].ndim == 2:
            layer = image.get_submodule(owner)
            layer.__class__ = Pointwise
            layer.weight = nn.Parameter(layer.weight[:, :, None, None])
        parameters[name] = networks[is_temporal].get_submodule(owner).get_parameter(kind)
    return Renamed(parameters, decoder)


def run_decoder(case: Case, network: Renamed) -> dict[str, Tensor]:
    """Clips, the first frame as a clip of its own, and the frames without temporal layers."""
    (decoder,) = network.networks
    z, frames = tensor(case, "z"), case.get("inputs", "num_video_frames")
    with torch.no_grad():
        one = decoder(z[:1, None])[0]
        by_frame = decoder.image_decoder(z)
    y = decoder(z.unflatten(0, (-1, frames))).flatten(0, 1)
    mean_square = y.square().mean()
    mean_square.backward()
    return {"y": y, "mean_square": mean_square, "y_one_frame": one, "y_frame_by_frame": by_frame}


SYSTEMS = {
    "video_ldm_unet": Adapter(build_unet, run_unet),
    "video_ldm_decoder": Adapter(build_decoder, run_decoder),
}
