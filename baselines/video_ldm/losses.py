"""Losses of Video LDM: noise of the diffusion; pixels, perception and a discriminator of clips for its decoder."""

from __future__ import annotations

from torch import Tensor, nn

from lavita.diffusion.loss import mean_of_clip
from lavita.methods.discriminators import BatchNorm3d, hinge_loss, start_small

PERCEPTUAL_WEIGHT = 1.0


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error on the noise of each clip or image, (B, ...) -> (B,). Source: Ho et al. 2020, equation 14."""
    return mean_of_clip((predicted - noise) ** 2)


class ClipDiscriminator(nn.Module):
    """Logits of overlapping patches of clips, (B, F, 3, H, W) in [-1, 1] -> (B, 1, F, h, w): every patch sees several
    frames.

    The patch discriminator of image autoencoders with one more axis, which is not strided. The authors say only that
    theirs is built from 3D convolutions. Source: Blattmann et al. 2023 (Align your Latents), section 3.1; Isola et al.
    2017, section 3.2.2.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        layers: list[nn.Module] = [convolution(3, width, 2), nn.LeakyReLU(0.2)]
        for i in range(1, depth + 1):
            layers.append(convolution(widths[i - 1], widths[i], 2 if i < depth else 1, bias=False))
            layers += [BatchNorm3d(widths[i]), nn.LeakyReLU(0.2)]
        layers.append(convolution(widths[-1], 1, 1))
        self.main = nn.Sequential(*layers).apply(start_small)

    def forward(self, video: Tensor) -> Tensor:
        return self.main(video.transpose(1, 2))


def convolution(width: int, out_width: int, stride: int, bias: bool = True) -> nn.Conv3d:
    """Three frames of 4x4 patches, strided in space alone."""
    return nn.Conv3d(width, out_width, (3, 4, 4), stride=(1, stride, stride), padding=1, bias=bias)


def reconstruction_loss(video: Tensor, rebuilt: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    """{"reconstruction", "perceptual"}, float32 (B,): mean absolute error of a clip plus the mean perceptual distance
    of its frames, which is the second. video, rebuilt (B, F, 3, H, W). Source: Esser et al. 2021 (VQGAN), equation 5.
    """
    frames = video.shape[1]
    distance = perceptual(video.flatten(0, 1), rebuilt.flatten(0, 1)).unflatten(0, (-1, frames)).mean(dim=1)  # (B,)
    seen = PERCEPTUAL_WEIGHT * distance
    return {"reconstruction": mean_of_clip((video - rebuilt).abs()) + seen, "perceptual": seen}


def adversarial_loss(discriminator: nn.Module, rebuilt: Tensor) -> Tensor:
    """The decoder's adversarial loss, (B,); the discriminator's parameters get no gradient here."""
    discriminator.requires_grad_(False)
    logits = discriminator(rebuilt)
    discriminator.requires_grad_(True)
    return -mean_of_clip(logits)


def discriminator_loss(discriminator: nn.Module, video: Tensor, rebuilt: Tensor) -> Tensor:
    """The discriminator's loss of each clip, (B,); rebuilt gets no gradient. Real clips come first in batch norms."""
    return hinge_loss(discriminator(video), discriminator(rebuilt.detach()))
