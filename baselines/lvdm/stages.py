"""Training of LVDM's first stage: reconstruction, then with a discriminator; the budget is the switch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from lavita.config.schema import TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.methods.discriminators import UPDATES, AlternatingStage, adaptive_weight
from lavita.training.stage import TrainedStage

from .autoencoder import AutoencoderConfig, ResidualBlock, VideoAutoencoder
from .losses import (
    FrameDiscriminator,
    adversarial_loss,
    discriminator_loss,
    frame_loss,
    kl_by_value,
)
from .unet import UNetConfig


@dataclass(frozen=True)
class Config:
    """The model section: sizes of both stages, the shares of the compute budget, perceptual weights.

    reductions: frames, rows and columns of a clip per latent one. autoencoder_share and adversarial_share are parts of
    the budget, diffusion gets the rest. lpips_vgg and lpips_linear are weight files, both null for the declared
    stand-in. autoencoder_batch_clips and autoencoder_learning_rate null take those of `train`. width, depth and
    num_heads are the U-Net's (its first level, residual blocks a level), as are multiples, attention (reductions of
    the latent's sides) and temporal_length (null: the latent's frames). long_video is the pair of networks for it:
    num_keys latent frames, key_stride apart, are predicted at a time, those between are filled in; frame_guidance is
    the released w (0 for none), interpolation_share a part of the budget. released_shift and released_scale belong to
    the authors' files: a trained row measures its own.
    """

    autoencoder_width: int
    reductions: tuple[int, ...]
    latent_channels: int
    norm_groups: int
    discriminator_width: int
    discriminator_depth: int
    kl_weight: float
    lpips_vgg: str | None
    lpips_linear: str | None
    autoencoder_share: float
    adversarial_share: float
    autoencoder_batch_clips: int | None
    autoencoder_learning_rate: float | None
    autoencoder_beta1: float
    autoencoder_beta2: float
    width: int
    multiples: tuple[int, ...]
    attention: tuple[int, ...]
    depth: int
    num_heads: int
    match_params: str | None
    temporal_length: int | None
    long_video: bool
    num_keys: int
    key_stride: int
    frame_guidance: float
    interpolation_share: float
    released_shift: float | None
    released_scale: float | None

    def __post_init__(self) -> None:
        if len(self.reductions) != 3:
            raise ValueError(f"model.reductions: got {list(self.reductions)}, wanted three: frames, rows, columns")
        if not (0 < self.autoencoder_share and 0 <= self.adversarial_share and self.first_share < 1):
            raise ValueError(
                f"model.autoencoder_share, model.adversarial_share: got {self.autoencoder_share} and "
                f"{self.adversarial_share}; wanted: the first above 0, the second not below, the sum below 1"
            )
        left = 1 - self.first_share
        if self.long_video and not (0 < self.interpolation_share < left):
            raise ValueError(
                f"model.interpolation_share: got {self.interpolation_share}, wanted above 0 and below {left:g}, "
                "what the autoencoder leaves"
            )
        if self.num_keys < 2 or self.key_stride < 2:
            raise ValueError(
                f"model.num_keys, model.key_stride: got {self.num_keys} and {self.key_stride}, wanted at least 2 each"
            )

    @property
    def first_share(self) -> float:
        """Part of the budget that the autoencoder costs, both phases together."""
        return self.autoencoder_share + self.adversarial_share

    def numbers(self) -> tuple[int, int, int]:
        """Depth, width and heads of the U-Net, which model.match_params chooses."""
        return self.depth, self.width, self.num_heads


def autoencoder_config(config: Config) -> AutoencoderConfig:
    """Sizes of the autoencoder."""
    frames, rows, columns = config.reductions
    return AutoencoderConfig(
        config.autoencoder_width, (frames, rows, columns), config.latent_channels, config.norm_groups
    )


def unet_config(context: MethodContext, config: Config, latent_shape: tuple[int, ...]) -> UNetConfig:
    """Sizes of the U-Net for latents (C, f, h, w). Raises ValueError where a side can't be halved for every level."""
    channels, frames, *sides = latent_shape
    coarsest = 2 ** (len(config.multiples) - 1)
    if any(side % coarsest for side in sides):
        raise ValueError(
            f"model.multiples: got {len(config.multiples)} levels for latents of {sides[0]} x {sides[1]}, wanted "
            f"sides that are multiples of {coarsest}"
        )
    return UNetConfig(
        in_channels=channels,
        out_channels=channels,
        width=config.width,
        multiples=config.multiples,
        attention=config.attention,
        depth=config.depth,
        num_heads=config.num_heads,
        temporal_length=config.temporal_length or frames,
        num_labels=None if context.num_classes is None else context.num_classes + 1,
    )


