"""Prediction and interpolation: temporal layers that also see some frames of a clip, where these are given.

A mask float (B, F, 1, 1, 1) is 1 on the frames that are given. The network sees (m z, m), clean latents and mask, and
sees it in its temporal layers alone: the image layers stay those of the image model.
Source: Blattmann et al. 2023 (Align your Latents), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.unet import zeroed

Network = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


class GivenFrames(nn.Module):
    """A temporal layer to whose input a 1x1 convolution of the given frames is added, which starts at zero.

    given (B, F, C + 1, H, W) is set before each call of the network; at a level of fewer rows it is averaged.
    """

    def __init__(self, layer: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.project = zeroed(nn.Conv2d(channels, width, 1))
        self.given: Tensor | None = None

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return self.layer(x + self.seen(x), *arguments, **options)

    def seen(self, x: Tensor) -> Tensor:
        """What is added to frames (B, D, F, h, w), or to tokens (B F, h w, D)."""
        if self.given is None:
            raise ValueError("the network was built for given frames: hand in their latents and mask, or zeros")
        frames = self.given.flatten(0, 1)  # (B F, C + 1, H, W)
        positions = x.shape[3] * x.shape[4] if x.ndim == 5 else x.shape[1]
        reduction = round((frames.shape[2] * frames.shape[3] / positions) ** 0.5)
        h = self.project(functional.avg_pool2d(frames, reduction))  # (B F, D, h, w)
        if x.ndim == 5:
            return h.unflatten(0, self.given.shape[:2]).transpose(1, 2)
        return h.flatten(2).transpose(1, 2)


def see_given_frames(unet: nn.Module, channels: int) -> None:
    """Let every temporal layer of a video U-Net see frames with so many channels, the mask among them."""
    for part in list(unet.modules()):
        if isinstance(part, SpatioTemporalResBlock):
            layer = part.temporal_res_block
            part.temporal_res_block = GivenFrames(layer, channels, layer.in_channels)
        elif isinstance(part, TransformerSpatioTemporalModel):
            layers = [GivenFrames(layer, channels, part.inner_dim) for layer in part.temporal_transformer_blocks]
            part.temporal_transformer_blocks = nn.ModuleList(layers)


def first_frames(z: Tensor, count: Tensor) -> Tensor:
    """(m z, m), (B, F, C + 1, h, w), of latents z (B, F, C, h, w) whose first count, int64 (B,), frames are given."""
    place = torch.arange(z.shape[1], device=z.device)
    return masked(z, place < count[:, None])


def end_frames(z: Tensor) -> Tensor:
    """(m z, m), (B, F, C + 1, h, w), of latents z (B, F, C, h, w) of which the first and the last frame are given."""
    place = torch.arange(z.shape[1], device=z.device)
    return masked(z, ((place == 0) | (place == z.shape[1] - 1)).expand(len(z), -1))


def masked(z: Tensor, given: Tensor) -> Tensor:
    """(m z, m), (B, F, C + 1, h, w), of latents z (B, F, C, h, w) and the frames that are given, bool (B, F)."""
    mask = given.to(z.dtype)[:, :, None, None, None]  # (B, F, 1, 1, 1)
    return torch.cat([mask * z, mask.expand(-1, -1, 1, *z.shape[3:])], dim=2)


def behind_given_frames(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A state whose temporal layers see nothing under the names of a module where they may see given frames."""
    seeing = [f"{name}." for name, part in module.named_modules() if isinstance(part, GivenFrames)]
    found = {}
    for name, value in state.items():
        start = next((one for one in seeing if name.startswith(one)), "")
        found[f"{start}layer.{name.removeprefix(start)}" if start else name] = value
    return found


def context_guided(network: Network, given: Tensor, scale: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The network as a function of (x, t, y): nothing + scale * (given - nothing), where nothing sees a mask of zeros.

    Source: Blattmann et al. 2023 (Align your Latents), equation 5 (context guidance).
    """

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        conditional = network(x, t, y, given)
        if scale == 1.0:
            return conditional
        unconditional = network(x, t, y, torch.zeros_like(given))
        return unconditional + scale * (conditional - unconditional)

    return predict
