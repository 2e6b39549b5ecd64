"""Patch discriminators of frames (2D) and clips (3D), which also return their features for matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.diffusion.loss import mean_of_clip

from .batch_norm import BatchNorm2d, BatchNorm3d

LAYERS = {2: (nn.Conv2d, BatchNorm2d), 3: (nn.Conv3d, BatchNorm3d)}


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches and every intermediate feature, with the official state-dict keys.

    dims 2 reads frames (B, 3, H, W), dims 3 clips (B, 3, F, H, W); both in [-1, 1]. forward returns
    (logits (B, 1, ...), features: list of the layers' outputs without the logits).
    Source: Isola et al. 2017, section 3.2.2; github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """

    def __init__(self, dims: int, width: int = 64, depth: int = 3, channels: int = 3) -> None:
        super().__init__()
        convolution, norm = LAYERS[dims]
        widths = [min(width * 2**i, 512) for i in range(depth + 1)]
        stages = [nn.Sequential(convolution(channels, width, 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for i in range(1, depth + 1):
            stride = 2 if i < depth else 1
            layer = convolution(widths[i - 1], widths[i], 4, stride=stride, padding=2)
            stages.append(nn.Sequential(layer, norm(widths[i]), nn.LeakyReLU(0.2)))
        stages.append(nn.Sequential(convolution(widths[-1], 1, 4, stride=1, padding=2)))
        self.num_stages = len(stages)
        for i, stage in enumerate(stages):
            self.add_module(f"model{i}", stage)
        self.apply(start_small)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for i in range(self.num_stages):
            x = self.get_submodule(f"model{i}")(x)  # (B, D_i, ...)
            features.append(x)
        return features[-1], features[:-1]


def start_small(layer: nn.Module) -> None:
    """Convolution weights from N(0, 0.02), norm scales from N(1, 0.02), norm shifts zero."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator's patch logits (B, 1, ...), mean over each clip's patches, (B,).

    Source: Lim & Ye 2017; Miyato et al. 2018, equation 17.
    """
    return 0.5 * (mean_of_clip(functional.relu(1 - real)) + mean_of_clip(functional.relu(1 + fake)))


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference of each clip, (B,); the real side carries no gradient.

    Source: Wang et al. 2018 (pix2pixHD), equation 4.
    """
    parts = [mean_of_clip((f - r.detach()).abs()) for f, r in zip(fake, real, strict=True)]
    return torch.stack(parts).sum(dim=0)