def first_stage_training(train: TrainConfig, config: Config, warmup: float = 1.0) -> TrainConfig:
    """The suite's training setting with the autoencoder's moments, batch and learning rate; Adam, so no decay.

    warmup: how much of the suite's warm-up, where it has one, a stage gets.
    """
    return replace(
        train,
        beta1=config.autoencoder_beta1,
        beta2=config.autoencoder_beta2,
        weight_decay=0.0,
        warmup_clips=round(train.warmup_clips * warmup),
        batch_clips=config.autoencoder_batch_clips or train.batch_clips,
        learning_rate=config.autoencoder_learning_rate or train.learning_rate,
    )


class ReconstructionStage(TrainedStage):
    """Pixel and perceptual loss of a draw of the posterior. The authors keep the last weights, not their average.

    Source: LVDM, section 3.1; github.com/YingqingHe/LVDM at d251dcc, lvdm/models/autoencoder3d.py.
    """

    stage_name = "autoencoder"
    uses_ema = False
    unchanged = ("perceptual",)

    def __init__(
        self,
        train: TrainConfig,
        seed: int,
        autoencoder: VideoAutoencoder,
        perceptual: nn.Module,
        kl_weight: float,
    ) -> None:
        super().__init__(train, seed)
        self.autoencoder = autoencoder
        self.perceptual = perceptual
        self.kl_weight = kl_weight

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        return self.reconstruct(batch["video"], rng)[1]

    def reconstruct(self, video: Tensor, rng: SampleRNG) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction (B, F, 3, H, W) of a draw, and the parts of its loss, (B,) each."""
        noise = self.noise(video, rng)
        rebuilt, mean, log_variance = self.autoencoder(video, noise)
        parts = frame_loss(video, rebuilt, self.perceptual)
        kl = kl_by_value(mean, log_variance).flatten(1).sum(dim=1)  # (B,)
        return rebuilt, {"loss": parts["reconstruction"] + self.kl_weight * kl, **parts, "kl": kl}

    def noise(self, video: Tensor, rng: SampleRNG) -> Tensor:
        """What the posterior is drawn with, (B, C, f, h, w)."""
        return rng.normal(self.autoencoder.latent_shape(video.shape[1], video.shape[3]))

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.autoencoder.parameters())

    def recomputed(self) -> list[nn.Module]:
        """Every residual block of the autoencoder, whose lists of layers have their official names."""
        return [layer for layer in self.autoencoder.modules() if isinstance(layer, ResidualBlock)]


class AdversarialStage(AlternatingStage, ReconstructionStage):
    """The same with a discriminator: every batch updates the autoencoder, then the discriminator on a new draw.

    The two updates of a batch count half of it each.
    """

    stage_name = "autoencoder-gan"
    same_clips = True
    clip_cost = Fraction(1, UPDATES)

    def __init__(
        self,
        train: TrainConfig,
        seed: int,
        autoencoder: VideoAutoencoder,
        perceptual: nn.Module,
        kl_weight: float,
        discriminator: FrameDiscriminator,
    ) -> None:
        super().__init__(train, seed, autoencoder, perceptual, kl_weight)
        self.discriminator = discriminator

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        if self.updates_discriminator(batch):
            with torch.no_grad():
                rebuilt, _, _ = self.autoencoder(video, self.noise(video, rng))
            value = discriminator_loss(self.discriminator, video, rebuilt)  # (B,)
            return {"loss": value, "discriminator": value}
        rebuilt, parts = self.reconstruct(video, rng)
        adversarial = adversarial_loss(self.discriminator, rebuilt)  # (B,)
        last = self.autoencoder.decoder.conv_out.conv.weight
        weight = adaptive_weight(parts["reconstruction"].mean(), adversarial.mean(), last, self.together)
        total = parts["loss"] + weight * adversarial
        return parts | {"loss": total, "adversarial": adversarial, "adaptive_weight": weight.expand_as(total)}

    def heldout_losses(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """The losses of the stage before, so that the two phases can be compared."""
        return super().loss(batch, rng)["loss"]  # (B,)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.autoencoder.parameters(), *self.discriminator.parameters()]
