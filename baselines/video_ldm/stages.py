"""What Video LDM trains before its temporal layers: the image U-Net, and the temporal layers of the decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from lavita.config.schema import ConfigError, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.schedule import Schedule
from lavita.methods.base import MethodContext
from lavita.methods.discriminators import UPDATES, AlternatingStage, adaptive_weight
from lavita.methods.latent_diffusion import LatentDiffusion

from .decoder import VideoCodec
from .losses import (
    ClipDiscriminator,
    adversarial_loss,
    discriminator_loss,
    noise_loss,
    reconstruction_loss,
)
from .network import ImageUNet, UNetConfig, VideoUNet


@dataclass(frozen=True)
class Config:
    """The model section: sizes of the U-Net and of the discriminator, the shares of the compute budget, perceptual
    weights.

    width and num_heads are those of the first level, whose head width the others keep; depth: residual blocks of a
    level; attention: reductions of the latent's sides at which there is any. image_share and decoder_share are parts of
    the budget, the temporal layers of the U-Net get the rest; decoder_share 0 decodes with the suite's autoencoder.
    freeze_spatial false trains all of the U-Net in the temporal phase, which is another method. given_frames: how many
    first frames of a clip are given, one of these at random (0, 1, 2 in the paper), for prediction; none: a model that
    generates clips alone. key_stride: a model for interpolation in its place, which is given two frames so far apart (4
    in the paper) and makes those between; null: none. context_guidance: the scale of guidance by first frames, 1 for
    none. lpips_vgg and lpips_linear are weight files, both null for the declared stand-in. match_params names a method
    whose parameter count depth and width were chosen by, before the configuration came here.
    """

    depth: int
    width: int
    num_heads: int
    match_params: str | None
    multiples: tuple[int, ...]
    attention: tuple[int, ...]
    image_share: float
    decoder_share: float
    freeze_spatial: bool
    given_frames: tuple[int, ...]
    key_stride: int | None
    context_guidance: float
    discriminator_width: int
    discriminator_depth: int
    lpips_vgg: str | None
    lpips_linear: str | None

    def __post_init__(self) -> None:
        if self.depth < 1 or self.num_heads < 1 or self.width % self.num_heads:
            raise ConfigError(
                f"model: got depth {self.depth}, width {self.width} and num_heads {self.num_heads}, wanted at least 1, "
                "and heads that divide the width"
            )
        if not (0 < self.image_share and 0 <= self.decoder_share and self.image_share + self.decoder_share < 1):
            raise ConfigError(
                f"model.image_share, model.decoder_share: got {self.image_share} and {self.decoder_share}; wanted: the "
                "first above 0, the second not below, the sum below 1"
            )
        if any(count < 0 for count in self.given_frames) or self.given_frames and not any(self.given_frames):
            raise ConfigError(
                f"model.given_frames: got {list(self.given_frames)}, wanted numbers of frames, one above 0; or []"
            )
        if self.key_stride is not None and (self.key_stride < 2 or self.given_frames):
            raise ConfigError(
                f"model.key_stride: got {self.key_stride} with model.given_frames {list(self.given_frames)}, wanted at "
                "least 2 (one frame between two), and given_frames=[]: one model predicts or interpolates"
            )
        if self.context_guidance != 1 and 0 not in self.given_frames:
            raise ConfigError(
                f"model.context_guidance: got {self.context_guidance}, wanted 1 where model.given_frames has no 0: a "
                "network that always sees frames has nothing to be guided away from"
            )

    @property
    def sees_given(self) -> bool:
        """Whether the temporal layers are told frames."""
        return bool(self.given_frames) or self.key_stride is not None

    @property
    def context(self) -> int:
        """Frames that a clip is continued from, 0 where none can be."""
        return max(self.given_frames, default=0)

    def numbers(self) -> tuple[int, int, int]:
        """(depth, width, heads)."""
        return self.depth, self.width, self.num_heads


def unet_config(context: MethodContext, config: Config) -> UNetConfig:
    """Sizes of the U-Net for the suite's latents. Raises ValueError where a side can't be halved for every level."""
    side, coarsest = context.codec.latent_side(context.resolution), 2 ** (len(config.multiples) - 1)
    if side % coarsest:
        raise ConfigError(
            f"model.multiples: got {len(config.multiples)} levels for latents of {side} x {side}, wanted sides that "
            f"are multiples of {coarsest}"
        )
    return UNetConfig(
        in_channels=context.codec.latent_channels,
        out_channels=context.codec.latent_channels,
        width=config.width,
        multiples=config.multiples,
        attention=config.attention,
        depth=config.depth,
        head_width=config.width // config.num_heads,
        num_labels=None if context.num_classes is None else context.num_classes + 1,
    )


def video_ldm_schedule() -> Schedule:
    """1,000 steps, square roots of beta linear between those of 0.00085 and 0.012: Stable Diffusion's, which is the
    image model of the paper. Source: Rombach et al. 2022, released configurations.
    """
    return Schedule.scaled_linear(0.00085, 0.012)


def draws_per_example(count: int, draw: Callable[[], Tensor]) -> Tensor:
    """count draws (B,) of every clip, those of a clip behind each other: (B count,)."""
    return torch.stack([draw() for _ in range(count)], dim=1).flatten()


class ImageStage(LatentDiffusion):
    """The image phase: every frame of a clip is an image of its own, with its own time, noise and dropped label.

    Source: Blattmann et al. 2023 (Align your Latents), section 3.1. All frames are paid for, so all are used.
    """

    stage_name = "image"

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.schedule = video_ldm_schedule()

    def build_network(self) -> nn.Module:
        """The image network. The video network that it is a part of is kept beside it, out of registered modules."""
        self.video = (VideoUNet(unet_config(self.context, self.config), sees_given=self.config.sees_given),)
        return ImageUNet(self.video[0])

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x0 = self.clip_latent(batch, rng)  # (B, F, C, h, w)
        frames, labels = x0.shape[1], None
        t = draws_per_example(frames, lambda: rng.integers(self.schedule.num_steps))  # (B F,)
        if self.context.num_classes is not None:
            labels = draws_per_example(frames, lambda: self.labels(batch["label"], rng))  # (B F,)
        noise = rng.normal(x0.shape[1:]).flatten(0, 1)  # (B F, C, h, w)
        predicted = self.network(self.schedule.add_noise(x0.flatten(0, 1), t, noise), t, labels)
        return {"loss": noise_loss(predicted, noise).unflatten(0, (-1, frames)).mean(dim=1)}

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()


class DecoderStage(AlternatingStage):
    """The temporal layers of the decoder, with a discriminator of clips: every batch updates the one, then the other.

    The two updates of a batch count half of it each. The suite's autoencoder stays as it is.
    Source: Blattmann et al. 2023 (Align your Latents), section 3.1 and appendix.
    """

    stage_name = "decoder"
    unchanged = ("codec", "perceptual")
    same_clips = True
    clip_cost = Fraction(1, UPDATES)

    def __init__(
        self,
        train: TrainConfig,
        seed: int,
        codec: VideoCodec,
        perceptual: nn.Module,
        discriminator: ClipDiscriminator,
    ) -> None:
        super().__init__(replace(train, weight_decay=0.0), seed)
        self.codec, self.decoder = codec.codec, codec.decoder
        self.perceptual = perceptual
        self.discriminator = discriminator

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        if self.updates_discriminator(batch):
            with torch.no_grad():
                rebuilt = self.rebuilt(video, rng)
            value = discriminator_loss(self.discriminator, video, rebuilt)  # (B,)
            return {"loss": value, "discriminator": value}
        rebuilt = self.rebuilt(video, rng)
        parts = reconstruction_loss(video, rebuilt, self.perceptual)
        adversarial = adversarial_loss(self.discriminator, rebuilt)  # (B,)
        last = self.decoder.time_conv_out.weight
        weight = adaptive_weight(parts["reconstruction"].mean(), adversarial.mean(), last, self.together)
        total = parts["reconstruction"] + weight * adversarial
        return parts | {"loss": total, "adversarial": adversarial, "adaptive_weight": weight.expand_as(total)}

    def rebuilt(self, video: Tensor, rng: SampleRNG) -> Tensor:
        """Clips (B, F, 3, H, W) after encoding and decoding, not held in any range; the latent gets no gradient."""
        with torch.no_grad():
            latent = self.codec.encode(video, rng)  # (B, F, C, h, w)
        return VideoCodec(self.codec, self.decoder).pixels(latent)

    def heldout_losses(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """The reconstruction alone: before the first step it is that of the suite's autoencoder."""
        video = batch["video"]
        return reconstruction_loss(video, self.rebuilt(video, rng), self.perceptual)["reconstruction"]  # (B,)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.decoder.parameters(), *self.discriminator.parameters()]

    def recomputed(self) -> list[nn.Module]:
        return list(self.decoder.layers)
