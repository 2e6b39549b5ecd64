"""Cases of PVDM's first stage, the triplane autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.pvdm.autoencoder import AutoencoderConfig, TriplaneAutoencoder
from lavita.parity.case import Case


def build(case: Case) -> TriplaneAutoencoder:
    """The autoencoder at the case's sizes."""
    return TriplaneAutoencoder(AutoencoderConfig(**case.get("config")))


def run(case: Case, network: TriplaneAutoencoder) -> dict[str, Tensor]:
    """Latent, reconstruction with batch and frames on one axis, and mean squared error with its gradients."""
    values, match = case.expression("x", r"tanh\(([\d.]+) Z\), .*")
    x = torch.tanh(float(match[1]) * torch.from_numpy(values)).transpose(1, 2)  # (B, F, 3, H, W)
    latent = network.encode(x)  # (B, C, N)
    reconstruction = network.decode(latent)  # (B, F, 3, H, W)
    mse = ((reconstruction - x) ** 2).mean()
    mse.backward()
    return {"latent": latent, "reconstruction": reconstruction.flatten(0, 1), "mse": mse}
