"""LVDM's released files: Lightning checkpoints of the autoencoder and of the U-Net, read into our networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lavita.methods.checkpoints import CheckpointError, fitting, read_state

from .autoencoder import VideoAutoencoder
from .unet import VideoUNet

LOSS = "loss."  # the discriminator and LPIPS, which only training needs
PLAIN, AVERAGE, WRAPPED = "model.diffusion_model.", "model_ema.", "diffusion_model."
COUNTERS = ("decay", "num_updates")  # of the average


def load_official_pair(
    autoencoder: VideoAutoencoder, network: VideoUNet, autoencoder_path: Path | str, unet_path: Path | str
) -> None:
    """Load both files, or raise CheckpointError and change neither network.

    Of the U-Net's file the averaged weights are taken where it has them. Files and errors are those of
    `lavita.methods.checkpoints.load_official`.
    Source: github.com/YingqingHe/LVDM at d251dcc, lvdm/models/ddpm3d.py and lvdm/models/modules/util.py.
    """
    first = autoencoder_state(autoencoder_path, autoencoder)
    second = unet_state(unet_path, network)
    autoencoder.load_state_dict(first, strict=True)
    network.load_state_dict(second, strict=True)


def autoencoder_state(path: Path | str, network: nn.Module) -> dict[str, Tensor]:
    """The autoencoder's state in its file, where each convolution's weight stands twice. Raises CheckpointError."""
    state = {name: value for name, value in read_state(path).items() if not name.startswith(LOSS)}
    wanted = network.state_dict()
    for name in [name for name in state if name not in wanted]:
        own = name.removesuffix("weight") + "conv.weight"
        if not name.endswith(".weight") or own not in wanted:
            continue  # named as unexpected below
        value = state.pop(name)
        if own in state and not torch.equal(state[own], value):
            raise CheckpointError(f"{path}: {name} and {own}, one weight under two names, differ; nothing was loaded")
        state[own] = value
    return fitting(path, state, network)


def unet_state(path: Path | str, network: nn.Module) -> dict[str, Tensor]:
    """The U-Net's averaged state in its file, else the plain one, else a bare state dict. Raises CheckpointError."""
    state = read_state(path)
    average = {name.removeprefix(AVERAGE): value for name, value in state.items() if name.startswith(AVERAGE)}
    plain = {name.removeprefix(PLAIN): value for name, value in state.items() if name.startswith(PLAIN)}
    if average:
        # Their names have no dots; without dots no two names of the network are the same.
        named = {(WRAPPED + name).replace(".", ""): name for name in network.state_dict()}
        state = {named.get(name, name): value for name, value in average.items() if name not in COUNTERS}
    elif plain:
        state = plain
    return fitting(path, state, network)
