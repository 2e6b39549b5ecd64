"""Cases of PVDM's second stage, the U-Net on three planes."""

from __future__ import annotations

import torch
from torch import Tensor

from lavita.parity.adapters import tensor
from lavita.parity.cases import Adapter, Case

from .autoencoder import AutoencoderConfig, TriplaneAutoencoder
from .diffusion import noise_loss, pvdm_schedule
from .unet import PlaneUNet, UNetConfig


def build_unet(case: Case) -> PlaneUNet:
    """The U-Net at the case's sizes; the number of frames follows from the length of a latent."""
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in case.get("config").items()}
    side = case.get("config", "image_size")
    frames = (case.array("x").shape[2] // side - side) // 2
    return PlaneUNet(UNetConfig(frames=frames, **config))


def run_unet(case: Case, network: PlaneUNet) -> dict[str, Tensor]:
    """Noise with and without the previous clip, and the mean loss on noise with its gradients."""
    x, noise, t = (tensor(case, key) for key in ("x", "noise", "t"))
    cond = tensor(case, "cond") if "cond" in case.get("inputs") else None
    with torch.no_grad():
        figures = {"y": network(x, t, cond), "y_without_cond": network(x, t)}
    loss = noise_loss(lambda z, t: network(z, t, cond), pvdm_schedule(), x, t, noise).mean()
    loss.backward()
    return {**figures, "loss": loss}


def build_autoencoder(case: Case) -> TriplaneAutoencoder:
    """The autoencoder at the case's sizes."""
    return TriplaneAutoencoder(AutoencoderConfig(**case.get("config")))


def run_autoencoder(case: Case, network: TriplaneAutoencoder) -> dict[str, Tensor]:
    """Latent, reconstruction with batch and frames on one axis, and mean squared error with its gradients."""
    values, match = case.expression("x", r"tanh\(([\d.]+) Z\), .*")
    x = torch.tanh(float(match[1]) * torch.from_numpy(values)).transpose(1, 2)  # (B, F, 3, H, W)
    latent = network.encode(x)  # (B, C, N)
    reconstruction = network.decode(latent)  # (B, F, 3, H, W)
    mse = ((reconstruction - x) ** 2).mean()
    mse.backward()
    return {"latent": latent, "reconstruction": reconstruction.flatten(0, 1), "mse": mse}


SYSTEMS = {
    "pvdm_unet": Adapter(build_unet, run_unet),
    "pvdm_autoencoder": Adapter(build_autoencoder, run_autoencoder),
}
