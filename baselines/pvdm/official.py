"""The two files of an official PVDM: the autoencoder's state dict and the U-Net's, read safely."""

from __future__ import annotations

from pathlib import Path

from lavita.checkpoints import official_state

from .autoencoder import TriplaneAutoencoder
from .unet import PlaneUNet

# The released trainer saves its U-Net inside a wrapper of this name.
UNET_PREFIX = "diffusion_model."


def load_official_pair(
    autoencoder: TriplaneAutoencoder, network: PlaneUNet, autoencoder_path: Path | str, unet_path: Path | str
) -> None:
    """Load both files, or raise CheckpointError and change neither network.

    Files and errors are those of `lavita.checkpoints.load_official`; the U-Net's keys may stand with the released
    trainer's prefix or without. Use the averaged U-Net (`ema_model_<iteration>.pth`): published scores are of that one.
    Source: github.com/sihyun-yu/PVDM at 793172f, tools/trainer.py and exps/diffusion.py.
    """
    first = official_state(autoencoder_path, autoencoder)
    second = official_state(unet_path, network, prefix=UNET_PREFIX)
    autoencoder.load_state_dict(first, strict=True)
    network.load_state_dict(second, strict=True)
