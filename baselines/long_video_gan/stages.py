"""Settings of Long Video GAN, and the training of its low-resolution stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lavita.config.schema import ConfigError, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.adversarial import Adam
from lavita.methods.base import MethodContext
from lavita.methods.lazy_updates import DISCRIMINATOR, R1, LazyUpdates, copied
from lavita.training.stage import TrainedStage

from .averaging import RAMP_STEPS, average_decay
from .losses import LowResolutionLosses, made_smaller
from .low_resolution import GeneratorConfig, LowResolutionGenerator
from .low_resolution_discriminator import DiscriminatorConfig, LowResolutionDiscriminator
from .super_resolution import UpsamplerConfig
from .super_resolution_discriminator import PairConfig


@dataclass(frozen=True)
class Config:
    """The model section: sizes of the four networks, the first stage's share of the budget, optimisers.

    enlargement: of the super-resolution stage. embedding_dim, latent_dim, filters, min_rate, max_rate, channel_divisor:
    of the low-resolution generator; channel_divisor and discriminator_width of its discriminator. pair_frames: that the
    super-resolution stage makes in training; context: small frames on both sides of each. z_dim, w_dim, channel_base,
    channel_max: of both its networks. low_share: of the budget. low_batch_clips: of the
    low-resolution stage, null for train.batch_clips. discriminator_rate: the learning rate of the
    low-resolution discriminator as a part of the generator's. beta1, beta2: of Adam, before its correction.
    """

    enlargement: int
    embedding_dim: int
    latent_dim: int
    filters: int
    min_rate: float
    max_rate: float
    channel_divisor: int
    discriminator_width: int
    pair_frames: int
    context: int
    z_dim: int
    w_dim: int
    channel_base: int
    channel_max: int
    low_share: float
    low_batch_clips: int | None
    discriminator_rate: float
    beta1: float
    beta2: float

    def __post_init__(self) -> None:
        if self.embedding_dim % self.filters:
            raise ConfigError(
                f"model.embedding_dim: got {self.embedding_dim}, wanted a multiple of model.filters, {self.filters}"
            )
        if not 0 < self.low_share < 1:
            raise ConfigError(f"model.low_share: got {self.low_share}, allowed above 0 to below 1")
        if self.enlargement < 2 or self.enlargement & (self.enlargement - 1):
            raise ConfigError(f"model.enlargement: got {self.enlargement}, wanted a power of two from 2 on")

    @property
    def window(self) -> int:
        """Frames of a clip that the super-resolution stage reads in training."""
        return self.pair_frames + 2 * self.context


def low_side(context: MethodContext, config: Config) -> int:
    """Height and width of small clips. Raises ConfigError where the networks can't be built for the suite's clips."""
    side, frames = context.resolution, context.num_frames
    small = side // config.enlargement
    if side & (side - 1) or small < 8:
        raise ConfigError(
            f"data.resolution, model.enlargement: got {side} and {config.enlargement}; wanted a power of two, and at "
            "least 8 for small clips"
        )
    if config.window > frames:
        raise ConfigError(
            f"model.pair_frames, model.context: got {config.pair_frames} and {config.context}, which are "
            f"{config.window} frames, wanted at most the {frames} of a clip"
        )
    return small


def generator_config(context: MethodContext, config: Config) -> GeneratorConfig:
    """Sizes of the low-resolution generator for the suite's clips."""
    c, side = config, low_side(context, config)
    return GeneratorConfig(
        height=side,
        width=side,
        embedding_dim=c.embedding_dim,
        latent_dim=c.latent_dim,
        filters=c.filters,
        min_rate=c.min_rate,
        max_rate=c.max_rate,
        channel_divisor=c.channel_divisor,
    )


def discriminator_config(context: MethodContext, config: Config) -> DiscriminatorConfig:
    """Sizes of the low-resolution discriminator."""
    side = low_side(context, config)
    return DiscriminatorConfig(context.num_frames, side, config.discriminator_width, config.channel_divisor)


def upsampler_config(context: MethodContext, config: Config) -> UpsamplerConfig:
    """Sizes of the super-resolution generator."""
    c, side, small = config, context.resolution, low_side(context, config)
    return UpsamplerConfig(side, side, small, small, c.context, c.z_dim, c.w_dim, 2 * c.channel_base, c.channel_max)


def pair_config(context: MethodContext, config: Config) -> PairConfig:
    """Sizes of the super-resolution discriminator."""
    side, small = context.resolution, low_side(context, config)
    return PairConfig(config.pair_frames, side, small, config.channel_base, config.channel_max)


def decay_of_average(train: TrainConfig, step: int) -> float:
    """As published, with its ramp; with the suite's rule, a half-life that is a share of the steps so far."""
    if train.ema_decay is not None:
        return average_decay(step, train.ema_decay, RAMP_STEPS)
    return 0.5 ** (1 / (train.ema_halflife_share * (step + 1)))


class LowResolutionStage(LazyUpdates, TrainedStage):
    """The two low-resolution networks on small clips of all frames.

    Source: Brooks et al. 2022 (arXiv:2206.03429), section 3.1 and appendix C.
    """

    stage_name = "low-resolution"

    def __init__(self, context: MethodContext, config: Config) -> None:
        batch = config.low_batch_clips or context.train.batch_clips
        super().__init__(replace(context.train, batch_clips=batch), context.seed)
        self.config = config
        self.frames, self.side = context.num_frames, low_side(context, config)
        self.generator = LowResolutionGenerator(generator_config(context, config))
        self.discriminator = LowResolutionDiscriminator(discriminator_config(context, config))
        self.average = copied(self.generator)

    def adams(self) -> tuple[Adam, Adam]:
        c, rate = self.config, self.train_config.learning_rate
        return Adam(rate, c.beta1, c.beta2), Adam(rate * c.discriminator_rate, c.beta1, c.beta2)

    def average_decay(self, step: int) -> float:
        return decay_of_average(self.train_config, step)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        losses, whose = LowResolutionLosses(self.generator, self.discriminator), self.whose(batch)
        if whose == DISCRIMINATOR:
            value, _ = losses.of_discriminator(made_smaller(batch["video"], self.side), rng, self.together)
        elif whose == R1:
            value = losses.of_r1(made_smaller(batch["video"], self.side), rng)
        else:
            value = losses.of_generator(self.frames, rng)
        return {"loss": value, whose: value}
