"""Long Video GAN as a method of the suite: small clips from lowpassed noise, then frame by frame larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lavita.config.schema import ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.adversarial import Adam, AdaptiveProbability
from lavita.methods.base import MethodContext, VideoMethod
from lavita.methods.checkpoints import official_state
from lavita.methods.lazy_updates import DISCRIMINATOR, R1, TURNS, LazyUpdates, copied
from lavita.training.stage import StagePlan

from .losses import SuperResolutionLosses, generated, made_smaller, windows
from .stages import (
    Config,
    LowResolutionStage,
    decay_of_average,
    low_side,
    pair_config,
    upsampler_config,
)
from .super_resolution import SuperResolutionGenerator
from .super_resolution_discriminator import SuperResolutionDiscriminator

AUGMENT_INTERVAL = 4  # updates of the discriminator
AUGMENT_STEP = 0.000125 * AUGMENT_INTERVAL
AUGMENT_MOST = 0.5


class Method(LazyUpdates, VideoMethod):
    """The super-resolution stage, on real small clips; the low-resolution stage comes before it.

    Source: Brooks et al. 2022 (Generating Long Videos of Dynamic Scenes, arXiv:2206.03429), section 3.
    """

    owns_first_stage = True
    unchanged = ("low_resolution",)  # as the stage before has left it

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.side = low_side(context, config)
        # In a tuple, and so out of the registered modules: a checkpoint of the method holds what sampling needs.
        self._low_stage = (LowResolutionStage(context, config),)
        self.low_resolution = self._low_stage[0].generator
        self.generator = SuperResolutionGenerator(upsampler_config(context, config))
        self.discriminator = SuperResolutionDiscriminator(pair_config(context, config))
        self.average = copied(self.generator)
        self.augmentation = AdaptiveProbability(AUGMENT_STEP, AUGMENT_INTERVAL, most=AUGMENT_MOST)

    def stages(self) -> list[StagePlan]:
        share = self.config.low_share
        low = self._low_stage[0]
        return [StagePlan(low.stage_name, share, low), StagePlan(self.stage_name, 1 - share, self)]

    def denoiser_parameters(self) -> list[nn.Parameter]:
        """Of both generators."""
        return [*self.low_resolution.parameters(), *self.generator.parameters()]

    def adams(self) -> tuple[Adam, Adam]:
        adam = Adam(self.train_config.learning_rate, self.config.beta1, self.config.beta2)
        return adam, adam

    def average_decay(self, step: int) -> float:
        return decay_of_average(self.train_config, step)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        self.check_batch(batch)
        losses, whose, p = SuperResolutionLosses(self.generator, self.discriminator), self.whose(batch), self.p
        start = rng.integers(self.context.num_frames - self.config.window + 1)  # (B,)
        video = windows(batch["video"], start, self.config.window)  # (B, T + 2 c, 3, H, W)
        low = made_smaller(video, self.side)
        high = losses.middle(video)  # (B, T, 3, H, W)
        if whose == DISCRIMINATOR:
            value, real_logits = losses.of_discriminator(low, high, p, rng, self.together)
            if self.together:
                self.augmentation.observe(real_logits)
        elif whose == R1:
            value = losses.of_r1(low, high, p, rng)
        else:
            value = losses.of_generator(low, p, rng)
        return {"loss": value, whose: value}

    @property
    def p(self) -> Tensor:
        """The probability of augmentations, ()."""
        return self.augmentation.p.clone()

    def end_update(self, number: int) -> None:
        if TURNS[number % len(TURNS)][0] == DISCRIMINATOR:
            self.augmentation.end_update()
        super().end_update(number)

    def evaluations(self, sampling: SamplingConfig) -> int:
        return 1

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_generation(sampling, condition)
        rng = SampleRNG(seeds, self.device)
        return generated(self.low_resolution, self.generator, self.context.num_frames, rng)


def load_official(method: Method, paths: Sequence[Path]) -> None:
    """Fill a method's generators from two state dicts, low resolution first, by official names. Raises ValueError, and
    then changes nothing. Files hold tensors alone: the released pickles hold code and are not read (README.md has the
    lines that export a state dict).
    """
    if len(paths) != 2:
        raise ConfigError(
            f"--checkpoint: got {len(paths)} files, long-video-gan has two: --checkpoint LOW_RESOLUTION --checkpoint "
            "SUPER_RESOLUTION"
        )
    networks = (method.low_resolution, method.generator)
    states = [official_state(path, network) for path, network in zip(paths, networks, strict=True)]
    for network, state in zip(networks, states, strict=True):
        network.load_state_dict(state, strict=True)
