"""Losses of LVDM's autoencoder: pixels and perception of every frame, and a discriminator of single frames."""

from __future__ import annotations

from torch import Tensor, nn

from lavita.diffusion.loss import mean_of_clip
from lavita.methods.discriminators import BatchNorm2d, hinge_loss, start_small

PERCEPTUAL_WEIGHT = 1.0


class FrameDiscriminator(nn.Module):
    """Logits of overlapping patches, (B, 3, H, W) in [-1, 1] -> (B, 1, h, w), with the official state-dict keys.

    Source: Isola et al. 2017, section 3.2.2; github.com/CompVis/taming-transformers at 3ba01b2,
    taming/modules/discriminator/model.py.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, depth + 1):
            stride = 2 if i < depth else 1
            layers += [nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False)]
            layers += [BatchNorm2d(widths[i]), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.main = nn.Sequential(*layers).apply(start_small)

    def forward(self, frames: Tensor) -> Tensor:
        return self.main(frames)


def frame_loss(video: Tensor, rebuilt: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    """{"reconstruction", "perceptual"}, float32 (B,): the mean over a clip's frames of what is summed over a frame.

    video, rebuilt (B, F, 3, H, W). reconstruction: absolute errors, and for every value of a frame its perceptual
    distance once more; perceptual is that part of it.
    Source: github.com/YingqingHe/LVDM at d251dcc, lvdm/models/losses/contperceptual.py.
    """
    values, frames = video[0, 0].numel(), video.shape[1]
    distance = perceptual(video.flatten(0, 1), rebuilt.flatten(0, 1)).unflatten(0, (-1, frames)).mean(dim=1)  # (B,)
    seen = PERCEPTUAL_WEIGHT * distance * values
    return {"reconstruction": mean_of_clip((video - rebuilt).abs()) * values + seen, "perceptual": seen}


def kl_by_value(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from a standard normal of every value, of the shape of both. Source: Kingma & Welling 2014, B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def logits_of(discriminator: nn.Module, video: Tensor) -> Tensor:
    """The discriminator's logits of every frame, clip by clip: (B, F, 3, H, W) -> (B, F, 1, h, w)."""
    return discriminator(video.flatten(0, 1)).unflatten(0, video.shape[:2])


def adversarial_loss(discriminator: nn.Module, rebuilt: Tensor) -> Tensor:
    """The autoencoder's adversarial loss, (B,); the discriminator's parameters get no gradient here."""
    discriminator.requires_grad_(False)
    logits = logits_of(discriminator, rebuilt)
    discriminator.requires_grad_(True)
    return -mean_of_clip(logits)


def discriminator_loss(discriminator: nn.Module, video: Tensor, rebuilt: Tensor) -> Tensor:
    """The discriminator's loss of each clip, (B,); rebuilt gets no gradient. Real frames come first in batch norms."""
    real, fake = logits_of(discriminator, video), logits_of(discriminator, rebuilt.detach())
    return hinge_loss(real, fake)
