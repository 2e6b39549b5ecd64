"""Losses of the autoencoder: pixels and perception, and two discriminators in the adversarial phase."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavita.diffusion.loss import mean_of_clip
from lavita.methods.discriminators import BatchNorm2d, BatchNorm3d, hinge_loss, start_small

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


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference of each clip, (B,); the real side carries no gradient.

    Source: Wang et al. 2018 (pix2pixHD), equation 4.
    """
    parts = [mean_of_clip((f - r.detach()).abs()) for f, r in zip(fake, real, strict=True)]
    return torch.stack(parts).sum(dim=0)


PIXEL_WEIGHT = 4.0
PERCEPTUAL_WEIGHT = 4.0
ADVERSARIAL_WEIGHT = 1.0
FEATURE_WEIGHT = 4.0


def pick_frames(video: Tensor, index: Tensor) -> Tensor:
    """Frame index[b] of each clip, (B, F, 3, H, W) -> (B, 3, H, W)."""
    return video[torch.arange(len(video), device=video.device), index.to(video.device)]


def reconstruction_loss(video: Tensor, rebuilt: Tensor, index: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    """Weighted loss of each clip: {"loss", "pixel", "perceptual", "psnr"}, float32 (B,); loss = the next two.

    video, rebuilt (B, F, 3, H, W) in [-1, 1]; the perceptual term reads one frame per clip, index (B,).
    Source: PVDM, section 3.1; weights of github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """
    pixel = PIXEL_WEIGHT * mean_of_clip((video - rebuilt).abs())  # (B,)
    distance = perceptual(pick_frames(video, index), pick_frames(rebuilt, index))  # (B,)
    return {
        "loss": pixel + PERCEPTUAL_WEIGHT * distance,
        "pixel": pixel,
        "perceptual": PERCEPTUAL_WEIGHT * distance,
        "psnr": peak_signal_to_noise(video, rebuilt.detach()),
    }


class Adversary(nn.Module):
    """The two discriminators, of single frames and of whole clips, and both sides' losses.

    Source: PVDM, section 3.1; github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.discriminator_2d = PatchDiscriminator(2, width, depth)
        self.discriminator_3d = PatchDiscriminator(3, width, depth)

    def judge(self, video: Tensor, index: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """(logits, features) of one frame per clip and of the clip itself; video (B, F, 3, H, W)."""
        return [
            self.discriminator_2d(pick_frames(video, index)),
            self.discriminator_3d(video.transpose(1, 2).contiguous()),
        ]

    def autoencoder_loss(self, video: Tensor, rebuilt: Tensor, index: Tensor) -> dict[str, Tensor]:
        """What the autoencoder pays for each clip: {"adversarial", "features"}, float32 (B,), weighted.

        The discriminators' own parameters get no gradient here, so an optimiser leaves them as they are.
        """
        self.requires_grad_(False)
        with torch.no_grad():
            real = self.judge(video, index)
        fake = self.judge(rebuilt, index)
        self.requires_grad_(True)
        adversarial = -sum_over_judges([mean_of_clip(logits) for logits, _ in fake])
        features = sum_over_judges([feature_distance(f, r) for (_, f), (_, r) in zip(fake, real, strict=True)])
        return {"adversarial": ADVERSARIAL_WEIGHT * adversarial, "features": FEATURE_WEIGHT * features}

    def discriminator_loss(self, video: Tensor, rebuilt: Tensor, index: Tensor) -> Tensor:
        """What the discriminators pay for each clip, float32 (B,); rebuilt gets no gradient."""
        real, fake = self.judge(video, index), self.judge(rebuilt.detach(), index)
        parts = [hinge_loss(r, f) for (r, _), (f, _) in zip(real, fake, strict=True)]
        return ADVERSARIAL_WEIGHT * sum_over_judges(parts)

    def clip_gradients(self, max_norm: float = 1.0) -> None:
        """Clip each discriminator's gradient norm by itself, as the released recipe does."""
        for network in (self.discriminator_2d, self.discriminator_3d):
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)


def sum_over_judges(parts: list[Tensor]) -> Tensor:
    """Sum of the two discriminators' terms, (B,)."""
    return torch.stack(parts).sum(dim=0)


def peak_signal_to_noise(video: Tensor, rebuilt: Tensor) -> Tensor:
    """PSNR of each clip in dB for values in [-1, 1] (peak to peak 2), (B, F, 3, H, W) -> (B,)."""
    return -10 * torch.log10(mean_of_clip((video - rebuilt) ** 2) / 4)
