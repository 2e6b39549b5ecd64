"""Training of PVDM's first stage: reconstruction, then the adversarial phase; the budget is the switch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lavita.config.schema import SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.methods.discriminators import AlternatingStage
from lavita.training.stage import TrainedStage

from .autoencoder import AutoencoderConfig, PreNorm, TriplaneAutoencoder
from .losses import Adversary, reconstruction_loss
from .unet import UNetConfig


@dataclass(frozen=True)
class Config:
    """The model section: sizes of both stages, the shares of the compute budget, perceptual weights, long video.

    autoencoder_share and adversarial_share are parts of the budget, diffusion gets the rest. lpips_vgg and
    lpips_linear are weight files, both null for the declared stand-in. autoencoder_batch_clips null takes
    train.batch_clips. previous_clip trains with the F frames before each clip, which are its condition with
    probability previous_clip_probability, and charges them to the budget. normalize_latents gives the diffusion
    latents less their mean over clips, value by value, divided by one standard deviation (measured on training clips).
    """

    channels: int
    embed_dim: int
    patch_size: int
    depth: int
    num_heads: int
    head_width: int
    projection_depth: int
    projection_hidden: int
    discriminator_width: int
    discriminator_depth: int
    lpips_vgg: str | None
    lpips_linear: str | None
    autoencoder_share: float
    adversarial_share: float
    autoencoder_batch_clips: int | None
    autoencoder_beta1: float
    autoencoder_beta2: float
    unet_channels: int
    unet_multiples: tuple[int, ...]
    unet_attention: tuple[int, ...]
    unet_blocks: int
    unet_heads: int
    previous_clip: bool
    previous_clip_probability: float
    normalize_latents: bool

    def __post_init__(self) -> None:
        if not (0 < self.autoencoder_share and 0 <= self.adversarial_share and self.first_share < 1):
            raise ValueError(
                f"model.autoencoder_share, model.adversarial_share: got {self.autoencoder_share} and "
                f"{self.adversarial_share}; wanted: the first above 0, the second not below, the sum below 1"
            )
        if not 0 <= self.previous_clip_probability <= 1:
            raise ValueError(f"model.previous_clip_probability: got {self.previous_clip_probability}, allowed 0 to 1")

    @property
    def first_share(self) -> float:
        """Part of the budget that the autoencoder costs, both phases together."""
        return self.autoencoder_share + self.adversarial_share


def autoencoder_config(context: MethodContext, config: Config) -> AutoencoderConfig:
    """Sizes of the autoencoder for the suite's clips."""
    return AutoencoderConfig(
        embed_dim=config.embed_dim,
        channels=config.channels,
        resolution=context.resolution,
        timesteps=context.num_frames,
        patch_size=config.patch_size,
        depth=config.depth,
        num_heads=config.num_heads,
        head_width=config.head_width,
        projection_depth=config.projection_depth,
        projection_hidden=config.projection_hidden,
    )


def unet_config(context: MethodContext, config: Config) -> UNetConfig:
    """Sizes of the U-Net for the planes of the suite's clips."""
    return UNetConfig(
        image_size=context.resolution // config.patch_size,
        frames=context.num_frames,
        in_channels=config.embed_dim,
        out_channels=config.embed_dim,
        model_channels=config.unet_channels,
        attention_resolutions=config.unet_attention,
        num_res_blocks=config.unet_blocks,
        channel_mult=config.unet_multiples,
        num_heads=config.unet_heads,
        cond_model=config.previous_clip,
        num_classes=context.num_classes,
    )


def check_steps(sampling: SamplingConfig) -> int:
    """The number of steps; raises ValueError for what PVDM's own loop does not offer."""
    if sampling.sampler != "ddim" or not sampling.steps.isdigit():
        raise ValueError(
            f"sampling: got sampler {sampling.sampler!r} with steps {sampling.steps!r}; pvdm samples by its "
            "own ddim loop: set sampling.sampler=ddim and one whole number of steps (eta 1 as published)"
        )
    return int(sampling.steps)


def first_stage_training(train: TrainConfig, beta1: float, beta2: float, batch_clips: int | None) -> TrainConfig:
    """The suite's training setting with the autoencoder's own moments and, where given, batch."""
    return replace(train, beta1=beta1, beta2=beta2, batch_clips=batch_clips or train.batch_clips)


class ReconstructionStage(TrainedStage):
    """Pixel and perceptual loss. The authors keep the last weights of the autoencoder, not their average.

    Source: PVDM, section 3.1; github.com/sihyun-yu/PVDM at 793172f, exps/first_stage.py.
    """

    stage_name = "autoencoder"
    uses_ema = False
    unchanged = ("perceptual",)

    def __init__(self, train: TrainConfig, seed: int, autoencoder: TriplaneAutoencoder, perceptual: nn.Module) -> None:
        super().__init__(train, seed)
        self.autoencoder = autoencoder
        self.perceptual = perceptual

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        index = rng.integers(video.shape[1])  # (B,)
        return reconstruction_loss(video, self.autoencoder(video), index, self.perceptual)

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.autoencoder.parameters())

    def recomputed(self) -> list[nn.Module]:
        """Every attention and MLP of the autoencoder, whose lists of layers have their official names."""
        return [layer for layer in self.autoencoder.modules() if isinstance(layer, PreNorm)]


class AdversarialStage(AlternatingStage, ReconstructionStage):
    """The same with two discriminators; they and the autoencoder are updated alternately, batch by batch."""

    stage_name = "autoencoder-gan"

    def __init__(
        self,
        train: TrainConfig,
        seed: int,
        autoencoder: TriplaneAutoencoder,
        perceptual: nn.Module,
        adversary: Adversary,
    ) -> None:
        super().__init__(train, seed, autoencoder, perceptual)
        self.adversary = adversary

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        index = rng.integers(video.shape[1])  # (B,)
        if self.updates_discriminator(batch):
            with torch.no_grad():
                rebuilt = self.autoencoder(video)  # (B, F, 3, H, W)
            value = self.adversary.discriminator_loss(video, rebuilt, index)  # (B,)
            return {"loss": value, "discriminator": value}
        rebuilt = self.autoencoder(video)  # (B, F, 3, H, W)
        parts = reconstruction_loss(video, rebuilt, index, self.perceptual)
        parts |= self.adversary.autoencoder_loss(video, rebuilt, index)
        return parts | {"loss": parts["loss"] + parts["adversarial"] + parts["features"]}

    def heldout_losses(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """The losses of the stage before, so that the two phases can be compared."""
        return super().loss(batch, rng)["loss"]  # (B,)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.autoencoder.parameters(), *self.adversary.parameters()]

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Each discriminator is clipped to norm 1 as published; then the suite's rule, where there is one."""
        self.adversary.clip_gradients()
        super().configure_gradient_clipping(optimizer)
