"""Cases of PVDM's second stage, the U-Net on three planes."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.pvdm.diffusion import noise_loss, pvdm_schedule
from baselines.pvdm.unet import PlaneUNet, UNetConfig
from lavita.parity.case import Case
from lavita.parity.hybrid import tensor


def build(case: Case) -> PlaneUNet:
    """The U-Net at the case's sizes; the number of frames follows from the length of a latent."""
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in case.get("config").items()}
    side = case.get("config", "image_size")
    frames = (case.array("x").shape[2] // side - side) // 2
    return PlaneUNet(UNetConfig(frames=frames, **config))


def run(case: Case, network: PlaneUNet) -> dict[str, Tensor]:
    """Noise with and without the previous clip, and the mean loss on noise with its gradients."""
    x, noise, t = (tensor(case, key) for key in ("x", "noise", "t"))
    cond = tensor(case, "cond") if "cond" in case.get("inputs") else None
    with torch.no_grad():
        figures = {"y": network(x, t, cond), "y_without_cond": network(x, t)}
    loss = noise_loss(lambda z, t: network(z, t, cond), pvdm_schedule(), x, t, noise).mean()
    loss.backward()
    return {**figures, "loss": loss}
