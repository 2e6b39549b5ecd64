"""PVDM's model section: the sizes of both networks that follow from it, and what its sampling loop takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lavita.config import SamplingConfig
from lavita.train.module import MethodContext

from .transformer import AutoencoderConfig
from .unet import UNetConfig


@dataclass(frozen=True)
class Config:
    """The model section: sizes of both stages, the cut of the purse, perceptual weights, long video.

    autoencoder_share and adversarial_share are parts of the purse, diffusion gets the rest. lpips_vgg and
    lpips_linear are weight files, both null for the declared stand-in. autoencoder_batch_clips null takes
    train.batch_clips. previous_clip trains with the F frames before each clip, which are its condition with
    probability previous_clip_probability, and charges them to the budget.
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
        """Part of the purse that the autoencoder costs, both phases together."""
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


def check_sampling(sampling: SamplingConfig, num_classes: int | None, classes: Tensor | None) -> int:
    """The number of steps; raises ValueError for what PVDM's own loop does not offer."""
    if sampling.sampler != "ddim" or not sampling.steps.isdigit():
        raise ValueError(
            f"sampling: got sampler {sampling.sampler!r} with steps {sampling.steps!r}; pvdm samples by its "
            "own ddim loop: set sampling.sampler=ddim and one whole number of steps (eta 1 as published)"
        )
    if num_classes is None and sampling.guidance != 1.0:
        raise ValueError(f"sampling.guidance: got {sampling.guidance}, an unconditional suite allows 1 only")
    if num_classes is not None and classes is None:
        raise ValueError("a class-conditional method samples with one class a clip, got none")
    return int(sampling.steps)
